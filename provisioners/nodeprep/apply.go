package nodeprep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/flavor"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/output"
	"holdfast.dev/provisioners/local/wipe"
)

// Files writes the host's files, durably and whole; *hostfs.FS does.
type Files interface {
	WriteFile(name string, data []byte, perm fs.FileMode) error
	MkdirAll(name string, perm fs.FileMode) error
	Symlink(target, name string) error
	Remove(name string) error
}

// Preparer carries plans out. It is not safe for concurrent use.
type Preparer struct {
	Host  *Host
	Files Files
	Store *Store
	// Programs is the root that the programs run in, for their own files.
	Programs *hostfs.FS
	// NewUUID gives a random UUID in lower case.
	NewUUID func() string
	// Raw is a raw partition, open exclusively, to be read and zeroed; RawDevice is the one of the product.
	Raw func(*os.File) (wipe.Device, error)
	// UnitsOnly writes mount units and does not talk to systemd. Udev is set where there is one to wait for.
	UnitsOnly, Udev bool
	// Progress hears of every step, for a person.
	Progress io.Writer

	held map[string]*held // disks that are kept open, by id
}

func (p *Preparer) tell(format string, args ...any) { fmt.Fprintf(p.Progress, format+"\n", args...) }

// extents are where partitions may come on a disk: in any group that it fits.
func extents(f *v1alpha1.NodeFlavor, state *State) func(*Found) []Extent {
	return func(d *Found) []Extent {
		var out []Extent
		if r := state.Disks[d.ID]; r != nil && r.Table != nil {
			for _, t := range r.Table.Partitions {
				out = append(out, Extent{t.Start, t.Size})
			}
			return out
		}
		for i := range f.Spec.Disks {
			g := &f.Spec.Disks[i]
			if g.Layout == nil || len(g.Layout.Partitions) == 0 || !flavor.Fits(g, d.Media, d.Size) {
				continue
			}
			if e, err := Extents(g.Layout.Partitions, d.Size); err == nil { // a layout that does not fit has its own refusal
				out = append(out, e...)
			}
		}
		return out
	}
}

// Look reads the host into an input of BuildPlan. What the API server and the
// command line say is the caller's to add.
func (p *Preparer) Look(ctx context.Context, f *v1alpha1.NodeFlavor) (*Input, error) {
	state, err := p.Store.Load()
	if err != nil {
		return nil, err
	}
	in := &Input{Flavor: f, State: state, UnitsOnly: p.UnitsOnly, Mounts: map[string]MountFacts{}}
	if in.Listed, err = p.listed(); err != nil {
		return nil, err
	}
	in.Disks, in.ScanErr = p.Host.Scan(ctx, state, extents(f, state))
	devs := map[string]string{}
	for i := range in.Disks {
		devs[in.Disks[i].ID] = in.Disks[i].Device
	}
	for id, r := range state.Disks {
		if r.Table == nil || devs[id] == "" {
			continue
		}
		for i := range r.Table.Partitions {
			if t := &r.Table.Partitions[i]; t.Filesystem != "" {
				in.Mounts[t.MountPoint] = p.Host.MountFacts(id, t)
			}
		}
	}
	in.LVM = p.Host.LVMFacts(ctx, volumes(state, in.Disks))
	return in, nil
}

// volumes are the devices of the disks that were made physical volumes and still are.
func volumes(s *State, disks []Found) []string {
	var devs []string
	for i := range disks {
		f := &disks[i]
		if r := s.Disks[f.ID]; r != nil && r.PV != nil && r.PV.Phase == Made && r.nextPV(&f.Content).None {
			devs = append(devs, f.Device)
		}
	}
	return devs
}

// listed reads disks.yaml; nil when there is none.
func (p *Preparer) listed() (*nodedisks.File, error) {
	data, err := p.Host.FS.ReadFile(nodedisks.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", nodedisks.Path, err)
	}
	return nodedisks.Parse(nodedisks.Path, data)
}

