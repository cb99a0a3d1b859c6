//go:build lab

package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/monitor/smart"
)

// stacks are the layers that the first node's spare disks get.
var stacks = []struct {
	bus   machine.Bus
	layer lab.Layer
	says  string // of the kernel's line about a bad sector
	class v1alpha1.FaultClass
	only  []string // of the faults; nil is each, and a swap
}{
	{machine.SCSI, lab.Raw, "critical medium error", v1alpha1.FaultMedium, nil},
	{machine.SCSI, lab.LVM, "critical medium error", v1alpha1.FaultMedium, nil},
	{machine.ATA, lab.MD, "I/O error", v1alpha1.FaultBlockIO, nil},
	{machine.NVMe, lab.Raw, "", "", ofNVMe},
	{machine.NVMe, lab.LVM, "", "", ofNVMe},
	{machine.NVMe, lab.MD, "", "", ofNVMe},
	{machine.NVMe, lab.DMCrypt, "critical medium error", v1alpha1.FaultMedium, nil},
}

// ofNVMe are the faults that other buses do not have, or have otherwise: the driver's timeouts.
var ofNVMe = []string{"hung", "critical warning"}

// fault is something that happens to a disk.
type fault struct {
	name   string
	happen func(t *testing.T)
}

// testStacks: faults below LVM, an array and encryption are the disk's, and the
// volumes on top are closed and their owners told, as if nothing lay between.
func testStacks(t *testing.T) {
	for _, s := range stacks {
		v := stackedVictim(t, l.Nodes[0], s.layer, "spare"+string(s.bus))
		faults := []fault{
			{"bad sector", func(t *testing.T) { v.badSector(t, s.says, s.class) }},
			{"file system", v.shutDown},
			{"pulled", v.goAndComeBack},
			{"hung", func(t *testing.T) { v.hang(t, s.bus) }},
		}
		if s.bus == machine.NVMe {
			faults = append(faults, fault{"critical warning", v.warnCritically})
		}
		for _, fault := range faults {
			if s.only != nil && !slices.Contains(s.only, fault.name) {
				continue
			}
			if !t.Run(fmt.Sprintf("%s on %s, %s", s.layer, s.bus, fault.name), func(t *testing.T) {
				fault.happen(t)
				v.mend(t, s.layer)
			}) {
				t.FailNow() // the disk is in nobody knows what state
			}
		}
		if s.only == nil && !t.Run(fmt.Sprintf("%s on %s, swapped", s.layer, s.bus), func(t *testing.T) { v = v.swap(t, s.layer, s.bus) }) {
			t.FailNow()
		}
		v.unstack(t, s.layer)
	}
	awaitHealthy(t)
}

// stackedVictim is a spare disk with a layer on it and, above that, a volume that
// is made by hand.
func stackedVictim(t *testing.T, n *lab.Node, layer lab.Layer, disk string) *victim {
	t.Helper()
	v := stacked(t, n, layer, disk)
	must(t, l.Client.Create(t.Context(), v.volume()))
	return v
}

func stacked(t *testing.T, n *lab.Node, layer lab.Layer, disk string) *victim {
	t.Helper()
	v := &victim{n: n, disk: disk, id: have[string](t)(n.Identify(t.Context(), disk)), pv: "stacked-" + disk}
	v.dir = have[string](t)(n.Stack(t.Context(), layer, disk))
	return v
}

// volume is the volume on top, as a provisioner would make it.
func (v *victim) volume() *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: v.pv,
			Labels:      map[string]string{v1alpha1.LabelNode: v.n.Name, v1alpha1.LabelDisk: diskid.Label(v.id)},
			Annotations: map[string]string{v1alpha1.AnnotationDisk: v.id}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("32Mi")}, StorageClassName: "stacked",
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: v.dir}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{v.n.Name}}}}}}},
		},
	}
}

// shutDown lets every write to the disk fail until the file system above gives up.
func (v *victim) shutDown(t *testing.T) {
	t.Helper()
	v.use(t, "ledger-"+v.n.Name+"-"+v.disk)
	since := time.Now()
	must(t, v.n.SetFault(t.Context(), v.disk, machine.Fault{ReadOnly: true}))
	fails(t, v.n, "echo row > %[1]s/row; sync %[1]s/row; echo row > %[1]s/row2; sync %[1]s/row2", v.dir)
	v.awaitFault(t, v1alpha1.FaultFilesystem, v1alpha1.DiskFailed)
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskFailed, since)
}

// hang lets a disk answer nothing: it is Degraded, and the owner of its claim is told.
// The log is empty below virtio-scsi, which has no timeout (drivers/scsi/virtio_scsi.c,
// virtscsi_eh_timed_out), and below ATA, whose timeout the lab takes away; an NVMe
// driver tells of it after 90 s, to which the lab sets its timeout, which is a warning.
func (v *victim) hang(t *testing.T, bus machine.Bus) {
	t.Helper()
	ctx := t.Context()
	v.use(t, "slow-"+v.n.Name+"-"+v.disk)
	since := time.Now()
	must(t, v.n.SetFault(ctx, v.disk, machine.Fault{Hung: true}))
	v.awaitFault(t, v1alpha1.FaultNoAnswer, v1alpha1.DiskDegraded)
	t.Logf("NoAnswer %.0f s after the disk's last answer", time.Since(since).Seconds())
	eventually(t, patience, "Event DiskDegraded on claim "+v.app, func() (bool, error) {
		var events corev1.EventList
		err := l.Client.List(ctx, &events, client.InNamespace(namespace))
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Kind == "PersistentVolumeClaim" && e.InvolvedObject.Name == v.app && e.Reason == "DiskDegraded" && strings.Contains(e.Message, v.id)
		}), err
	})
	if bus == machine.NVMe {
		eventually(t, patience, "the driver's timeouts among the warnings", func() (bool, error) {
			values, err := l.Monitoring.Query(ctx, fmt.Sprintf(`holdfast_disk_monitor_kernel_log_discounted_total{class="NVMe",node=%q} > 0`, v.n.Name))
			return len(values) > 0, err
		})
	}
}

