//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/guest"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/monitor/smart"
)

const namespace = "default"

// victim is the disk that a test breaks, and the pod and claim that use it.
type victim struct {
	n    *lab.Node
	disk string // its place
	id   string
	dir  string // where its file system is mounted in the node
	pv   string
	app  string // name of the pod and its claim; empty when there is none
}

func newVictim(t *testing.T, n *lab.Node, disk string) *victim {
	t.Helper()
	v := &victim{n: n, disk: disk, id: have[string](t)(n.DiskID(disk)), dir: have[string](t)(n.MountPoint(disk))}
	var volumes corev1.PersistentVolumeList
	must(t, l.Client.List(t.Context(), &volumes))
	of := volumesOn(volumes.Items, v.id)
	if len(of) != 1 {
		t.Fatalf("disk %s of %s has %d volumes", disk, n.Name, len(of))
	}
	v.pv = of[0].Name
	return v
}

// use starts a pod that writes a file to the disk, by way of a claim, and reads
// it again and again past the page cache. It ends when it cannot read it.
func (v *victim) use(t *testing.T, app string) {
	t.Helper()
	v.app = app
	image := have[string](t)(l.Image("storage-tools"))
	var volume corev1.PersistentVolume
	must(t, l.Client.Get(t.Context(), client.ObjectKey{Name: v.pv}, &volume))
	meta := metav1.ObjectMeta{Name: app, Namespace: namespace}
	must(t, l.Client.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(volume.Spec.StorageClassName),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}},
		Selector:  &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelDisk: volume.Labels[v1alpha1.LabelDisk]}},
	}}))
	container := func(name, script string) corev1.Container {
		return corev1.Container{Name: name, Image: image, Command: []string{"bash", "-euc", script}, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}
	}
	must(t, l.Client.Create(t.Context(), &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](0), AutomountServiceAccountToken: ptr.To(false),
		InitContainers: []corev1.Container{container("write", "dd if=/dev/urandom of=/data/rows bs=64k count=4 conv=fsync status=none")},
		Containers: []corev1.Container{container("read",
			"while dd if=/data/rows of=/dev/null bs=4k iflag=direct status=none; do sleep 1; done; echo 'rows cannot be read' >/dev/termination-log; exit 1")},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: app}}}},
	}}))
	eventually(t, patience, "pod "+app+" reading", func() (bool, error) {
		var p corev1.Pod
		err := l.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: app}, &p)
		if err == nil && p.Status.Phase == corev1.PodFailed {
			return false, fmt.Errorf("it has failed: %v", p.Status)
		}
		return p.Status.Phase == corev1.PodRunning, err
	})
	var pvc corev1.PersistentVolumeClaim
	must(t, l.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: app}, &pvc))
	if pvc.Spec.VolumeName != v.pv {
		t.Fatalf("claim %s is bound to %s, want %s", app, pvc.Spec.VolumeName, v.pv)
	}
}

// abandon is what an owner does who has the data elsewhere: pod and claim go.
func (v *victim) abandon(t *testing.T) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: v.app, Namespace: namespace}
	// No kubelet may be there to confirm the end of the pod.
	must(t, client.IgnoreNotFound(l.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: meta}, client.GracePeriodSeconds(0))))
	must(t, client.IgnoreNotFound(l.Client.Delete(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: meta})))
	v.app = ""
}

// reported is the disk in the node's ComputeNode; nil when it is not there.
func (v *victim) reported(ctx context.Context) (*v1alpha1.Disk, error) {
	var cn v1alpha1.ComputeNode
	if err := l.Client.Get(ctx, client.ObjectKey{Name: v.n.Name}, &cn); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(cn.Status.Disks, func(d v1alpha1.Disk) bool { return d.ID == v.id })
	if i < 0 {
		return nil, fmt.Errorf("ComputeNode %s has no disk %s", cn.Name, v.id)
	}
	return &cn.Status.Disks[i], nil
}

// blockLineRE is a line of the kernel's block layer (block/blk-core.c, print_req_error; blk-mq.c from Linux 5.16 on).
var blockLineRE = regexp.MustCompile(`^(I/O error|critical medium error), dev (\S+), sector (\d+) op 0x0:\(READ\)`)

