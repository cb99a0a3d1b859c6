package monitor

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/verdict"
)

// resume reads the stored status, then follows the kernel log from where that
// one ends. Without an answer of the API server the log is left alone: read
// from its beginning, its faults would be counted twice. The kernel keeps it.
func (m *Monitor) resume(ctx context.Context, wg *sync.WaitGroup) {
	stored, ok := m.load(ctx)
	if !ok {
		return
	}
	started := make(chan kernel.Position, 1)
	m.tell(ctx, func() {
		if stored != nil {
			m.status = stored.Status.DeepCopy()
			m.before = nil
			if stored.Status.BootID == m.view.BootID {
				m.before = devices(stored.Status.Disks)
			}
			if k := stored.Status.KernelLog; k != nil && stored.Status.BootID == m.view.BootID {
				m.position = kernel.Position{Started: true, Sequence: k.Sequence, Lost: k.Lost, Journal: k.Source == v1alpha1.KernelLogJournal}
				if t := stored.Status.ReportTime; t != nil {
					m.position.After = t.Time
				}
			} else {
				m.status.KernelLog = nil // another boot's numbers
			}
			if m.view.Node == nil {
				m.view.Node = stored
			}
		}
		m.writer = report.NewWriter(m.api, m.pace, stored, m.log)
		wg.Go(func() { m.writer.Run(ctx) })
		started <- m.position
		m.scanSoon(0) // the stored disks count as known now
		m.evaluate()
	})
	select {
	case <-ctx.Done():
	case pos := <-started:
		m.follow(ctx, pos)
	}
}

