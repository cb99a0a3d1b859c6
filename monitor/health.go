package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

const (
	// healthTimeout is how long a disk may take to answer.
	healthTimeout = 10 * time.Second
	// smartctlTimeout is that of smartctl, which sends a dozen commands through an adapter.
	smartctlTimeout = 30 * time.Second
	// healthGap is the least time between two questions to a disk. It is also
	// that of a disk whose numbers are bad: they must be seen to recover.
	healthGap = 20 * time.Second
	// healthless is how long a disk without any health to tell is left alone.
	healthless = time.Hour
)

// health asks the disks for what they say of themselves, each by a goroutine of
// its own. The loop owns everything in it.
type health struct {
	reader     smart.Reader
	adapters   *smart.Adapters // which disks smartctl is to ask; nil none
	smartctl   *smart.Smartctl
	thresholds *verdict.Thresholds
	interval   time.Duration // 0: disks are not asked
	gap        time.Duration // see healthGap
	disks      map[string]*diskHealth
}

// diskHealth is one disk's.
type diskHealth struct {
	device string // as which it was listed last
	serial string
	via    *smart.Adapter // nil: by ioctl
	asking bool
	asked  time.Time // last question
	next   time.Time // next one

	failures int  // questions without an answer since the last one
	hastened bool // one of them has ended late, and brought the next one forward

	reading smartReading
	memory  verdict.Memory
	judged  bool // memory is of this disk
	health  report.Health
}

// smartReading is the outcome of the last question, for the metrics. It is not
// changed any more.
type smartReading struct {
	disk   string
	at     time.Time     // of the last answer; zero when there has been none
	report *smart.Report // nil when the last question had no answer
	asked  bool
}

// askHost reads a disk through the host's device files.
func askHost(host *hostfs.FS, db *smart.DriveDB) func(ctx context.Context, device string) (*smart.Report, error) {
	var known smart.Known
	return func(ctx context.Context, device string) (_ *smart.Report, err error) {
		// Without O_NONBLOCK the kernel would wait for a medium.
		f, err := host.OpenFile("/dev/"+device, os.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		d, err := smart.NewFile(f)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, d.Close()) }()
		return known.Read(ctx, device, d, db)
	}
}

// list takes in which disks there are; whole says that there are no others. flavor is
// the node's.
func (h *health) list(disks []listedDisk, flavor string, whole bool, now time.Time) {
	there := map[string]bool{}
	for _, d := range disks {
		there[d.id] = true
		have, ok := h.disks[d.id]
		via := h.adapters.Find(d.id, flavor, d.slot)
		if !ok || have.device != d.device || have.via != via {
			have = &diskHealth{next: now, via: via}
			h.disks[d.id] = have
		}
		have.device, have.serial = d.device, d.serial
	}
	for id := range h.disks {
		if !there[id] && whole {
			delete(h.disks, id)
		}
	}
}

// listHealth takes in which disks the last look has shown.
func (m *Monitor) listHealth(now time.Time) {
	if m.health.interval == 0 {
		return
	}
	var disks []listedDisk
	for _, d := range m.view.Snapshot.Disks {
		if d.Media != v1alpha1.MediaVirtual {
			disks = append(disks, listedDisk{d.ID, d.Device, d.Serial, d.Slot})
		}
	}
	flavor := ""
	if m.view.Node != nil {
		flavor = m.view.Node.Spec.Flavor
	}
	m.health.list(disks, flavor, m.view.Snapshot.Err == nil, now)
}

// controllerSays has the disks of an NVMe controller asked that has told the
// kernel that something has changed.
func (m *Monitor) controllerSays(name string) {
	now := time.Now()
	ids, _, answer := m.names.Resolve(name, now)
	if answer != inventory.Known {
		return
	}
	for _, id := range ids {
		m.health.soon(id, now)
	}
}

// listedDisk is what health knows of a disk that is there.
type listedDisk struct{ id, device, serial, slot string }

// soon has a disk asked as soon as the gap allows. One that has not answered is
// left to its own pace: each question may cost it a reset of its link.
func (h *health) soon(id string, now time.Time) {
	if d := h.disks[id]; d != nil && d.failures == 0 {
		d.next = earlier(d.next, later(now, d.asked.Add(h.gap)))
	}
}

// late has a disk asked again whose question (see key) has ended after it was given up:
// what hung has passed, and the pace of a disk that hangs would keep it Unknown for minutes. That
// is done once until it answers in time, for a disk that is always late is as hard to ask as one that hangs.
func (h *health) late(key string, now time.Time) {
	for id, d := range h.disks {
		if d.failures > 0 && !d.hastened && d.key(id) == key {
			d.hastened = true
			d.next = earlier(d.next, later(now, d.asked.Add(h.gap)))
		}
	}
}

