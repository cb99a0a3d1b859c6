package monitor

import (
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast.dev/api/v1alpha1"
)

// A drive may say any byte of itself, and a backing file's name may have it. One byte that
// is no UTF-8 in a label was a panic of the scrape, and with it the end of the monitor of all disks.
func TestAnyByte(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a\xe9")
	h.plugDisk("sdb", "S\xff1")
	m, _ := watch(t, h, api, h.options("n"))
	n := api.await(t, "both disks", func(n *v1alpha1.ComputeNode) bool { return len(n.Status.Disks) == 2 })
	for _, d := range n.Status.Disks {
		for _, s := range []string{d.ID, d.Device, d.Model, d.Serial, d.Slot} {
			if !utf8.ValidString(s) {
				t.Errorf("disk %s has %q in its status", d.ID, s)
			}
		}
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body := w.Body.String()
	for _, want := range []string{"serial=\"S\uFFFD1\"", "slot=\"/a\uFFFD\""} {
		if w.Code != 200 || !strings.Contains(body, want) {
			t.Errorf("scrape has %d and no %s", w.Code, want)
		}
	}
}

// Should such a label come again, it is an error of the scrape.
func TestBadLabel(t *testing.T) {
	h := newHost(t)
	h.plug("loop1", "a")
	api := newMemory()
	m, stop := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	stop()
	p := *m.published.Load()
	p.status = p.status.DeepCopy()
	p.status.Disks[0].Model = "\xff"
	m.published.Store(&p)
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.Collector())
	if _, err := reg.Gather(); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("gathered with %v", err)
	}
}
