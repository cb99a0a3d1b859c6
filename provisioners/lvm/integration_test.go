package lvm_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/inventory"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

func TestClaimsGetVolumesThatGrowAndGo(t *testing.T) {
	e := newEnv(t, "life")
	e.until("capacity is published", func() bool { return len(e.capacities()) == 4 })
	before := e.capacities()
	e.claim("thick", "lvm-thick", "5Gi", nil)
	pv := e.bound("thick")
	switch {
	case pv.Labels[v1alpha1.LabelNode] != "life", pv.Spec.CSI.FSType != "ext4", pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		t.Errorf("the volume is %+v", pv)
	case strings.HasPrefix(pv.Spec.CSI.VolumeHandle, e.infos[0].UUID) != (pv.Annotations[v1alpha1.AnnotationDisk] == "life-disk-a"):
		t.Errorf("handle %s and disk %q", pv.Spec.CSI.VolumeHandle, pv.Annotations[v1alpha1.AnnotationDisk])
	}
	group := groupOf(t, e, pv)
	e.until("capacity is less", func() bool { return e.capacities()["lvm-thick "+group] == before["lvm-thick "+group]-5*gib })
	// By LVM's number of changes the scheduler knows at once that the room counts this volume.
	made, err := strconv.Atoi(pv.Spec.CSI.VolumeAttributes[v1alpha1.VolumeGroupSeqno])
	if err != nil {
		t.Fatal(err)
	}
	e.until("every capacity of the group counts the volume", func() bool { told := e.counted(group); return len(told) == 2 && slices.Min(told) >= made })
	lv := e.host.Volumes(group)[0]
	if got := vg.Tags(lv.Tags).Get(vg.KeyPVC); got != "default/thick" {
		t.Errorf("tag of the claim is %q", got)
	}

	var c corev1.PersistentVolumeClaim
	key := client.ObjectKey{Namespace: "default", Name: "thick"}
	if err := e.admin.Get(t.Context(), key, &c); err != nil {
		t.Fatal(err)
	}
	c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("7Gi")
	if err := e.admin.Update(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	e.until("the claim waits for the kubelet", func() bool {
		return e.admin.Get(t.Context(), key, &c) == nil && c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] == corev1.PersistentVolumeClaimNodeResizePending
	})
	if got := e.bound("thick").Spec.Capacity.Storage().Value(); got != 7*gib || e.host.Volumes(group)[0].Size != 7*gib {
		t.Errorf("the object has %d bytes, the volume %d", got, e.host.Volumes(group)[0].Size)
	}

	if err := e.admin.Delete(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	e.until("the volume is gone", func() bool {
		return apierrors.IsNotFound(e.admin.Get(t.Context(), client.ObjectKey{Name: pv.Name}, pv)) && len(e.host.Volumes(group)) == 0
	})
	e.until("capacity is what it was", func() bool { return e.capacities()["lvm-thick "+group] == before["lvm-thick "+group] })
}

func TestClaimsOfAGroupAreOnTwoDisks(t *testing.T) {
	e := newEnv(t, "apart")
	labels := map[string]string{v1alpha1.LabelAntiAffinity: "quorum"}
	e.claim("q1", "lvm-thin", "1Gi", labels)
	e.claim("q2", "lvm-thin", "1Gi", labels)
	a, b := e.bound("q1"), e.bound("q2")
	if groupOf(t, e, a) == groupOf(t, e, b) {
		t.Errorf("both are in %s", groupOf(t, e, a))
	}
	e.claim("q3", "lvm-thin", "1Gi", labels)
	e.until("the third is given back to the scheduler", func() bool {
		var c corev1.PersistentVolumeClaim
		return e.admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "q3"}, &c) == nil && c.Annotations["volume.kubernetes.io/selected-node"] == ""
	})
	if n := len(e.host.Volumes(e.infos[0].Name)) + len(e.host.Volumes(e.infos[1].Name)); n != 2 {
		t.Errorf("there are %d volumes", n)
	}
}

// The scheduler has promised that room to this claim and the other one to the next.
func TestSchedulersChoiceOfGroupIsKept(t *testing.T) {
	e := newEnv(t, "chosen")
	for i, g := range []int{0, 1, 1, 0} {
		name := fmt.Sprint("c", i)
		e.claimIn(e.infos[g].Name, name, "lvm-thin", "1Gi", nil)
		if got := groupOf(t, e, e.bound(name)); got != e.infos[g].Name {
			t.Errorf("claim %s is in %s, the scheduler chose %s", name, got, e.infos[g].Name)
		}
	}
	e.claimIn("gone", "lost", "lvm-thin", "1Gi", nil)
	e.until("a claim of a group that is not there is given back to the scheduler", func() bool {
		var c corev1.PersistentVolumeClaim
		return e.admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "lost"}, &c) == nil && c.Annotations["volume.kubernetes.io/selected-node"] == ""
	})
}