// badSector makes the disk fail under a reading pod, and follows that through
// everything that must know: the pod, ComputeNode, metric, quarantine, Event,
// alert. One of the classes must be among the disk's faults, with a line of the
// kernel that says says.
func (v *victim) badSector(t *testing.T, says string, classes ...v1alpha1.FaultClass) {
	t.Helper()
	ctx := t.Context()
	v.use(t, "orders-"+v.n.Name+"-"+v.disk)
	dev := have[string](t)(v.n.AwaitDevice(ctx, v.disk))
	sector := have[int64](t)(v.n.BadSectors(ctx, v.disk, v.dir+"/rows"))
	since := time.Now()

	var d *v1alpha1.Disk
	took := eventually(t, patience, "disk "+v.id+" Failed in ComputeNode", func() (ok bool, err error) {
		d, err = v.reported(ctx)
		return err == nil && d.State == v1alpha1.DiskFailed, err
	})
	t.Logf("ComputeNode: Failed %.1f s after the sector went bad", took.Seconds())
	v.awaitQuarantine(t, since)
	eventually(t, patience, "evidence in ComputeNode", func() (_ bool, err error) {
		if d, err = v.reported(ctx); err != nil {
			return false, err
		}
		return true, evidence(d, dev, sector, says, classes)
	})
	eventually(t, patience, "pod "+v.app+" failed", func() (bool, error) {
		var p corev1.Pod
		err := l.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: v.app}, &p)
		for _, c := range p.Status.ContainerStatuses {
			if s := c.State.Terminated; s != nil && strings.TrimSpace(s.Message) == "rows cannot be read" {
				return p.Status.Phase == corev1.PodFailed, nil
			}
		}
		return false, errors.Join(err, fmt.Errorf("it is %s", p.Status.Phase))
	})
	v.awaitTold(t, v1alpha1.DiskFailed, since)
}

// evidence says what is not in the disk's faults and should be.
func evidence(d *v1alpha1.Disk, dev string, sector int64, says string, classes []v1alpha1.FaultClass) error {
	for _, f := range d.Faults {
		m := blockLineRE.FindStringSubmatch(f.Evidence)
		if m == nil || !slices.Contains(classes, f.Class) {
			continue
		}
		at, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			return err
		}
		if m[1] != says || m[2] != dev || at < sector || at >= sector+8 || f.Severity != v1alpha1.SeverityCritical || f.Count < 1 {
			return fmt.Errorf("want %s of %s at sector %d, got %s ×%d: %q", says, dev, sector, f.Severity, f.Count, f.Evidence)
		}
		return nil
	}
	return fmt.Errorf("no fault of class %v with a line of the block layer: %v", classes, d.Faults)
}

// awaitQuarantine waits until the disk's volume, and no other, is closed.
func (v *victim) awaitQuarantine(t *testing.T, since time.Time) {
	t.Helper()
	eventually(t, patience, "quarantine of volume "+v.pv, func() (bool, error) {
		var pv corev1.PersistentVolume
		err := l.Client.Get(t.Context(), client.ObjectKey{Name: v.pv}, &pv)
		return err == nil && quarantined(&pv), err
	})
	t.Logf("volume %s: quarantined after %.1f s", v.pv, time.Since(since).Seconds())
	var volumes corev1.PersistentVolumeList
	must(t, l.Client.List(t.Context(), &volumes))
	for _, pv := range volumes.Items {
		switch ref := pv.Spec.ClaimRef; {
		case pv.Labels[v1alpha1.LabelNode] == v.n.Name && pv.Name != v.pv && quarantined(&pv):
			t.Errorf("volume %s of another disk is quarantined", pv.Name)
		case pv.Name == v.pv && v.app != "" && (ref == nil || ref.Name != v.app):
			t.Errorf("the quarantined volume has lost its claim: %v", ref)
		case pv.Name == v.pv && v.app == "" && (ref == nil || ref.Name != v1alpha1.SentinelClaimName):
			t.Errorf("the quarantined volume can be claimed: %v", ref)
		}
	}
}

