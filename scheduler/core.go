package scheduler

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/placement"
)

// core decides. It reads the stores, keeps the ledger, and writes nothing.
type core struct {
	stores
	ledger *ledger
	now    func() time.Time
}

// choice is where one claim goes.
type choice struct {
	claim  claim
	volume *corev1.PersistentVolume      // set for a volume that is there
	group  *storagev1.CSIStorageCapacity // set for a volume group
}

// fit is the answer for one node: the choices, or the reason why there are none.
type fit struct {
	choices []choice
	cost    placement.Cost
	proven  bool
	refused reason
}

// look is what a pod needs of this plugin: its own claims. It is the start of
// every scheduling cycle, so it also brings the ledger up to date.
func (c *core) look(pod *corev1.Pod) (p *podClaims, refused string, settles time.Time) {
	if !c.concerned(pod) {
		return nil, "", time.Time{}
	}
	c.ledger.Lock()
	defer c.ledger.Unlock()
	settles = c.refreshLocked(c.now())
	p, refused = c.sort(pod)
	return p, refused, settles
}

// concerned says whether a pod has own claims, or claims that must be refused.
func (c *core) concerned(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pvc := c.claimFor(pod, &pod.Spec.Volumes[i]); pvc != nil {
			if own, why := c.own(pvc); own != nil || why != "" {
				return true
			}
		}
	}
	return false
}

// ask says whether the claims fit on the node. It may be called in parallel.
func (c *core) ask(p *podClaims, node *corev1.Node) fit {
	c.ledger.RLock()
	defer c.ledger.RUnlock()
	return c.fitLocked(p, node)
}

// reserve decides anew and reserves the choice for the pod. The ledger is as the cycle's
// look left it, for nobody else reserves meanwhile.
func (c *core) reserve(pod *corev1.Pod, node *corev1.Node) (*podClaims, fit) {
	c.ledger.Lock()
	defer c.ledger.Unlock()
	p, why := c.sort(pod)
	if why != "" {
		return p, fit{refused: reason(why)}
	}
	if !p.own() {
		return p, fit{}
	}
	f := c.fitLocked(p, node)
	if f.refused != "" {
		return p, f
	}
	for _, ch := range f.choices {
		c.ledger.addLocked(newReservation(pod, node, ch))
	}
	return p, f
}

func newReservation(pod *corev1.Pod, node *corev1.Node, ch choice) *reservation {
	r := &reservation{claim: ch.claim.name, uid: ch.claim.UID, pod: pod.UID, node: node.Name, class: ch.claim.class.Name}
	if pv := ch.volume; pv != nil {
		r.volume, r.label, r.disk = pv.Name, pv.Labels[v1alpha1.LabelDisk], diskOf(pv)
		return r
	}
	r.bytes = ch.claim.size
	r.group, r.label = ch.group.Labels[v1alpha1.LabelVolumeGroup], ch.group.Labels[v1alpha1.LabelDisk]
	r.disk = diskid.Key(node.Name, r.label)
	return r
}

// release gives back what the pod reserved.
func (c *core) release(pod *corev1.Pod) {
	c.ledger.Lock()
	defer c.ledger.Unlock()
	c.ledger.releaseLocked(pod.UID, c.now())
}

// fitLocked places the claims on one node; it reads the ledger.
func (c *core) fitLocked(p *podClaims, node *corev1.Node) fit {
	if p.node != "" && p.node != node.Name {
		return fit{refused: reasonElsewhere}
	}
	for _, v := range p.volumes {
		if volume.CheckNodeAffinity(v.pv, node.Labels) != nil {
			return fit{refused: reasonElsewhere}
		}
	}
	if len(p.free) == 0 {
		return fit{proven: true}
	}
	b := builder{core: c, node: node, p: p}
	b.build()
	problem := placement.Problem{Bins: b.bins, Members: p.members}
	for _, f := range p.free {
		problem.Claims = append(problem.Claims, placementClaim(f))
	}
	if groups := p.hidden[node.Name]; len(groups) > 0 {
		problem.Members = slices.Clone(p.members)
		for _, g := range groups {
			for _, bin := range b.bins {
				problem.Members = append(problem.Members, placement.Member{Group: g, Disk: bin.Disk, Required: true})
			}
		}
	}
	a, refused := placement.Solve(problem)
	if refused != nil {
		return fit{refused: b.reason(refused)}
	}
	f := fit{cost: a.Cost, proven: a.Proven, choices: make([]choice, len(p.free))}
	for i, bin := range a.Bins {
		f.choices[i] = b.choices[bin]
		f.choices[i].claim = p.free[i]
		if g := f.choices[i].group; g != nil {
			f.choices[i].group = b.capacityFor(g, p.free[i].class.Name)
		}
	}
	return f
}

func placementClaim(f claim) placement.Claim {
	c := placement.Claim{ID: f.name, Size: f.size, Pool: f.name}
	if f.required != "" {
		c.Required = []string{f.required}
	}
	if f.preferred != "" {
		c.Preferred = []string{f.preferred}
	}
	return c
}

// builder gathers the bins of one node.
type builder struct {
	*core
	node    *corev1.Node
	p       *podClaims
	bins    []placement.Bin
	choices []choice // of each bin; the claim is filled in later
	closed  bool     // a bin was left out because its disk is in quarantine
	unread  bool     // a bin was left out because nobody could say whether it is
	other   map[string][]*storagev1.CSIStorageCapacity
}

