// Package report turns what the monitor knows into the node's
// ComputeNode.status and writes it. The status is also the monitor's memory:
// faults, first sightings and the place in the kernel log go on from the
// stored one after a restart.
package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/verdict"
)

// View is what the monitor knows at one moment, beside the status so far.
type View struct {
	Now    time.Time
	BootID string
	// Snapshot is the last look at the host; Looked is false before the first.
	Snapshot inventory.Snapshot
	Looked   bool
	// Prepared is disks.yaml as it was last read, nil if never. PreparedErr is
	// why it could not be read now.
	Prepared    *nodedisks.File
	PreparedErr error
	// Settled says whether a disk has been absent for long enough.
	Settled func(id string) bool
	// Node is the ComputeNode as it was last seen, nil if never.
	Node *v1alpha1.ComputeNode
	// Flavor is the node's flavor, nil if there is none; FlavorErr is why it
	// could not be read. Before FlavorRead the last verdict on it stands.
	Flavor     *v1alpha1.NodeFlavor
	FlavorErr  error
	FlavorRead bool
	// Volumes are the PersistentVolumes of the node. Before VolumesRead those
	// that were reported last stand.
	Volumes     []Volume
	VolumesRead bool
	// LogErr is why the kernel log cannot be read. Before LogRead it has not
	// been opened, and what was last said of it stands.
	LogErr  error
	LogRead bool
	// Health is what is known of the disks that are asked for their health, by
	// id; nil when none is asked.
	Health map[string]Health
}

// Health is what a disk says of itself.
type Health struct {
	// Read is true once the disk has answered, or has been found to have nothing
	// to tell. Findings speak against it.
	Read     bool
	Findings []verdict.Finding
	// Err is why the last question had no answer, since when; Silent that the
	// disk is to blame.
	Err      string
	ErrSince time.Time
	Silent   bool
}

// Next is the status that follows prev. It is pure, and deterministic but for
// View.Now. prev is not changed.
func Next(prev *v1alpha1.ComputeNodeStatus, v *View) *v1alpha1.ComputeNodeStatus {
	next := prev.DeepCopy()
	next.BootID = v.BootID
	wholeErr := v.Snapshot.Err
	if wholeErr == nil {
		wholeErr = v.PreparedErr
	}
	b := builder{view: v, whole: v.Looked && wholeErr == nil, prev: map[string]v1alpha1.Disk{}, prepared: map[string]nodedisks.Disk{}}
	for _, d := range next.Disks {
		b.prev[d.ID] = d
	}
	if v.Prepared != nil {
		for _, d := range v.Prepared.Disks {
			b.prepared[d.ID] = d
		}
	}
	b.clearID, b.clearBefore = ClearRequest(v.Node)
	next.Disks = nil
	for _, id := range b.ids() {
		if d, listed := b.disk(id); listed {
			next.Disks = append(next.Disks, d)
		}
	}
	summarize(next, b.whole)
	b.conditions(next, wholeErr)
	return next
}

type builder struct {
	view        *View
	whole       bool
	prev        map[string]v1alpha1.Disk
	prepared    map[string]nodedisks.Disk
	clearID     string
	clearBefore time.Time
}

