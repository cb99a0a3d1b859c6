package lvm_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/inventory"
)

// A claim whose class is not applied says so in its status until it is rid of that class.
// Kubernetes' own storage suite wants it ("should recover from invalid target VAC",
// test/e2e/storage/testsuites/volume_modify.go): without, a claim with a wrong class
// looks as if nobody had seen it.
func TestARefusedClassIsTold(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu io memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	qos, err := lvm.NewCgroups(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := w.must("v", thin, lvm.Ext4, gib)
	claim := claimOf("c", nil)
	pv := inventory.PersistentVolume("v", "n1", nil, "", v.Handle.String(), gib)
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
	claim.Status.Phase, claim.Status.Capacity = corev1.ClaimBound, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	other := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue}
	claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{other}
	class := func(name, driver, param string) client.Object {
		return &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name}, DriverName: driver, Parameters: map[string]string{param: "100"}}
	}
	writes := 0
	api := fake.NewClientBuilder().WithStatusSubresource(claim).
		WithObjects(claim, pv, class("good", lvm.DriverName, "readIOPS"), class("bad", lvm.DriverName, "colour"), class("foreign", "other.example.com", "readIOPS")).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			writes++
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		}}).Build()
	resizer := lvm.NewResizer(lvm.NewService(w.engine, "test", qos), api, slog.New(slog.DiscardHandler))

	for i, step := range []struct {
		reason string
		class  *string
		want   corev1.PersistentVolumeClaimModifyVolumeStatus // empty when nothing stands against it
		now    string                                         // the class that is current then
	}{
		{"a parameter that the driver does not know", ptr.To("bad"), corev1.PersistentVolumeClaimModifyVolumeInfeasible, ""},
		{"the API server lets it be taken back", nil, "", ""},
		{"a class that is not there yet", ptr.To("none"), corev1.PersistentVolumeClaimModifyVolumePending, ""},
		{"a class that is taken", ptr.To("good"), "", "good"},
		{"a class of another driver", ptr.To("foreign"), corev1.PersistentVolumeClaimModifyVolumeInfeasible, "good"},
		{"back to what is current", ptr.To("good"), "", "good"},
	} {
		read := func() {
			t.Helper()
			for _, o := range []client.Object{claim, pv} {
				if err := api.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
					t.Fatal(err)
				}
			}
		}
		read()
		claim.Spec.VolumeAttributesClassName = step.class
		if err := api.Update(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		before := writes
		for range 3 { // each write of the status brings the claim again
			read()
			if err := resizer.Sync(t.Context(), claim, pv); (err != nil) != (step.want != "") {
				t.Errorf("%d %s: %v", i, step.reason, err)
			}
		}
		read()
		if writes != before+1 {
			t.Errorf("%d %s: the status was written %d times, want once", i, step.reason, writes-before)
		}
		said, kept := "", false
		for _, c := range claim.Status.Conditions {
			if c.Type == corev1.PersistentVolumeClaimVolumeModifyVolumeError {
				said = c.Message
			}
			kept = kept || c.Type == other.Type
		}
		s := claim.Status.ModifyVolumeStatus
		switch {
		case step.want == "" && (s != nil || said != ""):
			t.Errorf("%d %s: the status still says %+v, %q", i, step.reason, s, said)
		case step.want != "" && (s == nil || *s != corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: *step.class, Status: step.want} || !strings.Contains(said, *step.class)):
			t.Errorf("%d %s: the status says %+v, %q, want %s", i, step.reason, s, said, step.want)
		}
		if got := ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, ""); got != step.now || !kept {
			t.Errorf("%d %s: class %q is current, want %q; others' conditions are kept: %v", i, step.reason, got, step.now, kept)
		}
	}
}
