package lvm

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"holdfast.dev/provisioners/lvm/vg"
)

// Quarantine is what this node's ComputeNode says now.
type Quarantine struct {
	Disks map[string]string // disk id to reason
	// Bad are disks that are Failed or Missing by their state, quarantined or not: what is
	// on them is not removed.
	Bad map[string]string
	Err error // it could not be read: no disk takes a new volume, and none loses one
}

// EngineOptions are what an Engine is made of.
type EngineOptions struct {
	Node      string
	Cluster   string // UID of the cluster, for tags; may be empty
	Groups    []GroupInfo
	Host      Host
	Mounts    Mounts
	Deadlines Deadlines
	// Quarantine is asked before each new volume and must not be cached.
	Quarantine func(context.Context) Quarantine
	// Changed is called after each change of what is known of a group; it must not block.
	Changed func()
	Now     func() time.Time
	Metrics *Metrics
	Log     *slog.Logger
}

// Engine makes, changes and removes the logical volumes of one node. All methods
// may be called at once. Every change is idempotent: after an error, a timeout or
// the death of the process the same call again finishes it.
type Engine struct {
	node, cluster string
	host          Host
	mounts        Mounts
	deadlines     Deadlines
	quarantine    func(context.Context) Quarantine
	now           func() time.Time
	metrics       *Metrics
	log           *slog.Logger
	started       time.Time

	groups []*group
	byUUID map[string]*group
	locks  keyLock // volumes by name of the logical volume
	wipes  wipes
}

// NewEngine makes an engine. It runs nothing before the first call.
func NewEngine(o EngineOptions) *Engine {
	e := &Engine{
		node: o.Node, cluster: o.Cluster, host: o.Host, mounts: o.Mounts, deadlines: o.Deadlines, quarantine: o.Quarantine,
		now: o.Now, metrics: o.Metrics, log: o.Log, byUUID: map[string]*group{},
	}
	if e.now == nil {
		e.now = time.Now
	}
	seen := o.Changed
	if seen == nil {
		seen = func() {}
	}
	e.started = e.now()
	for _, info := range o.Groups {
		g := newGroup(info, seen)
		e.groups = append(e.groups, g)
		e.byUUID[info.UUID] = g
	}
	return e
}

// Volume is a logical volume of ours.
type Volume struct {
	Handle Handle
	Info   GroupInfo
	LV     vg.LV
}

// Device is the path of its device node.
func (v Volume) Device() string { return "/dev/" + v.Info.Name + "/" + v.LV.Name }

// Kind is what it is.
func (v Volume) Kind() Kind { return Kind(v.LV.Tags.Get(vg.KeyKind)) }

// Phase is the phase of its intent.
func (v Volume) Phase() string { phase, _ := v.LV.Tags.Intent(); return phase }

// lock takes the lock of one logical volume.
func (e *Engine) lock(lv string) (unlock func(), err error) {
	unlock, ok := e.locks.try(lv)
	if !ok {
		return nil, fmt.Errorf("volume %s: %w", lv, ErrBusy)
	}
	return unlock, nil
}

// group is the managed group of a handle. One that disks.yaml does not name is no
// evidence of anything: its disk may come back.
func (e *Engine) group(h Handle) (*group, error) {
	if g := e.byUUID[h.Group]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("volume group %s of volume %s is not one of node %s (disks.yaml lists them; when its disks are gone for ever, delete the PersistentVolume with reclaim policy Retain): %w",
		h.Group, h.LV, e.node, ErrUnavailable)
}

// find looks a volume up. That it is not there is said only after a report of the
// whole group that was made for this question.
func (e *Engine) find(ctx context.Context, h Handle) (*group, *vg.LV, error) {
	g, err := e.group(h)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.look(ctx, g, false)
	if err != nil {
		return nil, nil, err
	}
	lv := s.Find(h.LV)
	if lv == nil {
		if s, err = e.look(ctx, g, true); err != nil {
			return nil, nil, err
		}
		if lv = s.Find(h.LV); lv == nil {
			if err := s.Complete(); err != nil {
				return nil, nil, fmt.Errorf("find volume %s: %w: %w", h.LV, ErrUnavailable, err)
			}
			return nil, nil, fmt.Errorf("volume %s in volume group %s: %w", h.LV, g.info.Name, ErrNotFound)
		}
	}
	if !lv.Tags.Ours() {
		return nil, nil, fmt.Errorf("volume %s/%s lacks the tags of this driver: %w", g.info.Name, h.LV, ErrRefused)
	}
	return g, lv, nil
}