// awaitTold waits until metric and alert have the disk's state, and the owner of
// the claim, if there is one, an Event.
func (v *victim) awaitTold(t *testing.T, state v1alpha1.DiskState, since time.Time) {
	t.Helper()
	ctx := t.Context()
	eventually(t, patience, "metric of disk "+v.id, func() (bool, error) {
		values, err := l.Monitoring.Query(ctx, fmt.Sprintf(`holdfast_disk_monitor_disk_state{disk=%q,node=%q,state=%q} == 1`, v.id, v.n.Name, state))
		return len(values) == 1, err
	})
	eventually(t, patience, "alert HoldfastDiskFailed of disk "+v.id, func() (bool, error) { return v.alerted(ctx) })
	t.Logf("alert: firing after %.1f s", time.Since(since).Seconds())
	if v.app == "" {
		return
	}
	eventually(t, patience, "Event on claim "+v.app, func() (bool, error) {
		var events corev1.EventList
		err := l.Client.List(ctx, &events, client.InNamespace(namespace))
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Kind == "PersistentVolumeClaim" && e.InvolvedObject.Name == v.app && e.Type == corev1.EventTypeWarning &&
				e.Reason == "DiskQuarantined" && strings.Contains(e.Message, v.id) && strings.Contains(e.Message, v.pv)
		}), err
	})
}

func (v *victim) alerted(ctx context.Context) (bool, error) {
	return l.Monitoring.Firing(ctx, "HoldfastDiskFailed", map[string]string{"disk": v.id, "node": v.n.Name, "cluster": lab.ClusterName})
}

// plan is the newest plan for the disk; nil when there is none.
func (v *victim) plan(ctx context.Context) (*v1alpha1.Remediation, error) {
	var plans v1alpha1.RemediationList
	if err := l.Client.List(ctx, &plans); err != nil {
		return nil, err
	}
	var newest *v1alpha1.Remediation
	for i := range plans.Items {
		p := &plans.Items[i]
		if p.Spec.Disk == v.id && (newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp)) {
			newest = p
		}
	}
	return newest, nil
}

// awaitStep waits until the disk's plan is at a step.
func (v *victim) awaitStep(t *testing.T, step v1alpha1.StepName) {
	t.Helper()
	eventually(t, patience, "plan for disk "+v.id+" at "+string(step), func() (bool, error) {
		p, err := v.plan(t.Context())
		if p == nil {
			return false, errors.Join(err, errors.New("there is no plan"))
		}
		if p.Status.Step != step {
			return false, fmt.Errorf("it is at %s: %s", p.Status.Step, p.Status.Message)
		}
		return true, nil
	})
}

// newDisk is another disk for the place.
func (v *victim) newDisk(t *testing.T) (serial string, wwn uint64) {
	t.Helper()
	d := have[machine.Disk](t)(v.n.Disk(v.disk))
	if d.WWN != 0 {
		d.WWN += 0x10
	}
	return d.Serial + "N", d.WWN
}

// pull takes the disk out and waits until it is Missing. It returns how long that
// took from when the machine had the disk no more: an emulated machine asks its
// kernel first.
func (v *victim) pull(t *testing.T) time.Duration {
	t.Helper()
	order := time.Now()
	must(t, v.n.Pull(t.Context(), v.disk))
	since := time.Now()
	t.Logf("disk %s is out %.1f s after the order", v.id, since.Sub(order).Seconds())
	eventually(t, patience, "disk "+v.id+" Missing in ComputeNode", func() (bool, error) {
		d, err := v.reported(t.Context())
		return err == nil && d.State == v1alpha1.DiskMissing, err
	})
	return time.Since(since)
}

