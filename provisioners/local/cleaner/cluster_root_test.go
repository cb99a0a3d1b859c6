//go:build root

package cleaner

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// live is a rig in a real cluster, with both daemons.
type live struct {
	*rig
	api client.Client
}

func newLive(t *testing.T) *live {
	t.Helper()
	c := cluster.ForTest(t)
	l := &live{rig: newRig(t)}
	scheme := clientgoscheme.Scheme
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.api, err = client.New(c.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../../../salt/states/crds/files/holdfast.dev_computenodes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd unstructured.Unstructured
	if err := yaml.Unmarshal(data, &crd.Object); err != nil {
		t.Fatal(err)
	}
	l.create(t, &crd)
	await(t, func() bool { return l.api.List(t.Context(), &v1alpha1.ComputeNodeList{}) == nil })
	l.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode, Labels: map[string]string{corev1.LabelHostname: testNode}}})
	l.create(t, &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: testNode}})
	for _, class := range []string{"local-ssd", "local-raw"} {
		now := storagev1.VolumeBindingImmediate
		l.create(t, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &now})
	}
	clean := local.Classes{"local-ssd": wipe.Discard, "local-raw": wipe.Zero}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	l.daemon(t, func(ctx context.Context, address string) error {
		o := local.Options{NodeName: testNode, HostRoot: l.root, MetricsAddress: address, Clean: clean, Pod: "holdfast-system/p1"}
		return local.Run(ctx, o, c.RESTConfig(), log)
	})
	l.daemon(t, func(ctx context.Context, address string) error {
		o := Options{NodeName: testNode, HostRoot: l.root, StateDir: l.state, MetricsAddress: address, Clean: clean, Chunk: 4 << 20, Deadline: 60e9}
		return Run(ctx, o, c.RESTConfig(), log)
	})
	return l
}

func (l *live) create(t *testing.T, obj client.Object) {
	t.Helper()
	if err := l.api.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

// daemon runs until the test ends.
func (l *live) daemon(t *testing.T, run func(context.Context, string) error) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, address) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (l *live) name(n int) string {
	d := l.file.Disks[n]
	return local.VolumeName(d.ID, d.Partitions[0].UUID)
}

// volume is the n-th disk's volume; nil while there is none.
func (l *live) volume(t *testing.T, n int) *corev1.PersistentVolume {
	t.Helper()
	var pv corev1.PersistentVolume
	if err := l.api.Get(t.Context(), client.ObjectKey{Name: l.name(n)}, &pv); err != nil {
		return nil
	}
	return &pv
}

// claim binds a claim to the n-th disk's volume.
func (l *live) claim(t *testing.T, name string, n int) *corev1.PersistentVolumeClaim {
	t.Helper()
	pv := l.volume(t, n)
	class := pv.Spec.StorageClassName
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, VolumeMode: pv.Spec.VolumeMode, VolumeName: pv.Name, AccessModes: pv.Spec.AccessModes,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
	}}
	l.create(t, pvc)
	await(t, func() bool {
		return l.api.Get(t.Context(), client.ObjectKeyFromObject(pvc), pvc) == nil && pvc.Status.Phase == corev1.ClaimBound
	})
	return pvc
}

// TestReuse: a claim is bound and deleted, and the next one gets nothing of it. The
// stock PV controller, both daemons and the disks are real.
func TestReuse(t *testing.T) {
	l := newLive(t)
	await(t, func() bool { return l.volume(t, 0) != nil && l.volume(t, 1) != nil })
	if l.volume(t, 2) != nil {
		t.Fatal("a raw partition that nobody vouches for, with an old file system on it, was offered")
	}
	// A person gives up what is on it.
	o := local.Options{NodeName: testNode, HostRoot: l.root, Clean: local.Classes{"local-raw": wipe.Zero}}
	manifest, err := local.Manifest(t.Context(), o, l.name(2), local.Wish{Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	var given corev1.PersistentVolume
	if err := yaml.UnmarshalStrict(manifest, &given); err != nil {
		t.Fatal(err)
	}
	l.create(t, &given)
	await(t, func() bool { pv := l.volume(t, 2); return pv != nil && pv.UID != given.UID })

	l.soil(t, 1) // a tenant that stays
	stays := l.volume(t, 1).UID
	for _, n := range []int{0, 2} {
		for round, name := range []string{"first", "second"} {
			old := l.volume(t, n)
			pvc := l.claim(t, name+string(rune('0'+n)), n)
			if round > 0 && bytes.Contains(l.bytes(t, n), canary[:10]) {
				t.Errorf("disk %d: the second tenant has the first one's bytes on its disk", n)
			}
			l.soil(t, n)
			if err := l.api.Delete(t.Context(), pvc); err != nil {
				t.Fatal(err)
			}
			await(t, func() bool {
				pv := l.volume(t, n)
				return pv != nil && pv.UID != old.UID && pv.Status.Phase == corev1.VolumeAvailable
			})
		}
		if bytes.Contains(l.bytes(t, n), canary[:10]) {
			t.Errorf("disk %d: a canary is left", n)
		}
	}
	if pv := l.volume(t, 1); pv == nil || pv.UID != stays || !bytes.Contains(l.bytes(t, 1), canary) {
		t.Error("the tenant that stays has lost its volume or its data")
	}
	l.deletedByHand(t)
}

// deletedByHand: volumes with data are deleted by a person. They are not offered, not
// cleaned, and come back for whom the person says.
func (l *live) deletedByHand(t *testing.T) {
	t.Helper()
	for _, n := range []int{1, 2} {
		if n == 2 {
			l.soil(t, n)
		}
		old := l.volume(t, n)
		if err := l.api.Delete(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return l.volume(t, n) == nil })
		await(t, func() bool { return l.told(t, "VolumeWithheld", "Dirty: disk "+l.file.Disks[n].ID) })
	}
	if !bytes.Contains(l.bytes(t, 1), canary) || !bytes.Contains(l.bytes(t, 2), canary) {
		t.Fatal("data was cleaned because a volume was missing")
	}
	if l.volume(t, 1) != nil || l.volume(t, 2) != nil {
		t.Fatal("data was offered")
	}
	o := local.Options{NodeName: testNode, HostRoot: l.root}
	manifest, err := local.Manifest(t.Context(), o, l.name(1), local.Wish{Keep: "default/again"})
	if err != nil {
		t.Fatal(err)
	}
	var kept corev1.PersistentVolume
	if err := yaml.UnmarshalStrict(manifest, &kept); err != nil {
		t.Fatal(err)
	}
	l.create(t, &kept)
	l.claim(t, "again", 1)
	names, err := os.ReadDir(filepath.Join(l.root, l.file.Disks[1].Partitions[0].MountPoint))
	if err != nil || len(names) < 40 || kept.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
		t.Errorf("kept volume has %d names, policy %s, %v", len(names), kept.Spec.PersistentVolumeReclaimPolicy, err)
	}
}

func (l *live) told(t *testing.T, reason, note string) bool {
	t.Helper()
	var events corev1.EventList
	if err := l.api.List(t.Context(), &events, client.InNamespace("default"), client.MatchingFields{"reason": reason}); err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.HasPrefix(e.Message, note) && strings.Contains(e.Message, "volume --discard") {
			return true
		}
	}
	return false
}
