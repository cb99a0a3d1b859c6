package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/node/disk"
	"holdfast.dev/e2e/wait"
)

const faultTimeout = 30 * time.Second

// diskOf is the i-th disk of a node as the node runner has it.
func (n *simNode) diskOf(ctx context.Context, i int) (disk.Disk, error) {
	st, err := n.api.State(ctx)
	if err != nil {
		return disk.Disk{}, err
	}
	if i >= len(st.Disks) {
		return disk.Disk{}, fmt.Errorf("node %s has %d disks", n.name, len(st.Disks))
	}
	return st.Disks[i], nil
}

// reported is a disk in its node's ComputeNode; nil when it is not there.
func (s *site) reported(ctx context.Context, nodeName, disk string) (*v1alpha1.ComputeNode, *v1alpha1.Disk, error) {
	var cn v1alpha1.ComputeNode
	if err := s.client.Get(ctx, client.ObjectKey{Name: nodeName}, &cn); err != nil {
		return nil, nil, err
	}
	for i := range cn.Status.Disks {
		if cn.Status.Disks[i].ID == disk {
			return &cn, &cn.Status.Disks[i], nil
		}
	}
	return &cn, nil, nil
}

// volumesOn lists the PersistentVolumes of one disk, or of all other disks.
func (s *site) volumesOn(ctx context.Context, disk string, others bool) ([]corev1.PersistentVolume, error) {
	var list corev1.PersistentVolumeList
	if err := s.client.List(ctx, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pv corev1.PersistentVolume) bool {
		return (pv.Annotations[v1alpha1.AnnotationDisk] == disk) == others
	}), nil
}

func quarantined(pv corev1.PersistentVolume) bool {
	return pv.Labels[v1alpha1.LabelQuarantined] == "true"
}

// claim makes a PersistentVolumeClaim on one disk and the pod that makes the
// scheduler bind it. The pod's own image is not on these nodes and does not
// matter: binding happens before it would start.
func (s *site) claim(ctx context.Context, name, diskLabel string) error {
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: ptr.To("local-ssd"),
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}},
		},
	}
	if diskLabel != "" {
		pvc.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelDisk: diskLabel}}
	}
	if err := s.client.Create(ctx, pvc); err != nil {
		return err
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{Name: "db", Image: "postgres:17",
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/var/lib/postgresql/data"}}}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}},
		},
	}
	return s.client.Create(ctx, pod)
}

// dropClaim is what an owner does who has moved the data elsewhere.
func (s *site) dropClaim(ctx context.Context, name string) error {
	meta := metav1.ObjectMeta{Name: name, Namespace: "default"}
	if err := client.IgnoreNotFound(s.client.Delete(ctx, &corev1.Pod{ObjectMeta: meta}, client.GracePeriodSeconds(0))); err != nil {
		return err
	}
	return client.IgnoreNotFound(s.client.Delete(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: meta}))
}

func (s *site) bound(ctx context.Context, name string) (string, error) {
	var pvc corev1.PersistentVolumeClaim
	if err := s.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, &pvc); err != nil {
		return "", err
	}
	if pvc.Status.Phase != corev1.ClaimBound {
		return "", nil
	}
	return pvc.Spec.VolumeName, nil
}

