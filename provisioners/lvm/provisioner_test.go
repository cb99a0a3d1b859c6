package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// provisioner is the world's provisioner with an API server that has these objects.
func (w *world) provisioner(objects ...client.Object) *lvm.Provisioner {
	api := fake.NewClientBuilder().WithObjects(objects...).Build()
	return lvm.NewProvisioner(lvm.NewService(w.engine, "test", nil), api, nil, slog.New(slog.DiscardHandler))
}

func claimOf(name string, labels map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + name), Labels: labels, Annotations: map[string]string{"volume.kubernetes.io/selected-node": "n1"},
			CreationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
	}
}

// provision makes the volume of a claim in a world with other objects.
func (w *world) provision(claim *corev1.PersistentVolumeClaim, objects ...client.Object) (*corev1.PersistentVolume, error) {
	pv, _, err := w.provisioner(objects...).Provision(w.t.Context(), controller.ProvisionOptions{PVC: claim, PVName: "pvc-" + string(claim.UID), SelectedNodeName: "n1",
		StorageClass: &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{"pool": "db"}}})
	return pv, err
}

// A disk whose id names a place is another one on another node; a drive is one everywhere.
func TestGroupsCountDisksAsTheSchedulerDoes(t *testing.T) {
	quorum := map[string]string{v1alpha1.LabelAntiAffinity: "quorum"}
	prefers := map[string]string{v1alpha1.LabelAntiAffinityPreferred: "quorum"}
	const place = "path-devices-pci0000-00-nvme0"
	for name, c := range map[string]struct {
		reason        string
		disk, on      string // the other claim's
		other, labels map[string]string
		want          string // the group that is taken, or what is said
	}{
		"SamePlace":      {"the very disk", place, "n1", quorum, quorum, "hf-b"},
		"PlaceElsewhere": {"another node has a disk in the same place", place, "n2", quorum, quorum, "hf-a"},
		"DriveElsewhere": {"a drive that was moved is the same drive", "wwn-1", "n2", quorum, quorum, "hf-b"},
		"OtherPrefers":   {"one of the two only prefers it: avoided where it can be", place, "n1", prefers, quorum, "hf-b"},
		"Prefers":        {"the same the other way round", place, "n1", quorum, prefers, "hf-b"},
		"Empty":          {"a rule that is silently not kept is worse", place, "n1", nil, map[string]string{v1alpha1.LabelAntiAffinityPreferred: ""}, "label holdfast.dev/disk-anti-affinity-preferred has no group"},
	} {
		infos := groups()
		infos[0].Disks = []string{place}
		if strings.HasPrefix(c.disk, "wwn") {
			infos[0].Disks = []string{c.disk}
		}
		w := newWorld(t, infos...)
		other := claimOf("other", c.other)
		other.Spec.VolumeName = "pv-other"
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-other", Annotations: map[string]string{v1alpha1.AnnotationDisk: c.disk},
			Labels: map[string]string{v1alpha1.LabelNode: c.on, v1alpha1.LabelDisk: diskid.Label(c.disk)}}}
		got, err := w.provision(claimOf("new", c.labels), other, pv)
		said := fmt.Sprint(err)
		if err == nil {
			said = map[bool]string{true: "hf-a", false: "hf-b"}[strings.HasPrefix(got.Spec.CSI.VolumeHandle, infos[0].UUID)]
		}
		if !strings.Contains(said, c.want) {
			t.Errorf("%s (%s): got %q, want %q", name, c.reason, said, c.want)
		}
	}
}

// The stock scheduler took over a claim that ours had placed on another node: it overwrites
// the selected node and knows nothing of the rest.
func TestStaleChoiceOfGroupIsNotObeyed(t *testing.T) {
	for name, c := range map[string]struct{ node, want string }{
		"Ours": {"n1", "hf-b"}, "OfAnotherNode": {"n2", "hf-a"}, "OfNobody": {"", "hf-a"},
	} {
		w := newWorld(t, groups()...)
		claim := claimOf("c", nil)
		claim.Annotations[v1alpha1.LabelVolumeGroup] = "hf-b"
		if c.node != "" {
			claim.Annotations[v1alpha1.VolumeGroupNode] = c.node
		}
		if _, err := w.provision(claim); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(w.host.Volumes(c.want)); n != 1 {
			t.Errorf("%s: %s has %d volumes, want the one", name, c.want, n)
		}
	}
}

