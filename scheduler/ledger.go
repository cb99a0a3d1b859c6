package scheduler

import (
	"math"
	"math/bits"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// settleTime is how long a reservation outlives its volume's appearance at most
// while no newer CSIStorageCapacity has come, and how long a write whose outcome
// is not known is taken for done. A driver that publishes its capacity before
// the volume appears would else block its room for good.
const settleTime = 30 * time.Second

// recent is the age of volumes that may be missing in the capacity at the
// start. It is long, since it is measured between two clocks.
const recent = 5 * time.Minute

// reservation is one claim's choice that the stores do not show yet.
type reservation struct {
	claim string // namespace/name
	uid   types.UID
	pod   types.UID // whose Unreserve gives it back; empty when nobody's does
	node  string
	class string
	label string // of the disk; empty when not known or when there are several
	disk  string // its key

	// volume is set for a volume that is there already.
	volume string

	// The others are for a volume to be made. group is the volume group; empty
	// when another scheduler chose, and then it counts against each of the node.
	group  string
	bytes  int64
	made   time.Time // since when the volume is seen to be made
	placed bool      // the volume is in the stores, and counts as load there

	// written is the resource version that carries the choice.
	written string
	doubt   time.Time // until when a write may have been done that gave no answer
}

// ledger has the reservations of one scheduler. Its lock also makes Reserve one
// step; methods that end in Locked need it.
type ledger struct {
	sync.RWMutex
	byClaim  map[types.UID]*reservation
	byVolume map[string]*reservation
	byGroup  map[string]map[*reservation]struct{} // node, volume group
	byDisk   map[string]map[*reservation]struct{}
	started  bool // what was there before has been taken up
}

func newLedger() *ledger {
	return &ledger{
		byClaim: map[types.UID]*reservation{}, byVolume: map[string]*reservation{},
		byGroup: map[string]map[*reservation]struct{}{}, byDisk: map[string]map[*reservation]struct{}{},
	}
}

func (l *ledger) addLocked(r *reservation) {
	if old := l.byClaim[r.uid]; old != nil {
		l.dropLocked(old)
	}
	l.byClaim[r.uid] = r
	if r.volume != "" {
		l.byVolume[r.volume] = r
	} else {
		put(l.byGroup, r.node+sep+r.group, r)
	}
	if r.disk != "" {
		put(l.byDisk, r.disk, r)
	}
}

func (l *ledger) dropLocked(r *reservation) {
	if l.byClaim[r.uid] != r {
		return
	}
	delete(l.byClaim, r.uid)
	if r.volume != "" {
		delete(l.byVolume, r.volume)
	} else {
		take(l.byGroup, r.node+sep+r.group, r)
	}
	take(l.byDisk, r.disk, r)
}

func put(m map[string]map[*reservation]struct{}, key string, r *reservation) {
	if m[key] == nil {
		m[key] = map[*reservation]struct{}{}
	}
	m[key][r] = struct{}{}
}

func take(m map[string]map[*reservation]struct{}, key string, r *reservation) {
	if delete(m[key], r); len(m[key]) == 0 {
		delete(m, key)
	}
}

// loadLocked counts the reservations on a disk that the stores do not count.
func (l *ledger) loadLocked(disk string) (n int64) {
	for r := range l.byDisk[disk] {
		if !r.placed {
			n++
		}
	}
	return n
}

// reservedLocked is the room of a node's volume group that is promised, in the
// bytes of the class whose capacity is base. capacity is that of each class: a
// class whose volumes are mirrored has half of it for the same room.
func (l *ledger) reservedLocked(node, group string, base int64, capacity map[string]int64) (sum int64) {
	for _, key := range []string{group, ""} {
		for r := range l.byGroup[node+sep+key] {
			sum += scaled(r.bytes, base, capacity[r.class])
		}
		if group == "" {
			break
		}
	}
	return sum
}

// scaled is n*num/den rounded up, or n when one of the two is not known.
func scaled(n, num, den int64) int64 {
	if num <= 0 || den <= 0 || num == den {
		return n
	}
	hi, lo := bits.Mul64(uint64(max(0, n)), uint64(num))
	if hi >= uint64(den) {
		return n
	}
	q, rest := bits.Div64(hi, lo, uint64(den))
	if rest > 0 {
		q++
	}
	return int64(min(q, math.MaxInt64))
}

// releaseLocked gives back what a pod reserved and nobody has written. What was
// written, or may have been, stays until the stores tell what became of it.
func (l *ledger) releaseLocked(pod types.UID, now time.Time) {
	for _, r := range l.byClaim {
		if r.pod != pod {
			continue
		}
		r.pod = ""
		if r.written == "" && !r.doubt.After(now) {
			l.dropLocked(r)
		}
	}
}

// refreshLocked brings the ledger in line with the stores: it takes up claims
// that are being provisioned and were chosen by a scheduler before this one, and
// drops what the stores or time have overtaken. It returns the earliest time at
// which time alone will drop more; zero for none.
func (c *core) refreshLocked(now time.Time) (next time.Time) {
	if !c.ledger.started {
		c.ledger.started = true
		c.adoptBoundLocked(now)
	}
	for _, pvc := range byIndex[*corev1.PersistentVolumeClaim](c.claims, selectedIndex, provisioning) {
		if c.ledger.byClaim[pvc.UID] == nil {
			c.adoptLocked(pvc)
		}
	}
	for _, r := range c.ledger.byClaim {
		until, keep := c.holds(r, now)
		if !keep {
			c.ledger.dropLocked(r)
		} else if !until.IsZero() && (next.IsZero() || until.Before(next)) {
			next = until
		}
	}
	return next
}

// adoptBoundLocked takes up, once, the volumes that were made so shortly before
// this scheduler started that the capacity may not tell of them yet.
func (c *core) adoptBoundLocked(now time.Time) {
	for _, obj := range c.claims.List() {
		pvc, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok || pvc.Spec.VolumeName == "" {
			continue
		}
		if _, group, _ := chosen(pvc); group == "" {
			continue
		}
		pv, ok := byKey[*corev1.PersistentVolume](c.volumes, pvc.Spec.VolumeName)
		if !ok || now.Sub(pv.CreationTimestamp.Time) < recent { // the volume's event may come after the claim's
			c.adoptLocked(pvc)
		}
	}
}

// chosen is a claim's selected node and what this plugin chose on it. Both are empty when
// another scheduler chose the node, which leaves an earlier choice standing.
func chosen(pvc *corev1.PersistentVolumeClaim) (node, group, disk string) {
	node = pvc.Annotations[volume.AnnSelectedNode]
	if node == "" || pvc.Annotations[v1alpha1.VolumeGroupNode] != node {
		return node, "", ""
	}
	return node, pvc.Annotations[v1alpha1.LabelVolumeGroup], pvc.Annotations[v1alpha1.LabelDisk]
}

// adoptLocked takes up a claim of the LVM driver from its annotations.
func (c *core) adoptLocked(pvc *corev1.PersistentVolumeClaim) {
	name := volume.GetPersistentVolumeClaimClass(pvc)
	if class, err := c.class(name); err != nil || class.Provisioner != v1alpha1.DriverLVM {
		return
	}
	node, group, disk := chosen(pvc)
	c.ledger.addLocked(&reservation{
		claim: nameOf(pvc), uid: pvc.UID, node: node, class: name, bytes: sizeOf(pvc),
		group: group, label: disk, disk: diskid.Key(node, disk), written: pvc.ResourceVersion,
	})
}

// holds says whether a reservation is still needed, and until when at most.
func (c *core) holds(r *reservation, now time.Time) (until time.Time, keep bool) {
	pvc, ok := byKey[*corev1.PersistentVolumeClaim](c.claims, r.claim)
	if !ok || pvc.UID != r.uid {
		return until, false // deleted; nobody will bind it
	}
	if r.volume != "" {
		return c.holdsVolume(r, now)
	}
	selected := pvc.Annotations[volume.AnnSelectedNode] == r.node
	if _, group, _ := chosen(pvc); r.written == "" && selected && group == r.group {
		r.written = pvc.ResourceVersion // the answer was lost, the write was not
	}
	pv, made := byKey[*corev1.PersistentVolume](c.volumes, pvc.Spec.VolumeName)
	if pvc.Spec.VolumeName == "" {
		pv = c.prebound(pvc) // made, and not yet bound by the PV controller, which may take a while
		made = pv != nil
	}
	switch {
	case pvc.Spec.VolumeName != "", made:
		return c.holdsMade(r, pv, made, now)
	case r.written == "" && r.pod != "":
		return until, true
	case r.written == "":
		return r.doubt, r.doubt.After(now)
	case selected:
		return until, true
	}
	// The provisioner took the annotation off, unless the store is behind.
	return until, older(pvc.ResourceVersion, r.written)
}

// holdsMade: the volume is made, if known is true, or else the claim is bound to
// one that is not in the store. The reservation ends when every capacity of the
// volume group counts the volume.
func (c *core) holdsMade(r *reservation, pv *corev1.PersistentVolume, known bool, now time.Time) (until time.Time, keep bool) {
	r.placed = known
	if r.made.IsZero() {
		r.made = now
	}
	until = r.made.Add(settleTime)
	if !until.After(now) {
		return until, false
	}
	if !known {
		return until, true
	}
	capacities := c.capacitiesOf(r)
	for _, told := range capacities {
		if !counts(told, pv) {
			return until, true
		}
	}
	return until, len(capacities) == 0
}

// counts says whether a capacity takes a volume into account: by the sequence
// number of the volume group where the driver gives it, and else when it is the
// newer object. A driver that tells of its room before the volume's object is there
// is then not believed until it tells again, or settleTime is over. Versions of
// two resources are comparable because both come from one etcd.
func counts(told *storagev1.CSIStorageCapacity, pv *corev1.PersistentVolume) bool {
	if pv.Spec.CSI != nil {
		upTo, err := strconv.ParseUint(told.Annotations[v1alpha1.VolumeGroupSeqno], 10, 64)
		made, err2 := strconv.ParseUint(pv.Spec.CSI.VolumeAttributes[v1alpha1.VolumeGroupSeqno], 10, 64)
		if err == nil && err2 == nil {
			return upTo >= made
		}
	}
	return older(pv.ResourceVersion, told.ResourceVersion)
}

// capacitiesOf lists the capacities of the volume group of a reservation, whose
// topology value is taken for the node's name.
func (c *core) capacitiesOf(r *reservation) []*storagev1.CSIStorageCapacity {
	var list []*storagev1.CSIStorageCapacity
	for _, key := range c.topology.seen() {
		list = append(list, byIndex[*storagev1.CSIStorageCapacity](c.capacities, poolIndex, key+"="+r.node+sep+r.group)...)
	}
	return list
}

func (c *core) holdsVolume(r *reservation, now time.Time) (until time.Time, keep bool) {
	pv, ok := byKey[*corev1.PersistentVolume](c.volumes, r.volume)
	switch {
	case !ok:
		return until, false
	case r.written == "" && r.pod != "":
		return until, true
	case r.written == "":
		return r.doubt, r.doubt.After(now) && pv.Spec.ClaimRef == nil
	}
	return until, older(pv.ResourceVersion, r.written)
}

// older compares resource versions; a version that is no number is not older.
func older(a, b string) bool {
	n, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && n < 0
}
