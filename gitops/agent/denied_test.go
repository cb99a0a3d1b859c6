package agent_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// denyDeletion is an admission policy that lets nobody delete ConfigMap denied-b.
const denyDeletion = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: deny-deletion}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [DELETE], resources: [configmaps]}
  validations:
  - {expression: oldObject.metadata.name != "denied-b", message: it is kept for the audit}
`

const denyDeletionBinding = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: deny-deletion}
spec: {policyName: deny-deletion, validationActions: [Deny]}
`

// TestDeniedDeletion: Flux 1664, an object whose deletion was refused once stayed for
// ever, since the inventory had it no more. Here it stays in the inventory through a
// restart, the report says why, nothing else waits for it, and it goes as soon as it may.
func TestDeniedDeletion(t *testing.T) {
	r := newRig(t, "c31")
	both := bundle(t, "c31", map[string]addon{
		"one": {"0.1.0", map[string]string{"a.yaml": configMap("denied-a", "1"), "b.yaml": configMap("denied-b", "1"), "c.yaml": configMap("denied-c", "1")}},
	})
	r.hub.want(both)
	r.until("the first bundle", func() bool { return r.settled(both) })

	allow := func(kind string) error {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: kind})
		o.SetName("deny-deletion")
		return client.IgnoreNotFound(r.c.Delete(context.WithoutCancel(t.Context()), o))
	}
	t.Cleanup(func() { // the next test has the same API server
		for _, kind := range []string{"ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"} {
			if err := allow(kind); err != nil {
				t.Error(err)
			}
		}
	})
	r.applyText(denyDeletion, "test")
	r.applyText(denyDeletionBinding, "test")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "denied-b"}}
	r.until("the policy", func() bool { return r.c.Delete(t.Context(), object.DeepCopy(), client.DryRunAll) != nil })

	less := bundle(t, "c31", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": configMap("denied-a", "2")}}})
	r.hub.want(less)
	told := func() bool {
		for _, a := range r.hub.last().Addons {
			if strings.Contains(a.Message, "denied-b") && strings.Contains(a.Message, "it is kept for the audit") {
				return true
			}
		}
		return false
	}
	r.until("word of the refusal", told)
	r.until("what does not depend on it", func() bool { return r.value("denied-a") == "2" && r.value("denied-c") == "" })

	r.stop()
	r.start()
	r.until("word of it after a restart", told)
	if r.value("denied-b") == "" || !r.inventoryHas("one", "default_denied-b__ConfigMap") {
		t.Error("the inventory has it no more, or it is gone")
	}
	if err := allow("ValidatingAdmissionPolicyBinding"); err != nil {
		t.Fatal(err)
	}
	r.until("the end of it", func() bool { return r.value("denied-b") == "" && !r.inventoryHas("one", "default_denied-b__ConfigMap") })
	r.until("the second bundle", func() bool { return r.settled(less) })
}