// released makes a volume, and its object as it is when its claim was deleted.
func (w *world) released() *corev1.PersistentVolume {
	w.t.Helper()
	pv, err := w.provision(claimOf("gone", nil))
	if err != nil {
		w.t.Fatal(err)
	}
	pv.UID, pv.CreationTimestamp = "uid-pv", metav1.Now()
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "gone", UID: "uid-gone"}
	pv.Status.Phase = corev1.VolumeReleased
	return pv
}

// A backup has the object with everything, and is put back object by object: the volume
// looks released until its claim is there. Its data are what the backup is for.
func TestVolumeWhoseObjectWasPutBackStays(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		change func(pv *corev1.PersistentVolume)
		goes   bool
	}{
		"Original": {"made with its volume", func(*corev1.PersistentVolume) {}, true},
		"PutBack":  {"made an hour after its volume", func(pv *corev1.PersistentVolume) { pv.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour)) }, false},
		"Stripped": {"the tool that put it back kept no annotations", func(pv *corev1.PersistentVolume) {
			pv.Annotations, pv.CreationTimestamp = nil, metav1.NewTime(time.Now().Add(time.Hour))
		}, false},
		"Old":        {"an earlier version wrote no annotation; LVM and the tags tell that it was made with its volume", func(pv *corev1.PersistentVolume) { pv.Annotations = nil }, true},
		"Unreadable": {"what is there and no time was not written by this driver", func(pv *corev1.PersistentVolume) { pv.Annotations["holdfast.dev/provisioned-at"] = "today" }, false},
		"GivenUp": {"a person named this very object", func(pv *corev1.PersistentVolume) {
			pv.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
			pv.Annotations["holdfast.dev/delete-volume"] = string(pv.UID)
		}, true},
		"GivenUpBefore": {"that was said of the object in the backup", func(pv *corev1.PersistentVolume) {
			pv.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
			pv.Annotations["holdfast.dev/delete-volume"] = "uid-of-the-first"
		}, false},
	} {
		w := newWorld(t)
		pv := w.released()
		c.change(pv)
		err := w.provisioner(pv).Delete(t.Context(), pv)
		if n := len(w.host.Volumes("hf-a")); (err == nil) != c.goes || (n == 0) != c.goes {
			t.Errorf("%s (%s): %d volumes, %v", name, c.reason, n, err)
		}
		if err != nil && !strings.Contains(err.Error(), "kubectl annotate pv "+pv.Name+" holdfast.dev/delete-volume=uid-pv") {
			t.Errorf("%s: it does not say what to do: %v", name, err)
		}
	}
}

// A claim is not there when the API server says so. A proxy before it, or a server without its
// API, has an answer 404 for everything.
func TestProxysWordOnAClaimIsNone(t *testing.T) {
	answers := map[bool]error{
		true:  apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), "gone"),
		false: apierrors.NewGenericServerResponse(http.StatusNotFound, "get", corev1.Resource("persistentvolumeclaims"), "gone", "404 page not found", 0, true),
	}
	for goes, answer := range answers {
		w := newWorld(t)
		pv := w.released()
		api := fake.NewClientBuilder().WithObjects(pv).WithInterceptorFuncs(interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if _, claim := o.(*corev1.PersistentVolumeClaim); claim {
					return answer
				}
				return c.Get(ctx, key, o, opts...)
			}}).Build()
		p := lvm.NewProvisioner(lvm.NewService(w.engine, "test", nil), api, nil, slog.New(slog.DiscardHandler))
		if err := p.Delete(t.Context(), pv); (err == nil) != goes || !goes && !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("%v: %v", answer, err)
		}
		if n := len(w.host.Volumes("hf-a")); (n == 0) != goes {
			t.Errorf("%v: %d volumes", answer, n)
		}
	}
}

