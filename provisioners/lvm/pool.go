package lvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/lvm/vg"
)

// Deadlines of programs.
type Deadlines struct {
	Report time.Duration // of one volume group
	Change time.Duration // lvcreate, lvchange, lvextend, lvremove
	Mkfs   time.Duration
	Mount  time.Duration
	Wipe   time.Duration // of each step of at most wipeStep bytes
	Block  time.Duration // of each block that is read, written, sent or received between nodes
	// Patience is how long a call waits for groups that it may do without.
	Patience time.Duration
}

// DefaultDeadlines are for disks that are slow and not for disks that are gone.
func DefaultDeadlines() Deadlines {
	return Deadlines{Report: 20 * time.Second, Change: time.Minute, Mkfs: 10 * time.Minute, Mount: time.Minute, Wipe: 5 * time.Minute, Block: 2 * time.Minute, Patience: time.Second}
}

// lvmConfig is what every command runs with: no daemon of the host is needed, device
// nodes are made by LVM itself, because a container does not see udev's
// semaphores, nothing asks, and what was zeroed stays so when lvremove frees it.
const lvmConfig = "activation{udev_sync=0 udev_rules=0 monitoring=0} devices{obtain_device_list_from_udev=0 scan_lvs=0 issue_discards=0} " +
	"global{notify_dbus=0 event_activation=0} report{time_format=\"%Y-%m-%d %T %z\"}"

// group is a managed volume group. LVM's commands on it run one at a time;
// what was read last can be seen meanwhile.
type group struct {
	info GroupInfo
	turn chan struct{} // holds one token while a command runs

	mu    sync.Mutex
	state *vg.Group // as read last, with our own changes since; nil before the first report
	fresh bool      // state is what LVM has, as far as we know
	err   error     // of the last command, when the state could not be read
	read  time.Time
	// network is Devices' of the last command.
	network string
	// unsure are the volumes whose last change may or may not have happened.
	unsure map[string]bool
	seen   func() // told after each change of state
}

func newGroup(info GroupInfo, seen func()) *group {
	return &group{info: info, turn: make(chan struct{}, 1), seen: seen}
}

// last is what was read last, even when it is not fresh; nil before the first time.
func (g *group) last() (state *vg.Group, fresh bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.fresh, g.err
}

func (g *group) set(s *vg.Group, now time.Time) {
	g.mu.Lock()
	g.state, g.fresh, g.err, g.read, g.unsure = s, true, nil, now, nil
	g.mu.Unlock()
	g.seen()
}

// doubt makes the next look read again. lv, when set, is the volume whose change has
// an unknown end.
func (g *group) doubt(lv string, err error) {
	g.mu.Lock()
	g.fresh, g.err = false, err
	if lv != "" {
		if g.unsure == nil {
			g.unsure = map[string]bool{}
		}
		g.unsure[lv] = true
	}
	g.mu.Unlock()
	g.seen()
}

// suspect makes the next look read again, for no reason but care.
func (g *group) suspect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fresh = false
}

// closed says why nothing new is put onto the group's disks, or is empty.
func (g *group) closed(q Quarantine) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return cmp.Or(closed(g.info, q), g.network)
}

// sure says whether the end of every change of a volume is known.
func (g *group) sure(lv string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.unsure[lv]
}

// acquire waits for the group's turn.
func (g *group) acquire(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for volume group %s: %w: %w", g.info.Name, ErrUnavailable, ctx.Err())
	}
}

func (g *group) release() { <-g.turn }

// lvm runs one command of LVM that sees the group's disks and no others: a hung
// disk of another group is not even opened.
func (e *Engine) lvm(ctx context.Context, g *group, timeout time.Duration, args ...string) ([]byte, error) {
	devices, err := e.host.Devices(ctx, g.info)
	if err != nil {
		return nil, fmt.Errorf("find disks of volume group %s: %w", g.info.Name, err)
	}
	g.mu.Lock()
	g.network = devices.Network
	g.mu.Unlock()
	full := slices.Concat(args[:1], []string{"--config", lvmConfig, "--devices", strings.Join(devices.Paths, ",")}, args[1:])
	e.metrics.command(args[0])
	return e.host.Run(ctx, timeout, "lvm", full...)
}

// report reads the group. The caller has its turn.
func (e *Engine) report(ctx context.Context, g *group) (*vg.Group, error) {
	// A caller that goes away must not make the group look sick.
	out, err := e.lvm(context.WithoutCancel(ctx), g, e.deadlines.Report, vg.ReportArgs(g.info.Name)...)
	var s *vg.Group
	if err == nil {
		s, err = vg.ParseReport(out, g.info.UUID)
	}
	if err != nil {
		err = fmt.Errorf("read volume group %s: %w: %w", g.info.Name, ErrUnavailable, err)
		g.doubt("", err)
		return nil, err
	}
	g.set(s, e.now())
	return s, nil
}

