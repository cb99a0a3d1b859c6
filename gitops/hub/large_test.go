package hub

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/semaphore"
)

// slowReader takes the first bytes of an answer, and no more until it may.
type slowReader struct {
	*httptest.ResponseRecorder
	reads chan int
	may   chan struct{}
}

func (s *slowReader) Write(data []byte) (int, error) {
	s.reads <- len(data)
	<-s.may
	return s.ResponseRecorder.Write(data)
}

// TestSlowReaders: a cluster's slow readers held sixteen whole bundles in the hub's memory.
func TestSlowReaders(t *testing.T) {
	dir := t.TempDir()
	h := &Hub{log: slog.New(slog.DiscardHandler), git: semaphore.NewWeighted(1), opts: Options{DataDir: dir}}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.SetPathValue("cluster", "c1")
	const size = 8 << 20
	large := func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", size)), size))
		return err
	}
	var slow []*slowReader
	done := make(chan error)
	for range maxLarge { // each has the one place in the row, one after the other
		s := &slowReader{httptest.NewRecorder(), make(chan int, size), make(chan struct{})}
		slow = append(slow, s)
		go func() { done <- h.sendLarge(s, r, "x/y", large) }()
		if n := <-s.reads; n > 1<<20 {
			t.Errorf("%d bytes are in memory at once for a reader", n)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a hub that is killed now leaves %v: %v", left, err)
	}
	more := httptest.NewRecorder()
	if err := h.sendLarge(more, r, "x/y", large); err != nil || more.Code != http.StatusTooManyRequests {
		t.Errorf("one more is answered %d: %v", more.Code, err)
	}
	for _, s := range slow {
		close(s.may)
	}
	for range slow {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, s := range slow {
		if got := s.Body.Len(); got != size || s.Header().Get("Content-Length") != "8388608" {
			t.Errorf("%d bytes were sent, %q announced", got, s.Header().Get("Content-Length"))
		}
	}
	bad := errors.New("no such revision")
	if err := h.sendLarge(httptest.NewRecorder(), r, "x/y", func(context.Context, io.Writer) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("got %v, want %v", err, bad)
	}
}

// TestFieldsThatAreNotKept: twenty fields of a change kept the array of a million.
func TestFieldsThatAreNotKept(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(`{"changes": [{"fields": ["a"`+strings.Repeat(`,"a"`, 100_000)+`]}]}`))
	rep, ok := (&Hub{}).readPlanReport(httptest.NewRecorder(), r)
	if !ok || len(rep.Changes) != 1 || !slices.Equal(rep.Changes[0].Fields, slices.Repeat([]string{"a"}, maxFields)) {
		t.Fatalf("read %v %+v", ok, rep)
	}
	if c := cap(rep.Changes[0].Fields); c > 2*maxFields {
		t.Errorf("room for %d fields is kept", c)
	}
}