// Whoever may make claims may write any volume's name into one.
func TestVolumeOfAnotherClaimIsNotCopied(t *testing.T) {
	e := newEnv(t, "theft")
	e.claim("victim", "lvm-thin", "1Gi", nil)
	pv := e.bound("victim")
	class := "lvm-thin"
	thief := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "thief", Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, VolumeName: pv.Name, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	e.create(thief)
	loot := thief.DeepCopy()
	loot.ObjectMeta = metav1.ObjectMeta{Name: "loot", Namespace: "default", Annotations: map[string]string{"volume.kubernetes.io/selected-node": e.node}}
	loot.Spec.VolumeName, loot.Spec.DataSource = "", &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "thief"}
	e.create(loot)
	e.failed("PersistentVolumeClaim", "loot", "claim default/thief is not bound to volume "+pv.Name)
	if n := len(e.host.Volumes(e.infos[0].Name)) + len(e.host.Volumes(e.infos[1].Name)); n != 1 {
		t.Errorf("there are %d volumes, want the victim's alone", n)
	}
}

// A claim that was put back from a backup has another UID, and its volume looks
// released. Its data are what the backup is for.
func TestVolumeOfARestoredClaimStays(t *testing.T) {
	e := newEnv(t, "restored")
	claim := e.claim("ledger", "lvm-thick", "1Gi", nil)
	pv := e.bound("ledger")
	group := groupOf(t, e, pv)
	e.stop()
	again := claim.DeepCopy()
	again.ObjectMeta = metav1.ObjectMeta{Name: "ledger", Namespace: "default"}
	again.Spec.VolumeName = pv.Name
	if err := e.admin.Delete(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	e.until("the claim is gone", func() bool {
		return apierrors.IsNotFound(e.admin.Get(t.Context(), client.ObjectKeyFromObject(claim), &corev1.PersistentVolumeClaim{}))
	})
	e.create(again)
	e.until("the volume is released", func() bool {
		return e.admin.Get(t.Context(), client.ObjectKeyFromObject(pv), pv) == nil && pv.Status.Phase == corev1.VolumeReleased
	})
	e.start()
	e.failed("PersistentVolume", pv.Name, "claim default/ledger names it")
	if n := len(e.host.Volumes(group)); n != 1 {
		t.Errorf("there are %d volumes, want the one with the data", n)
	}
}

func TestQuarantineStopsNewVolumes(t *testing.T) {
	e := newEnv(t, "ill")
	e.until("capacity is published", func() bool { return len(e.capacities()) == 4 })
	e.create(&v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: "ill"}, Spec: v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{
		{Disk: "ill-disk-a", Reason: "Media", By: "test", Since: metav1.Now()}}}})
	e.until("its capacity is withdrawn", func() bool {
		return e.capacities()["lvm-thin ill-hf-a"] == 0 && e.capacities()["lvm-thin ill-hf-b"] > 0
	})
	for i := range 3 {
		e.claim(fmt.Sprint("w", i), "lvm-thin", "1Gi", nil)
	}
	for i := range 3 {
		if g := groupOf(t, e, e.bound(fmt.Sprint("w", i))); g != "ill-hf-b" {
			t.Errorf("a volume is in %s", g)
		}
	}
}

func TestBadClassesSayWhatIsWrong(t *testing.T) {
	e := newEnv(t, "bad")
	e.claim("green", "lvm-bad", "1Gi", nil)
	e.claim("both", "lvm-thin", "1Gi", map[string]string{v1alpha1.LabelAntiAffinity: "x", v1alpha1.LabelAntiAffinityPreferred: "x"})
	for name, want := range map[string]string{"green": `parameter colour="green": unknown; known are`, "both": "keep one"} {
		e.until("an event tells", func() bool {
			var list corev1.EventList
			if err := e.admin.List(t.Context(), &list, client.InNamespace("default")); err != nil {
				t.Fatal(err)
			}
			for _, ev := range list.Items {
				if ev.InvolvedObject.Name == name && strings.Contains(ev.Message, want) {
					return true
				}
			}
			return false
		})
	}
}