// look returns the state, read now when it is in doubt or must be.
func (e *Engine) look(ctx context.Context, g *group, must bool) (*vg.Group, error) {
	if s, fresh, _ := g.last(); fresh && !must {
		return s, nil
	}
	if err := g.acquire(ctx); err != nil {
		return nil, err
	}
	defer g.release()
	if s, fresh, _ := g.last(); fresh && !must { // somebody else read it meanwhile
		return s, nil
	}
	return e.report(ctx, g)
}

// settle reads all groups that are in doubt, side by side, and waits for them only so
// long: one that hangs keeps nobody from the others.
func (e *Engine) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.deadlines.Patience)
	var wg sync.WaitGroup
	for _, g := range e.groups {
		if _, fresh, _ := g.last(); !fresh {
			wg.Go(func() { _, _ = e.look(ctx, g, false) }) // the group keeps the error
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done); cancel() }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// change is one command that changes a group.
type change struct {
	lv    string
	args  []string
	names string               // printed by the command when it did something
	apply func(g *vg.Group)    // the change in what was read
	done  func(*vg.Group) bool // whether a new report shows it
}

// alter runs the command that plan makes of the group's state; plan may make none.
// After any doubt the state is read again before the next decision.
func (e *Engine) alter(ctx context.Context, g *group, plan func(*vg.Group) (*change, error)) error {
	if err := g.acquire(ctx); err != nil {
		return err
	}
	defer g.release()
	return e.alterHeld(ctx, g, plan)
}

// alterHeld is alter for who has the group's turn.
func (e *Engine) alterHeld(ctx context.Context, g *group, plan func(*vg.Group) (*change, error)) error {
	s, fresh, _ := g.last()
	if !fresh {
		var err error
		if s, err = e.report(ctx, g); err != nil {
			return err
		}
	}
	c, err := plan(s)
	if err != nil || c == nil {
		return err
	}
	// Once begun it is not given up with its caller: its end is known sooner so.
	out, err := e.lvm(context.WithoutCancel(ctx), g, e.deadlines.Change, c.args...)
	if err != nil {
		g.doubt(c.lv, nil)
		if hostexec.ExitCode(err) < 0 {
			return fmt.Errorf("%s in volume group %s: %w: %w", c.args[0], g.info.Name, ErrUnavailable, err)
		}
		return fmt.Errorf("%s in volume group %s: %w", c.args[0], g.info.Name, err)
	}
	if strings.Contains(string(out), c.names) {
		next := s.Clone()
		c.apply(next)
		next.Seqno++ // by one at least; the next report tells
		g.set(next, e.now())
		return nil
	}
	// A selection that matches nothing ends with exit code 0 and no word.
	if s, err = e.report(ctx, g); err != nil {
		return err
	}
	if !c.done(s) {
		return fmt.Errorf("%s in volume group %s changed nothing: the volume is not what it was (look at its tags with lvs -o +lv_tags): %w", c.args[0], g.info.Name, ErrRefused)
	}
	return nil
}

// Refresh reads the group that was not read for the longest time, and any that is in
// doubt first. It is called now and then, so that the number of commands an
// idle node runs depends on neither groups nor volumes.
func (e *Engine) Refresh(ctx context.Context) error {
	var next *group
	var oldest time.Time
	for _, g := range e.groups {
		g.mu.Lock()
		at := g.read
		if !g.fresh && g.err == nil {
			at = at.Add(-24 * time.Hour)
		}
		g.mu.Unlock()
		if next == nil || at.Before(oldest) {
			next, oldest = g, at
		}
	}
	if next == nil {
		return nil
	}
	return e.refresh(ctx, next)
}

// refresh reads one group unless a command is under way in it.
func (e *Engine) refresh(ctx context.Context, g *group) error {
	select {
	case g.turn <- struct{}{}:
	default:
		return nil // what runs there will tell
	}
	defer g.release()
	_, err := e.report(ctx, g)
	if err != nil {
		g.mu.Lock()
		g.read = e.now() // the others get their turn
		g.mu.Unlock()
	}
	return err
}

// RefreshAll reads all groups side by side, once, at the start.
func (e *Engine) RefreshAll(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(e.groups))
	for i, g := range e.groups {
		wg.Go(func() { errs[i] = e.refresh(ctx, g) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