// Apply carries out a plan that was built of the input. It goes on with the
// other disks when one fails. Run again it takes up where it ended, however it ended.
func (p *Preparer) Apply(ctx context.Context, in *Input, plan *Plan) error {
	var errs []error
	for i := range plan.Disks {
		row := &plan.Disks[i]
		if row.Refused != "" || row.take == nil && len(row.Do) == 0 {
			continue
		}
		if err := p.disk(ctx, in, row); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", row.Disk, err))
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.State.VolumeGroups)) {
		if err := p.volumeGroup(ctx, in, name); err != nil {
			errs = append(errs, fmt.Errorf("volume group %s: %w", name, err))
		}
	}
	// Before the mounts: what is made is to be missed when it cannot be mounted.
	errs = append(errs, p.publish(in))
	for _, row := range plan.Disks {
		if row.Refused == "" && ctx.Err() == nil {
			errs = append(errs, p.mounts(ctx, in, row.Disk))
		}
	}
	return errors.Join(errs...)
}

// again reads one disk anew: what was read for the plan may be over. The disk is
// kept open until release.
func (p *Preparer) again(ctx context.Context, in *Input, id string) (*Found, error) {
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	var dev string
	for i := range in.Disks {
		if in.Disks[i].ID == id {
			dev = in.Disks[i].Device
		}
	}
	used, err := p.Host.users()
	if err != nil {
		return nil, err
	}
	hold := p.held[id]
	if hold != nil { // open since an earlier look: it must be the same one
		if err := p.Host.same(hold); err != nil {
			return nil, err
		}
	}
	f, err := p.Host.disk(ctx, dev, "", hold, used, in.State, extents(in.Flavor, in.State))
	if err != nil {
		return nil, err
	}
	if f != nil && f.hold != hold {
		if p.held == nil {
			p.held = map[string]*held{}
		}
		p.held[id] = f.hold
	}
	if f == nil || f.ID != id {
		return nil, fmt.Errorf("%s is not this disk any more (run again)", dev)
	}
	return f, nil
}

// release closes the disks that were kept open.
func (p *Preparer) release() {
	for id, d := range p.held {
		d.close()
		delete(p.held, id)
	}
}

// disk does all that is to be done to one disk, effect by effect: look, record
// the intent, act, look again, record the outcome.
func (p *Preparer) disk(ctx context.Context, in *Input, row *Row) error {
	defer p.release()
	s := in.State
	if row.take != nil {
		if done, err := p.take(ctx, in, row); err != nil || done {
			return err
		}
	}
	var last Move
	for {
		f, err := p.again(ctx, in, row.Disk)
		if err != nil {
			return err
		}
		r := s.Disks[row.Disk]
		m := r.next(s.Wipes[row.Disk], &f.Content, s.authorised(row.Disk, in.Tokens[row.Disk], &f.Content))
		switch {
		case m.None:
			return nil
		case m.Refused != "":
			return errors.New(m.Refused)
		case m.Seen:
			p.record(r, s.Wipes[row.Disk], m, Made)
			if m.Effect == EffectWipe {
				r.Between = f.Content.Between
			}
			if err := p.Store.Save(s); err != nil {
				return err
			}
			last = Move{}
			continue
		case m.Effect == last.Effect && m.Part == last.Part:
			return fmt.Errorf("%s ended well, and what it should have made is not there", m.Effect)
		}
		last = m
		if m.Effect == EffectWipe {
			s.consume(row.Disk, in.Tokens[row.Disk], &f.Content)
			f.hold.given = true
		} else {
			p.record(r, nil, m, Begun)
		}
		if err := p.Store.Save(s); err != nil {
			return err
		}
		err = p.effect(ctx, in, f, r, m)
		f.hold.whole = nil // it has changed
		if err != nil {
			return err
		}
	}
}

