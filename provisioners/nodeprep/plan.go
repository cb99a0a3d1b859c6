package nodeprep

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/flavor"
	"holdfast.dev/internal/nodedisks"
)

// Input is everything that BuildPlan looks at.
type Input struct {
	Flavor *v1alpha1.NodeFlavor
	// Disks of the host. ScanErr is why the list may lack some.
	Disks   []Found
	ScanErr error
	// State of earlier runs; Listed is disks.yaml, nil when there is none.
	State  *State
	Listed *nodedisks.File
	// Closed are the disks that must not be prepared, by id, and why. ClosedErr is
	// why it is not known: nothing is prepared then.
	Closed    map[string]string
	ClosedErr error
	// Tokens by disk id.
	Tokens map[string]string
	// Replace gives the place of a missing disk to a new one, old id to new. Asked
	// are the disks whose replacement remediation asks for: where exactly one new
	// disk can take such a place, it does.
	Replace map[string]string
	Asked   []string
	// Mounts by mount point, and what LVM says.
	Mounts map[string]MountFacts
	LVM    LVMFacts
	// UnitsOnly writes mount units and starts none.
	UnitsOnly bool
	// Certify reads the raw partitions of disks that are taken from now on.
	Certify bool
}

// record is what a disk is to become in a group.
func (in *Input) record(g *v1alpha1.FlavorDisks, f *Found, newUUID func() string) (*Record, error) {
	r, err := newRecord(g, f, newUUID)
	if err == nil && r.Table != nil {
		r.Certify = in.Certify
	}
	return r, err
}

// Condition is what a disk is, in one word for a person.
type Condition string

// Conditions.
const (
	Blank      Condition = "blank"
	Unfinished Condition = "unfinished" // begun, and not done
	Prepared   Condition = "prepared"
	NotBlank   Condition = "not blank"
	InUse      Condition = "in use"
	SystemDisk Condition = "system"
	Missing    Condition = "missing"
	Unreadable Condition = "unreadable"
	Listed     Condition = "listed" // in disks.yaml, and not prepared by this program
	Replaced   Condition = "replaced"
	Networked  Condition = "over a network"
)

