package rollout

import (
	"fmt"
	"time"
)

// Window is a time of the week in which clusters may receive a change.
type Window struct {
	// Days on which it opens, indexed by time.Weekday.
	Days [7]bool
	// From and To are minutes after midnight, 0 to 1440. A window whose To is not
	// after From ends on the day after.
	From, To int
	// Location is the time zone of days, From and To.
	Location *time.Location
}

// span is the window that opens on the day of t, offset days later. The zone's
// own calendar counts, so that 09:00 stays 09:00 when clocks change.
func (w Window) span(t time.Time, offset int) (from, to time.Time, ok bool) {
	y, m, day := t.In(w.Location).Date()
	from = time.Date(y, m, day+offset, 0, w.From, 0, 0, w.Location)
	if w.To <= w.From {
		offset++
	}
	to = time.Date(y, m, day+offset, 0, w.To, 0, 0, w.Location)
	noon := time.Date(y, m, day, 12, 0, 0, 0, time.UTC) // of the date alone: no zone can shift it
	if w.To <= w.From {
		offset--
	}
	return from, to, w.Days[noon.AddDate(0, 0, offset).Weekday()]
}

// open tells whether the window is open, and when that changes; zero when it never does.
func (w Window) open(now time.Time) (bool, time.Time) {
	for offset := -1; offset <= 8; offset++ {
		from, to, ok := w.span(now, offset)
		if !ok || !now.Before(to) {
			continue
		}
		if now.Before(from) {
			return false, from
		}
		return true, to
	}
	return false, time.Time{}
}

// windowsOpen tells whether any of the windows is open, and when that may
// change. Without a window it is always open.
func windowsOpen(now time.Time, windows []Window) (bool, time.Time) {
	if len(windows) == 0 {
		return true, time.Time{}
	}
	var open bool
	var closes, opens time.Time
	for _, w := range windows {
		is, at := w.open(now)
		switch {
		case is:
			open = true
			closes = later(closes, at)
		case opens.IsZero() || (!at.IsZero() && at.Before(opens)):
			opens = at
		}
	}
	if open {
		return true, closes
	}
	return false, opens
}

// Freeze is a time in which nothing is published, a rollback included.
type Freeze struct {
	// From and Until bound it; zero for no bound.
	From, Until time.Time
	Reason      string
}

func (f Freeze) active(now time.Time) bool {
	return !now.Before(f.From) && (f.Until.IsZero() || now.Before(f.Until))
}

// hold is why nothing may be published to a ring now.
type hold struct {
	waits, message, action string
	until                  time.Time
}

// frozen is the freeze in force, if any; it notes when one begins or ends.
func (d *decider) frozen(r Ring) *hold {
	var h *hold
	for _, f := range r.Freezes {
		if f.From.After(d.in.Now) {
			d.recheck(f.From)
		}
		if !f.active(d.in.Now) {
			continue
		}
		if !f.Until.IsZero() {
			d.recheck(f.Until)
		}
		if h == nil || f.Until.IsZero() || (!h.until.IsZero() && f.Until.After(h.until)) {
			h = &hold{waits: "freeze", message: "frozen: " + f.Reason, until: f.Until, action: "to go on, take the freeze out of fleet.yaml and push"}
		}
	}
	return h
}

// held is why nothing may be promoted to the ring now, or nil.
func (d *decider) held(r Ring) *hold {
	if h := d.frozen(r); h != nil {
		return h
	}
	if open, at := windowsOpen(d.in.Now, r.Windows); !open {
		if !at.IsZero() {
			d.recheck(at)
		}
		return &hold{waits: "window", message: "outside the ring's windows", until: at, action: "a change that cannot wait sets windows: [] of the ring in the same push"}
	}
	if r.Approval && d.state.Approvals[r.Name].Content != d.contents[r.Name] {
		return &hold{waits: "approval", message: "waits for a person's approval", action: fmt.Sprintf("holdfast approve %s --message WHY", r.Name)}
	}
	return nil
}