// take records what a disk is to become, before anything is done to it.
func (p *Preparer) take(ctx context.Context, in *Input, row *Row) (done bool, err error) {
	s := in.State
	if row.take.Layout == nil {
		f := found(in, row.Disk)
		if s.Disks[row.Disk], err = in.record(row.take, f, p.NewUUID); err != nil {
			return false, err
		}
		return true, p.Store.Save(s)
	}
	f, err := p.again(ctx, in, row.Disk)
	if err != nil {
		return false, err
	}
	mayWipe := s.authorised(row.Disk, in.Tokens[row.Disk], &f.Content)
	if why := f.Content.Blank(false); why != "" && !mayWipe {
		return false, fmt.Errorf("it was to be taken and is not blank now: %s", why)
	}
	f.Slot = row.Slot
	r, err := in.record(row.take, f, p.NewUUID)
	if err != nil {
		return false, err
	}
	if old := row.Replaces; old != "" {
		p.tell("disk %s: takes the place of %s", row.Disk, old)
		if rec := s.Disks[old]; rec != nil && rec.Table != nil {
			for i := range rec.Table.Partitions {
				if t := &rec.Table.Partitions[i]; t.Filesystem != "" {
					if err := p.unmountUnit(ctx, t); err != nil {
						return false, err
					}
				}
			}
		}
		s.replace(old, row.Disk, row.take)
		if r.Slot == "" {
			r.Slot = s.Replaced[old].Slot
		}
	}
	if before := s.Disks[row.Disk]; before != nil {
		s.leave(before)
	}
	s.Disks[row.Disk] = r
	delete(s.Replaced, row.Disk)
	if r.PV != nil {
		s.join(r, row.take.Layout.VolumeGroup, p.NewUUID)
	}
	if mayWipe {
		s.consume(row.Disk, in.Tokens[row.Disk], &f.Content)
		f.hold.given = true
	}
	return false, p.Store.Save(s)
}

func found(in *Input, id string) *Found {
	for i := range in.Disks {
		if in.Disks[i].ID == id {
			return &in.Disks[i]
		}
	}
	return &Found{ID: id}
}

// consume makes a token the one in use; it authorises nothing but the end of
// what it begins.
func (s *State) consume(id, token string, c *Content) {
	if w := s.Wipes[id]; w != nil && w.Phase == Begun && w.Token == token {
		return
	}
	s.Wipes[id] = &Wipe{Nonce: nonce(), Phase: Begun, Token: token, Traces: c.traces()}
}

// replace moves a missing disk's record aside.
func (s *State) replace(old, by string, g *v1alpha1.FlavorDisks) {
	rec := s.Disks[old]
	if rec == nil {
		rec = &Record{Group: g.Name, Role: g.Role}
	}
	rec.ReplacedBy = by
	s.Replaced[old] = rec
	delete(s.Disks, old)
	s.leave(rec)
}

// leave forgets a volume group that has lost its last disk.
func (s *State) leave(r *Record) {
	if r.PV == nil {
		return
	}
	for _, o := range s.Disks {
		if o != r && o.PV != nil && o.PV.VolumeGroup == r.PV.VolumeGroup {
			return
		}
	}
	delete(s.VolumeGroups, r.PV.VolumeGroup)
}

// record writes a phase where the move's effect has it.
func (p *Preparer) record(r *Record, w *Wipe, m Move, phase Phase) {
	switch m.Effect {
	case EffectWipe:
		w.Phase, w.Token, w.Traces, r.Emptied = phase, "", nil, true
	case EffectPartition:
		r.Table.Phase = phase
	case EffectFormat, EffectCertify:
		r.Table.Partitions[m.Part].Phase = phase
	case EffectPV:
		r.PV.Phase = phase
	}
}

func (p *Preparer) effect(ctx context.Context, in *Input, f *Found, r *Record, m Move) error {
	what := fmt.Sprintf("disk %s (%s): %s", f.ID, f.Device, m.Effect)
	if m.Effect == EffectFormat {
		what = fmt.Sprintf("%s partition %d as %s", what, m.Part+1, r.Table.Partitions[m.Part].Filesystem)
	}
	if m.Effect == EffectCertify {
		return p.certify(ctx, in, f, r, m.Part) // which tells how far it is
	}
	p.tell("%s", what)
	defer output.Progress(p.Progress, what)()
	switch m.Effect {
	case EffectWipe:
		return p.wipe(ctx, f, extents(in.Flavor, in.State)(f))
	case EffectPartition:
		return p.partition(ctx, f, r)
	case EffectFormat:
		return p.format(ctx, f, &r.Table.Partitions[m.Part], m.Force)
	case EffectPV:
		return p.pvcreate(ctx, f, r)
	}
	return fmt.Errorf("unknown effect %q", m.Effect)
}