// load is the stored object, nil when there is none; ok is false when the
// context ended first.
func (m *Monitor) load(ctx context.Context) (_ *v1alpha1.ComputeNode, ok bool) {
	wait := 100 * time.Millisecond
	for {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		n, err := m.api.GetNode(callCtx)
		cancel()
		if err == nil {
			return n, true
		}
		if apierrors.IsNotFound(err) {
			return nil, true
		}
		m.log.Info("the stored status cannot be read; the kernel log waits for it", "error", err.Error())
		if !sleep(ctx, wait) {
			return nil, false
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// follow reads the kernel log until the context ends, and opens it again
// whenever that fails.
func (m *Monitor) follow(ctx context.Context, pos kernel.Position) {
	tail := kernel.Tail{Matcher: kernel.NewMatcher(), Stats: &m.stats, Now: time.Now, Out: func(u kernel.Update) {
		pos = u.Position
		m.tell(ctx, func() { m.onLog(u) })
	}}
	wait := time.Second
	for first := true; ; first = false {
		src, journal, err := m.openLog()
		if err == nil {
			m.tell(ctx, func() {
				m.view.LogErr, m.view.LogRead = nil, true
				if !first { // what was logged meanwhile is of the disks of the last status
					m.before = devices(m.status.Disks)
				}
			})
			stop := context.AfterFunc(ctx, src.Stop)
			started := time.Now()
			err = tail.Run(ctx, src, pos.In(journal), m.boot)
			stop()
			_ = src.Close() // read only
			if time.Since(started) > time.Minute {
				wait = time.Second
			}
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, kernel.ErrOtherLog) {
			m.log.Info("the kernel log is read from its beginning", "because", err.Error())
			pos = pos.Anew()
			continue
		}
		m.tell(ctx, func() { m.view.LogErr = err; m.evaluate() })
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// source is an opened kernel log.
type source interface {
	kernel.Source
	Stop()
	Close() error
}

// openLog opens the kernel log; journal says that it is the journal's.
func (m *Monitor) openLog() (_ source, journal bool, err error) {
	if m.opts.KernelLog != "journal" {
		dev, err := kernel.OpenDevice(m.host)
		if err == nil {
			return dev, false, nil
		}
		if m.opts.KernelLog != "auto" {
			return nil, false, err
		}
		j, jerr := kernel.OpenJournal(m.opts.HostRoot)
		if jerr != nil {
			return nil, false, errors.Join(err, jerr)
		}
		m.log.Info("the kernel log is read from the journal", "because", err.Error())
		return j, true, nil
	}
	j, err := kernel.OpenJournal(m.opts.HostRoot)
	if err != nil {
		return nil, false, err
	}
	return j, true, nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (m *Monitor) onLog(u kernel.Update) {
	now := time.Now()
	for _, a := range u.Attaches {
		for _, name := range a.Devices {
			m.names.Attached(name, a.At)
		}
	}
	for _, ev := range u.Events {
		m.onEvent(ev, now)
	}
	m.position = u.Position
	if len(u.Events) > 0 || u.Caught {
		m.evaluate()
	}
}

// onEvent puts an event down to its disk. A device that nobody knows, or whose
// name was given anew, is looked for once; then the event is only counted.
func (m *Monitor) onEvent(ev kernel.Event, arrived time.Time) {
	for _, name := range ev.Devices {
		ids, how, answer := m.names.Resolve(name, ev.Last)
		if answer == inventory.Known && len(ids) > 0 {
			if ev.Outdated && !m.stayed(ids) {
				m.outdated(&ev)
				return
			}
			weigh(&ev, how)
			m.addFault(ids, &ev, how == inventory.Above)
			return
		}
		if answer == inventory.Known {
			m.unattributed(&ev)
			return
		}
	}
	if len(ev.Devices) > 0 && m.lookFor(ev, arrived) {
		return
	}
	m.unattributed(&ev)
}

func (m *Monitor) unattributed(ev *kernel.Event) {
	if ev.Old {
		return // it was counted before the restart
	}
	m.metrics.unattributed.WithLabelValues(string(ev.Class)).Add(float64(ev.Count))
	m.log.Debug("a fault of no disk of this host", "devices", ev.Devices, "evidence", ev.Evidence)
}

// devices are the names of disks, by disk id.
func devices(disks []v1alpha1.Disk) map[string]string {
	names := map[string]string{}
	for _, d := range disks {
		names[d.ID] = d.Device
	}
	return names
}

// stayed says that disks have the names now that they had in the last status before the log
// was opened, if that is of this boot:
// what the log says in between, and before such a name was given anew, it says of them.
func (m *Monitor) stayed(ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool {
		d, there := m.view.Snapshot.Find(id)
		return !there || m.before[id] != d.Device
	})
}

// outdated counts what is said of a name's owner before the one that is known.
func (m *Monitor) outdated(ev *kernel.Event) {
	if ev.Old {
		return // it was counted before the restart
	}
	m.metrics.discounted.WithLabelValues(string(ev.Class), "outdated").Add(float64(ev.Count))
	m.log.Debug("a fault from before another device got the name", "devices", ev.Devices, "evidence", ev.Evidence)
}

// weigh brings an event to what it says of the disk itself. A way to it that is
// lost among several is a lost path. What lies on it may fail for itself, such as a
// pool that is full, and a file system of several disks for another one. What a disk
// says that is reached over a network is of the network or of the server behind it. When it
// is the disk that fails, its own name is in the log too.
func weigh(ev *kernel.Event, how inventory.How) {
	switch how {
	case inventory.Path:
		if slices.Contains(ofPath, ev.Class) {
			ev.Class = v1alpha1.FaultPath
		}
	case inventory.Above:
		ev.Severity = v1alpha1.SeverityWarning
	case inventory.Member:
		if ev.Class == v1alpha1.FaultFilesystem { // it calls itself by the name of any of its members
			ev.Severity = v1alpha1.SeverityWarning
		}
	case inventory.Network:
		ev.Class = v1alpha1.FaultNetwork
	case inventory.Itself:
	}
}

// ofPath are the classes that a lost way to a disk gives.
var ofPath = []v1alpha1.FaultClass{
	v1alpha1.FaultBlockIO, v1alpha1.FaultBufferIO, v1alpha1.FaultDeviceOffline, v1alpha1.FaultSCSI, v1alpha1.FaultATA, v1alpha1.FaultNVMe, v1alpha1.FaultLink,
}

// lookFor keeps the event until the host has been looked at after it came. It
// is false when that has been done.
func (m *Monitor) lookFor(ev kernel.Event, arrived time.Time) bool {
	now := time.Now()
	if m.lastLook.After(arrived) || len(m.pending) >= maxPending {
		return false
	}
	m.pending = append(m.pending, pendingEvent{ev, arrived})
	wait := time.Duration(0)
	if d := m.faultScan.Add(faultScanGap).Sub(now); d > 0 {
		wait = d
	} else {
		m.faultScan = now
	}
	m.scanSoon(wait)
	return true
}

func (m *Monitor) addFault(ids []string, ev *kernel.Event, above bool) {
	l := verdict.Line{Class: ev.Class, Severity: ev.Severity, Text: ev.Evidence, Count: ev.Count, Above: above}
	for _, s := range ev.Seen {
		l.Seen = append(l.Seen, verdict.Sighting(s))
	}
	for _, id := range ids {
		if ev.Old { // only the windows must know of it
			m.recent[id], _ = m.health.thresholds.Weigh(m.recent[id], &l)
			continue
		}
		m.health.soon(id, time.Now()) // what does the disk itself say to that
		if !m.judgeLine(id, &l) {     // it has left
			m.metrics.unattributed.WithLabelValues(string(ev.Class)).Add(float64(ev.Count))
		}
	}
}

// judgeLine brings a disk's faults to what a line makes of them. It is false when
// the disk is not listed.
func (m *Monitor) judgeLine(id string, l *verdict.Line) bool {
	at := slices.IndexFunc(m.status.Disks, func(d v1alpha1.Disk) bool { return d.ID == id })
	if at < 0 {
		return false
	}
	recent, o := m.health.thresholds.Weigh(m.recent[id], l)
	m.recent[id] = recent
	switch {
	case o.Echo:
		m.metrics.discounted.WithLabelValues(string(l.Class), "echo").Add(float64(l.Count))
		return true
	case o.Severity == "":
		m.metrics.discounted.WithLabelValues(string(l.Class), "below_threshold").Add(float64(l.Count))
		return true
	}
	f := v1alpha1.Fault{
		Class: l.Class, Severity: o.Severity, Count: o.Count, Evidence: l.Text,
		FirstSeen: metav1.NewTime(o.First), LastSeen: metav1.NewTime(l.Seen[len(l.Seen)-1].At),
	}
	if !o.Until.IsZero() {
		until := metav1.NewTime(o.Until)
		f.Until = &until
	}
	report.AddFault(&m.status.Disks[at], f)
	return true
}

// forgetLines drops what was counted against disks that are not listed any more,
// and of the one whose faults a person has asked to be cleared.
func (m *Monitor) forgetLines() {
	listed := map[string]bool{}
	for i := range m.status.Disks {
		listed[m.status.Disks[i].ID] = true
	}
	maps.DeleteFunc(m.recent, func(id string, _ verdict.Recent) bool { return !listed[id] })
	if id, before := report.ClearRequest(m.view.Node); id != "" {
		if r, ok := m.recent[id]; ok {
			m.recent[id] = r.Forget(before)
		}
	}
}
