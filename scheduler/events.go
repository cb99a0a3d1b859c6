package scheduler

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"holdfast.dev/api/v1alpha1"
)

// EventsToRegister are the upstream plugin's events and those that can make room
// for own claims: a claim of a group that goes, a capacity that changes, and a
// pod that gives its reservations back. ComputeNodes are not among them; see
// watchQuarantine.
func (p *Plugin) EventsToRegister(ctx context.Context) ([]fwk.ClusterEventWithHint, error) {
	events, err := p.upstream.EventsToRegister(ctx)
	if err != nil {
		return nil, err
	}
	for i := range events {
		if events[i].Event.Resource == fwk.PersistentVolume && events[i].QueueingHintFn == nil {
			events[i].QueueingHintFn = p.afterVolume
		}
	}
	return append(events,
		fwk.ClusterEventWithHint{Event: fwk.ClusterEvent{Resource: fwk.PersistentVolumeClaim, ActionType: fwk.Update | fwk.Delete}, QueueingHintFn: p.afterClaim},
		fwk.ClusterEventWithHint{Event: fwk.ClusterEvent{Resource: fwk.CSIStorageCapacity, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: p.afterCapacity},
		fwk.ClusterEventWithHint{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete}, QueueingHintFn: p.afterPod},
	), nil
}

// afterVolume: a volume matters to a pod with own claims when it is open and of
// a class that the pod waits for; when it is new and of such a class, since then
// it ends a reservation or tells a group's disk; and when it is given to a claim of the pod. A pod
// without own claims is woken by every volume, as upstream does.
func (p *Plugin) afterVolume(_ klog.Logger, pod *corev1.Pod, old, now any) (fwk.QueueingHint, error) {
	pv, ok := now.(*corev1.PersistentVolume)
	if !ok {
		return fwk.Queue, nil
	}
	classes := p.core.classesOf(pod)
	if len(classes) == 0 {
		return fwk.Queue, nil
	}
	ref := pv.Spec.ClaimRef
	if (ref == nil || old == nil) && slices.Contains(classes, volume.GetPersistentVolumeClass(pv)) {
		return fwk.Queue, nil
	}
	if ref != nil && ref.Namespace == pod.Namespace && (old == nil || hasClaim(pod, ref.Name)) {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

func hasClaim(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return claimName(pod, &v) == name })
}

// afterClaim: a claim of a group in the pod's namespace is gone, left the group,
// or lost its place or its volume.
func (p *Plugin) afterClaim(_ klog.Logger, pod *corev1.Pod, old, now any) (fwk.QueueingHint, error) {
	was, ok := old.(*corev1.PersistentVolumeClaim)
	if !ok {
		return fwk.Queue, nil
	}
	grouped := was.Labels[v1alpha1.LabelAntiAffinity] != "" || was.Labels[v1alpha1.LabelAntiAffinityPreferred] != ""
	if !grouped || was.Namespace != pod.Namespace {
		return fwk.QueueSkip, nil
	}
	is, ok := now.(*corev1.PersistentVolumeClaim)
	if ok && maps.Equal(was.Labels, is.Labels) && was.Spec.VolumeName == is.Spec.VolumeName && was.Status.Phase == is.Status.Phase &&
		was.Annotations[volume.AnnSelectedNode] == is.Annotations[volume.AnnSelectedNode] {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// afterCapacity: even a smaller capacity can make room, since it ends the
// reservations that it takes into account.
func (p *Plugin) afterCapacity(_ klog.Logger, pod *corev1.Pod, _, now any) (fwk.QueueingHint, error) {
	c, ok := now.(*storagev1.CSIStorageCapacity)
	if !ok || slices.Contains(p.core.classesOf(pod), c.StorageClassName) {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// afterPod: a pod with claims is gone, or failed to be bound and gave its
// reservations back, which the scheduler announces in the same way.
func (p *Plugin) afterPod(_ klog.Logger, pod *corev1.Pod, old, _ any) (fwk.QueueingHint, error) {
	gone, ok := old.(*corev1.Pod)
	if !ok || (hasClaims(gone) && len(p.core.classesOf(pod)) > 0) {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// classesOf are the classes of a pod's own claims.
func (c *core) classesOf(pod *corev1.Pod) (classes []string) {
	for i := range pod.Spec.Volumes {
		if pvc := c.claimFor(pod, &pod.Spec.Volumes[i]); pvc != nil {
			if own, _ := c.own(pvc); own != nil {
				classes = append(classes, own.class.Name)
			}
		}
	}
	return classes
}