// volumeGroup does all that is to be done to one volume group.
func (p *Preparer) volumeGroup(ctx context.Context, in *Input, name string) error {
	defer p.release()
	s := in.State
	v := s.VolumeGroups[name]
	wanted := (&planner{Input: *in}).wanted(v)
	var last VGEffect
	for {
		disks, err := p.members(ctx, in, name)
		if err != nil {
			return err
		}
		devs := volumes(s, disks)
		m := v.next(name, in, p.Host.LVMFacts(ctx, devs), wanted)
		switch {
		case m.None:
			return nil
		case m.Waits != "":
			p.tell("volume group %s: waits: %s", name, m.Waits)
			return nil
		case m.Refused != "":
			return errors.New(m.Refused)
		case !m.Seen && m.Effect == last:
			return fmt.Errorf("%s ended well, and what it should have made is not there", m.Effect)
		}
		phase := Begun
		if m.Seen {
			phase = Made
		}
		switch m.Effect {
		case VGPool:
			v.Pool = phase
		case VGCreate:
			v.Phase = phase
			if m.Seen {
				v.UUID = p.Host.LVMFacts(ctx, devs).VGs[name].UUID
			}
		}
		for _, id := range m.Disks {
			s.Disks[id].PV.Joined = phase
		}
		if m.Effect == VGCreate && m.Seen && v.UUID == "" {
			return errors.New("LVM does not tell its UUID (run again)")
		}
		if err := p.Store.Save(s); err != nil {
			return err
		}
		last = m.Effect
		if m.Seen {
			last = ""
			continue
		}
		var fresh []string
		for i := range disks {
			if slices.Contains(m.Disks, disks[i].ID) {
				fresh = append(fresh, disks[i].Device)
			}
		}
		p.tell("volume group %s: %s", name, m.Effect)
		if err := p.changeVG(ctx, name, v, m.Effect, disks, devs, fresh); err != nil {
			return err
		}
	}
}

// members reads the disks of a volume group that are there.
func (p *Preparer) members(ctx context.Context, in *Input, name string) ([]Found, error) {
	var all []Found
	for i := range in.Disks {
		id := in.Disks[i].ID
		if r := in.State.Disks[id]; r == nil || r.PV == nil || r.PV.VolumeGroup != name {
			continue
		}
		f, err := p.again(ctx, in, id)
		if err != nil {
			return nil, err
		}
		all = append(all, *f)
	}
	return all, nil
}

// publish writes disks.yaml when it differs.
func (p *Preparer) publish(in *Input) error {
	f := in.State.published(in.Listed)
	if in.Listed == nil && len(f.Disks) == 0 {
		return nil // a file without disks would say that the node must have none
	}
	data, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("write %s: %w", nodedisks.Path, err)
	}
	data = append([]byte("# Written by node-prepare. Do not edit it.\n"), data...)
	if _, err := nodedisks.Parse(nodedisks.Path, data); err != nil {
		return fmt.Errorf("check the new disks.yaml: %w", err)
	}
	if have, err := p.Host.FS.ReadFile(nodedisks.Path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := p.Files.MkdirAll(path.Dir(nodedisks.Path), 0o755); err != nil {
		return err
	}
	p.tell("write %s", nodedisks.Path)
	return p.Files.WriteFile(nodedisks.Path, data, 0o644)
}

// mounts mounts the file systems of one disk whose making is recorded.
func (p *Preparer) mounts(ctx context.Context, in *Input, id string) error {
	r := in.State.Disks[id]
	if r == nil || r.Table == nil || !r.done() || !slices.ContainsFunc(r.Table.Partitions, func(t TablePartition) bool { return t.Filesystem != "" }) {
		return nil
	}
	if !slices.ContainsFunc(in.Disks, func(f Found) bool { return f.ID == id }) {
		return nil // missing
	}
	defer p.release()
	f, err := p.again(ctx, in, id)
	if err != nil {
		return fmt.Errorf("disk %s: %w", id, err)
	}
	if m := r.next(nil, &f.Content, false); m.Refused != "" {
		return fmt.Errorf("disk %s: %s", id, m.Refused)
	}
	var errs []error
	for i := range r.Table.Partitions {
		if t := &r.Table.Partitions[i]; t.Filesystem != "" {
			if err := p.mount(ctx, id, t, &f.Content); err != nil {
				errs = append(errs, fmt.Errorf("disk %s: %w", id, err))
			}
		}
	}
	return errors.Join(errs...)
}
