// Package monitor watches the disks of one node: which are there, and what
// the kernel's log says of them. It reports to the node's ComputeNode and as
// metrics; see README.md.
package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

// API is what the monitor needs of the API server; report.Client is one.
type API interface {
	report.StatusClient
	GetFlavor(ctx context.Context, name string) (*v1alpha1.NodeFlavor, error)
	WatchNode(ctx context.Context, log *slog.Logger, changed func(*v1alpha1.ComputeNode))
	WatchVolumes(ctx context.Context, log *slog.Logger, changed func([]report.Volume))
}

const (
	debounce      = 50 * time.Millisecond // from an announced change to the look at it
	scanTimeout   = time.Minute           // a look that hangs must not pass for one for ever; on a starved node one takes half of that
	secondLook    = time.Second / 2       // from a look that failed, to the one that is believed
	faultScanGap  = time.Second           // between looks that a line about an unknown device asks for
	flavorRefresh = time.Minute
	callTimeout   = 10 * time.Second
	maxPending    = 1000
)

// Monitor is one node's monitor. One goroutine, loop, owns its state.
type Monitor struct {
	opts Options
	host *hostfs.FS
	api  API
	log  *slog.Logger
	pace report.Pace

	stats     kernel.Stats
	metrics   *metrics
	published atomic.Pointer[published]
	looked    atomic.Bool
	alive     atomic.Int64 // Unix time of the loop's last turn

	scanAsk chan struct{}
	inbox   chan func() // what other goroutines have for the loop

	// Owned by loop.
	health     health
	changed    bool // since the last evaluation, by what is not worth one of its own
	view       report.View
	status     *v1alpha1.ComputeNodeStatus
	recent     map[string]verdict.Recent // by disk id: lines that may become faults
	nextEnd    time.Time                 // when the first fault ends by itself; zero if none does
	names      inventory.Names
	absence    verdict.Absence
	silence    verdict.Silence
	before     map[string]string // by disk id: the device in the last status before the log was opened, if that is of this boot
	position   kernel.Position
	pending    []pendingEvent
	boot       time.Time // when the host booted
	scanning   time.Time // start of the look under way, zero if none
	late       time.Time // when it was last said that the look takes too long
	scanAgain  bool
	failed     bool      // the last look failed, and was not believed
	deaf       bool      // the kernel's announcements cannot be heard
	lastLook   time.Time // start of the last look that has ended
	nextScan   time.Time
	faultScan  time.Time // last look that a line asked for
	writer     *report.Writer
	flavorName chan string
}

// published is what other goroutines may read.
type published struct {
	status   *v1alpha1.ComputeNodeStatus
	writer   *report.Writer // nil before the stored status was read
	readings []smartReading
}

// pendingEvent waits for a look at the host that begins after it.
type pendingEvent struct {
	kernel.Event
	arrived time.Time
}

// New prepares a monitor. host is the host's root.
func New(o Options, host *hostfs.FS, api API, log *slog.Logger) (*Monitor, error) {
	boot, err := host.ReadString("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	m := &Monitor{
		opts: o, host: host, api: api, log: log, pace: report.DefaultPace(),
		scanAsk: make(chan struct{}, 1), inbox: make(chan func(), 16), flavorName: make(chan string, 1),
		status: &v1alpha1.ComputeNodeStatus{}, recent: map[string]verdict.Recent{},
		health: health{interval: o.SmartInterval, gap: min(healthGap, o.SmartInterval), thresholds: o.Thresholds, disks: map[string]*diskHealth{}},
	}
	db, err := smart.ReadDriveDB(host)
	if err != nil {
		log.Info("the host's table of SMART attributes is not used", "error", err.Error())
	}
	m.health.reader.Ask = askHost(host, db)
	m.health.adapters, m.health.smartctl = o.Adapters, &smart.Smartctl{Root: o.HostRoot, DB: db}
	if m.health.thresholds == nil {
		m.health.thresholds = verdict.DefaultThresholds()
	}
	m.view.BootID = boot
	m.view.Settled = func(id string) bool {
		return m.view.Now.After(m.boot.Add(m.opts.BootSettle)) && m.absence.Settled(id, m.opts.Settle)
	}
	m.boot = bootTime(host, time.Now())
	m.metrics = newMetrics(m)
	return m, nil
}

// bootTime is when the host booted, or now when that cannot be read: then
// nothing is missing for as long as after a boot.
func bootTime(host *hostfs.FS, now time.Time) time.Time {
	line, err := host.ReadString("/proc/uptime")
	if err != nil {
		return now
	}
	seconds, _, _ := strings.Cut(line, " ")
	up, err := strconv.ParseFloat(seconds, 64)
	if err != nil || up < 0 || up > 1e9 {
		return now
	}
	return now.Add(-time.Duration(up * float64(time.Second)))
}

// Collector gives the monitor's metrics.
func (m *Monitor) Collector() prometheus.Collector { return m.metrics }

