package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/placement"
)

// maxClaims is how many claims of one pod are placed together. A pod with more
// is refused: the search is exact, and its work grows with each.
const maxClaims = 16

// claim is one of a pod's own claims.
type claim struct {
	*corev1.PersistentVolumeClaim
	name     string // namespace/name
	class    *storagev1.StorageClass
	selector labels.Selector
	size     int64
	// required and preferred are groups as namespace/group; empty for none.
	required, preferred string
}

// podClaims are a pod's own claims, as the stores had them at one moment.
type podClaims struct {
	free []claim // to be placed
	// node is where the claims that are decided already bind the pod to; empty for anywhere.
	node string
	// volumes are those of claims that a volume's claimRef names already.
	volumes []chosenVolume
	// waiting are the decided claims.
	waiting []claim
	// members are the other claims of the groups of free.
	members []placement.Member
	// hidden has for each node the groups of which a claim is being made there on a disk that is not known.
	hidden map[string][]string
	rest   *corev1.Pod // the pod without own claims, for the upstream plugin
}

type chosenVolume struct {
	claim *corev1.PersistentVolumeClaim
	pv    *corev1.PersistentVolume
}

// own says whether the pod has any claim that this plugin places, with as
// little work as can be.
func (p *podClaims) own() bool { return p != nil && len(p.free)+len(p.waiting) > 0 }

// sort takes a pod's own claims out. The refusal is for a person and empty when
// there is none. It needs the ledger's lock when the pod has own claims in groups.
func (c *core) sort(pod *corev1.Pod) (*podClaims, string) {
	var p *podClaims
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		pvc := c.claimFor(pod, v)
		if pvc == nil {
			continue
		}
		own, why := c.own(pvc)
		if why != "" {
			return nil, why
		}
		if own == nil {
			continue
		}
		if p == nil {
			p = &podClaims{}
		}
		if same := func(c claim) bool { return c.UID == pvc.UID }; slices.ContainsFunc(p.free, same) || slices.ContainsFunc(p.waiting, same) {
			continue // one claim, two volumes of the pod
		}
		if why := p.take(c, *own); why != "" {
			return nil, why
		}
	}
	if p == nil {
		return nil, ""
	}
	if len(p.free) > maxClaims {
		return nil, fmt.Sprintf("pod has %d claims to place on one node, more than the %d that are placed together: spread them over several pods", len(p.free), maxClaims)
	}
	p.rest = c.view(pod, p)
	return p, c.findMembers(p)
}

// take puts one own claim where it belongs.
func (p *podClaims) take(c *core, own claim) (why string) {
	if pv := c.prebound(own.PersistentVolumeClaim); pv != nil {
		p.waiting = append(p.waiting, own)
		p.volumes = append(p.volumes, chosenVolume{own.PersistentVolumeClaim, pv})
		return ""
	}
	node := ""
	if own.class.Provisioner == v1alpha1.DriverLVM {
		node = own.Annotations[volume.AnnSelectedNode]
	}
	if r := c.ledger.byClaim[own.UID]; r != nil && node == "" {
		if r.pod == "" {
			return fmt.Sprintf("claim %s was given a place a moment ago and it is not known yet what became of it; this ends by itself, within %s", own.name, settleTime)
		}
		node = r.node // another pod with the same claim is being bound
	}
	if node == "" {
		p.free = append(p.free, own)
		return ""
	}
	if p.node != "" && p.node != node {
		return fmt.Sprintf("claim %s is being made on node %s and another claim of the pod on node %s: delete one of the two claims", own.name, node, p.node)
	}
	p.node = node
	p.waiting = append(p.waiting, own)
	return ""
}

// claimName is the name of the claim of a pod's volume; empty when it has none.
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// claimFor is the claim of a pod's volume when there is one that could be own.
// What is wrong with the others the upstream plugin says.
func (c *core) claimFor(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	name := claimName(pod, v)
	if name == "" {
		return nil
	}
	pvc, ok := byKey[*corev1.PersistentVolumeClaim](c.claims, pod.Namespace+"/"+name)
	switch {
	case !ok, pvc.Spec.VolumeName != "", pvc.DeletionTimestamp != nil, pvc.Status.Phase == corev1.ClaimLost:
		return nil
	case v.Ephemeral != nil && ephemeral.VolumeIsForPod(pod, pvc) != nil:
		return nil
	}
	return pvc
}