func (b *builder) build() {
	for i := range b.p.free {
		first := func(c claim) bool { return c.class.Name == b.p.free[i].class.Name }
		if slices.IndexFunc(b.p.free, first) == i {
			b.addVolumes(b.p.free[i].class)
			b.addGroups(b.p.free[i].class)
		}
	}
}

// usable says whether a disk is open, and notes why not.
func (b *builder) usable(disk string) bool {
	switch {
	case disk == "":
		return true // nobody can put it in quarantine
	case !b.quarantine.known():
		b.unread = true
		return false
	case b.quarantine.closed(disk):
		b.closed = true
		return false
	}
	return true
}

func (b *builder) addVolumes(class *storagev1.StorageClass) {
	for _, pv := range b.open(class.Name, b.node) {
		if b.ledger.byVolume[pv.Name] != nil {
			continue
		}
		var offers []placement.Offer
		for i := range b.p.free {
			if c := &b.p.free[i]; c.class.Name == class.Name && matches(c, pv) {
				offers = append(offers, placement.Offer{Pool: c.name})
			}
		}
		disk := diskOf(pv)
		if len(offers) == 0 || !b.usable(disk) {
			continue
		}
		room := pv.Spec.Capacity[corev1.ResourceStorage]
		b.bins = append(b.bins, placement.Bin{ID: "v/" + pv.Name, Kind: placement.Volume, Disk: disk, Room: room.Value(),
			Load: b.load(disk), Offers: offers})
		b.choices = append(b.choices, choice{volume: pv})
	}
}

func (b *builder) load(disk string) int64 {
	if disk == "" {
		return 0
	}
	return b.inUse(disk) + b.ledger.loadLocked(disk)
}

// matches says whether a volume of the claim's class can be given to it, but
// for size and place; the same rules as k8s.io/component-helpers'
// volume.FindMatchingVolume.
func matches(c *claim, pv *corev1.PersistentVolume) bool {
	return !volume.CheckVolumeModeMismatches(&c.Spec, &pv.Spec) &&
		ptr.Deref(c.Spec.VolumeAttributesClassName, "") == ptr.Deref(pv.Spec.VolumeAttributesClassName, "") &&
		c.selector.Matches(labels.Set(pv.Labels)) &&
		volume.CheckAccessModes(c.PersistentVolumeClaim, pv)
}

// addGroups adds the volume groups that can make volumes of the class, or only
// their offers when they were added for another class.
func (b *builder) addGroups(class *storagev1.StorageClass) {
	if class.Provisioner != v1alpha1.DriverLVM || !v1helper.MatchTopologySelectorTerms(class.AllowedTopologies, labels.Set(b.node.Labels)) {
		return
	}
	for _, told := range b.groups(class.Name, b.node) {
		group := told.Labels[v1alpha1.LabelVolumeGroup]
		disk := diskid.Key(b.node.Name, told.Labels[v1alpha1.LabelDisk])
		if !b.usable(disk) {
			continue
		}
		at := slices.IndexFunc(b.bins, func(bin placement.Bin) bool { return bin.ID == "g/"+group })
		if at < 0 {
			at = b.addGroup(told, group, disk)
		}
		bin := &b.bins[at]
		size := sizeTold(told)
		if size <= 0 {
			continue
		}
		offer := placement.Offer{Num: b.base(group), Den: size}
		if told.MaximumVolumeSize != nil {
			offer.Max = told.MaximumVolumeSize.Value()
		}
		for i := range b.p.free {
			// A provisioner that makes a volume pays no heed to a selector, so it is not asked.
			if c := &b.p.free[i]; c.class.Name == class.Name && c.Spec.Selector == nil {
				offer.Pool = c.name
				bin.Offers = append(bin.Offers, offer)
			}
		}
	}
}

func (b *builder) addGroup(told *storagev1.CSIStorageCapacity, group, disk string) int {
	if b.other == nil {
		b.other = map[string][]*storagev1.CSIStorageCapacity{}
	}
	b.other[group] = b.pool(told)
	sizes := map[string]int64{}
	for _, o := range b.other[group] {
		sizes[o.StorageClassName] = sizeTold(o)
	}
	base := b.base(group)
	b.bins = append(b.bins, placement.Bin{ID: "g/" + group, Kind: placement.Group, Disk: disk, Load: b.load(disk),
		Room: base - b.ledger.reservedLocked(b.node.Name, group, base, sizes)})
	b.choices = append(b.choices, choice{group: told})
	return len(b.bins) - 1
}

// base is the room of a volume group in the bytes of the class that gets the
// most out of it. The others pay more for each byte.
func (b *builder) base(group string) (most int64) {
	for _, o := range b.other[group] {
		most = max(most, sizeTold(o))
	}
	return most
}

// capacityFor is the capacity of a class in the volume group of told.
func (b *builder) capacityFor(told *storagev1.CSIStorageCapacity, class string) *storagev1.CSIStorageCapacity {
	for _, o := range b.other[told.Labels[v1alpha1.LabelVolumeGroup]] {
		if o.StorageClassName == class {
			return o
		}
	}
	return told
}

// sizeTold is the room that a capacity tells of; zero when it does not.
func sizeTold(c *storagev1.CSIStorageCapacity) int64 {
	q := cmp.Or(c.Capacity, c.MaximumVolumeSize)
	if q == nil {
		return 0
	}
	return q.Value()
}
