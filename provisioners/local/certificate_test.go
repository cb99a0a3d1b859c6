package local

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/local/wipe"
)

// raw is the volume of the raw partition of a good world.
func raw() *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: VolumeName(diskA, uuidRaw)}}
}

// A certificate is good for one volume, across restarts; a new one is good again.
func TestCertificateIsUsedOnce(t *testing.T) {
	r := newRig(t, goodWorld(), interceptor.Funcs{}, testNodeObject())
	if err := r.pass(t.Context(), true); err != nil || !r.volumes(t)["raw"] {
		t.Fatalf("first offer: %v, %v", err, r.volumes(t))
	}
	if err := r.api.Delete(t.Context(), raw()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.pass(t.Context(), true); err != nil || r.volumes(t)["raw"] {
			t.Fatalf("offered again with what a tenant has left: %v", err)
		}
		r.Controller = NewController(Options{NodeName: testNode}, NewHost(r.host.fs, time.Second), r.api, r.api, r.metrics, r.log)
	}
	certify(t, r.dir, diskA, uuidRaw, 32*mib)
	if err := r.pass(t.Context(), true); err != nil || !r.volumes(t)["raw"] {
		t.Errorf("a new certificate: %v, %v", err, r.volumes(t))
	}
}

// The API server has surely refused the volume, or nobody knows: only in the first
// case nothing can have used it.
func TestCertificateAfterFailedCreate(t *testing.T) {
	cases := map[string]struct {
		reason string
		err    error
		again  bool
	}{
		"Refused": {"there is no such volume", apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumes"}, "x", errors.New("policy")), true},
		"Timeout": {"the volume may have been there, and gone, when the next answer comes", context.DeadlineExceeded, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var failed bool
			var r *rig
			r = newRig(t, goodWorld(), interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if names[obj.GetName()] == "raw" && !failed {
					failed = true
					if u, err := r.host.used(uuidRaw); err != nil || len(u.Certificates) != 1 {
						t.Errorf("the use is not noted before the create: %v, %v", u, err)
					}
					return tc.err
				}
				return c.Create(ctx, obj, opts...)
			}}, testNodeObject())
			if err := r.pass(t.Context(), true); err == nil {
				t.Error("no error")
			}
			if err := r.pass(t.Context(), true); err != nil || r.volumes(t)["raw"] != tc.again {
				t.Errorf("offered again: %v, %v; reason: %s", r.volumes(t)["raw"], err, tc.reason)
			}
		})
	}
}

// A volume that a person has made uses the certificate up.
func TestCertificateOfVolumeMadeByHand(t *testing.T) {
	w := goodWorld()
	r := newRig(t, w, interceptor.Funcs{}, testNodeObject())
	d := w.file.Disks[0]
	if err := r.api.Create(t.Context(), volume(testNode, d, d.Partitions[1], 32*mib, false)); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := r.api.Delete(t.Context(), raw()); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t.Context(), true); err != nil || r.volumes(t)["raw"] {
		t.Errorf("offered by a certificate from before: %v", err)
	}
}

// The look once a minute asks the API server nothing, in particular not about a
// disk that stays quarantined; a change of the ComputeNode does.
func TestResyncAsksNothing(t *testing.T) {
	asked := 0
	cn := &v1alpha1.ComputeNode{
		ObjectMeta: metav1.ObjectMeta{Name: testNode},
		Spec:       v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: diskA, Reason: "Failed", By: "x"}}},
	}
	w := goodWorld()
	w.part("sdb1").files = []string{"pgdata"}
	r := newRig(t, w, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
		asked++
		return c.Get(ctx, key, obj, opts...)
	}}, testNodeObject(), cn)
	if err := r.pass(t.Context(), true); err != nil || asked == 0 {
		t.Fatalf("%d requests, %v", asked, err)
	}
	asked = 0
	for range 3 {
		if err := r.pass(t.Context(), false); err != nil || asked != 0 {
			t.Fatalf("%d requests, %v", asked, err)
		}
	}
	cn.Spec.Quarantine = nil
	if err := r.api.Update(t.Context(), cn); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"a": true, "raw": true}, r.volumes(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestManifest(t *testing.T) {
	w := goodWorld()
	w.part("sda1").files = []string{"pgdata"}
	r := newRig(t, w, interceptor.Funcs{}, testNodeObject())
	o := Options{NodeName: testNode, HostRoot: r.dir, Clean: Classes{"local-raw": wipe.Zero}}
	cases := map[string]struct {
		reason string
		volume string
		wish   Wish
		policy corev1.PersistentVolumeReclaimPolicy // empty when it is refused
	}{
		"Keep":       {"the volume as it was, for one claim", VolumeName(diskA, uuidA), Wish{Keep: "db/data"}, "Retain"},
		"Discard":    {"a released volume of a class that is cleaned", VolumeName(diskA, uuidRaw), Wish{Discard: true}, "Delete"},
		"NotCleaned": {"nobody would clean it", VolumeName(diskA, uuidA), Wish{Discard: true}, ""},
		"Neither":    {"say what is wanted", VolumeName(diskA, uuidA), Wish{}, ""},
		"Both":       {"say one thing", VolumeName(diskA, uuidA), Wish{Keep: "db/data", Discard: true}, ""},
		"Claim":      {"a claim has a namespace", VolumeName(diskA, uuidA), Wish{Keep: "data"}, ""},
		"Unknown":    {"no partition of this node", "local-x", Wish{Keep: "db/data"}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			data, err := Manifest(t.Context(), o, tc.volume, tc.wish)
			if (err != nil) != (tc.policy == "") {
				t.Fatalf("error %v; reason: %s", err, tc.reason)
			}
			if err != nil {
				return
			}
			var pv corev1.PersistentVolume
			if err := yaml.UnmarshalStrict(data, &pv); err != nil {
				t.Fatal(err)
			}
			if pv.Name != tc.volume || pv.Spec.PersistentVolumeReclaimPolicy != tc.policy || (pv.Spec.ClaimRef.UID != "") != tc.wish.Discard {
				t.Errorf("volume %s, policy %s, claim %v", pv.Name, pv.Spec.PersistentVolumeReclaimPolicy, pv.Spec.ClaimRef)
			}
		})
	}
}