// own makes an own claim of an unbound one, or nil when it is not one.
func (c *core) own(pvc *corev1.PersistentVolumeClaim) (*claim, string) {
	name := volume.GetPersistentVolumeClaimClass(pvc)
	if name == "" {
		return nil, ""
	}
	class, err := c.class(name)
	if err != nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return nil, ""
	}
	required, preferred, err := placement.Groups(pvc.Namespace, pvc.Labels)
	if err != nil {
		return nil, fmt.Sprintf("claim %s: %v", nameOf(pvc), err)
	}
	if class.Provisioner != volume.NotSupportedProvisioner && class.Provisioner != v1alpha1.DriverLVM {
		if required != "" {
			return nil, fmt.Sprintf("claim %s is in the disk anti-affinity group %s, and nobody knows the disks of its storage class %s (%s): use a class of local or LVM volumes, or the label %s",
				nameOf(pvc), required, name, class.Provisioner, v1alpha1.LabelAntiAffinityPreferred)
		}
		return nil, ""
	}
	selector, err := everything(pvc.Spec.Selector)
	if err != nil {
		return nil, fmt.Sprintf("read the selector of claim %s: %v", nameOf(pvc), err)
	}
	return &claim{
		PersistentVolumeClaim: pvc, name: nameOf(pvc), class: class, selector: selector, size: sizeOf(pvc),
		required: required, preferred: preferred,
	}, ""
}

func sizeOf(pvc *corev1.PersistentVolumeClaim) int64 {
	q := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	return q.Value()
}

// view is the pod without the volumes of its own claims.
func (c *core) view(pod *corev1.Pod, p *podClaims) *corev1.Pod {
	view := *pod
	view.Spec.Volumes = nil
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := claimName(pod, v)
		named := func(c claim) bool { return c.Name == name }
		if name == "" || !slices.ContainsFunc(p.free, named) && !slices.ContainsFunc(p.waiting, named) {
			view.Spec.Volumes = append(view.Spec.Volumes, *v)
		}
	}
	return &view
}

// findMembers finds on which disks the groups of the free claims are already.
func (c *core) findMembers(p *podClaims) (why string) {
	done := map[string]bool{}
	for i := range p.free {
		for _, group := range []string{p.free[i].required, p.free[i].preferred} {
			if group == "" || done[group] {
				continue
			}
			done[group] = true
			if why := c.membersOf(p, group); why != "" {
				return why
			}
		}
	}
	return ""
}

func (c *core) membersOf(p *podClaims, group string) (why string) {
	for _, pvc := range byIndex[*corev1.PersistentVolumeClaim](c.claims, groupIndex, group) {
		if slices.ContainsFunc(p.free, func(f claim) bool { return f.UID == pvc.UID }) {
			continue
		}
		required := pvc.Namespace+"/"+pvc.Labels[v1alpha1.LabelAntiAffinity] == group
		disk, node, known := c.diskOfClaim(pvc)
		switch {
		case disk != "":
			p.members = append(p.members, placement.Member{Group: group, Disk: disk, Required: required})
		case node != "" && required:
			if p.hidden == nil {
				p.hidden = map[string][]string{}
			}
			p.hidden[node] = append(p.hidden[node], group)
		case !known && required:
			return fmt.Sprintf("claim %s of the disk anti-affinity group %s is bound to volume %s, which is not known (yet): if it was deleted, delete the claim too",
				nameOf(pvc), group, pvc.Spec.VolumeName)
		}
	}
	return ""
}

// diskOfClaim is where a claim is or will be: on a disk; on a node but nobody
// knows which disk; or known to be on no disk that has a name.
func (c *core) diskOfClaim(pvc *corev1.PersistentVolumeClaim) (disk, node string, known bool) {
	if pvc.Spec.VolumeName != "" {
		if pv, ok := byKey[*corev1.PersistentVolume](c.volumes, pvc.Spec.VolumeName); ok {
			return diskOf(pv), "", true
		}
	} else if pv := c.prebound(pvc); pv != nil {
		return diskOf(pv), "", true
	}
	if r := c.ledger.byClaim[pvc.UID]; r != nil {
		if r.disk == "" && r.volume == "" && r.group == "" {
			return "", r.node, true
		}
		return r.disk, "", true
	}
	if pvc.Spec.VolumeName == "" || pvc.Status.Phase == corev1.ClaimLost {
		return "", "", true
	}
	// The claim's event came before the volume's.
	at, _, label := chosen(pvc)
	disk = diskid.Key(at, label)
	return disk, "", disk != ""
}
