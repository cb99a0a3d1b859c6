package lvm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/placement"
)

// apart looks up on which disks the other claims of a claim's groups are. Until unlock,
// no other claim of them is placed by this driver. Which disks they have is read
// from the API server and, for claims whose object is not there yet, from the tags
// of this node's volumes.
func (p *Provisioner) apart(ctx context.Context, claim *corev1.PersistentVolumeClaim, x *extras) (unlock func(), _ error) {
	required, preferred, err := placement.Groups(claim.Namespace, claim.Labels)
	if err != nil {
		return nil, fmt.Errorf("claim %s/%s: %w: %w", claim.Namespace, claim.Name, ErrInvalid, err)
	}
	var held []func()
	unlock = func() {
		for _, f := range held {
			f()
		}
	}
	x.avoidRequired, x.avoidPreferred = map[string]string{}, map[string]string{}
	for _, group := range slices.Sorted(slices.Values([]string{required, preferred})) {
		if group == "" {
			continue
		}
		f, ok := p.groups.try(group)
		if !ok {
			unlock()
			return nil, fmt.Errorf("%w: %w", errGroupBusy, ErrBusy)
		}
		held = append(held, f)
		must, may, err := p.disksOfGroup(ctx, claim, group)
		if err != nil {
			unlock()
			return nil, err
		}
		// One disk for two is out of the question only where both require it.
		if group == required {
			maps.Copy(x.avoidRequired, must)
		} else {
			maps.Copy(x.avoidPreferred, must)
		}
		maps.Copy(x.avoidPreferred, may)
	}
	return unlock, nil
}

// disksOfGroup are the disks of a group's other claims, each with one of them: of those
// that require the group, and of those that only prefer it.
func (p *Provisioner) disksOfGroup(ctx context.Context, claim *corev1.PersistentVolumeClaim, group string) (must, may map[string]string, _ error) {
	must, may = map[string]string{}, map[string]string{}
	for label, into := range map[string]map[string]string{v1alpha1.LabelAntiAffinity: must, v1alpha1.LabelAntiAffinityPreferred: may} {
		var list corev1.PersistentVolumeClaimList
		if err := p.api.List(ctx, &list, client.InNamespace(claim.Namespace), client.MatchingLabels{label: strings.TrimPrefix(group, claim.Namespace+"/")}); err != nil {
			return nil, nil, fmt.Errorf("list claims of group %s: %w: %w", group, ErrUnavailable, err)
		}
		for _, c := range list.Items {
			if c.UID == claim.UID {
				continue
			}
			found, err := p.disksOf(ctx, &c)
			if err != nil {
				return nil, nil, err
			}
			for _, d := range found {
				into[d] = c.Namespace + "/" + c.Name
			}
		}
	}
	return must, may, nil
}

// disksOf are the disks of a claim that may be this node's: an id that names a place is
// another disk on another node.
func (p *Provisioner) disksOf(ctx context.Context, c *corev1.PersistentVolumeClaim) ([]string, error) {
	if c.Spec.VolumeName == "" {
		return p.service.engine.DisksOf("", c.Namespace+"/"+c.Name), nil
	}
	var pv corev1.PersistentVolume
	if err := p.api.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, &pv); err != nil {
		return nil, fmt.Errorf("read volume %s of claim %s: %w: %w", c.Spec.VolumeName, c.Name, ErrUnavailable, err)
	}
	if disk := pv.Annotations[v1alpha1.AnnotationDisk]; disk != "" {
		if diskid.Key(pv.Labels[v1alpha1.LabelNode], disk) != diskid.Key(p.service.engine.node, disk) {
			return nil, nil
		}
		return []string{disk}, nil
	}
	if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == DriverName {
		return p.service.engine.DisksOf(pv.Spec.CSI.VolumeHandle, ""), nil
	}
	return nil, nil
}