// Volume is the volume of a handle.
func (e *Engine) Volume(ctx context.Context, h Handle) (Volume, error) {
	g, lv, err := e.find(ctx, h)
	if err != nil {
		return Volume{}, err
	}
	return e.volume(g, lv), nil
}

func (e *Engine) volume(g *group, lv *vg.LV) Volume {
	return Volume{Handle: Handle{Group: g.info.UUID, LV: lv.Name}, Info: g.info, LV: *lv}
}

// seqno is that of a group's metadata as known now: no lower than with the last change of
// ours, and no higher than what LVM has.
func (e *Engine) seqno(uuid string) int64 {
	if g := e.byUUID[uuid]; g != nil {
		if s, _, _ := g.last(); s != nil {
			return s.Seqno
		}
	}
	return 0
}

// Volumes are all volumes of ours in the groups that can be read. The error tells
// of the others.
func (e *Engine) Volumes(ctx context.Context) ([]Volume, error) {
	var all []Volume
	var bad []string
	e.settle(ctx)
	for _, g := range e.groups {
		s, fresh, err := g.last()
		if !fresh {
			bad = append(bad, fmt.Sprintf("volume group %s: %v", g.info.Name, err))
			continue
		}
		for i := range s.LVs {
			if s.LVs[i].Tags.Ours() {
				all = append(all, e.volume(g, &s.LVs[i]))
			}
		}
	}
	if len(bad) > 0 {
		return all, fmt.Errorf("list volumes: %s: %w", strings.Join(bad, "; "), ErrUnavailable)
	}
	return all, nil
}

// Candidates are the node's groups as known now, closed by quarantine q where it says
// so, and where their disks are reached over a network. It runs nothing.
func (e *Engine) Candidates(q Quarantine) []vg.Candidate {
	all := make([]vg.Candidate, 0, len(e.groups))
	for _, g := range e.groups {
		c := vg.Candidate{Pool: g.info.Pool, Thin: g.info.ThinPool, Disks: g.info.Disks, Closed: g.closed(q)}
		c.Group, _, c.Err = g.last()
		all = append(all, c)
	}
	return all
}

// closed says why nothing new is put onto a group's disks by what is recorded of them, or is empty.
func closed(g GroupInfo, q Quarantine) string {
	if q.Err != nil {
		return "quarantine is not known: " + q.Err.Error()
	}
	for _, d := range g.Disks {
		if why, bad := q.Disks[d]; bad {
			return fmt.Sprintf("disk %s is quarantined: %s", d, why)
		}
	}
	return ""
}

// held says why what is on a group's disks stays as it is, or is empty: the data of a bad
// disk are evidence and may be the last copy, and wiping one may never end. It is the
// rule of local-volume-cleaner as well.
func held(g GroupInfo, q Quarantine) string {
	if why := closed(g, q); why != "" {
		return why
	}
	for _, d := range g.Disks {
		if state, bad := q.Bad[d]; bad {
			return fmt.Sprintf("disk %s is %s", d, state)
		}
	}
	return ""
}

// DisksOf are the disks of a volume by its handle, or of the volume of a claim by its
// tags; nil when this node has no such volume.
func (e *Engine) DisksOf(handle, claim string) []string {
	if h, err := ParseHandle(handle); err == nil && e.byUUID[h.Group] != nil {
		return e.byUUID[h.Group].info.Disks
	}
	if claim == "" {
		return nil
	}
	for _, g := range e.groups {
		s, _, _ := g.last()
		if s == nil {
			continue
		}
		for _, lv := range s.LVs {
			if lv.Tags.Get(vg.KeyPVC) == claim && lv.Tags.Ours() {
				return g.info.Disks
			}
		}
	}
	return nil
}
