package docker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// TestHungGroupDelaysNoOther: every command on one group hangs for as long as the test runs;
// its volumes are shown, and unmounted, and all that concerns the other group goes on.
func TestHungGroupDelaysNoOther(t *testing.T) {
	w := newWorld(t, groups()...)
	w.deadlines = lvm.DefaultDeadlines()
	w.deadlines.Report, w.deadlines.Change, w.deadlines.Patience = time.Hour, time.Hour, 20*time.Millisecond
	w.answer = time.Hour
	w.restart()
	w.made("sick", map[string]string{"size": "1Gi", "vg": "hf-a"})
	w.made("idle", map[string]string{"size": "1Gi", "vg": "hf-a"})
	w.must(w.mount("sick", "c1"))
	hung := make(chan struct{})
	once := sync.Once{}
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if strings.Contains(c.Line(), "hf-a") {
			once.Do(func() { close(hung) })
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	victims := make(chan error, 2)
	go func() { victims <- w.remove("idle") }()
	go func() { victims <- w.create("more", map[string]string{"size": "1Gi", "vg": "hf-a"}) }()
	<-hung

	errs := make([]error, 20)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			name, id := fmt.Sprintf("vol-%d", i), fmt.Sprintf("c%d", i)
			errs[i] = errors.Join(
				w.create(name, map[string]string{"size": "1Gi", "kind": "thin", "vg": "hf-b"}),
				w.mount(name, id), w.unmount(name, id), w.remove(name))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if names := strings.Join(w.list(), " "); !strings.Contains(names, "sick") {
		t.Errorf("listed are %q", names)
	}
	v, err := w.get("sick")
	w.must(err)
	if v.Mountpoint != w.target("sick") {
		t.Errorf("it is at %q", v.Mountpoint)
	}
	w.must(w.unmount("sick", "c1"))
	if w.mounted("sick") {
		t.Error("still mounted")
	}
	select {
	case err := <-victims:
		t.Errorf("nothing hung: %v", err)
	default:
	}
	w.end()
}

// TestGroupThatNeverAnswered: it may have any volume. Nothing is said to be absent, and
// nothing is made that may be there.
func TestGroupThatNeverAnswered(t *testing.T) {
	for _, mode := range []lvmfake.Mode{lvmfake.Fail, lvmfake.Empty, lvmfake.Garbage, lvmfake.Hang} {
		w := newWorld(t, groups()...)
		w.made("db", map[string]string{"size": "1Gi", "vg": "hf-a"})
		w.restart()
		w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
			if strings.Contains(c.Line(), "hf-a") {
				return mode
			}
			return lvmfake.Honest
		})
		if _, err := w.get("db"); !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("mode %d: get: %v", mode, err)
		}
		if err := w.remove("db"); !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("mode %d: remove: %v", mode, err)
		}
		if err := w.create("db", map[string]string{"size": "1Gi"}); !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("mode %d: create: %v", mode, err)
		}
		if len(w.host.Volumes("hf-b")) != 0 || w.lv("db").Data == "" {
			t.Errorf("mode %d: something was made or wiped", mode)
		}
	}
}
