//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
)

// daemons run on every node.
var daemons = []string{"disk-monitor", "local-volume-provisioner"}

// testPush brings the agent into the cluster and pushes the fleet with git:
// the addons' pods run on both nodes, and the disks are volumes.
func testPush(t *testing.T) {
	must(t, l.Join(t.Context()))
	took := have[time.Duration](t)(l.Push(t.Context(), "the fleet"))
	t.Logf("every addon is healthy %.1f s after the push", took.Seconds())
	awaitHealthy(t)
	for _, n := range l.Nodes {
		if said := have[string](t)(l.PodLog(t.Context(), "disk-monitor", n.Name)); !strings.Contains(said, "monitor started") {
			t.Errorf("the API server has of disk-monitor on %s this log: %q", n.Name, said)
		}
	}
}

// awaitHealthy waits until nothing in the cluster tells of a fault. Every stage
// ends with it.
func awaitHealthy(t *testing.T) {
	t.Helper()
	eventually(t, patience, "a healthy cluster", func() (bool, error) {
		err := unhealthy(t.Context())
		return err == nil, err
	})
}

// unhealthy says what in the cluster is not as it is when all is well.
func unhealthy(ctx context.Context) error {
	var pods corev1.PodList
	var volumes corev1.PersistentVolumeList
	var plans v1alpha1.RemediationList
	for _, list := range []client.ObjectList{&pods, &volumes, &plans} {
		if err := l.Client.List(ctx, list); err != nil {
			return err
		}
	}
	var errs []error
	for _, n := range l.Nodes {
		for _, d := range daemons {
			if !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool {
				return p.Labels["app.kubernetes.io/name"] == d && p.Spec.NodeName == n.Name && podReady(&p)
			}) {
				errs = append(errs, fmt.Errorf("no pod of %s is ready on %s", d, n.Name))
			}
		}
		errs = append(errs, sick(ctx, n), lacksVolumes(n, volumes.Items))
	}
	for _, p := range plans.Items {
		if p.Status.FinishedAt == nil {
			errs = append(errs, fmt.Errorf("plan %s is at %s: %s", p.Name, p.Status.Step, p.Status.Message))
		}
	}
	alerts, err := l.Monitoring.Alerts(ctx)
	for _, a := range alerts {
		errs = append(errs, fmt.Errorf("alert %s: %v", a.Name(), a.Labels))
	}
	return errors.Join(append(errs, err)...)
}

func podReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// sick says what a node's ComputeNode has against it.
func sick(ctx context.Context, n *lab.Node) error {
	var cn v1alpha1.ComputeNode
	if err := l.Client.Get(ctx, client.ObjectKey{Name: n.Name}, &cn); err != nil {
		return err
	}
	var errs []error
	if cn.Status.State != v1alpha1.DiskHealthy {
		errs = append(errs, fmt.Errorf("ComputeNode %s is %s: %s", n.Name, cn.Status.State, cn.Status.Summary))
	}
	errs = append(errs, faultsOf(&cn))
	for _, c := range []string{v1alpha1.ConditionInventoryRead, v1alpha1.ConditionKernelLogRead, v1alpha1.ConditionFlavorSatisfied} {
		if !meta.IsStatusConditionTrue(cn.Status.Conditions, c) {
			errs = append(errs, fmt.Errorf("ComputeNode %s: %s is not True", n.Name, c))
		}
	}
	if len(cn.Spec.Quarantine) > 0 || len(cn.Spec.Replacements) > 0 {
		errs = append(errs, fmt.Errorf("ComputeNode %s has quarantine %v and replacements %v", n.Name, cn.Spec.Quarantine, cn.Spec.Replacements))
	}
	return errors.Join(errs...)
}

// faultsOf says what a ComputeNode's disks are reported for.
func faultsOf(cn *v1alpha1.ComputeNode) error {
	var errs []error
	for _, d := range cn.Status.Disks {
		if d.State != v1alpha1.DiskHealthy && d.State != v1alpha1.DiskUnknown || len(d.Faults) > 0 {
			errs = append(errs, fmt.Errorf("ComputeNode %s: disk %s (%s) is %s: %v", cn.Name, d.ID, d.Device, d.State, d.Faults))
		}
	}
	return errors.Join(errs...)
}

// lacksVolumes says whether a prepared disk of the node is not offered as a volume.
func lacksVolumes(n *lab.Node, volumes []corev1.PersistentVolume) error {
	var errs []error
	for _, disk := range n.PreparedDisks() {
		id, err := n.DiskID(disk)
		if err != nil {
			return err
		}
		of := volumesOn(volumes, id)
		if len(of) != 1 {
			errs = append(errs, fmt.Errorf("disk %s of %s has %d volumes", disk, n.Name, len(of)))
			continue
		}
		if pv := of[0]; pv.Status.Phase != corev1.VolumeAvailable || quarantined(&pv) || pv.Labels[v1alpha1.LabelNode] != n.Name {
			errs = append(errs, fmt.Errorf("volume %s of disk %s of %s: phase %s, labels %v", pv.Name, disk, n.Name, pv.Status.Phase, pv.Labels))
		}
	}
	return errors.Join(errs...)
}

// volumesOn are the volumes of one disk.
func volumesOn(volumes []corev1.PersistentVolume, disk string) []corev1.PersistentVolume {
	return slices.DeleteFunc(slices.Clone(volumes), func(pv corev1.PersistentVolume) bool { return pv.Annotations[v1alpha1.AnnotationDisk] != disk })
}

// quarantined is whether a volume carries both marks of a quarantine.
func quarantined(pv *corev1.PersistentVolume) bool {
	return pv.Labels[v1alpha1.LabelQuarantined] == "true" && strings.Contains(pv.Annotations[v1alpha1.AnnotationTaints], v1alpha1.TaintDisk)
}
