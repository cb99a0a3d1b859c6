package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// TestHungGroupStopsNobodyElse: every command on one group hangs for as long as the test
// runs; all that concerns the other goes on.
func TestHungGroupStopsNobodyElse(t *testing.T) {
	w := newWorld(t, groups()...)
	d := lvm.DefaultDeadlines()
	d.Report, d.Change, d.Patience = time.Hour, time.Hour, 20*time.Millisecond
	w.engine = lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: w.infos, Host: w.host, Mounts: w.host, Deadlines: d, Log: slog.New(slog.DiscardHandler),
		Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	hung := make(chan struct{})
	once := sync.Once{}
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if strings.Contains(c.Line(), "hf-a") {
			once.Do(func() { close(hung) })
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	ctx, cancel := context.WithCancel(t.Context())
	victim := make(chan error, 1)
	go func() { victim <- refreshUntil(ctx, w.engine, hung) }()
	<-hung
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			r := w.request(fmt.Sprint("v", i), thin, lvm.XFS, gib)
			// So that the group that hangs, which has as much room, is not the better choice.
			r.AvoidPreferred = map[string]string{"disk-a": "ns/x"}
			v, err := w.engine.Create(t.Context(), r)
			if err == nil {
				_, err = w.engine.Expand(t.Context(), v.Handle, 2*gib, 0)
			}
			if err == nil {
				err = w.engine.Delete(t.Context(), v.Handle)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	select {
	case err := <-victim:
		t.Errorf("nothing hung: %v", err)
	default:
	}
	cancel()
	w.host.Misbehave(nil)
}

// refreshUntil looks at groups until one of them hangs.
func refreshUntil(ctx context.Context, e *lvm.Engine, hung <-chan struct{}) error {
	for {
		select {
		case <-hung:
			<-ctx.Done()
			return ctx.Err()
		default:
		}
		go func() { _ = e.Refresh(ctx) }()
		time.Sleep(time.Millisecond)
	}
}

// TestUnreadGroupMayHaveTheVolume: after a start, a group that does not answer may have
// the volume of an earlier attempt; only a claim that is younger than the driver
// certainly has none.
func TestUnreadGroupMayHaveTheVolume(t *testing.T) {
	w := newWorld(t, groups()...)
	dead := func(c lvmfake.Call) lvmfake.Mode {
		if strings.Contains(c.Line(), "hf-a") {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	}
	w.host.Misbehave(dead)
	r := w.request("v", thin, lvm.XFS, gib)
	r.Born = time.Now().Add(-time.Hour)
	if _, err := w.engine.Create(t.Context(), r); !errors.Is(err, lvm.ErrUnavailable) {
		t.Errorf("an old claim: %v", err)
	}
	r.Born = time.Now().Add(time.Hour)
	if v, err := w.engine.Create(t.Context(), r); err != nil || v.Info.Name != "hf-b" {
		t.Errorf("a young claim: %v in %s", err, v.Info.Name)
	}
}

// TestUncertainCreateIsNotRepeatedElsewhere: lvcreate got no answer and was done. The next
// attempt must find the volume, not make a second one in another group.
func TestUncertainCreateIsNotRepeatedElsewhere(t *testing.T) {
	w := newWorld(t, groups()...)
	var victim string
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Sub() == "lvcreate" && victim == "" {
			victim = c.Args[len(c.Args)-1]
			return lvmfake.HangAfter
		}
		if victim != "" && strings.Contains(c.Line(), victim) {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	r := w.request("v", thin, lvm.XFS, gib)
	r.Born = time.Now().Add(time.Hour)
	for range 3 {
		if _, err := w.engine.Create(t.Context(), r); err == nil {
			t.Fatal("it was made while nobody knows whether it is there")
		}
	}
	w.host.Misbehave(nil)
	if _, err := w.engine.Create(t.Context(), r); err != nil {
		t.Error(err)
	}
	if n := len(w.host.Volumes("hf-a")) + len(w.host.Volumes("hf-b")); n != 1 {
		t.Errorf("there are %d volumes", n)
	}
}
