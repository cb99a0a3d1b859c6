//go:build interop

package lvm_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/interop"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

const wrote = "what the pod wrote"

// sidecar starts one of Kubernetes' own programs beside the driver, until the test ends.
func (e *env) sidecar(t *testing.T, name string, args ...string) {
	t.Helper()
	p, err := hostexec.Start(hostexec.Command{Path: interop.Tool(t, name), Args: append([]string{"--kubeconfig", cluster.ForTest(t).Kubeconfig()}, args...),
		Env: append(os.Environ(), "NODE_NAME="+e.node, "NAMESPACE="+system), Stdout: t.Output(), Stderr: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(15 * time.Second) })
}

// snapshotObject is an object of external-snapshotter's kinds.
func snapshotObject(kind, namespace, name string, content map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: content}
	if content == nil {
		o.Object = map[string]any{}
	}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "snapshot.storage.k8s.io", Version: "v1", Kind: kind})
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// serveSnapshots starts external-snapshotter: its definitions, its controller, and its
// sidecar beside the driver, as a cluster has them whose every node has a sidecar.
func (e *env) serveSnapshots(t *testing.T) {
	t.Helper()
	crds := filepath.Join(interop.Module(t, "../..", "sidecars", "github.com/kubernetes-csi/external-snapshotter/client/v8"), "config/crd/*_*.yaml")
	files, err := filepath.Glob(crds)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files (%v)", crds, len(files), err)
	}
	for _, f := range files {
		e.apply(f)
	}
	interop.Module(t, "../..", "sidecars", "github.com/kubernetes-csi/external-snapshotter/v8")
	class := snapshotObject("VolumeSnapshotClass", "", "lvm-"+e.node, map[string]any{"driver": lvm.DriverName, "deletionPolicy": "Delete"})
	e.until("VolumeSnapshotClass is served", func() bool {
		err := e.admin.Create(t.Context(), class.DeepCopy())
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	e.sidecar(t, "snapshot-controller", "--enable-distributed-snapshotting")
	e.sidecar(t, "csi-snapshotter", "--csi-address", e.socket, "--node-deployment")
}

// snapshot makes a VolumeSnapshot of a claim and waits until it can be used.
func (e *env) snapshot(t *testing.T, name, claim string) {
	t.Helper()
	s := snapshotObject("VolumeSnapshot", "default", name, map[string]any{"spec": map[string]any{
		"volumeSnapshotClassName": "lvm-" + e.node, "source": map[string]any{"persistentVolumeClaimName": claim}}})
	if err := e.admin.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	e.until("snapshot "+name+" can be used", func() bool {
		if err := e.admin.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return false
		}
		ready, _, err := unstructured.NestedBool(s.Object, "status", "readyToUse")
		return err == nil && ready
	})
}

// restore makes a claim of a snapshot.
func (e *env) restore(name, class, snapshot, size string) {
	e.t.Helper()
	group := "snapshot.storage.k8s.io"
	e.create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{"volume.kubernetes.io/selected-node": e.node}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			DataSource: &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: snapshot},
			Resources:  corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}})
}

// write has every volume of a group hold what a pod wrote.
func (e *env) write(group string) {
	e.host.With(group, func(g *lvmfake.Group) {
		for _, l := range g.LVs {
			if !l.ThinPool {
				l.Data = wrote
			}
		}
	})
}

// kinds are the volumes of a group by their kind.
func (e *env) kinds(group string) map[lvm.Kind][]lvmfake.LV {
	all := map[lvm.Kind][]lvmfake.LV{}
	for _, l := range e.host.Volumes(group) {
		k := lvm.Kind(vg.Tags(l.Tags).Get(vg.KeyKind))
		all[k] = append(all[k], l)
	}
	return all
}

// remove deletes an object, which the end of the test does otherwise.
func (e *env) remove(o client.Object) {
	e.t.Helper()
	if err := e.admin.Delete(context.WithoutCancel(e.t.Context()), o); client.IgnoreNotFound(err) != nil {
		e.t.Fatal(err)
	}
}