// goAndComeBack pulls the disk, waits until its owner is told, and puts it back.
func (v *victim) goAndComeBack(t *testing.T) {
	t.Helper()
	v.use(t, "absent-"+v.n.Name+"-"+v.disk)
	since := time.Now()
	t.Logf("Missing %.1f s after the pull", v.pull(t).Seconds())
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskMissing, since)
	must(t, v.n.Insert(t.Context(), v.disk))
}

// swap pulls the disk for good and puts another one in its place, which gets the
// same layer: that ends the plan for the old one. It returns the new one.
func (v *victim) swap(t *testing.T, layer lab.Layer, bus machine.Bus) *victim {
	t.Helper()
	ctx := t.Context()
	v.use(t, "swapped-"+v.n.Name+"-"+v.disk)
	since := time.Now()
	v.pull(t)
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskMissing, since)
	v.awaitStep(t, v1alpha1.StepAwaitReplacement)
	v.abandon(t)
	must(t, v.n.CloseStack(ctx, layer, v.disk))
	serial, wwn := v.newDisk(t)
	if bus == machine.ATA { // whose bay is changed while the power is off
		boot := have[string](t)(v.n.BootID(ctx))
		v.n.PowerCut()
		must(t, v.n.Swap(ctx, v.disk, serial, wwn))
		must(t, v.n.PowerOn(ctx))
		must(t, v.n.AwaitShell(ctx))
		must(t, v.n.Prepare(ctx))
		must(t, v.n.AwaitReady(ctx, boot))
	} else {
		must(t, v.n.Swap(ctx, v.disk, serial, wwn))
	}
	next := stacked(t, v.n, layer, v.disk)
	v.awaitReplaced(t)
	must(t, l.Client.Create(ctx, next.volume()))
	next.use(t, "anew-"+v.n.Name+"-"+v.disk)
	next.abandon(t)
	awaitHealthy(t)
	return next
}

// warnCritically has an NVMe disk say that it has become read only.
func (v *victim) warnCritically(t *testing.T) {
	t.Helper()
	v.use(t, "warned-"+v.n.Name+"-"+v.disk)
	since := time.Now()
	must(t, v.n.SetFault(t.Context(), v.disk, machine.Fault{CriticalWarning: uint8(smart.ReadOnly)}))
	v.awaitFault(t, v1alpha1.FaultSMART, v1alpha1.DiskFailed)
	v.awaitQuarantine(t, since)
	v.awaitTold(t, v1alpha1.DiskFailed, since)
}

// awaitFault waits until the disk has a fault of the class and is in one of the states.
func (v *victim) awaitFault(t *testing.T, class v1alpha1.FaultClass, states ...v1alpha1.DiskState) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("a fault of class %s of disk %s", class, v.id), func() (bool, error) {
		d, err := v.reported(t.Context())
		if err != nil {
			return false, err
		}
		if !slices.Contains(states, d.State) || !slices.ContainsFunc(d.Faults, func(f v1alpha1.Fault) bool { return f.Class == class }) {
			return false, fmt.Errorf("it is %s: %v", d.State, d.Faults)
		}
		return true, nil
	})
}

// mend makes the disk good, as an operator does who has found the cause: the
// faults are cleared by hand, and the volume is made anew.
func (v *victim) mend(t *testing.T, layer lab.Layer) {
	t.Helper()
	ctx := t.Context()
	must(t, v.n.SetFault(ctx, v.disk, machine.Fault{}))
	v.abandon(t)
	// A file system that has given up is only itself again when it is mounted anew.
	must(t, v.n.Restore(ctx, layer, v.disk))
	var cn v1alpha1.ComputeNode
	must(t, l.Client.Get(ctx, client.ObjectKey{Name: v.n.Name}, &cn))
	patch := client.MergeFrom(cn.DeepCopy())
	if cn.Annotations == nil {
		cn.Annotations = map[string]string{}
	}
	cn.Annotations[v1alpha1.AnnotationClearFaults] = v.id + "@" + time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	must(t, l.Client.Patch(ctx, &cn, patch))
	eventually(t, time.Minute, "disk "+v.id+" Healthy, and its quarantine over", func() (bool, error) {
		d, err := v.reported(ctx)
		if err != nil {
			return false, err
		}
		if len(d.Faults) > 0 || d.State != v1alpha1.DiskHealthy {
			return false, fmt.Errorf("it is %s: %v", d.State, d.Faults)
		}
		var pv corev1.PersistentVolume
		err = l.Client.Get(ctx, client.ObjectKey{Name: v.pv}, &pv)
		return err == nil && !quarantined(&pv), err
	})
	v.awaitGone(t)
	must(t, l.Client.Create(ctx, v.volume()))
}

// awaitGone deletes the volume's object and waits until it is gone.
func (v *victim) awaitGone(t *testing.T) {
	t.Helper()
	must(t, l.Client.Delete(t.Context(), v.volume()))
	eventually(t, patience, "volume "+v.pv+" gone", func() (bool, error) {
		var pv corev1.PersistentVolume
		err := l.Client.Get(t.Context(), client.ObjectKey{Name: v.pv}, &pv)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

// unstack leaves the spare disk blank.
func (v *victim) unstack(t *testing.T, layer lab.Layer) {
	t.Helper()
	v.awaitGone(t)
	must(t, v.n.Unstack(t.Context(), layer, v.disk))
}