// Row is one disk and what becomes of it.
type Row struct {
	Disk   string         `json:"disk"`
	Device string         `json:"device,omitempty"`
	Slot   string         `json:"slot,omitempty"`
	Media  v1alpha1.Media `json:"media,omitempty"`
	Size   int64          `json:"size,omitempty"` // bytes
	Weak   bool           `json:"weak,omitempty"`
	// Network says how the disk is reached over a network; empty for a disk of the host.
	Network   string    `json:"network,omitempty"`
	Group     string    `json:"group,omitempty"`
	Condition Condition `json:"condition"`
	// Has is what is on the disk, when that matters.
	Has string `json:"has,omitempty"`
	// Do is what --apply does, in order.
	Do []string `json:"do,omitempty"`
	// Refused is why nothing is done, and Hint what a person may do.
	Refused string `json:"refused,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// Token gives up what is on the disk.
	Token string `json:"token,omitempty"`
	// Replaces is the missing disk whose place it takes.
	Replaces string `json:"replaces,omitempty"`

	take *v1alpha1.FlavorDisks // a record is to be made for this group
	wipe bool
}

// Plan is what is to be done, and what is not and why.
type Plan struct {
	Flavor string `json:"flavor"`
	Disks  []Row  `json:"disks"`
	// VolumeGroups says what becomes of them, one line each.
	VolumeGroups []VGRow `json:"volumeGroups,omitempty"`
	// Short says what the node lacks, one phrase per group.
	Short []string `json:"short,omitempty"`
	// Problems are of no single disk.
	Problems []string `json:"problems,omitempty"`
}

// Work says whether there is anything to do.
func (p *Plan) Work() bool {
	for i := range p.Disks {
		if len(p.Disks[i].Do) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(p.VolumeGroups, func(r VGRow) bool { return r.Do != "" })
}

// Complete says whether the node is as its flavor says, or will be when the
// plan is applied.
func (p *Plan) Complete() bool {
	bad := func(r Row) bool { return r.Refused != "" && r.Group != "" || r.Condition == Missing }
	return len(p.Short) == 0 && len(p.Problems) == 0 && !slices.ContainsFunc(p.Disks, bad) &&
		!slices.ContainsFunc(p.VolumeGroups, func(r VGRow) bool { return r.Refused != "" })
}

// planner is one run of BuildPlan.
type planner struct {
	Input
	found  map[string]*Found
	told   map[string]*Found // disks of a network by the ids that they would have as disks of the host
	fixed  map[string]string // disk id to group: disks that have their place
	places map[string]string // new disk to the missing one whose place it takes
	plan   *Plan
}

// BuildPlan decides what becomes of each disk. It is pure and deterministic.
func BuildPlan(in Input) *Plan {
	p := &planner{Input: in, found: map[string]*Found{}, told: map[string]*Found{}, fixed: map[string]string{}, places: map[string]string{}, plan: &Plan{Flavor: in.Flavor.Name}}
	if in.ScanErr != nil {
		p.problem("the disks could not all be listed: %v", in.ScanErr)
	}
	for i := range in.Disks {
		p.found[in.Disks[i].ID] = &in.Disks[i]
		if t := in.Disks[i].Told; t != "" {
			p.told[t] = &in.Disks[i]
		}
	}
	if in.Listed != nil {
		for _, d := range in.Listed.Disks {
			if in.State.Replaced[d.ID] == nil {
				p.fixed[d.ID] = d.Group
			}
		}
	}
	for id, r := range in.State.Disks {
		p.fixed[id] = r.Group
	}
	p.replacements()
	p.rows(p.assign())
	for _, id := range slices.Sorted(maps.Keys(in.Tokens)) {
		if p.found[id] == nil && p.told[id] == nil {
			p.problem("--wipe names disk %s, which is not there", id)
		}
		p.networkToken(id)
	}
	p.plan.VolumeGroups = p.volumeGroups()
	p.short()
	return p.plan
}

func (p *planner) problem(format string, args ...any) {
	p.plan.Problems = append(p.plan.Problems, fmt.Sprintf(format, args...))
}

// group finds a group of the flavor.
func (p *planner) group(name string) *v1alpha1.FlavorDisks {
	for i := range p.Flavor.Spec.Disks {
		if p.Flavor.Spec.Disks[i].Name == name {
			return &p.Flavor.Spec.Disks[i]
		}
	}
	return nil
}

// eligible says whether a disk without a place may get one, and how gladly it
// is taken: one that a person gave up with a token, then a blank one, then one
// that a token could give up.
func (p *planner) eligible(f *Found) (rank int, ok bool) {
	c := &f.Content
	_, fixed := p.fixed[f.ID]
	if fixed || f.Network != "" || c.System || c.Err != "" || len(c.Used) > 0 || f.ReadOnly || p.Closed[f.ID] != "" {
		return 0, false
	}
	switch {
	case p.State.authorised(f.ID, p.Tokens[f.ID], c):
		return 0, true
	case c.Blank(false) == "" && p.State.Replaced[f.ID] == nil:
		return 1, true
	}
	return 2, true
}

// replacements decides which new disk takes the place of which missing one.
func (p *planner) replacements() {
	give := func(old, id string) {
		p.places[id] = old
		p.fixed[id] = p.fixed[old]
		delete(p.fixed, old)
	}
	for _, old := range slices.Sorted(maps.Keys(p.Replace)) {
		id := p.Replace[old]
		why := ""
		g := p.group(p.fixed[old])
		switch f := p.found[id]; {
		case p.fixed[old] == "":
			why = old + " has no place on this node"
		case p.ScanErr != nil:
			why = "the disks could not all be listed, so it is not known whether the old one is missing"
		case p.found[old] != nil:
			why = old + " is there, as " + p.found[old].Device + "; pull it first"
		case p.told[old] != nil:
			why = old + " is there over a network, as " + p.told[old].Device + "; move its data and disconnect it first"
		case p.told[id] != nil:
			why = id + " is " + p.told[id].Device + ", and is " + p.told[id].reached()
		case f == nil:
			why = id + " is not there"
		case g == nil:
			why = "the flavor has no group " + p.fixed[old]
		case !flavor.Fits(g, f.Media, f.Size):
			why = fmt.Sprintf("%s does not fit group %s (its media or size)", id, g.Name)
		default:
			if _, ok := p.eligible(f); !ok {
				why = id + " cannot be taken; its own line says why"
			}
		}
		if why != "" {
			p.problem("--replace %s=%s: %s", old, id, why)
			continue
		}
		give(old, id)
	}
	if p.ScanErr != nil {
		return
	}
	for _, old := range slices.Sorted(slices.Values(p.Asked)) {
		g := p.group(p.fixed[old])
		if p.fixed[old] == "" || p.found[old] != nil || p.told[old] != nil || g == nil || p.seats(g.Name) > int(g.Count) {
			continue
		}
		var can []string
		for i := range p.Disks {
			f := &p.Disks[i]
			if rank, ok := p.eligible(f); ok && rank < 2 && flavor.Fits(g, f.Media, f.Size) && p.places[f.ID] == "" {
				can = append(can, f.ID)
			}
		}
		if len(can) == 1 {
			give(old, can[0])
		} else if len(can) > 1 {
			p.problem("%d new disks could take the place of %s: say which with --replace %s=<new>: %s", len(can), old, old, strings.Join(can, ", "))
		}
	}
}

func (p *planner) seats(group string) int {
	n := 0
	for _, g := range p.fixed {
		if g == group {
			n++
		}
	}
	return n
}

// assign gives each disk that has no place one, as far as there are places. The
// result is the group of each disk by id.
func (p *planner) assign() map[string]string {
	type entry struct {
		id    string
		fixed string
		found *Found
		rank  int
	}
	var all []entry
	for id, g := range p.fixed {
		all = append(all, entry{id: id, fixed: g, rank: -1})
	}
	for i := range p.Disks {
		f := &p.Disks[i]
		if _, fixed := p.fixed[f.ID]; fixed {
			continue
		}
		rank, ok := p.eligible(f)
		other := f.Content.System && !diskid.Networked(f.ID, f.Weak) || f.Network == "" && f.Content.Err == "" && len(f.Content.Used) > 0 // only to be listed
		if ok || other {
			all = append(all, entry{id: f.ID, found: f, rank: rank})
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		if c := cmp.Compare(a.rank, b.rank); c != 0 || a.found == nil || b.found == nil {
			return cmp.Or(c, cmp.Compare(a.id, b.id))
		}
		return cmp.Or(cmp.Compare(a.found.Slot, b.found.Slot), cmp.Compare(a.id, b.id))
	})
	groups := p.Flavor.Spec.Disks
	got := flavor.Assign(groups, len(all), func(g, d int) bool {
		e := &all[d]
		if e.found == nil {
			return e.fixed == groups[g].Name
		}
		_, free := p.eligible(e.found)
		return e.found.Content.System == (groups[g].Role == v1alpha1.RoleSystem) && (free || groups[g].Layout == nil) && flavor.Fits(&groups[g], e.found.Media, e.found.Size)
	})
	out := map[string]string{}
	for i, e := range all {
		switch {
		case e.found == nil:
			out[e.id] = e.fixed // more than the flavor wants keep their place
		case got[i] != flavor.None:
			out[e.id] = groups[got[i]].Name
		}
	}
	return out
}

func (p *planner) rows(groups map[string]string) {
	ids := map[string]bool{}
	for id := range p.found {
		ids[id] = true
	}
	for id := range p.fixed {
		ids[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		r := Row{Disk: id, Group: groups[id], Replaces: p.places[id]}
		if f := p.found[id]; f != nil {
			r.Device, r.Slot, r.Media, r.Size, r.Weak, r.Network = f.Device, f.Slot, f.Media, f.Size, f.Weak, f.Network
			p.present(&r, f)
		} else if f := p.told[id]; f != nil {
			p.elsewhere(&r, f)
		} else {
			p.missing(&r)
		}
		p.plan.Disks = append(p.plan.Disks, r)
	}
}

func (p *planner) missing(r *Row) {
	r.Condition = Missing
	if rec := p.State.Disks[r.Disk]; rec != nil {
		r.Slot, r.Media, r.Size = rec.Slot, rec.Media, rec.Size
	}
	r.Has = "is not there, and keeps its place"
	r.Hint = fmt.Sprintf("put it back, or give its place to a new disk: --replace %s=<new disk>", r.Disk)
}

// present decides about a disk that is there.
func (p *planner) present(r *Row, f *Found) {
	c := &f.Content
	rec := p.State.Disks[f.ID]
	g := p.group(r.Group)
	switch {
	case c.System:
		r.Condition, r.Has = SystemDisk, "the host itself lives on it"
		r.take = p.untouched(r, rec, g)
		return
	case rec != nil && rec.done():
		p.prepared(r, f, rec)
		return
	case rec == nil && p.places[f.ID] == "" && p.fixed[f.ID] != "":
		r.Condition, r.Has = Listed, "prepared by someone else; left as it is"
		return
	case f.Network != "":
		p.networked(r, f, rec)
		return
	case c.Err != "":
		r.Condition, r.Refused = Unreadable, c.Err
		r.Hint = "nothing is known of its contents, so nothing is done to it"
		return
	case len(c.Used) > 0 && rec == nil && (g == nil || g.Layout != nil):
		r.Condition, r.Has = InUse, strings.Join(c.Used, ", ")
		return
	}
	if r.take = p.untouched(r, rec, g); r.take != nil {
		r.Condition, r.Has = Listed, "the flavor has no layout for it; left as it is"
		return
	}
	p.work(r, f, rec, g)
}

// untouched is the group of a disk that is only to be listed.
func (p *planner) untouched(r *Row, rec *Record, g *v1alpha1.FlavorDisks) *v1alpha1.FlavorDisks {
	if rec == nil && g != nil && g.Layout == nil && p.places[r.Disk] == "" {
		r.Do = []string{"list it in disks.yaml"}
		return g
	}
	return nil
}

// work is for a disk that is to be prepared, or whose preparation has begun.
func (p *planner) work(r *Row, f *Found, rec *Record, g *v1alpha1.FlavorDisks) {
	c := &f.Content
	r.wipe = p.State.authorised(f.ID, p.Tokens[f.ID], c)
	why := c.Blank(false)
	switch {
	case rec != nil && rec.begun():
		r.Condition = Unfinished
	case why == "":
		r.Condition = Blank
	default:
		r.Condition, r.Has = NotBlank, strings.TrimPrefix(why, "has ")
	}
	if old := p.State.Replaced[f.ID]; old != nil && rec == nil {
		r.Condition, r.Has = Replaced, "its place went to "+old.ReplacedBy
	}
	if g == nil && rec == nil {
		r.Has = strings.TrimSpace(r.Has + " (no group needs it)")
		return
	}
	probe := rec
	if rec == nil {
		var err error
		if probe, err = p.record(g, f, noUUID); err != nil {
			r.Refused = err.Error()
			return
		}
		r.take = g
	}
	m := probe.next(p.State.Wipes[f.ID], c, r.wipe)
	if r.Condition == Replaced && m.Effect != EffectWipe && !r.wipe {
		m = refuse("it was replaced, and its data may be wanted")
	}
	if why := p.closed(f.ID); why != "" {
		m, r.wipe = refuse("%s", why), false
	} else if m.Refused != "" && len(c.Used) == 0 && !r.wipe {
		r.Token = p.State.token(f.ID, c)
		r.Hint = fmt.Sprintf("to give up what is on it: --wipe %s=%s", f.ID, r.Token)
	} else if m.Refused != "" && r.wipe && rec != nil { // its record does not hold any more; start anew
		if probe, m = p.anew(r, f, g), (Move{}); probe == nil {
			return
		}
	}
	if m.Refused != "" {
		r.Refused, r.take = m.Refused, nil
		return
	}
	if r.wipe && m.Effect == EffectWipe || rec != nil && r.take != nil {
		r.Do = append(r.Do, "wipe it")
	}
	if r.Replaces != "" {
		r.Do = append(r.Do, "give it the place of "+r.Replaces)
	}
	r.Do = append(r.Do, probe.remaining(p.UnitsOnly)...)
}

// anew is a record in place of one that what is on the disk contradicts.
func (p *planner) anew(r *Row, f *Found, g *v1alpha1.FlavorDisks) *Record {
	if g == nil || g.Layout == nil {
		r.Refused = "the flavor has no layout for it any more"
		return nil
	}
	rec, err := p.record(g, f, noUUID)
	if err != nil {
		r.Refused = err.Error()
		return nil
	}
	r.take = g
	return rec
}

// closed says why nothing may be done to a disk now.
func (p *planner) closed(id string) string {
	switch {
	case p.ClosedErr != nil:
		return "whether it is quarantined is not known: " + p.ClosedErr.Error()
	case p.Closed[id] != "":
		return p.Closed[id]
	}
	return ""
}

// prepared is for a disk that is made: it is compared with its record, and its mounts are seen to.
func (p *planner) prepared(r *Row, f *Found, rec *Record) {
	c := &f.Content
	r.Condition = Prepared
	if rec.Table == nil && rec.PV == nil {
		r.Condition, r.Has = Listed, "the flavor has no layout for it; left as it is"
		return
	}
	if c.Err != "" {
		r.Has = "cannot be compared with its record now: " + c.Err
		return
	}
	if m := rec.next(nil, c, false); m.Refused != "" {
		r.Condition, r.Refused = NotBlank, "is not what was made of it: "+m.Refused
		r.wipe = p.State.authorised(f.ID, p.Tokens[f.ID], c)
		why := p.closed(f.ID)
		switch {
		case len(c.Used) > 0 || why != "":
			r.Hint = cmp.Or(why, "it is in use: "+strings.Join(c.Used, ", "))
			r.wipe = false
		case r.wipe:
			r.Refused = ""
			if fresh := p.anew(r, f, p.group(r.Group)); fresh != nil {
				r.Do = append([]string{"wipe it"}, fresh.remaining(p.UnitsOnly)...)
			}
		default:
			r.Token = p.State.token(f.ID, c)
			r.Hint = fmt.Sprintf("to give up what is on it and prepare it anew: --wipe %s=%s", f.ID, r.Token)
		}
		return
	}
	if p.Tokens[f.ID] != "" {
		r.Refused = "it is prepared, and a prepared disk is not wiped"
		r.Hint = "retire its volumes, then take its partition table away with wipefs by hand"
		return
	}
	if rec.Table == nil {
		return
	}
	for i := range rec.Table.Partitions {
		part := &rec.Table.Partitions[i]
		if part.Filesystem == "" {
			continue
		}
		do, why := part.nextMount(c, p.Mounts[part.MountPoint], p.UnitsOnly)
		if why != "" {
			r.Refused = why
		} else if len(do) > 0 {
			r.Do = append(r.Do, "mount "+part.MountPoint+": "+strings.Join(do, ", "))
		}
	}
}

// short compares places that are or will be filled with the flavor.
func (p *planner) short() {
	for _, g := range p.Flavor.Spec.Disks {
		have := int32(0)
		for _, r := range p.plan.Disks {
			if r.Group == g.Name && r.Refused == "" && r.Condition != Missing {
				have++
			}
		}
		if have < g.Count {
			p.plan.Short = append(p.plan.Short, fmt.Sprintf("group %s has %d of %d disks", g.Name, have, g.Count))
		}
	}
}
