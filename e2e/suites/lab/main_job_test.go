//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
)

// testBadSectors: a sector goes bad on each of two disks at once, and both are
// replaced while their nodes run.
func testBadSectors(t *testing.T) {
	t.Run("Both", func(t *testing.T) { // returns when both have
		t.Run("SCSI", func(t *testing.T) {
			t.Parallel()
			badSectorAndSwap(t, newVictim(t, l.Nodes[0], "scsi"), "critical medium error", v1alpha1.FaultMedium)
		})
		t.Run("NVMe", func(t *testing.T) {
			t.Parallel()
			badSectorAndSwap(t, newVictim(t, l.Nodes[1], "nvme"), "critical medium error", v1alpha1.FaultMedium)
		})
	})
	awaitHealthy(t)
}

func badSectorAndSwap(t *testing.T, v *victim, says string, class v1alpha1.FaultClass) {
	v.badSector(t, says, class)
	v.awaitStep(t, v1alpha1.StepAwaitReplacement)
	v.abandon(t)
	v.pull(t)
	serial, wwn := v.newDisk(t)
	must(t, v.n.Swap(t.Context(), v.disk, serial, wwn))
	v.awaitReplaced(t)
}

// testBadSectorAndPowerCut: the node on which the remediation controller is, loses its
// power in the middle of a plan for its own ATA disk. The plan goes on after the
// boot.
func testBadSectorAndPowerCut(t *testing.T) {
	ctx := t.Context()
	v := newVictim(t, nodeOf(t, "remediation-controller"), "ata")
	v.badSector(t, "I/O error", v1alpha1.FaultBlockIO)
	v.awaitStep(t, v1alpha1.StepAwaitReplacement)
	boot := have[string](t)(v.n.BootID(ctx))
	v.n.PowerCut()
	// The bay of an ATA disk is changed while the power is off.
	must(t, v.n.Pull(ctx, v.disk))
	serial, wwn := v.newDisk(t)
	must(t, v.n.Swap(ctx, v.disk, serial, wwn))
	v.abandon(t)
	eventually(t, patience, v.n.Name+" not Ready", func() (bool, error) {
		ok, err := ready(ctx, v.n.Name)
		return !ok, err
	})
	must(t, v.n.PowerOn(ctx))
	must(t, v.n.AwaitShell(ctx))
	must(t, v.n.Prepare(ctx))
	must(t, v.n.AwaitReady(ctx, boot))
	v.awaitReplaced(t)
	awaitHealthy(t)
}

// testPulledDisk: a disk without a claim is pulled, and another one put in its place.
func testPulledDisk(t *testing.T) {
	const limit = 5 * time.Second
	v := newVictim(t, l.Nodes[1], "scsi")
	since := time.Now()
	took := v.pull(t)
	t.Logf("Missing %.1f s after the pull", took.Seconds())
	if took > limit {
		t.Errorf("Missing %s after the pull, want at most %s", took, limit)
	}
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskMissing, since)
	v.awaitStep(t, v1alpha1.StepAwaitReplacement)
	serial, wwn := v.newDisk(t)
	must(t, v.n.Swap(t.Context(), v.disk, serial, wwn))
	v.awaitReplaced(t)
	awaitHealthy(t)
}

// podOf is the pod of an addon with one replica.
func podOf(ctx context.Context, name string) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := l.Client.List(ctx, &pods, client.InNamespace(lab.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": name}); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		if podReady(&pods.Items[i]) {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no pod of %s is ready", name)
}

// nodeOf is the node on which that pod runs.
func nodeOf(t *testing.T, name string) *lab.Node {
	t.Helper()
	p := have[*corev1.Pod](t)(podOf(t.Context(), name))
	for _, n := range l.Nodes {
		if n.Name == p.Spec.NodeName {
			return n
		}
	}
	t.Fatalf("pod %s runs on %s, which is no node of the lab", p.Name, p.Spec.NodeName)
	return nil
}

// testAgentKilled kills the agent while it applies an addon: when it has said
// that it does, its node's network is cut, so that it gets no further, and then
// it is killed.
func testAgentKilled(t *testing.T) {
	const addon = "local-volume-provisioner"
	ctx := t.Context()
	pod := have[*corev1.Pod](t)(podOf(ctx, "holdfast-agent"))
	n := nodeOf(t, "holdfast-agent")
	restarts := pod.Status.ContainerStatuses[0].RestartCount
	statuses := have[watch.Interface](t)(l.Client.Watch(ctx, &v1alpha1.AddonStatusList{}, client.MatchingFields{"metadata.name": addon}))
	defer statuses.Stop()

	must(t, l.Fleet.AddFile("salt/pillar/common.sls", addon+":\n  logLevel: debug\n  storageClasses: [{name: local-ssd}, {name: local-hdd}]\n"))
	killed := make(chan error, 1)
	go func() { killed <- cutAndKill(ctx, statuses.ResultChan(), n, pod) }()
	took, err := l.Push(ctx, "another storage class")
	must(t, errors.Join(<-killed, err))
	t.Logf("every addon is healthy %.1f s after the push", took.Seconds())

	var class storagev1.StorageClass
	must(t, l.Client.Get(ctx, client.ObjectKey{Name: "local-hdd"}, &class))
	pod = have[*corev1.Pod](t)(podOf(ctx, "holdfast-agent"))
	if now := pod.Status.ContainerStatuses[0].RestartCount; now != restarts+1 {
		t.Errorf("the agent was restarted %d times, want once", now-restarts)
	}
	awaitHealthy(t)
}