// warned returns the Warning Event about a claim's disk.
func (s *site) warned(ctx context.Context, name string) (*corev1.Event, error) {
	var list corev1.EventList
	if err := s.client.List(ctx, &list, client.InNamespace("default")); err != nil {
		return nil, err
	}
	for i, e := range list.Items {
		if e.InvolvedObject.Kind == "PersistentVolumeClaim" && e.InvolvedObject.Name == name && e.Type == corev1.EventTypeWarning && strings.Contains(e.Reason, "Disk") {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// faultTimes is how long a fault took to be known, and to be acted on.
type faultTimes struct{ computeNode, quarantine time.Duration }

// awaitFault waits until a disk is in the state and all its volumes are quarantined.
func (s *site) awaitFault(ctx context.Context, nodeName, disk string, state v1alpha1.DiskState, since time.Time) (faultTimes, error) {
	var t faultTimes
	_, err := wait.Until(ctx, faultTimeout, fmt.Sprintf("disk %s %s in ComputeNode %s", disk, state, nodeName), func() (bool, error) {
		_, d, err := s.reported(ctx, nodeName, disk)
		return d != nil && d.State == state, err
	})
	if err != nil {
		return t, err
	}
	t.computeNode = time.Since(since)
	_, err = wait.Until(ctx, faultTimeout, "quarantine of disk "+disk, func() (bool, error) {
		pvs, err := s.volumesOn(ctx, disk, false)
		return len(pvs) > 0 && !slices.ContainsFunc(pvs, func(pv corev1.PersistentVolume) bool { return !quarantined(pv) }), err
	})
	t.quarantine = time.Since(since)
	return t, err
}

// stepFault: a real I/O error becomes metric, ComputeNode, quarantine and Event.
func (d *demo) stepFault(ctx context.Context) error {
	s := d.world.site("az1-c1")
	n := s.nodes[0]
	disk, err := n.diskOf(ctx, 0)
	if err != nil {
		return err
	}
	pvs, err := s.volumesOn(ctx, disk.ID, false)
	if err != nil {
		return err
	}
	if len(pvs) == 0 {
		return fmt.Errorf("no PersistentVolume on %s", disk.ID)
	}
	label := pvs[0].Labels[v1alpha1.LabelDisk]
	if err := s.claim(ctx, "orders-db", label); err != nil {
		return err
	}
	if _, err := wait.Until(ctx, faultTimeout, "claim orders-db bound", func() (bool, error) {
		pv, err := s.bound(ctx, "orders-db")
		return pv == pvs[0].Name, err
	}); err != nil {
		return err
	}
	d.rep.ok("claim default/orders-db is bound to %s on disk %s (%s of %s)", pvs[0].Name, disk.ID, disk.Device, n.name)

	fault, err := n.api.Fail(ctx, disk.Name)
	if err != nil {
		return err
	}
	t, err := s.awaitFault(ctx, n.name, disk.ID, v1alpha1.DiskFailed, fault.Time)
	if err != nil {
		return err
	}
	cn, bad, err := s.reported(ctx, n.name, disk.ID)
	if err != nil {
		return err
	}
	d.rep.ok("ComputeNode %s says %s after %s: %s", n.name, bad.State, seconds(t.computeNode), cn.Status.Summary)
	d.rep.line("%s", indent("kernel log: "+bad.Faults[0].Evidence))
	d.rep.ok("its volumes are quarantined after %s", seconds(t.quarantine))
	d.faults = append(d.faults, t)
	if err := d.othersOpen(ctx, s, disk.ID); err != nil {
		return err
	}
	if err := d.metricShows(ctx, n, disk.ID, "Failed"); err != nil {
		return err
	}
	var ev *corev1.Event
	if _, err := wait.Until(ctx, faultTimeout, "Event on claim orders-db", func() (bool, error) {
		ev, err = s.warned(ctx, "orders-db")
		return ev != nil, err
	}); err != nil {
		return err
	}
	d.rep.ok("the claim's owner is told: %s %s", ev.Type, ev.Reason)
	d.rep.line("%s", indent(ev.Message))
	if err := d.quarantineHolds(ctx, s, n); err != nil {
		return err
	}
	return d.show(ctx, "disks", "--bad")
}

// show prints what the command line says, as a person would see it.
func (d *demo) show(ctx context.Context, args ...string) error {
	out, err := d.world.fleet.Holdfast(ctx, args...)
	if err != nil {
		return err
	}
	d.rep.line("%s", indent("$ holdfast "+strings.Join(args, " ")+"\n"+string(out)))
	return nil
}

// othersOpen checks that no volume of another disk is quarantined.
func (d *demo) othersOpen(ctx context.Context, s *site, disk string) error {
	others, err := s.volumesOn(ctx, disk, true)
	if err != nil {
		return err
	}
	for _, pv := range others {
		if quarantined(pv) {
			return fmt.Errorf("%s is on another disk and quarantined", pv.Name)
		}
	}
	d.rep.ok("only that disk's: the %d volumes of other disks are open", len(others))
	return nil
}

func (d *demo) metricShows(ctx context.Context, n *simNode, disk, state string) error {
	body, err := get(ctx, fmt.Sprintf("http://%s:9808/metrics", n.address))
	if err != nil {
		return err
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "holdfast_disk_monitor_disk_state{") && strings.Contains(line, `"`+disk+`"`) && strings.Contains(line, `"`+state+`"`) && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			d.rep.ok("metric: %s", strings.TrimSpace(line))
			return nil
		}
	}
	return fmt.Errorf("no metric says that %s is %s", disk, state)
}

// quarantineHolds: an unbound volume of a failed disk gets no new claim from
// the stock scheduler, which goes on binding others.
func (d *demo) quarantineHolds(ctx context.Context, s *site, n *simNode) error {
	disk, err := n.diskOf(ctx, 1)
	if err != nil {
		return err
	}
	fault, err := n.api.Fail(ctx, disk.Name)
	if err != nil {
		return err
	}
	t, err := s.awaitFault(ctx, n.name, disk.ID, v1alpha1.DiskFailed, fault.Time)
	if err != nil {
		return err
	}
	d.faults = append(d.faults, t)
	pvs, err := s.volumesOn(ctx, disk.ID, false)
	if err != nil {
		return err
	}
	if err := s.claim(ctx, "late-db", pvs[0].Labels[v1alpha1.LabelDisk]); err != nil {
		return err
	}
	if err := s.claim(ctx, "other-db", ""); err != nil {
		return err
	}
	if _, err := wait.Until(ctx, faultTimeout, "claim other-db bound", func() (bool, error) {
		pv, err := s.bound(ctx, "other-db")
		return pv != "", err
	}); err != nil {
		return err
	}
	if _, err := wait.Until(ctx, faultTimeout, "the scheduler's word on late-db", func() (bool, error) {
		var pod corev1.Pod
		if err := s.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "late-db"}, &pod); err != nil {
			return false, err
		}
		return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse
		}), nil
	}); err != nil {
		return err
	}
	if pv, err := s.bound(ctx, "late-db"); err != nil {
		return err
	} else if pv != "" {
		return fmt.Errorf("claim late-db is bound to the quarantined %s", pv)
	}
	d.rep.ok("a new claim for a second failed disk stays Pending under the stock scheduler, one without a wish is bound elsewhere")
	for _, name := range []string{"late-db", "other-db"} {
		if err := s.dropClaim(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// stepMissing: a disk disappears; its plan survives kill -9; the new disk ends it.
func (d *demo) stepMissing(ctx context.Context) error {
	s := d.world.site("az2-c1")
	n := s.nodes[0]
	disk, err := n.diskOf(ctx, 0)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := n.api.Remove(ctx, disk.Name); err != nil {
		return err
	}
	t, err := s.awaitFault(ctx, n.name, disk.ID, v1alpha1.DiskMissing, start)
	if err != nil {
		return err
	}
	d.rep.ok("disk %s of %s is pulled: Missing after %s, its volumes quarantined after %s", disk.ID, n.name, seconds(t.computeNode), seconds(t.quarantine))
	if err := d.flavor(ctx, s, n, metav1.ConditionFalse); err != nil {
		return err
	}
	if err := d.othersOpen(ctx, s, disk.ID); err != nil {
		return err
	}
	var plan v1alpha1.Remediation
	if _, err := wait.Until(ctx, faultTimeout, "a plan that waits for a new disk", func() (bool, error) {
		p, err := s.planOf(ctx, disk.ID)
		if p == nil || err != nil {
			return false, err
		}
		plan = *p
		return plan.Status.Step == v1alpha1.StepAwaitReplacement && plan.Status.Message != "", nil
	}); err != nil {
		return err
	}
	d.rep.ok("plan %s is at %s: %s", plan.Name, plan.Status.Step, plan.Status.Message)
	if err := d.show(ctx, "repairs"); err != nil {
		return err
	}
	if err := d.killController(ctx, s); err != nil {
		return err
	}
	return d.replace(ctx, s, n, disk, &plan)
}

// flavor checks what the ComputeNode says of the disks that its flavor wants.
func (d *demo) flavor(ctx context.Context, s *site, n *simNode, want metav1.ConditionStatus) error {
	var c *metav1.Condition
	if _, err := wait.Until(ctx, faultTimeout, "FlavorSatisfied="+string(want)+" on "+n.name, func() (bool, error) {
		cn, _, err := s.reported(ctx, n.name, "")
		if err != nil {
			return false, err
		}
		c = meta.FindStatusCondition(cn.Status.Conditions, v1alpha1.ConditionFlavorSatisfied)
		return c != nil && c.Status == want, nil
	}); err != nil {
		return err
	}
	d.rep.ok("against flavor %s: FlavorSatisfied=%s %s", flavor, c.Status, c.Message)
	return nil
}

func (s *site) planOf(ctx context.Context, disk string) (*v1alpha1.Remediation, error) {
	var list v1alpha1.RemediationList
	if err := s.client.List(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Spec.Disk == disk {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// killController kills the remediation controller with SIGKILL, wherever it runs.
func (d *demo) killController(ctx context.Context, s *site) error {
	var pods corev1.PodList
	if err := s.client.List(ctx, &pods, client.InNamespace("holdfast-system")); err != nil {
		return err
	}
	for _, p := range pods.Items {
		if !strings.HasPrefix(p.Name, "remediation-controller-") {
			continue
		}
		for _, n := range s.nodes {
			if n.name != p.Spec.NodeName {
				continue
			}
			pids, err := n.api.KillPod(ctx, p.Namespace, p.Name)
			if err != nil {
				return err
			}
			if _, err := wait.Until(ctx, faultTimeout, "restart of "+p.Name, func() (bool, error) {
				var now corev1.Pod
				if err := s.client.Get(ctx, client.ObjectKeyFromObject(&p), &now); err != nil {
					return false, err
				}
				return len(now.Status.ContainerStatuses) > 0 && now.Status.ContainerStatuses[0].RestartCount > 0 && now.Status.ContainerStatuses[0].Ready, nil
			}); err != nil {
				return err
			}
			d.rep.ok("remediation-controller (process %v on %s) was killed with -9 in the middle of the plan and is back", pids, n.name)
			return nil
		}
	}
	return fmt.Errorf("no pod of remediation-controller on %s", s.name)
}

// replace puts a new disk into the slot and waits for the end of the plan.
func (d *demo) replace(ctx context.Context, s *site, n *simNode, old disk.Disk, plan *v1alpha1.Remediation) error {
	start := time.Now()
	fresh, err := n.api.Replace(ctx, old.Name)
	if err != nil {
		return err
	}
	var pvs []corev1.PersistentVolume
	if _, err := wait.Until(ctx, faultTimeout, "volumes on the new disk "+fresh.ID, func() (bool, error) {
		pvs, err = s.volumesOn(ctx, fresh.ID, false)
		return len(pvs) > 0, err
	}); err != nil {
		return err
	}
	d.rep.ok("new disk %s in %s: volume %s is offered after %s", fresh.ID, fresh.Slot, pvs[0].Name, seconds(time.Since(start)))
	var done v1alpha1.Remediation
	if _, err := wait.Until(ctx, time.Minute, "plan "+plan.Name+" done", func() (bool, error) {
		err := s.client.Get(ctx, client.ObjectKeyFromObject(plan), &done)
		return done.Status.Phase == v1alpha1.PhaseSucceeded, err
	}); err != nil {
		return fmt.Errorf("%w: it is %s at %s: %s", err, done.Status.Phase, done.Status.Step, done.Status.Message)
	}
	if _, err := wait.Until(ctx, faultTimeout, "ComputeNode "+n.name+" Healthy", func() (bool, error) {
		cn, gone, err := s.reported(ctx, n.name, old.ID)
		return err == nil && gone == nil && cn.Status.State == v1alpha1.DiskHealthy && len(cn.Spec.Quarantine) == 0, err
	}); err != nil {
		return err
	}
	if err := d.flavor(ctx, s, n, metav1.ConditionTrue); err != nil {
		return err
	}
	left, err := s.volumesOn(ctx, old.ID, false)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%d volumes of the old disk are left", len(left))
	}
	d.rep.ok("plan done %s after the swap: old volumes retired, quarantine lifted, ComputeNode %s Healthy", seconds(time.Since(start)), n.name)
	return d.auditOnce(&done)
}

// auditOnce checks that no effect is in the audit trail twice.
func (d *demo) auditOnce(plan *v1alpha1.Remediation) error {
	seen := map[string]bool{}
	var lines []string
	for _, e := range plan.Status.Audit {
		key := string(e.Step) + ": " + e.Effect
		if seen[key] {
			return fmt.Errorf("%s is in the audit trail twice", key)
		}
		seen[key] = true
		lines = append(lines, e.Time.UTC().Format(time.TimeOnly)+" "+key)
	}
	if len(lines) == 0 {
		return fmt.Errorf("plan %s has no audit trail", plan.Name)
	}
	d.rep.ok("the audit trail has each of its %d effects once", len(lines))
	d.rep.line("%s", indent(strings.Join(lines, "\n")))
	return nil
}
