package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

// bare is a monitor that only takes answers of one disk in.
func bare(gap, interval time.Duration) (*Monitor, *diskHealth) {
	d := &diskHealth{device: "sda"}
	m := &Monitor{
		log: slog.New(slog.DiscardHandler), status: &v1alpha1.ComputeNodeStatus{}, recent: map[string]verdict.Recent{},
		health: health{interval: interval, gap: gap, thresholds: verdict.DefaultThresholds(), disks: map[string]*diskHealth{"d": d}},
	}
	return m, d
}

// A disk that does not answer is asked less and less often, up to the pace of sound
// disks; one that answers again is asked as before. What is said of it stays the
// same text, so that the status is not written again and again for nothing.
func TestBackOff(t *testing.T) {
	const gap, interval = 20 * time.Second, 5 * time.Minute
	m, d := bare(gap, interval)
	hung := fmt.Errorf("read sda: %w", smart.ErrNoAnswer)
	text := ""
	var since time.Time
	for i, want := range []time.Duration{gap, 2 * gap, 4 * gap, 8 * gap, interval, interval} {
		before := time.Now()
		m.onHealth("d", d, nil, hung)
		if wait := d.next.Sub(before); wait < want || wait > want+5*time.Second {
			t.Errorf("after %d failures it waits %s, want %s", i+1, wait, want)
		}
		if !d.health.Silent || d.reading.report != nil {
			t.Errorf("after %d failures it counts as answering", i+1)
		}
		if i == 0 {
			text, since = d.health.Err, d.health.ErrSince
		} else if d.health.Err != text || !d.health.ErrSince.Equal(since) {
			t.Errorf("the text of failure %d is %q since %s, want %q since %s", i+1, d.health.Err, d.health.ErrSince, text, since)
		}
	}
	// A fault in the log does not make it be asked sooner: each question may cost its link a reset.
	next := d.next
	m.health.soon("d", time.Now())
	if !d.next.Equal(next) {
		t.Error("a line in the log brings a disk that hangs more questions")
	}
	for range 60 { // the shift must not overflow
		m.onHealth("d", d, nil, hung)
	}
	if wait := time.Until(d.next); wait > interval || wait < interval-5*time.Second {
		t.Errorf("after many failures it waits %s", wait)
	}
	before := time.Now()
	m.onHealth("d", d, &smart.Report{}, nil)
	if d.failures != 0 || d.health.Err != "" || d.health.Silent || d.next.Sub(before) < interval {
		t.Errorf("after an answer: %+v", d)
	}
	m.health.soon("d", time.Now().Add(time.Hour))
	if !d.next.Before(before.Add(interval + 5*time.Second)) {
		t.Errorf("next %s", d.next)
	}
}

// A disk whose hang has passed is asked when that is known, and not when its turn would have come; once, for
// one that is always late would be asked as often as a sound one.
func TestLateAnswer(t *testing.T) {
	const gap, interval = 20 * time.Second, 5 * time.Minute
	m, d := bare(gap, interval)
	hung := fmt.Errorf("read sda: %w", smart.ErrNoAnswer)
	fail := func() {
		d.asked = time.Now()
		m.onHealth("d", d, nil, hung)
	}
	soon := func() bool { return time.Until(d.next) <= gap }
	for range 5 {
		fail()
	}
	m.health.late("sda (another)", time.Now())
	if soon() {
		t.Error("another disk's late answer brings it a question")
	}
	m.health.late("sda (d)", time.Now())
	if !soon() {
		t.Errorf("it answers again and is asked in %s", time.Until(d.next))
	}
	fail()
	m.health.late("sda (d)", time.Now())
	if soon() {
		t.Error("a disk that is always late is asked as often as one that answers")
	}
	m.onHealth("d", d, &smart.Report{}, nil)
	for range 5 {
		fail()
	}
	m.health.late("sda (d)", time.Now())
	if !soon() {
		t.Error("the second hang has no early end")
	}
}

// One failure of another kind is not silence: it may pass, or be this process's own.
func TestBackOffOfErrors(t *testing.T) {
	for err, silent := range map[error][2]bool{
		errors.New("status 0x02"):                 {false, true},
		fmt.Errorf("open: %w", fs.ErrPermission):  {false, false},
		fmt.Errorf("open: %w", fs.ErrNotExist):    {false, false},
		fmt.Errorf("read: %w", smart.ErrNoAnswer): {true, true},
	} {
		m, d := bare(time.Second, time.Minute)
		for i, want := range silent {
			if m.onHealth("d", d, nil, err); d.health.Silent != want {
				t.Errorf("%v, time %d: silent %t", err, i+1, d.health.Silent)
			}
		}
	}
}
