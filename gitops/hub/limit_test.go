package hub_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/protocol"
)

// TestClusterCannotFillTheHub: a cluster that was taken over says much, in few words
// and in many, and asks for much at once.
func TestClusterCannotFillTheHub(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	st := f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	canary := f.agent(url, "canary")
	report, answer := "/v1/clusters/canary/report", "/v1/clusters/canary/plans/x"
	empty := make([]struct{}, 10_001)
	for name, tc := range map[string]struct {
		path string
		body any
		want int
		says string
	}{
		"ManyBytes":     {report, map[string]string{"error": strings.Repeat("x", 1<<20)}, http.StatusRequestEntityTooLarge, "the report is larger than 1048576 bytes"},
		"ManyAddons":    {report, map[string]any{"addons": empty}, http.StatusRequestEntityTooLarge, "more than 10000"},
		"AnswerBytes":   {answer, map[string]string{"error": strings.Repeat("x", 4<<20)}, http.StatusRequestEntityTooLarge, "the answer is larger than 4194304 bytes"},
		"ManyChanges":   {answer, map[string]any{"changes": empty}, http.StatusRequestEntityTooLarge, "more than 10000"},
		"NoList":        {answer, map[string]any{"changes": "all"}, http.StatusBadRequest, "not valid JSON"},
		"NoChanges":     {answer, map[string]any{"changes": nil}, http.StatusNoContent, ""},
		"AsManyAsMayBe": {answer, map[string]any{"changes": empty[:10_000]}, http.StatusNoContent, ""},
		"NoJSON":        {report, "report", http.StatusBadRequest, "the report is not valid JSON"},
	} {
		if code, body := canary.do(http.MethodPost, tc.path, tc.body); code != tc.want || !strings.Contains(string(body), tc.says) {
			t.Errorf("%s: got %d %.100q, want %d %q", name, code, body, tc.want, tc.says)
		}
	}
	canary.send(protocol.Report{Error: strings.Repeat("é", 100_000), Addons: []protocol.AddonReport{{Name: "a", Message: strings.Repeat("m", 100_000)}}})
	if rep := f.status(url).Clusters[0].Report; rep == nil || len(rep.Error) > 3000 || len(rep.Addons[0].Message) > 3000 || !strings.HasSuffix(rep.Error, "é…") {
		t.Errorf("a text is kept whole, or cut within a letter: %.20q", rep.Error)
	}

	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	const many = 40
	for range many {
		go func() {
			defer func() { left <- struct{}{} }()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/clusters/canary/desired?after="+st.Clusters[0].Revision, nil)
			if err != nil {
				return
			}
			if resp, err := canary.client.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
	asks := func(a *agent) int {
		code, _ := a.do(http.MethodGet, "/v1/clusters/"+a.cluster+"/plans/x", nil)
		return code
	}
	wait.For(t, time.Minute, "a refusal of one more request", func() bool { return asks(canary) == http.StatusTooManyRequests })
	if code := asks(f.agent(url, "az1-c1")); code != http.StatusNotFound {
		t.Errorf("another cluster is answered %d", code)
	}
	leave()
	for range many {
		<-left
	}
	wait.For(t, time.Minute, "an answer when the others have gone", func() bool { return asks(canary) == http.StatusNotFound })
}