// awaitReplaced waits until the plan for the disk is done, each effect once, and
// the old disk's volume is gone. That the new one offers another, awaitHealthy says.
func (v *victim) awaitReplaced(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	var p *v1alpha1.Remediation
	took := eventually(t, patience, "plan for disk "+v.id+" done", func() (_ bool, err error) {
		if p, err = v.plan(ctx); p == nil {
			return false, errors.Join(err, errors.New("there is no plan"))
		}
		if p.Status.FinishedAt == nil {
			return false, fmt.Errorf("it is at %s: %s", p.Status.Step, p.Status.Message)
		}
		return true, nil
	})
	t.Logf("plan %s: %s %.1f s after the new disk was in place", p.Name, p.Status.Phase, took.Seconds())
	if p.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Errorf("the plan ended as %s: %s", p.Status.Phase, p.Status.Message)
	}
	effects := map[v1alpha1.StepName]int{}
	for _, a := range p.Status.Audit {
		effects[a.Step]++
	}
	for _, step := range []v1alpha1.StepName{
		v1alpha1.StepReserveBudget, v1alpha1.StepRequestReplacement, v1alpha1.StepRetireVolumes, v1alpha1.StepLiftQuarantine, v1alpha1.StepReleaseBudget,
	} {
		if effects[step] != 1 {
			t.Errorf("step %s had %d effects, want 1: %v", step, effects[step], p.Status.Audit)
		}
	}
	if id := have[string](t)(v.n.Identify(ctx, v.disk)); id == v.id {
		t.Errorf("disk %s is still %s", v.disk, id)
	}
	var pv corev1.PersistentVolume
	if err := l.Client.Get(ctx, client.ObjectKey{Name: v.pv}, &pv); !apierrors.IsNotFound(err) {
		t.Errorf("the old disk's volume %s: want that it is gone, got %v", v.pv, err)
	}
}

// testHealth: a disk that warns of itself fails, is closed and told of as one
// whose reads fail. When it takes the warning back, all of that ends.
func testHealth(t *testing.T) {
	const limit = time.Minute
	ctx := t.Context()
	v := newVictim(t, l.Nodes[0], string(machine.NVMe))
	eventually(t, patience, "SMART data of every ATA and NVMe disk", func() (bool, error) {
		values, err := l.Monitoring.Query(ctx, `holdfast_disk_monitor_smart_answers == 1`)
		want := 2*len(l.Nodes) + 2 // and the spare ones; QEMU's SCSI disks have none
		if err == nil && len(values) != want {
			err = fmt.Errorf("%d disks answer, want %d", len(values), want)
		}
		return err == nil, err
	})
	check := func(code int, says string) {
		t.Helper()
		got := 0
		out, err := v.n.Run(ctx, lab.PayloadDir+"/disk-monitor check failed")
		var exit *guest.ExitError
		if errors.As(err, &exit) {
			out, got = exit.Output, exit.Code
		} else {
			must(t, err)
		}
		if got != code || !strings.Contains(out, says) {
			t.Errorf("check failed: exit code %d, %q; want %d, %q", got, out, code, says)
		}
	}
	check(0, "none of")

	since := time.Now()
	must(t, v.n.SetFault(ctx, v.disk, machine.Fault{CriticalWarning: uint8(smart.ReadOnly)}))
	took := eventually(t, patience, "disk "+v.id+" Failed in ComputeNode", func() (bool, error) {
		d, err := v.reported(ctx)
		return err == nil && d.State == v1alpha1.DiskFailed && d.Faults[0].Class == v1alpha1.FaultSMART && d.Faults[0].Evidence == "read only", err
	})
	t.Logf("ComputeNode: Failed %.1f s after the critical warning", took.Seconds())
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskFailed, since)
	check(1, "failed: "+have[string](t)(v.n.AwaitDevice(ctx, v.disk))+" SMART nvme.")

	since = time.Now()
	must(t, v.n.SetFault(ctx, v.disk, machine.Fault{}))
	eventually(t, patience, "volume "+v.pv+" open again", func() (bool, error) {
		d, err := v.reported(ctx)
		if err != nil || d.State != v1alpha1.DiskHealthy {
			return false, err
		}
		var pv corev1.PersistentVolume
		err = l.Client.Get(ctx, client.ObjectKey{Name: v.pv}, &pv)
		return err == nil && !quarantined(&pv), err
	})
	recovered := time.Since(since)
	t.Logf("Healthy, and its volume open, %.1f s after the warning was taken back", recovered.Seconds())
	if recovered > limit {
		t.Errorf("it took %s, want at most %s", recovered, limit)
	}
	check(0, "none of")
	awaitHealthy(t)
}
