package hub

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

// TestLostQuestionIsOfferedAgain: an agent that died with a question, or whose fetch of
// it broke off, stalled its ring for as long as the hub waits: up to 84 minutes.
func TestLostQuestionIsOfferedAgain(t *testing.T) {
	now := time.Unix(1700000000, 0)
	one := &trial{id: "q", files: protocol.PlanFiles{"a": nil}, deadline: now.Add(time.Hour)}
	h := &Hub{log: slog.New(slog.DiscardHandler), opts: Options{DataDir: t.TempDir()}, git: semaphore.NewWeighted(1), now: func() time.Time { return now }, trials: map[string]*trial{"c1": one}, reports: map[string]heard{"c1": {}}, contacts: map[string]time.Time{}, arrived: map[string]time.Time{}, changed: make(chan struct{}), wake: make(chan struct{}, 1)}
	offered := func(want string) {
		t.Helper()
		h.mu.Lock()
		got := h.offerTrial("c1", now)
		h.mu.Unlock()
		if got != want {
			t.Errorf("%s after the question: offered %q, want %q", now.Sub(time.Unix(1700000000, 0)), got, want)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?after=r", nil)
	r.SetPathValue("cluster", "c1")
	r.SetPathValue("id", "q")
	w := httptest.NewRecorder()
	h.getDesired(w, r)
	var d protocol.Desired
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.Plan != "q" || !d.PlanChanged {
		t.Fatalf("the agent is told %s: %v", w.Body, err)
	}
	offered("q") // the offer did not arrive
	h.getPlan(httptest.NewRecorder(), r)
	offered("")
	now = now.Add(protocol.PlanWait - time.Second)
	offered("")
	now = now.Add(time.Second)
	offered("q")
	offered("") // an agent that is at work on it would be told at full speed
	now = now.Add(protocol.PlanWait)
	offered("q")
	now = now.Add(protocol.PlanWait)
	one.answer = &rollout.Trial{}
	offered("")
}