// An object of an earlier version is compared with the volume itself, as the disk tells it.
func TestVolumeOfAnEarlierVersion(t *testing.T) {
	retag := func(key, value string) func(lv *lvmfake.LV) {
		return func(lv *lvmfake.LV) {
			lv.Tags = slices.DeleteFunc(lv.Tags, func(tag string) bool { return strings.HasPrefix(tag, key+"=") })
			lv.Tags = append(lv.Tags, vg.Tag(key, value))
		}
	}
	for name, c := range map[string]struct {
		reason string
		change func(lv *lvmfake.LV)
		goes   bool
	}{
		"Its":          {"the volume of this very object", func(*lvmfake.LV) {}, true},
		"MadeLongAgo":  {"the object was made anew, a year later", func(lv *lvmfake.LV) { lv.Created = lv.Created.AddDate(-1, 0, 0) }, false},
		"NoTime":       {"LVM does not know", func(lv *lvmfake.LV) { lv.Created = time.Time{} }, false},
		"OtherCluster": {"the cluster was made anew, and its objects put back", retag(vg.KeyCluster, "c0"), false},
		"OtherClaim":   {"the claim was renamed on the way", retag(vg.KeyPVC, "other/gone"), false},
		"OtherObject":  {"the same of the object", retag(vg.KeyPV, "pvc-other"), false},
	} {
		w := newWorld(t)
		pv := w.released()
		pv.Annotations = nil
		w.host.With("hf-a", func(g *lvmfake.Group) { c.change(g.LVs["hfv-"+pv.Name]) })
		w.restart()
		err := w.provisioner(pv).Delete(t.Context(), pv)
		if n := len(w.host.Volumes("hf-a")); (err == nil) != c.goes || (n == 0) != c.goes {
			t.Errorf("%s (%s): %d volumes, %v", name, c.reason, n, err)
		}
	}
	w := newWorld(t)
	pv := w.released()
	pv.Annotations = nil
	w.restart()
	w.host.Misbehave(func(lvmfake.Call) lvmfake.Mode { return lvmfake.Fail })
	if err := w.provisioner(pv).Delete(t.Context(), pv); !errors.Is(err, lvm.ErrUnavailable) {
		t.Errorf("LVM does not answer: %v", err)
	}
}

// What is on a bad disk is evidence, perhaps the last copy, and wiping it may never end.
func TestVolumeOnABadDiskIsHeld(t *testing.T) {
	marked := func(pv *corev1.PersistentVolume) { pv.Labels[v1alpha1.LabelQuarantined] = "true" }
	for name, c := range map[string]struct {
		q      lvm.Quarantine
		change func(*corev1.PersistentVolume)
		says   string
	}{
		"Quarantined": {lvm.Quarantine{Disks: map[string]string{"disk-a": "Failed by remediation-controller"}}, nil, "disk disk-a is quarantined: Failed"},
		"Failed":      {lvm.Quarantine{Bad: map[string]string{"disk-a": "Failed"}}, nil, "disk disk-a is Failed"},
		"NotKnown":    {lvm.Quarantine{Err: errors.New("no answer")}, nil, "quarantine is not known: no answer"},
		"Marked":      {lvm.Quarantine{}, marked, "label holdfast.dev/quarantined"},
	} {
		w := newWorld(t)
		pv := w.released()
		if c.change != nil {
			c.change(pv)
		}
		w.q = c.q
		w.host.Calls()
		err := w.provisioner(pv).Delete(t.Context(), pv)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "deleted when the quarantine ends") {
			t.Errorf("%s: %v", name, err)
		}
		if all := w.host.Volumes("hf-a"); len(all) != 1 || len(w.host.Calls()) != 0 {
			t.Errorf("%s: %+v is there, and programs ran", name, all)
		}
		w.q = lvm.Quarantine{}
		delete(pv.Labels, v1alpha1.LabelQuarantined)
		if err := w.provisioner(pv).Delete(t.Context(), pv); err != nil || len(w.host.Volumes("hf-a")) != 0 {
			t.Errorf("%s: after the quarantine: %v", name, err)
		}
	}
}