// key names a disk and the way in which it is asked.
func (d *diskHealth) key(id string) string {
	key := d.device + " (" + id + ")"
	if d.via != nil {
		key += " through smartctl -d " + d.via.Type
	}
	return key
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// untilNext is how long no disk is to be asked.
func (h *health) untilNext(now time.Time) time.Duration {
	wait := time.Hour
	for _, d := range h.disks {
		if !d.asking {
			wait = min(wait, d.next.Sub(now))
		}
	}
	return wait
}

// askDue asks the disks whose time has come. Before the stored status is known,
// none is asked: what a disk said before decides what its first answer means.
func (m *Monitor) askDue(ctx context.Context, now time.Time) {
	if m.writer == nil {
		return
	}
	for id, d := range m.health.disks {
		if d.asking || now.Before(d.next) {
			continue
		}
		d.asking, d.asked = true, now
		key, device, via := d.key(id), d.device, d.via // d is the loop's
		go func() {
			r, err := m.health.ask(ctx, key, device, via)
			m.tell(ctx, func() { m.onHealth(id, d, r, err) })
		}()
	}
}

// ask reads one disk, by ioctl or by smartctl. A question that hangs holds up no other
// disk that gets the name. It is safe for concurrent use.
func (h *health) ask(ctx context.Context, key, device string, via *smart.Adapter) (*smart.Report, error) {
	if via == nil {
		ctx, cancel := context.WithTimeout(ctx, healthTimeout)
		defer cancel()
		return h.reader.ReadBy(ctx, key, func(ctx context.Context) (*smart.Report, error) { return h.reader.Ask(ctx, device) })
	}
	ctx, cancel := context.WithTimeout(ctx, smartctlTimeout)
	defer cancel()
	return h.reader.ReadBy(ctx, key, func(ctx context.Context) (*smart.Report, error) {
		return h.smartctl.Ask(ctx, via, "/dev/"+device)
	})
}

// onHealth takes in a disk's answer, or that there is none.
func (m *Monitor) onHealth(id string, d *diskHealth, r *smart.Report, err error) {
	if m.health.disks[id] != d {
		return // it has left, or come under another name, meanwhile
	}
	now := time.Now()
	d.asking, d.next = false, now.Add(m.health.interval)
	if err == nil && d.via == nil && legible(d.serial) && r.Serial != "" && r.Serial != d.serial {
		err = fmt.Errorf("the disk that answers as %s has serial %s, want %s", d.device, r.Serial, d.serial)
	}
	before := d.health
	d.reading = smartReading{disk: id, at: d.reading.at, asked: true}
	switch {
	case err == nil:
		d.reading.at, d.reading.report, d.failures, d.hastened = now, r, 0, false
		m.judgeHealth(id, d, r, now)
	case errors.Is(err, smart.ErrUnsupported) && !d.judged && m.said(id) == "":
		// One that has told its health and does not any more is not sound for that.
		d.reading.asked = false
		d.health = report.Health{Read: true}
		d.next = now.Add(healthless)
	default:
		d.failures++
		d.health.Err = err.Error()
		// No answer is one; another error may pass, or be this process's own.
		d.health.Silent = errors.Is(err, smart.ErrNoAnswer) || d.failures > 1 && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist)
		d.next = now.Add(min(m.health.gap<<min(d.failures-1, 10), m.health.interval))
	}
	if d.health.Err != "" && before.Err == "" {
		d.health.ErrSince = now
		m.log.Info("a disk does not tell its health", "disk", id, "device", d.device, "error", d.health.Err)
	}
	m.changed = true
}

// legible says that a serial number is there and has no bytes but printable ASCII,
// as drives should have it: of others the kernel and package smart make different texts.
func legible(serial string) bool {
	return serial != "" && !strings.ContainsFunc(serial, func(r rune) bool { return r < ' ' || r > '~' })
}

// said is what the disk has said against itself, by the status, maybe before the
// last restart; empty when nothing.
func (m *Monitor) said(id string) string {
	for i := range m.status.Disks {
		if m.status.Disks[i].ID != id {
			continue
		}
		for _, f := range m.status.Disks[i].Faults {
			if f.Class == v1alpha1.FaultSMART {
				return f.Evidence
			}
		}
	}
	return ""
}

// judgeHealth is the verdict on an answer.
func (m *Monitor) judgeHealth(id string, d *diskHealth, r *smart.Report, now time.Time) {
	stored := ""
	if !d.judged {
		stored = m.said(id)
	}
	memory, holds, grown := m.health.thresholds.Judge(id, d.memory, stored, r)
	d.memory, d.judged = memory, true
	d.health = report.Health{Read: true, Findings: holds}
	if len(holds) > 0 {
		d.next = now.Add(min(m.health.gap, m.health.interval))
	}
	for _, g := range grown {
		m.judgeLine(id, &verdict.Line{Class: g.Class, Severity: g.Severity, Count: g.Count, Text: "SMART: " + g.Text, Seen: []verdict.Sighting{{At: now}}})
	}
}

// healthView is what the next status is to know of the disks' health; nil when
// disks are not asked.
func (m *Monitor) healthView() map[string]report.Health {
	if m.health.interval == 0 {
		return nil
	}
	out := map[string]report.Health{}
	for id, d := range m.health.disks {
		out[id] = d.health
	}
	return out
}

// readings are the last outcomes of the disks that have health to tell.
func (m *Monitor) readings() []smartReading {
	var out []smartReading
	for _, d := range m.health.disks {
		if d.reading.asked {
			out = append(out, d.reading)
		}
	}
	return out
}
