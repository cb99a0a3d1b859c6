package lvm_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// twoNodes are: n1 has the source, n2 the claim.
type twoNodes struct {
	t        testing.TB
	api      client.Client
	from, to *world
	at       map[*world]*lvm.Transfers
	address  map[*world]string
	stop     map[*world]func()
	class    storagev1.StorageClass
	claim    *corev1.PersistentVolumeClaim
	source   lvm.Handle
}

// newTwoNodes makes a source of 8 MiB on n1 and a claim on n2 of 16 MiB. kind is what the
// claim names.
func newTwoNodes(t testing.TB, kind string, from, to map[string]string, fs string) *twoNodes {
	p := &twoNodes{t: t, from: newWorld(t), at: map[*world]*lvm.Transfers{}, address: map[*world]string{}, stop: map[*world]func(){}}
	other := groups()[1:]
	other[0].Disks = []string{"disk-c"}
	p.to = newWorld(t, other...)
	p.to.node = "n2"
	p.to.restart()
	p.to.host.With("hf-b", func(g *lvmfake.Group) { g.Residue = []string{earlier} })
	v := p.from.must("src", from, fs, 8*mib)
	p.source = v.Handle

	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "src", Labels: map[string]string{v1alpha1.LabelNode: "n1"}}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "src", UID: "uid-src"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: lvm.DriverName, VolumeHandle: v.Handle.String()}}}}
	src := claimOf("src", nil)
	src.Annotations["volume.kubernetes.io/selected-node"], src.Spec.VolumeName, src.Status.Phase = "n1", "src", corev1.ClaimBound
	p.claim = claimOf("new", nil)
	p.claim.Annotations["volume.kubernetes.io/selected-node"] = "n2"
	p.claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("16Mi")
	if fs == lvm.Block {
		mode := corev1.PersistentVolumeBlock
		p.claim.Spec.VolumeMode = &mode
	}
	p.claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: "src"}
	objects := []client.Object{volume, src, p.claim}
	if kind == "VolumeSnapshot" {
		snap, err := p.from.engine.Snapshot(t.Context(), v.Handle, lvm.CreateRequest{Name: "snap"})
		if err != nil {
			t.Fatal(err)
		}
		p.source = snap.Handle
		object := func(kind, ns, name string, labels map[string]any, rest map[string]any) *unstructured.Unstructured {
			rest["apiVersion"], rest["kind"] = "snapshot.storage.k8s.io/v1", kind
			rest["metadata"] = map[string]any{"namespace": ns, "name": name, "labels": labels}
			return &unstructured.Unstructured{Object: rest}
		}
		objects = append(objects,
			object("VolumeSnapshot", "ns", "src", nil, map[string]any{"status": map[string]any{"boundVolumeSnapshotContentName": "content", "readyToUse": true}}),
			object("VolumeSnapshotContent", "", "content", map[string]any{"snapshot.storage.kubernetes.io/managed-by": "n1"}, map[string]any{
				"spec":   map[string]any{"driver": lvm.DriverName, "volumeSnapshotRef": map[string]any{"namespace": "ns", "name": "src"}},
				"status": map[string]any{"snapshotHandle": snap.Handle.String()}}))
	}
	p.api = fake.NewClientBuilder().WithObjects(objects...).Build()
	p.class = storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{"pool": "db"}}
	for k, v := range to {
		p.class.Parameters[k] = v
	}
	if fs != lvm.Block {
		p.class.Parameters["csi.storage.k8s.io/fstype"] = fs
	}
	p.start(p.from)
	p.start(p.to)
	return p
}

// start starts the transfers of a node's driver, as a new process does.
func (p *twoNodes) start(w *world) {
	p.t.Helper()
	if p.stop[w] != nil {
		p.stop[w]()
	}
	t, err := lvm.NewTransfers(w.engine, p.api, system, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.at[w], p.address[w] = t, l.Addr().String()
	if err := t.Publish(p.t.Context(), metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: w.node, UID: "u"}, p.address[w]); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- t.Serve(ctx, l) }()
	p.stop[w] = func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("serve: %v", err)
		}
	}
	p.t.Cleanup(cancel)
}

// impatient gives both nodes a short deadline for what hangs.
func (p *twoNodes) impatient() {
	for _, w := range []*world{p.from, p.to} {
		w.block = 250 * time.Millisecond
		w.restart()
		p.start(w)
	}
}