// TestClaimGrowsByItsPolicy: above the threshold, up to the ceiling, once at a time.
func TestClaimGrowsByItsPolicy(t *testing.T) {
	e := newEnv(t, "full")
	c := e.claim("full", "lvm-thin", "10Gi", nil)
	pv := e.bound("full")
	group := groupOf(t, e, pv)
	h, err := lvm.ParseHandle(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(c)
	if _, err := e.host.Run(t.Context(), time.Second, "mount", "-t", "xfs", "/dev/"+group+"/"+h.LV, "/kubelet/pods/u/volumes/x/mount"); err != nil {
		t.Fatal(err)
	}
	engine := lvm.NewEngine(lvm.EngineOptions{Node: "full", Groups: e.infos, Host: e.host, Mounts: e.host, Deadlines: lvm.DefaultDeadlines(), Log: slog.New(slog.DiscardHandler)})
	g := lvm.NewGrower(engine, e.admin, slog.New(slog.DiscardHandler))
	requested := func(policy string, used int64) int64 {
		t.Helper()
		if err := e.admin.Get(t.Context(), key, c); err != nil {
			t.Fatal(err)
		}
		if c.Annotations[lvm.AnnotationAutoGrow] = policy; policy == "" {
			delete(c.Annotations, lvm.AnnotationAutoGrow)
		}
		if err := e.admin.Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		e.host.With(group, func(g *lvmfake.Group) { g.LVs[h.LV].Used = used })
		if err := g.Sync(t.Context(), c, pv); err != nil {
			t.Fatal(err)
		}
		if err := e.admin.Get(t.Context(), key, c); err != nil {
			t.Fatal(err)
		}
		return c.Spec.Resources.Requests.Storage().Value()
	}
	const policy = "threshold=80%,step=20%,ceiling=11Gi"
	if got := requested("", 9*gib); got != 10*gib {
		t.Errorf("without a policy it asks for %d", got)
	}
	if got := requested(policy, 7*gib); got != 10*gib {
		t.Errorf("below the threshold it asks for %d", got)
	}
	if got := requested(policy, 9*gib); got != 11*gib {
		t.Errorf("above the threshold it asks for %d", got)
	}
	e.until("the volume is larger", func() bool { l := e.host.Volumes(group)[0]; return l.Size == 11*gib })
}

// TestLimitsFollowTheirClass: a VolumeAttributesClass at creation, and another one later.
func TestLimitsFollowTheirClass(t *testing.T) {
	e := newEnv(t, "limit")
	for name, iops := range map[string]string{"slow": "100", "fast": "1000"} {
		e.create(&storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name}, DriverName: lvm.DriverName, Parameters: map[string]string{"readIOPS": iops}})
	}
	c := e.claim("limited", "lvm-thin", "1Gi", nil)
	group := groupOf(t, e, e.bound("limited"))
	for _, class := range []string{"slow", "fast"} {
		e.until("the claim takes its class", func() bool {
			if err := e.admin.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
				t.Fatal(err)
			}
			c.Spec.VolumeAttributesClassName = &class
			return e.admin.Update(t.Context(), c) == nil
		})
		e.until("the class is current", func() bool {
			now := &corev1.PersistentVolumeClaim{}
			return e.admin.Get(t.Context(), client.ObjectKeyFromObject(c), now) == nil && now.Status.CurrentVolumeAttributesClassName != nil && *now.Status.CurrentVolumeAttributesClassName == class
		})
		if got, want := vg.Tags(e.host.Volumes(group)[0].Tags).Get("hf.limits"), map[string]string{"slow": "0:0:100:0", "fast": "0:0:1000:0"}[class]; got != want {
			t.Errorf("class %s: the disk has limits %q, want %q", class, got, want)
		}
	}
}

