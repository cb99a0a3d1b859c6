package nodeprep

import (
	"fmt"
	"maps"
	"slices"

	"holdfast.dev/api/v1alpha1"
)

// LVMFacts is what LVM says of the physical volumes of recorded disks.
type LVMFacts struct {
	Err string
	PVs map[string]PVFacts // by UUID
	VGs map[string]VGFacts // by name
}

// PVFacts is one physical volume.
type PVFacts struct{ VolumeGroup, VGUUID string }

// VGFacts is one volume group.
type VGFacts struct {
	UUID    string
	Tags    []string
	Missing int               // physical volumes that are not there
	Volumes map[string]string // logical volumes: name to layout, such as thin,pool
}

// VGRow is one volume group in a plan.
type VGRow struct {
	Name    string `json:"name"`
	Group   string `json:"group"`
	Do      string `json:"do,omitempty"`
	Has     string `json:"has,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// thinPool is the name of every thin pool that is made here.
const thinPool = "thinpool"

// VGEffect is one kind of change to a volume group.
type VGEffect string

// Effects on volume groups.
const (
	VGCreate VGEffect = "vgcreate"
	VGExtend VGEffect = "vgextend"
	VGPool   VGEffect = "lvcreate"
)

// VGMove is what to do next with a volume group.
type VGMove struct {
	Effect VGEffect
	Disks  []string // physical volumes to take in
	Seen   bool
	// Refused, or why it waits.
	Refused, Waits string
	None           bool
}

func (v *VolumeGroup) tags() []string {
	return []string{"holdfast.dev/intent=" + v.Intent, "holdfast.dev/pool=" + v.Group}
}

// next says what becomes of a volume group of an input, by what LVM says now. wanted
// is how many disks the flavor gives it.
func (v *VolumeGroup) next(name string, input *Input, f LVMFacts, wanted int) VGMove {
	s := input.State
	var ids, in []string // recorded members, and those that LVM shows in it
	for _, id := range slices.Sorted(maps.Keys(s.Disks)) {
		r := s.Disks[id]
		if r.PV == nil || r.PV.VolumeGroup != name {
			continue
		}
		if r.PV.Phase != Made {
			return VGMove{Waits: "disk " + id + " is no physical volume yet"}
		}
		ids = append(ids, id)
	}
	if f.Err != "" {
		return VGMove{Refused: f.Err}
	}
	have, there := f.VGs[name]
	for _, id := range ids {
		switch pv, known := f.PVs[s.Disks[id].PV.UUID]; {
		case !known && s.Disks[id].PV.Joined == Made:
			if i := slices.IndexFunc(input.Disks, func(d Found) bool { return d.Told == id }); i >= 0 {
				return VGMove{Waits: fmt.Sprintf("disk %s is there over a network, as %s", id, input.Disks[i].Device)}
			}
			return VGMove{Waits: "disk " + id + " is missing"}
		case !known:
			return VGMove{Refused: "LVM does not know the physical volume on disk " + id}
		case pv.VolumeGroup == name && there && pv.VGUUID == have.UUID:
			in = append(in, id)
		case pv.VolumeGroup != "":
			return VGMove{Refused: fmt.Sprintf("disk %s is in volume group %s", id, pv.VolumeGroup)}
		case s.Disks[id].PV.Joined == Made:
			return VGMove{Refused: fmt.Sprintf("disk %s was in it and is not any more", id)}
		}
	}
	if there {
		for _, t := range v.tags() {
			if !slices.Contains(have.Tags, t) {
				return VGMove{Refused: "a volume group of that name was not made here: it lacks the tag " + t}
			}
		}
		if v.UUID != "" && v.UUID != have.UUID {
			return VGMove{Refused: fmt.Sprintf("its UUID is %s, not %s", have.UUID, v.UUID)}
		}
	}
	var fresh []string
	for _, id := range ids {
		if s.Disks[id].PV.Joined != Made {
			fresh = append(fresh, id)
		}
	}
	switch {
	case v.Phase == Made && !there:
		return VGMove{Refused: "it was made and is not there"}
	case v.Phase == Planned && there:
		return VGMove{Refused: "it is there before it was made"}
	case v.Phase != Made && there && len(in) == len(ids):
		return VGMove{Effect: VGCreate, Disks: in, Seen: true}
	case v.Phase != Made && there:
		return VGMove{Refused: "it was made over other disks than recorded"}
	case v.Phase != Made && len(ids) < wanted:
		return VGMove{Waits: fmt.Sprintf("%d of %d disks are ready", len(ids), wanted)}
	case v.Phase != Made:
		return VGMove{Effect: VGCreate, Disks: ids}
	}
	switch {
	case len(fresh) == 0:
		return v.nextPool(have)
	case slices.Contains(in, fresh[0]):
		return VGMove{Effect: VGExtend, Disks: fresh[:1], Seen: true}
	case have.Missing > 0:
		return VGMove{Refused: fmt.Sprintf("%d of its physical volumes are missing: it takes no new one (see vgreduce --removemissing, which gives up what was on them)", have.Missing)}
	}
	return VGMove{Effect: VGExtend, Disks: fresh[:1]}
}

func (v *VolumeGroup) nextPool(have VGFacts) VGMove {
	layout, there := have.Volumes[v.ThinPool]
	switch {
	case v.Percent == 0 || v.Pool == Made:
		return VGMove{None: true}
	case there && layout == "thin,pool" && v.Pool == Begun:
		return VGMove{Effect: VGPool, Seen: true}
	case len(have.Volumes) > 0:
		return VGMove{Refused: fmt.Sprintf("it has %d logical volumes and no thin pool that was made here (look with lvs --all; remove what an interrupted lvcreate left)", len(have.Volumes))}
	}
	return VGMove{Effect: VGPool}
}

// volumeGroups lists what becomes of the recorded volume groups, and of those
// that the rows' new disks will need.
func (p *planner) volumeGroups() []VGRow {
	var rows []VGRow
	for _, name := range slices.Sorted(maps.Keys(p.State.VolumeGroups)) {
		v := p.State.VolumeGroups[name]
		row := VGRow{Name: name, Group: v.Group, Has: v.UUID}
		switch m := v.next(name, &p.Input, p.LVM, p.wanted(v)); {
		case m.Refused != "":
			row.Refused = m.Refused
		case m.Waits != "":
			row.Has = "waits: " + m.Waits
		case !m.None:
			row.Do = string(m.Effect)
		}
		rows = append(rows, row)
	}
	for _, g := range p.Flavor.Spec.Disks {
		n := 0
		for _, r := range p.plan.Disks {
			if r.take != nil && r.take.Name == g.Name && g.Layout != nil && g.Layout.VolumeGroup != nil && len(r.Do) > 0 {
				n++
			}
		}
		if n == 0 {
			continue
		}
		what := fmt.Sprintf("make one on each of %d disks", n)
		if spread(g.Layout.VolumeGroup) == v1alpha1.SpreadAll {
			what = fmt.Sprintf("one over all disks of the group, %d of them new", n)
		}
		if t := g.Layout.VolumeGroup.ThinPoolPercent; t > 0 {
			what += fmt.Sprintf(", %d %% of each a thin pool", t)
		}
		rows = append(rows, VGRow{Name: "hf-" + g.Name + "-…", Group: g.Name, Do: what})
	}
	return rows
}

func (p *planner) wanted(v *VolumeGroup) int {
	if g := p.group(v.Group); g != nil && v.Spread == v1alpha1.SpreadAll {
		return int(g.Count)
	}
	return 1
}

// join gives a new physical volume its volume group: the group's one when it
// spans all disks, else one of its own, whose name no other node has.
func (s *State) join(r *Record, l *v1alpha1.VolumeGroupLayout, newUUID func() string) {
	if spread(l) == v1alpha1.SpreadAll {
		for name, v := range s.VolumeGroups {
			if v.Group == r.Group && v.Spread == v1alpha1.SpreadAll {
				r.PV.VolumeGroup = name
				return
			}
		}
	}
	intent := newUUID()
	v := &VolumeGroup{Group: r.Group, Intent: intent, Spread: spread(l), Percent: l.ThinPoolPercent}
	if v.Percent > 0 {
		v.ThinPool = thinPool
	}
	r.PV.VolumeGroup = "hf-" + r.Group + "-" + intent[:8]
	s.VolumeGroups[r.PV.VolumeGroup] = v
}