// TestSidecarSnapshots: a VolumeSnapshot becomes a snapshot of LVM by external-snapshotter,
// a claim of it has what was written then, and it goes with its object.
func TestSidecarSnapshots(t *testing.T) {
	e := newEnv(t, "snaps")
	e.serveSnapshots(t)
	e.claim("shot", "lvm-thin", "1Gi", nil)
	group := groupOf(t, e, e.bound("shot"))
	e.write(group)
	e.snapshot(t, "moment", "shot")
	if got := e.kinds(group); len(got[lvm.KindSnapshot]) != 1 || got[lvm.KindSnapshot][0].Data != wrote {
		t.Fatalf("the group has %+v", got)
	}
	e.host.With(group, func(g *lvmfake.Group) {
		for _, l := range g.LVs {
			if lvm.Kind(vg.Tags(l.Tags).Get(vg.KeyKind)) == lvm.KindVolume {
				l.Data = "written after it"
			}
		}
	})
	e.restore("again", "lvm-thin", "moment", "2Gi")
	again := e.bound("again")
	volumes := e.kinds(groupOf(t, e, again))[lvm.KindVolume]
	if !slices.ContainsFunc(volumes, func(l lvmfake.LV) bool { return l.Data == wrote && l.Size == 2*gib && l.Formats == 0 }) {
		t.Errorf("the restored volume is not among %+v", volumes)
	}
	e.remove(snapshotObject("VolumeSnapshot", "default", "moment", nil))
	e.until("the snapshot is gone from the disk", func() bool { return len(e.kinds(group)[lvm.KindSnapshot]) == 0 })
	for _, name := range []string{"again", "shot"} {
		e.remove(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
	}
	e.until("the volumes are gone", func() bool { return len(e.host.Volumes(group)) == 0 })
}

// TestSidecarProvisioning: with --provision=false external-provisioner makes and removes
// the volumes and publishes the capacity, and external-resizer lets them grow.
func TestSidecarProvisioning(t *testing.T) {
	e := newEnvOf(t, "sides", func(o *lvm.Options) { o.Provision, o.Transfer = false, "" })
	e.serveSnapshots(t) // external-provisioner reads these kinds
	interop.Module(t, "../..", "sidecars", "github.com/kubernetes-csi/external-provisioner/v6")
	interop.Module(t, "../..", "sidecars", "github.com/kubernetes-csi/external-resizer/v2")
	e.sidecar(t, "csi-provisioner", "--csi-address", e.socket, "--node-deployment", "--strict-topology", "--immediate-topology=false", "--extra-create-metadata",
		"--enable-capacity", "--capacity-ownerref-level=-1", "--capacity-poll-interval=1s")
	e.sidecar(t, "csi-resizer", "--csi-address", e.socket)

	capacity := func() (all map[string]int64) {
		var list storagev1.CSIStorageCapacityList
		if err := e.admin.List(t.Context(), &list, client.InNamespace(system), client.MatchingLabels{"csi.storage.k8s.io/managed-by": "external-provisioner-" + e.node}); err != nil {
			t.Fatal(err)
		}
		all = map[string]int64{}
		for _, c := range list.Items {
			all[c.StorageClassName] = c.Capacity.Value()
		}
		return all
	}
	e.until("capacity is published", func() bool { return capacity()["lvm-thin"] > 0 && capacity()["lvm-thick"] > 0 })
	before := capacity()

	e.claim("by-sidecar", "lvm-thick", "5Gi", nil)
	pv := e.bound("by-sidecar")
	group := groupOf(t, e, pv)
	if got := pv.Annotations["pv.kubernetes.io/provisioned-by"]; got != lvm.DriverName || pv.Spec.CSI.FSType != lvm.Ext4 || pv.Spec.NodeAffinity == nil {
		t.Errorf("the volume is %+v", pv)
	}
	l := e.host.Volumes(group)[0]
	if tags := vg.Tags(l.Tags); tags.Get(vg.KeyPVC) != "default/by-sidecar" || tags.Get(vg.KeyPV) != pv.Name || l.Size != 5*gib {
		t.Errorf("the volume on the disk is %+v", l)
	}
	e.until("capacity is less", func() bool { return capacity()["lvm-thick"] == before["lvm-thick"]-5*gib })

	var c corev1.PersistentVolumeClaim
	key := client.ObjectKey{Namespace: "default", Name: "by-sidecar"}
	e.until("the claim asks for more", func() bool {
		if e.admin.Get(t.Context(), key, &c) != nil {
			return false
		}
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("7Gi")
		return e.admin.Update(t.Context(), &c) == nil
	})
	e.until("the volume has grown", func() bool {
		return e.bound("by-sidecar").Spec.Capacity.Storage().Value() == 7*gib && e.host.Volumes(group)[0].Size == 7*gib
	})

	e.claim("by-sidecar-thin", "lvm-thin", "1Gi", nil)
	thin := groupOf(t, e, e.bound("by-sidecar-thin"))
	e.write(thin)
	e.snapshot(t, "by-sidecar", "by-sidecar-thin")
	e.restore("by-sidecar-again", "lvm-thin", "by-sidecar", "1Gi")
	if again := groupOf(t, e, e.bound("by-sidecar-again")); !slices.ContainsFunc(e.kinds(again)[lvm.KindVolume], func(l lvmfake.LV) bool { return l.Data == wrote && l.Formats == 0 }) {
		t.Errorf("the restored volume is not among %+v", e.host.Volumes(again))
	}
	e.remove(snapshotObject("VolumeSnapshot", "default", "by-sidecar", nil))
	for _, name := range []string{"by-sidecar", "by-sidecar-again", "by-sidecar-thin"} {
		e.remove(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
	}
	e.until("the volumes are gone", func() bool { return len(e.host.Volumes(group)) == 0 && len(e.host.Volumes(thin)) == 0 })
	if got := e.capacities(); len(got) != 0 {
		t.Errorf("the driver publishes capacity, too: %v", got)
	}
}