// revive starts what was killed anew.
func (p *twoNodes) revive() {
	for _, w := range []*world{p.from, p.to} {
		if w.host.Dead() {
			w.restart()
			p.start(w)
		}
	}
}

func (p *twoNodes) provision() (controller.ProvisioningState, error) {
	pv := lvm.NewProvisioner(lvm.NewService(p.to.engine, "test", nil), p.api, p.at[p.to], slog.New(slog.DiscardHandler))
	_, state, err := pv.Provision(p.t.Context(), controller.ProvisionOptions{PVC: p.claim, PVName: "new", SelectedNodeName: "n2", StorageClass: &p.class})
	return state, err
}

// leftovers are the volumes on n1 that were not there before.
func (p *twoNodes) leftovers() (names []string) {
	for _, l := range p.from.host.Volumes("hf-a") {
		if l.Name != "hfv-src" && l.Name != "hfs-snap" {
			names = append(names, l.Name)
		}
	}
	return names
}

// settled waits until n1 has nothing left of a transfer, as its daemon's loop sees to.
func (p *twoNodes) settled() bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if len(p.leftovers()) == 0 {
			return true
		}
		_ = p.from.engine.RefreshAll(p.t.Context())
		_ = p.from.engine.FinishTransfers(p.t.Context())
	}
	return false
}

// wrong says what is wrong with the copy when it is ready, and with the source ever.
func (p *twoNodes) wrong() string {
	if l := p.from.find("hf-a", "hfv-src"); l == nil || l.Data != "data of src" || l.Formats > 1 {
		return fmt.Sprintf("the source is %+v", l)
	}
	for _, l := range p.to.host.Volumes("hf-b") {
		if phase, _ := vg.Tags(l.Tags).Intent(); phase == vg.Ready && (l.Data != "data of src" || l.Formats != 0 || l.Unsynced || vg.Tags(l.Tags).Get(vg.KeyFS) == lvm.Block && len(l.Residue) > 0) {
			return fmt.Sprintf("the copy is ready and is %+v", l)
		}
	}
	return ""
}

// whole says what is missing at the end.
func (p *twoNodes) whole() string {
	l := p.to.find("hf-b", "hfv-new")
	switch {
	case l == nil || len(p.to.host.Volumes("hf-b")) != 1:
		return fmt.Sprintf("there are %d volumes", len(p.to.host.Volumes("hf-b")))
	case l.FS != p.class.Parameters["csi.storage.k8s.io/fstype"] || l.Size != 16*mib || !strings.HasPrefix(vg.Tags(l.Tags).Get(vg.KeyIntent), vg.Ready+"/"):
		return fmt.Sprintf("the copy is %+v", l)
	case !p.settled():
		return fmt.Sprintf("n1 has %v", p.leftovers())
	}
	return p.wrong()
}

// bytes sets what the claim asks for.
func (p *twoNodes) bytes(q string) {
	p.claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(q)
}

func (p *twoNodes) create(o client.Object) {
	p.t.Helper()
	o.SetResourceVersion("")
	if err := p.api.Create(p.t.Context(), o); err != nil {
		p.t.Fatal(err)
	}
}

func (p *twoNodes) remove(o client.Object) {
	p.t.Helper()
	if err := p.api.Delete(p.t.Context(), o); err != nil {
		p.t.Fatal(err)
	}
}

// change changes the claim in the API server.
func (p *twoNodes) change(f func(*corev1.PersistentVolumeClaim)) {
	p.t.Helper()
	c := p.claim.DeepCopy()
	if err := p.api.Get(p.t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		p.t.Fatal(err)
	}
	f(c)
	if err := p.api.Update(p.t.Context(), c); err != nil {
		p.t.Fatal(err)
	}
}

// lease publishes an address and a certificate in a node's name.
func (p *twoNodes) lease(node, address string, cert []byte) {
	p.t.Helper()
	sum := sha256.Sum256(cert)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lvm-csi-driver-" + node, Namespace: system, Labels: map[string]string{v1alpha1.LabelNode: node},
		Annotations: map[string]string{"lvm.holdfast.dev/transfer-address": address, "lvm.holdfast.dev/transfer-certificate": hex.EncodeToString(sum[:])}}}
	if err := errors.Join(client.IgnoreNotFound(p.api.Delete(p.t.Context(), lease.DeepCopy())), p.api.Create(p.t.Context(), lease)); err != nil {
		p.t.Fatal(err)
	}
}