// ids are all disks that may have to be listed, sorted.
func (b *builder) ids() []string {
	all := map[string]bool{}
	for _, d := range b.view.Snapshot.Disks {
		all[d.ID] = true
	}
	for id := range b.prepared {
		all[id] = true
	}
	for id := range b.prev {
		all[id] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Required says whether the node must have the disk: disks.yaml lists it, or,
// while that cannot be read, listed it before; or quarantine or a replacement
// names it, of which this status is the record.
func (v *View) Required(d *v1alpha1.Disk) bool {
	if v.Prepared != nil {
		if slices.ContainsFunc(v.Prepared.Disks, func(p nodedisks.Disk) bool { return p.ID == d.ID }) {
			return true
		}
	} else if d.Group != "" {
		return true
	}
	if v.Node == nil {
		return false
	}
	return slices.ContainsFunc(v.Node.Spec.Quarantine, func(q v1alpha1.Quarantine) bool { return q.Disk == d.ID }) ||
		slices.ContainsFunc(v.Node.Spec.Replacements, func(r v1alpha1.ReplacementRequest) bool { return r.Disk == d.ID })
}

// disk is what is said of one disk; listed is false when nothing is.
func (b *builder) disk(id string) (_ v1alpha1.Disk, listed bool) {
	d, known := b.prev[id]
	d.ID = id
	seen, present := b.view.Snapshot.Find(id)
	elsewhere, moved := b.view.Snapshot.Told(id)
	moved = moved && !present
	if !present && !moved && b.view.Snapshot.MayBe(id) {
		half := *b
		half.whole, b = false, &half // of this disk the look says nothing
	}
	facts := verdict.Facts{Present: present || moved, Whole: b.whole, Settled: b.view.Settled(id)}
	if moved {
		d.Device = elsewhere.Device
	}
	if present {
		d.Weak, d.Device, d.Model, d.Serial, d.Media = seen.Weak, seen.Device, seen.Model, seen.Serial, seen.Media
		d.Slot = seen.Slot
	}
	p, prepared := b.prepared[id]
	if prepared {
		d.Group = p.Group
		if d.Media == "" {
			d.Media = p.Media
		}
		if p.Slot != "" {
			d.Slot = p.Slot
		}
	} else if b.view.Prepared != nil {
		d.Group = ""
	}
	required := b.view.Required(&d)
	if !present && !required && ((facts.Settled || moved) && b.whole || !known) {
		return d, false // it has left
	}
	if !facts.Present && facts.Settled && b.whole {
		d.Device = ""
	}
	facts.Previous = d.State
	d.Faults = b.keep(&d, facts.Present)
	b.overNetwork(&d, elsewhere, moved)
	if present {
		b.size(&d, seen)
		b.readOnly(&d, seen)
	}
	b.health(&d)
	facts.Silent = b.view.Health[id].Silent
	facts.Faults = d.Faults
	if state := verdict.State(facts); state != d.State {
		d.State = state
		now := metav1.NewTime(b.view.Now)
		d.Since = &now
		if state == v1alpha1.DiskMissing {
			AddFault(&d, v1alpha1.Fault{Class: v1alpha1.FaultMissing, Severity: v1alpha1.SeverityCritical, FirstSeen: now, LastSeen: now, Count: 1})
		}
	}
	if at := faultOf(&d, v1alpha1.FaultMissing); at >= 0 && d.State == v1alpha1.DiskMissing { // which follows from a whole look alone
		d.Faults[at].Evidence = b.absence(&d, prepared)
	}
	if b.view.VolumesRead || len(d.Volumes) == 0 {
		d.Volumes = b.volumes(id)
	}
	return d, true
}

// health brings the disk's SMART fault to what the disk says now. What it said
// stands while it says nothing, and goes when nobody asks.
func (b *builder) health(d *v1alpha1.Disk) {
	h := b.view.Health[d.ID]
	if b.view.Health != nil && !h.Read {
		return
	}
	at := faultOf(d, v1alpha1.FaultSMART)
	if len(h.Findings) == 0 {
		if at >= 0 {
			d.Faults = slices.Delete(d.Faults, at, at+1)
		}
		return
	}
	now := metav1.NewTime(b.view.Now)
	f := v1alpha1.Fault{Class: v1alpha1.FaultSMART, Severity: v1alpha1.SeverityWarning, FirstSeen: now, LastSeen: now, Count: int64(len(h.Findings))}
	for _, x := range h.Findings {
		if x.Severity == v1alpha1.SeverityCritical {
			f.Severity = x.Severity
		}
	}
	f.Evidence = verdict.Evidence(h.Findings)
	f.Evidence = strings.ToValidUTF8(f.Evidence[:min(len(f.Evidence), kernel.MaxEvidence)], "")
	if at < 0 {
		AddFault(d, f)
		return
	}
	have := &d.Faults[at]
	f.FirstSeen = have.FirstSeen
	if have.Evidence == f.Evidence && have.Severity == f.Severity {
		f.LastSeen = have.LastSeen // a sweep that brings nothing new is no reason to write
	}
	*have = f
}

func summarize(s *v1alpha1.ComputeNodeStatus, whole bool) {
	s.DiskCount, s.BadDiskCount, s.State = int32(len(s.Disks)), 0, v1alpha1.DiskHealthy
	if !whole {
		s.State = v1alpha1.DiskUnknown
	}
	var bad []v1alpha1.Disk
	for _, d := range s.Disks {
		s.State = verdict.Worse(s.State, d.State)
		if d.State != v1alpha1.DiskHealthy && d.State != v1alpha1.DiskUnknown {
			bad = append(bad, d)
		}
	}
	s.BadDiskCount = int32(len(bad))
	slices.SortStableFunc(bad, func(a, b v1alpha1.Disk) int {
		switch worse := verdict.Worse(a.State, b.State); {
		case a.State == b.State:
			return 0
		case worse == a.State:
			return -1
		}
		return 1
	})
	const shown = 2
	var parts []string
	for i, d := range bad {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(bad)-shown))
			break
		}
		parts = append(parts, describe(&d))
	}
	s.Summary = strings.Join(parts, "; ")
}

func describe(d *v1alpha1.Disk) string {
	var b strings.Builder
	if b.WriteString(d.ID); d.Device != "" {
		b.WriteString(" (" + d.Device + ")")
	}
	b.WriteString(" " + string(d.State))
	var classes []string
	for _, f := range d.Faults {
		if f.Class != v1alpha1.FaultMissing {
			classes = append(classes, string(f.Class))
		}
	}
	if len(classes) > 0 {
		b.WriteString(": " + strings.Join(classes, ", "))
	}
	return b.String()
}