// Run watches until the context ends.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	m.health.reader.Late = func(key string) { m.tell(ctx, func() { m.health.late(key, time.Now()) }) }
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { m.scanner(ctx) })
	wg.Go(func() { m.listenUevents(ctx) })
	wg.Go(func() { m.watchFlavor(ctx) })
	wg.Go(func() { m.resume(ctx, &wg) })
	wg.Go(func() {
		m.api.WatchNode(ctx, m.log, func(n *v1alpha1.ComputeNode) { m.tell(ctx, func() { m.onNode(n) }) })
	})
	wg.Go(func() {
		m.api.WatchVolumes(ctx, m.log, func(v []report.Volume) {
			m.tell(ctx, func() {
				m.view.Volumes, m.view.VolumesRead = v, true
				m.evaluate()
			})
		})
	})
	m.loop(ctx)
	return nil
}

// tell has the loop run f.
func (m *Monitor) tell(ctx context.Context, f func()) {
	select {
	case m.inbox <- f:
	case <-ctx.Done():
	}
}

func (m *Monitor) loop(ctx context.Context) {
	m.nextScan = time.Now()
	for {
		m.alive.Store(time.Now().Unix())
		t := time.NewTimer(m.untilNext(time.Now()))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case f := <-m.inbox:
			f()
		case <-t.C:
			m.tick(time.Now())
			m.askDue(ctx, time.Now())
		}
		t.Stop()
		if m.changed && len(m.inbox) == 0 {
			m.evaluate()
		}
	}
}

func (m *Monitor) untilNext(now time.Time) time.Duration {
	next := m.nextScan
	if !m.scanning.IsZero() {
		next = m.scanning.Add(scanTimeout)
		if now.After(next) {
			next = now.Add(scanTimeout) // said so already
		}
	}
	if m.writer != nil {
		next = earlier(next, now.Add(m.health.untilNext(now)))
	}
	if !m.nextEnd.IsZero() {
		next = earlier(next, m.nextEnd)
	}
	return max(0, min(next.Sub(now), 10*time.Second))
}

func (m *Monitor) tick(now time.Time) {
	if !m.nextEnd.IsZero() && !now.Before(m.nextEnd) {
		m.nextEnd = time.Time{}
		m.changed = true
	}
	switch {
	case m.scanning.IsZero() && !now.Before(m.nextScan):
		m.scanning = now
		m.scanAsk <- struct{}{} // has room: no look is under way
	case !m.scanning.IsZero() && now.Sub(m.scanning) >= scanTimeout && now.Sub(m.late) >= scanTimeout:
		m.late = now
		m.metrics.scanErrors.Inc()
		m.view.Snapshot = inventory.Snapshot{Err: fmt.Errorf("list disks: no answer within %s", scanTimeout)}
		m.view.Looked = true
		m.evaluate()
	}
}

func (m *Monitor) onNode(n *v1alpha1.ComputeNode) {
	m.view.Node = n
	if m.writer != nil {
		m.writer.Seen(n)
	}
	name := ""
	if n != nil {
		name = n.Spec.Flavor
	}
	select { // only the newest counts
	case <-m.flavorName:
	default:
	}
	m.flavorName <- name
	if m.view.Looked {
		m.listHealth(time.Now()) // the flavor says how disks are asked
	}
	m.evaluate()
}

// watchFlavor reads the node's flavor when its name changes, and now and then.
func (m *Monitor) watchFlavor(ctx context.Context) {
	name := ""
	for {
		t := time.NewTimer(flavorRefresh)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case name = <-m.flavorName:
		case <-t.C:
		}
		t.Stop()
		var flavor *v1alpha1.NodeFlavor
		var err error
		if name != "" {
			callCtx, cancel := context.WithTimeout(ctx, callTimeout)
			flavor, err = m.api.GetFlavor(callCtx, name)
			cancel()
			if err == nil && flavor == nil {
				err = fmt.Errorf("there is no NodeFlavor %s", name)
			}
		}
		m.tell(ctx, func() {
			m.view.Flavor, m.view.FlavorErr, m.view.FlavorRead = flavor, err, true
			m.evaluate()
		})
	}
}

// evaluate brings the status up to date and hands it to the writer.
func (m *Monitor) evaluate() {
	if !m.view.Looked {
		return // a restart must not make every disk Unknown for a moment
	}
	m.view.Now, m.view.Health, m.changed = time.Now(), m.healthView(), false
	before := m.status
	m.status = report.Next(before, &m.view)
	if m.position.Started {
		m.status.KernelLog = &v1alpha1.KernelLogPosition{Sequence: m.position.Sequence, Lost: m.position.Lost}
		if m.position.Journal {
			m.status.KernelLog.Source = v1alpha1.KernelLogJournal
		}
	}
	m.nextEnd = report.NextEnd(m.status)
	m.forgetLines()
	m.logChanges(before)
	public := m.status.DeepCopy()
	m.published.Store(&published{status: public, writer: m.writer, readings: m.readings()})
	if m.writer != nil {
		m.writer.Offer(public)
	}
}

func (m *Monitor) logChanges(before *v1alpha1.ComputeNodeStatus) {
	was := map[string]v1alpha1.DiskState{}
	for _, d := range before.Disks {
		was[d.ID] = d.State
	}
	for _, d := range m.status.Disks {
		if was[d.ID] != d.State {
			m.log.Info("disk state", "disk", d.ID, "device", d.Device, "state", string(d.State), "was", string(was[d.ID]))
		}
		delete(was, d.ID)
	}
	for id := range was {
		m.log.Info("disk has left", "disk", id)
	}
}