// cutAndKill waits until the agent applies, cuts it off, kills it and sees that
// it had not finished.
func cutAndKill(ctx context.Context, statuses <-chan watch.Event, n *lab.Node, pod *corev1.Pod) error {
	var name string
	for e := range statuses {
		if s, ok := e.Object.(*v1alpha1.AddonStatus); ok && s.Status.DesiredDigest != s.Status.AppliedDigest {
			name = s.Name
			break
		}
	}
	if name == "" {
		return errors.Join(errors.New("the agent was never seen applying"), ctx.Err())
	}
	if err := n.CutNetwork(ctx, true); err != nil {
		return err
	}
	err := n.KillPod(ctx, pod)
	var s v1alpha1.AddonStatus
	if err == nil {
		err = l.Client.Get(ctx, client.ObjectKey{Name: name}, &s)
	}
	if err == nil && s.Status.DesiredDigest == s.Status.AppliedDigest {
		err = errors.New("the agent had finished when its network was cut")
	}
	return errors.Join(err, n.CutNetwork(context.WithoutCancel(ctx), false))
}

// rebootsVariable overrides how many restarts there are, over all nodes.
const rebootsVariable = "HOLDFAST_LAB_REBOOTS"

// rebootTime is after how long no restart begins any more, when nobody says how many there
// are: on a slow machine one takes minutes.
const rebootTime = 13 * time.Minute

// testReboots: restarts of healthy nodes are no faults, not for a moment.
func testReboots(t *testing.T) {
	ctx := t.Context()
	reboots, until := 20, time.Now().Add(rebootTime)
	if v := os.Getenv(rebootsVariable); v != "" {
		reboots, until = have[int](t)(strconv.Atoi(v)), time.Now().Add(24*time.Hour)
	}
	var before, after v1alpha1.RemediationList
	must(t, l.Client.List(ctx, &before))
	nodes := have[watch.Interface](t)(l.Client.Watch(ctx, &v1alpha1.ComputeNodeList{}))
	var watched sync.WaitGroup
	var faults error
	stopped := make(chan struct{})
	boots := map[string]map[string]bool{} // node → boot ids of its reports
	watched.Go(func() {
		for e := range nodes.ResultChan() {
			cn, ok := e.Object.(*v1alpha1.ComputeNode)
			if !ok {
				select {
				case <-stopped: // a watch that is stopped may say that its connection is closed
				default:
					faults = errors.Join(faults, fmt.Errorf("the watch of ComputeNodes ended early: %v", e.Object))
				}
				return
			}
			if boots[cn.Name] == nil {
				boots[cn.Name] = map[string]bool{}
			}
			boots[cn.Name][cn.Status.BootID] = true
			faults = errors.Join(faults, faultsOf(cn))
		}
	})
	var begun atomic.Int32
	done := map[string]*atomic.Int32{}
	for _, n := range l.Nodes {
		done[n.Name] = new(atomic.Int32)
	}
	err := l.OnAll(ctx, func(ctx context.Context, n *lab.Node) error {
		for { // a node with fewer pods restarts more often
			start, i := time.Now(), int(begun.Add(1))
			if i > reboots || start.After(until) {
				return nil
			}
			if err := rebootAndReport(ctx, n); err != nil {
				return fmt.Errorf("reboot %d, of %s: %w", i, n.Name, err)
			}
			done[n.Name].Add(1)
			t.Logf("reboot %d, of %s: its disks are reported again after %.0f s", i, n.Name, time.Since(start).Seconds())
		}
	})
	// Quiet again before the watch ends: what the last boot brings must be seen, too.
	must(t, err)
	awaitHealthy(t)
	close(stopped)
	nodes.Stop()
	watched.Wait()
	must(t, faults)
	for _, n := range l.Nodes {
		want := int(done[n.Name].Load()) + 1 // and the boot before
		if got := len(boots[n.Name]); got != want || want == 1 {
			t.Errorf("the watch saw reports of %d boots of %s, want %d, and more than 1", got, n.Name, want)
		}
	}
	must(t, l.Client.List(ctx, &after))
	if len(after.Items) != len(before.Items) {
		t.Errorf("%d new plans", len(after.Items)-len(before.Items))
	}
}

// rebootAndReport restarts a node and waits until its monitor has reported from
// the new boot. It asks the API alone: a shell is dear to a node that starts.
func rebootAndReport(ctx context.Context, n *lab.Node) error {
	boot, err := n.BootID(ctx)
	if err != nil {
		return err
	}
	if err := n.BeginReboot(ctx); err != nil {
		return err
	}
	return n.AwaitReport(ctx, boot)
}