// Remediation deletes the objects of a disk that was replaced, and waits until they are gone.
func TestObjectOfAReplacedDiskGoes(t *testing.T) {
	w := newWorld(t, groups()...)
	pv := w.released()
	pv.Labels[v1alpha1.LabelQuarantined] = "true"
	pv.Finalizers, pv.DeletionTimestamp = []string{"external-provisioner.volume.kubernetes.io/finalizer"}, ptr.To(metav1.Now())
	if err := w.provisioner(pv).Delete(t.Context(), pv); !errors.Is(err, lvm.ErrHeld) {
		t.Errorf("while its volume group is there: %v", err)
	}
	annotations := pv.Annotations
	pv.Annotations = nil  // neither is it known whether the object was made with its volume
	w.infos = w.infos[1:] // its place was given to another disk
	w.restart()
	w.host.Calls()
	if err := w.provisioner(pv).Delete(t.Context(), pv); err != nil {
		t.Errorf("after its disk was replaced: %v", err)
	}
	if calls := w.host.Calls(); len(calls) != 0 || len(w.host.Volumes("hf-a")) != 1 {
		t.Errorf("it ran %v", calls)
	}
	delete(pv.Labels, v1alpha1.LabelQuarantined)
	pv.Annotations = annotations
	if err := w.provisioner(pv).Delete(t.Context(), pv); status.Code(err) != codes.Unavailable {
		t.Errorf("a group that is not there, without a quarantine: %v", err)
	}
}

// A thin pool promises bytes to snapshots and copies as to any volume: when all of them
// are written, a pool that promised too much stops every volume in it.
func TestCopiesCountAgainstTheirPool(t *testing.T) {
	w := newWorld(t) // a pool of 900 GiB
	src := w.must("src", thin, lvm.XFS, 500*gib)
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "may promise") || !strings.Contains(err.Error(), fmt.Sprint(500*gib)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := w.engine.Snapshot(t.Context(), src.Handle, lvm.CreateRequest{Name: "s"})
	refused("a snapshot", err)
	r := w.request("copy", thin, lvm.XFS, gib) // a copy is as large as its source
	r.Source = &src.Handle
	_, err = w.engine.Create(t.Context(), r)
	refused("a copy", err)
	if n := len(w.host.Volumes("hf-a")); n != 1 {
		t.Errorf("there are %d volumes, want the source alone", n)
	}
	// Whoever says that more may be promised says it in a class: of the snapshot, of the copy,
	if _, err = w.engine.Snapshot(t.Context(), src.Handle, lvm.CreateRequest{Name: "s", Spec: lvm.Spec{Overcommit: 2}}); err != nil {
		t.Errorf("a snapshot of a class with overcommit 2: %v", err)
	}
	// or of the volume, for its growth and its snapshots.
	w = newWorld(t)
	src = w.must("src", map[string]string{"type": "thin", "overcommit": "2"}, lvm.XFS, 500*gib)
	w.restart()
	if _, err = w.engine.Snapshot(t.Context(), src.Handle, lvm.CreateRequest{Name: "s"}); err != nil {
		t.Errorf("a snapshot of a volume with overcommit 2: %v", err)
	}
	if _, err = w.engine.Expand(t.Context(), src.Handle, 1000*gib, 0); err != nil {
		t.Errorf("growth of a volume with overcommit 2: %v", err)
	}
	if _, err = w.engine.Expand(t.Context(), src.Handle, 1900*gib, 0); err == nil || !strings.Contains(err.Error(), "may promise") {
		t.Errorf("growth beyond it: %v", err)
	}
}

// A pod must not wait for the repair of a disk: its own volume is condemned, and removed
// when the disk is well again, by whatever process is there then.
func TestEphemeralVolumeOnABadDiskIsRemovedLater(t *testing.T) {
	w := newWorld(t)
	s := lvm.NewService(w.engine, "test", nil)
	publish, unpublish := ephemeralCalls(t)
	if _, err := s.NodePublishVolume(t.Context(), publish); err != nil {
		t.Fatal(err)
	}
	w.q = lvm.Quarantine{Disks: map[string]string{"disk-a": "Failed"}}
	for range 2 {
		if _, err := s.NodeUnpublishVolume(t.Context(), unpublish); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.engine.FinishEphemeral(t.Context()); err != nil || len(w.host.Volumes("hf-a")) != 1 {
		t.Errorf("it is gone, %v", err)
	}
	for _, c := range w.host.Calls() {
		if c.Program == "blkdiscard" || c.Sub() == "lvremove" {
			t.Errorf("%s ran", c.Line())
		}
	}
	w.q = lvm.Quarantine{}
	w.restart()
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.FinishEphemeral(t.Context()); err != nil || len(w.host.Volumes("hf-a")) != 0 {
		t.Errorf("after the quarantine: %v, %+v", err, w.host.Volumes("hf-a"))
	}
}
