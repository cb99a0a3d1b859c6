package report

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/verdict"
)

// size takes in the size that a disk has now. One that is smaller than before is a
// fault, which lasts: the size before is nowhere else. A disk that says no size, as
// one that is not ready, and half a look leave the size as it was, to be compared
// with later.
func (b *builder) size(d *v1alpha1.Disk, seen *inventory.Disk) {
	if seen.Size < d.SizeBytes && (seen.Size == 0 || !b.whole) {
		return
	}
	if seen.Size < d.SizeBytes && ours(d) {
		now := metav1.NewTime(b.view.Now)
		AddFault(d, v1alpha1.Fault{Class: v1alpha1.FaultShrunken, Severity: v1alpha1.SeverityWarning, FirstSeen: now, LastSeen: now, Count: 1, Evidence: fmt.Sprintf(
			"%s has %d bytes and had %d: it was limited (HPA, DCO, firmware), or another one answers by its name", seen.Device, seen.Size, d.SizeBytes)})
	}
	d.SizeBytes = seen.Size
}

// ours says whether the size of a disk is of interest: that of an image or of a
// network's disk that nobody lists is its owner's.
func ours(d *v1alpha1.Disk) bool { return d.Group != "" || d.Media != v1alpha1.MediaVirtual }

// readOnly brings the fault of a listed disk to whether it takes writes now. It stands
// exactly as long as the kernel says that it takes none.
func (b *builder) readOnly(d *v1alpha1.Disk, seen *inventory.Disk) {
	if !b.whole {
		return
	}
	at := faultOf(d, v1alpha1.FaultReadOnly)
	if !seen.RO || d.Group == "" {
		if at >= 0 {
			d.Faults = slices.Delete(d.Faults, at, at+1)
		}
		return
	}
	text := fmt.Sprintf("%s takes no writes (/sys/block/%s/ro is 1); %s lists it in group %q", seen.Device, seen.Device, nodedisks.Path, d.Group)
	if at >= 0 {
		d.Faults[at].Evidence = text // the device's name may be another
		return
	}
	now := metav1.NewTime(b.view.Now)
	AddFault(d, v1alpha1.Fault{Class: v1alpha1.FaultReadOnly, Severity: v1alpha1.SeverityWarning, FirstSeen: now, LastSeen: now, Count: 1, Evidence: text})
}

// overNetwork brings the fault of a listed disk to whether it is one that a network leads to, and that is
// known by another id: it is there, and its volumes go on, but it is no disk of the node.
func (b *builder) overNetwork(d *v1alpha1.Disk, there *inventory.Disk, moved bool) {
	at := slices.IndexFunc(d.Faults, func(f v1alpha1.Fault) bool { return f.Class == v1alpha1.FaultNetwork && f.Until == nil })
	if !moved {
		if at >= 0 && b.whole {
			d.Faults = slices.Delete(d.Faults, at, at+1)
		}
		return
	}
	listed := "quarantine or a replacement names it"
	if _, ok := b.prepared[d.ID]; ok {
		listed = fmt.Sprintf("%s lists it in group %q", nodedisks.Path, d.Group)
	}
	text := fmt.Sprintf("it is reached over a network (%s, %s) and is watched as %s; %s as a disk of the node: "+
		"move its data to one, disconnect it, and give its place to that with node-prepare --replace", there.Network, there.Device, there.ID, listed)
	text = strings.ToValidUTF8(text[:min(len(text), kernel.MaxEvidence)], "")
	if at >= 0 {
		d.Faults[at].Evidence = text // the device's name may be another
		return
	}
	now := metav1.NewTime(b.view.Now)
	AddFault(d, v1alpha1.Fault{Class: v1alpha1.FaultNetwork, Severity: v1alpha1.SeverityWarning, FirstSeen: now, LastSeen: now, Count: 1, Evidence: text})
}

// absence is the evidence against a disk that is missing. Who pulled the wrong disk,
// or has changed one, sees which one is there instead.
func (b *builder) absence(d *v1alpha1.Disk, prepared bool) string {
	if !prepared {
		return "no block device has this id; it is quarantined or to be replaced"
	}
	text := fmt.Sprintf("no block device has this id; %s lists it in group %q", nodedisks.Path, d.Group)
	var there []string
	for i := range b.view.Snapshot.Disks {
		s := &b.view.Snapshot.Disks[i]
		if _, listed := b.prepared[s.ID]; listed || d.Slot == "" || s.Slot != d.Slot {
			continue
		}
		name := s.ID + " (" + s.Device
		if s.Serial != "" {
			name += ", serial " + s.Serial
		}
		there = append(there, name+")")
	}
	if len(there) > 0 {
		text += fmt.Sprintf("; in slot %s is now %s, which it does not list", d.Slot, strings.Join(there, " and "))
	}
	return strings.ToValidUTF8(text[:min(len(text), kernel.MaxEvidence)], "")
}

// faultOf is the index of the disk's fault of a class, -1 when it has none.
func faultOf(d *v1alpha1.Disk, class v1alpha1.FaultClass) int {
	return slices.IndexFunc(d.Faults, func(f v1alpha1.Fault) bool { return f.Class == class })
}

// sights are the disks that are in the node, as the last look has seen them: those of
// a network count for no flavor, but for one that is named as a drive and that the host lives on or that disks.yaml lists in a group, as when node preparation took such,
// and neither does what has no size, such as a card reader without a card or a board's virtual floppy.
func (b *builder) sights(disks []v1alpha1.Disk) (out []verdict.Sight) {
	for i := range disks {
		seen, present := b.view.Snapshot.Find(disks[i].ID)
		_, elsewhere := b.view.Snapshot.Told(disks[i].ID)
		system := slices.Contains(b.view.Snapshot.System, disks[i].ID) || b.prepared[disks[i].ID].Role == v1alpha1.RoleSystem
		if diskid.Networked(disks[i].ID, disks[i].Weak) || !present && elsewhere || present && (seen.Size == 0 || seen.Network != "" && disks[i].Group == "" && !system) {
			continue
		}
		s := verdict.Sight{Disk: disks[i], System: system}
		if present {
			s.SizeBytes, s.ReadOnly = seen.Size, seen.RO
		}
		out = append(out, s)
	}
	return out
}
