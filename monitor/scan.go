package monitor

import (
	"context"
	"fmt"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/uevent"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/verdict"
)

// This file is about looks at the disks: when there is one, and what follows from it.

// scanSoon has the disks looked at after d.
func (m *Monitor) scanSoon(d time.Duration) {
	if !m.scanning.IsZero() {
		m.scanAgain = true // the look under way may have passed the place already
		return
	}
	if at := time.Now().Add(d); at.Before(m.nextScan) {
		m.nextScan = at
	}
}

// scanner looks at the host whenever it is asked to. It is apart from the
// loop because sysfs may hang on a device that does.
func (m *Monitor) scanner(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.scanAsk:
		}
		start := time.Now()
		s := inventory.Scan(m.host)
		prepared, err := inventory.Required(m.host)
		m.tell(ctx, func() { m.onScan(start, s, prepared, err) })
	}
}

func (m *Monitor) onScan(start time.Time, s inventory.Snapshot, prepared *nodedisks.File, preparedErr error) {
	now := time.Now()
	m.scanning, m.lastLook = time.Time{}, start
	m.nextScan = now.Add(m.scanInterval())
	if m.scanAgain {
		m.scanAgain = false
		m.nextScan = now.Add(debounce)
	}
	m.metrics.scans.Inc()
	m.metrics.scanSeconds.Set(now.Sub(start).Seconds())
	m.view.PreparedErr = nil
	if prepared != nil {
		m.view.Prepared = prepared
	} else if preparedErr != inventory.ErrNotPrepared { //nolint:errorlint // Required returns it bare
		m.view.PreparedErr = preparedErr
	}
	if s.Err != nil || m.view.PreparedErr != nil {
		m.metrics.scanErrors.Inc()
	}
	// A disk that comes or goes can spoil one look, and is no reason to call every other Unknown.
	if m.failed = s.Err != nil && !m.failed && m.view.Looked && m.view.Snapshot.Err == nil; m.failed {
		m.log.Info("a look at the disks failed; the next one tells", "error", s.Err.Error())
		m.nextScan = now.Add(secondLook)
		return
	}
	m.view.Snapshot, m.view.Looked = s, true
	m.names.Update(&s, start)
	m.listHealth(now)
	m.absence.Look(m.absent(), s.Err == nil, start)
	if s.Err == nil {
		m.metrics.lastScan.Set(float64(now.Unix()))
	}
	if m.absence.Pending(m.opts.Settle) {
		if at := now.Add(max(debounce, m.opts.Settle/2)); at.Before(m.nextScan) {
			m.nextScan = at
		}
	}
	for id, l := range report.Returned(m.status, &s, start) {
		m.judgeLine(id, &l) // before its return makes it Healthy
	}
	m.evaluate() // before what follows, so that the disks are listed
	m.listenFor(start)
	waiting := m.pending
	m.pending = nil
	for _, ev := range waiting {
		m.onEvent(ev.Event, ev.arrived)
	}
	if len(waiting) > 0 || m.changed {
		m.evaluate()
	}
	m.looked.Store(true)
}

// listenFor puts down to the disks of the last look, which began at a time, that
// they have requests and do not answer. On a way among several, or a network,
// that is no word on the disk.
func (m *Monitor) listenFor(at time.Time) {
	traffic := map[string]verdict.Traffic{}
	for _, d := range m.view.Snapshot.Disks {
		traffic[d.ID] = verdict.Traffic{Answered: d.Answered, Waiting: d.Waiting}
	}
	for id, s := range m.silence.Look(traffic, at) {
		d, _ := m.view.Snapshot.Find(id)
		l := verdict.Line{Class: v1alpha1.FaultNoAnswer, Severity: v1alpha1.SeverityWarning, Count: int64(len(s.Steps)),
			Text: fmt.Sprintf("%d requests wait and none was answered for %s (/sys/block/%s/stat)", s.Waiting, at.Sub(s.Since).Round(time.Second), d.Device)}
		switch {
		case diskid.Networked(d.ID, d.Weak):
			l.Class = v1alpha1.FaultNetwork
		case len(d.Paths) > 0:
			l.Class = v1alpha1.FaultPath
		}
		for _, end := range s.Steps {
			l.Seen = append(l.Seen, verdict.Sighting{At: end})
		}
		if m.judgeLine(id, &l) {
			m.changed = true
			m.health.soon(id, time.Now())
		}
	}
}

func (m *Monitor) scanInterval() time.Duration {
	if m.deaf {
		return min(m.opts.ScanInterval, blindScanInterval)
	}
	return m.opts.ScanInterval
}

// absent lists the disks that are known or required, and not in the last look. One that is
// there over a network, under another id, is not absent, nor is one of which nobody knows.
func (m *Monitor) absent() []string {
	var ids []string
	seen := map[string]bool{}
	add := func(id string) {
		_, there := m.view.Snapshot.Find(id)
		_, elsewhere := m.view.Snapshot.Told(id)
		if !there && !elsewhere && !seen[id] && !m.view.Snapshot.MayBe(id) {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, d := range m.status.Disks {
		add(d.ID)
	}
	if m.view.Prepared != nil {
		for _, d := range m.view.Prepared.Disks {
			add(d.ID)
		}
	}
	return ids
}

func (m *Monitor) listenUevents(ctx context.Context) {
	u, err := uevent.Listen()
	if err == nil {
		err = u.Run(ctx, func(e uevent.Event) {
			m.tell(ctx, func() {
				if e.Controller != "" {
					m.controllerSays(e.Controller)
				} else {
					m.scanSoon(debounce)
				}
			})
		})
	}
	if err != nil {
		m.log.Info("the kernel's announcements of changes cannot be heard; they are noticed by looking", "error", err.Error())
		m.tell(ctx, func() { m.deaf = true; m.scanSoon(0) })
	}
}
