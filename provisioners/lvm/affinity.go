package lvm

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// apart looks up on which disks the other claims of a claim's groups are. Until unlock,
// no other claim of them is placed by this driver. Which disks they have is read
// from the API server and, for claims whose object is not there yet, from the tags
// of this node's volumes.
func (p *Provisioner) apart(ctx context.Context, claim *corev1.PersistentVolumeClaim, x *extras) (unlock func(), _ error) {
	required, must := claim.Labels[v1alpha1.LabelAntiAffinity]
	preferred, may := claim.Labels[v1alpha1.LabelAntiAffinityPreferred]
	switch {
	case must && required == "":
		return nil, fmt.Errorf("claim label %s is empty (give the name of a group): %w", v1alpha1.LabelAntiAffinity, ErrInvalid)
	case must && may && required == preferred:
		return nil, fmt.Errorf("claim labels %s and %s both name group %q (keep one): %w", v1alpha1.LabelAntiAffinity, v1alpha1.LabelAntiAffinityPreferred, required, ErrInvalid)
	}
	var held []func()
	unlock = func() {
		for _, f := range held {
			f()
		}
	}
	for _, g := range []struct {
		label, group string
		is           bool
		into         *map[string]string
	}{{v1alpha1.LabelAntiAffinity, required, must, &x.avoidRequired}, {v1alpha1.LabelAntiAffinityPreferred, preferred, may, &x.avoidPreferred}} {
		if !g.is {
			continue
		}
		f, ok := p.groups.try(g.label + "/" + claim.Namespace + "/" + g.group)
		if !ok {
			unlock()
			return nil, fmt.Errorf("%w: %w", errGroupBusy, ErrBusy)
		}
		held = append(held, f)
		disks, err := p.disksOfGroup(ctx, claim, g.label, g.group)
		if err != nil {
			unlock()
			return nil, err
		}
		*g.into = disks
	}
	return unlock, nil
}

// disksOfGroup are the disks of a group's other claims, each with one of them.
func (p *Provisioner) disksOfGroup(ctx context.Context, claim *corev1.PersistentVolumeClaim, label, group string) (map[string]string, error) {
	var list corev1.PersistentVolumeClaimList
	if err := p.api.List(ctx, &list, client.InNamespace(claim.Namespace), client.MatchingLabels{label: group}); err != nil {
		return nil, fmt.Errorf("list claims of group %s: %w: %w", group, ErrUnavailable, err)
	}
	disks := map[string]string{}
	for _, c := range list.Items {
		if c.UID == claim.UID {
			continue
		}
		found, err := p.disksOf(ctx, &c)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			disks[d] = c.Namespace + "/" + c.Name
		}
	}
	return disks, nil
}

func (p *Provisioner) disksOf(ctx context.Context, c *corev1.PersistentVolumeClaim) ([]string, error) {
	if c.Spec.VolumeName == "" {
		return p.service.engine.DisksOf("", c.Namespace+"/"+c.Name), nil
	}
	var pv corev1.PersistentVolume
	if err := p.api.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, &pv); err != nil {
		return nil, fmt.Errorf("read volume %s of claim %s: %w: %w", c.Spec.VolumeName, c.Name, ErrUnavailable, err)
	}
	if disk := pv.Annotations[v1alpha1.AnnotationDisk]; disk != "" {
		return []string{disk}, nil
	}
	if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == DriverName {
		return p.service.engine.DisksOf(pv.Spec.CSI.VolumeHandle, ""), nil
	}
	return nil, nil
}