// TestANodeCannotWriteForAnother: the token of one node's driver is worth nothing on
// another node's objects.
func TestANodeCannotWriteForAnother(t *testing.T) {
	e := newEnv(t, "mine")
	e.claim("c-mine", "lvm-thin", "1Gi", nil)
	pv := e.bound("c-mine")
	e.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	other, err := client.New(e.config("other"), client.Options{Scheme: e.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	forged := pv.DeepCopy()
	forged.ObjectMeta = metav1.ObjectMeta{Name: "forged", Labels: pv.Labels}
	forged.Spec.ClaimRef = nil
	claim := &corev1.PersistentVolumeClaim{}
	if err := e.admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "c-mine"}, claim); err != nil {
		t.Fatal(err)
	}
	status := []byte(`{"status":{"capacity":{"storage":"9Gi"}}}`)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lvm-csi-driver-mine", Namespace: system}}
	e.until("the node's address is published", func() bool { return e.admin.Get(t.Context(), client.ObjectKeyFromObject(lease), lease) == nil })
	posing := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system, Labels: map[string]string{v1alpha1.LabelNode: "other"}}}
	}
	relabeled := lease.DeepCopy()
	relabeled.Labels[v1alpha1.LabelNode] = "other"
	nodeless, err := client.New(e.config(""), client.Options{Scheme: e.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	mislabeled := posing("lvm-csi-driver-other")
	mislabeled.Labels[v1alpha1.LabelNode] = "mine"
	for what, err := range map[string]error{
		"create a volume of another node": other.Create(t.Context(), forged),
		"delete a volume of another node": other.Delete(t.Context(), pv.DeepCopy()),
		"change a volume of another node": other.Patch(t.Context(), pv.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"mountOptions":["dev"]}}`))),
		"write another node's address":    other.Update(t.Context(), lease.DeepCopy()),
		"take another node's address":     other.Update(t.Context(), relabeled),
		"name the address of a third one": other.Create(t.Context(), posing("lvm-csi-driver-third")),
		"take a lease of others":          other.Create(t.Context(), posing("storage-scheduler")),
		"be two nodes":                    other.Create(t.Context(), mislabeled),
		"take an address away":            other.Delete(t.Context(), lease.DeepCopy()),
		"be no node":                      nodeless.Create(t.Context(), &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Name: "nodeless", Namespace: system}, StorageClassName: "lvm-thin"}),
		"change a claim of another node":  other.Status().Patch(t.Context(), claim, client.RawPatch("application/merge-patch+json", status)),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestClaimsCopyFromAnotherNode: drivers of two nodes, with their own access rights.
func TestClaimsCopyFromAnotherNode(t *testing.T) {
	from, to := newEnv(t, "lend"), newEnv(t, "fetch")
	from.claim("original", "lvm-thin", "1Gi", nil)
	pv := from.bound("original")
	group := groupOf(t, from, pv)
	from.host.With(group, func(g *lvmfake.Group) {
		for _, l := range g.LVs {
			if !l.ThinPool {
				l.Data = "what the pod wrote"
			}
		}
	})
	class := "lvm-thin"
	to.create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "far", Namespace: "default", Annotations: map[string]string{"volume.kubernetes.io/selected-node": to.node}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			DataSource: &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "original"},
			Resources:  corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}})
	far := to.bound("far")
	l := to.host.Volumes(groupOf(t, to, far))[0]
	if far.Labels[v1alpha1.LabelNode] != to.node || l.Data != "what the pod wrote" || l.FS != lvm.XFS || l.Size != 2*gib || l.Formats != 0 {
		t.Errorf("the copy is %+v", l)
	}
	from.until("the snapshot of the transfer is gone", func() bool { return len(from.host.Volumes(group)) == 1 })
	if l := from.host.Volumes(group)[0]; l.Data != "what the pod wrote" {
		t.Errorf("the source is %+v", l)
	}
}

// TestHalfACopyGoesAfterARestart: the driver dies in the middle of a copy, and its claim is
// deleted before it is there again.
func TestHalfACopyGoesAfterARestart(t *testing.T) {
	from, to := newEnv(t, "whole"), newEnv(t, "half")
	from.claim("begin", "lvm-thin", "1Gi", nil)
	pv := from.bound("begin")
	from.host.With(groupOf(t, from, pv), func(g *lvmfake.Group) {
		for _, l := range g.LVs {
			if !l.ThinPool {
				l.Data = "what the pod wrote"
			}
		}
	})
	to.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "write" {
			return lvmfake.KillAfter
		}
		return lvmfake.Honest
	})
	class := "lvm-thin"
	half := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "half", Namespace: "default", Annotations: map[string]string{"volume.kubernetes.io/selected-node": to.node}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			DataSource: &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "begin"},
			Resources:  corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}}
	to.create(half)
	to.until("the driver died", to.host.Dead)
	to.stop()
	if err := to.admin.Delete(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	to.until("the claim is gone", func() bool {
		return apierrors.IsNotFound(to.admin.Get(t.Context(), client.ObjectKeyFromObject(half), &corev1.PersistentVolumeClaim{}))
	})
	count := func() int { return len(to.host.Volumes(to.infos[0].Name)) + len(to.host.Volumes(to.infos[1].Name)) }
	if count() != 1 {
		t.Fatalf("there are %d volumes, want half a copy", count())
	}
	to.host.Revive()
	to.start()
	to.until("half a copy is gone", func() bool { return count() == 0 })
}

// TestRestartLosesNothing: volumes outlive the driver, and are told again from tags.
func TestRestartLosesNothing(t *testing.T) {
	e := newEnv(t, "again")
	e.claim("keep", "lvm-thin", "1Gi", nil)
	pv := e.bound("keep")
	e.stop()
	e.start()
	e.claim("next", "lvm-thick", "1Gi", nil)
	e.bound("next")
	engine := lvm.NewEngine(lvm.EngineOptions{Node: "again", Groups: e.infos, Host: e.host, Mounts: e.host, Deadlines: lvm.DefaultDeadlines(), Log: slog.New(slog.DiscardHandler)})
	inv, err := engine.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, skipped, err := inventory.Recover(inv)
	if err != nil || len(skipped) != 0 || len(again) != 2 {
		t.Fatalf("%d volumes, skipped %v, %v", len(again), skipped, err)
	}
	for _, a := range again {
		if a.Name != pv.Name {
			continue
		}
		if a.Spec.CSI.VolumeHandle != pv.Spec.CSI.VolumeHandle || a.Spec.CSI.FSType != pv.Spec.CSI.FSType || a.Spec.StorageClassName != "lvm-thin" ||
			a.Spec.ClaimRef.Name != "keep" || a.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
			t.Errorf("it is %+v, was %+v", a.Spec, pv.Spec)
		}
		if err := e.admin.Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "dry-" + a.Name, Labels: a.Labels}, Spec: a.Spec}, client.DryRunAll); err != nil {
			t.Errorf("the API server does not take it: %v", err)
		}
		return
	}
	t.Error("the volume was not told again")
}

// TestDeletionByAnotherProvisioner: with --provision=false somebody else asks for deletions,
// by the handle. What keeps a volume is asked of the API server all the same.
func TestDeletionByAnotherProvisioner(t *testing.T) {
	e := newEnvOf(t, "guard", func(o *lvm.Options) { o.Provision, o.Transfer = false, "" })
	conn, err := grpc.NewClient("unix://"+e.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	driver := csi.NewControllerClient(conn)
	var made *csi.CreateVolumeResponse
	e.until("the volume", func() bool {
		made, err = driver.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-guard", Parameters: map[string]string{"pool": "db", "type": "thin"},
			CapacityRange: &csi.CapacityRange{RequiredBytes: gib}, VolumeCapabilities: []*csi.VolumeCapability{{
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}}})
		return err == nil
	})
	handle := made.GetVolume().GetVolumeId()
	refused := func(want codes.Code, says string) {
		t.Helper()
		_, err := driver.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: handle})
		if status.Code(err) != want || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %s and %q", err, want, says)
		}
	}
	refused(codes.Unavailable, "read its object pvc-guard")

	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "guarded", Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		VolumeName: "pvc-guard", StorageClassName: new(string), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	e.create(claim)
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-guard", Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": lvm.DriverName}}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: claim.Spec.AccessModes,
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: claim.Name, UID: claim.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: lvm.DriverName, VolumeHandle: handle}}}}
	e.create(pv)
	e.bound(claim.Name)
	refused(codes.FailedPrecondition, "it is Bound")
	if err := e.admin.Delete(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(pv)
	e.until("the volume is released", func() bool {
		return e.admin.Get(t.Context(), key, pv) == nil && pv.Status.Phase == corev1.VolumeReleased
	})
	again := claim.DeepCopy()
	again.ObjectMeta = metav1.ObjectMeta{Name: claim.Name, Namespace: claim.Namespace}
	e.create(again)
	refused(codes.FailedPrecondition, "put back from a backup?")
	if err := e.admin.Delete(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	e.until("the claim is gone", func() bool {
		return apierrors.IsNotFound(e.admin.Get(t.Context(), client.ObjectKeyFromObject(again), again))
	})
	if _, err := driver.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: handle}); err != nil || len(e.host.Volumes(groupOf(t, e, pv))) != 0 {
		t.Errorf("it is not deleted when nobody wants it: %v", err)
	}
	if err := e.admin.Delete(t.Context(), pv); err != nil {
		t.Error(err)
	}
}
