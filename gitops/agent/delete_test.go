package agent_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestApprovedDeletion: a claim that its addon no longer has goes only when it is
// named with the UID that it has now, and one made anew under its name stays.
func TestApprovedDeletion(t *testing.T) {
	r := newRig(t, "c7")
	claim := func(name string) string {
		return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name + ", namespace: default}\nspec:\n  accessModes: [ReadWriteOnce]\n  storageClassName: none\n  resources: {requests: {storage: 1Gi}}\n"
	}
	live := func(name string) *corev1.PersistentVolumeClaim {
		var c corev1.PersistentVolumeClaim
		err := r.c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &c)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	said := func(text string) func() bool {
		return func() bool {
			for _, a := range r.hub.last().Addons {
				if strings.Contains(a.Message, text) {
					return true
				}
			}
			return false
		}
	}
	with := map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("del-a", "1"), "p.yaml": claim("del-data"), "q.yaml": claim("del-other")}}}
	without := map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("del-a", "1")}}}
	r.hub.want(bundle(t, "c7", with))
	// A claim without a volume is never healthy, so what is there is asked for.
	r.until("the claims", func() bool { return live("del-data") != nil && live("del-other") != nil })
	uid := string(live("del-data").UID)
	r.hub.want(bundle(t, "c7", without))
	r.until("word of what is held", said("PersistentVolumeClaim/del-data (nobody approved it in approvals.yaml)"))

	approve := func(uid string) string {
		return fmt.Sprintf("- {cluster: c7, kind: PersistentVolumeClaim, namespace: default, name: del-data, uid: %s, reason: moved away}\n", uid)
	}
	r.hub.want(bundleApproving(t, "c7", without, approve("00000000-0000-4000-8000-000000000000")))
	r.until("word of the other UID", said("this one has "+uid))
	if live("del-data") == nil || live("del-data").DeletionTimestamp != nil {
		t.Fatal("a claim was deleted on the approval of another")
	}
	r.hub.want(bundleApproving(t, "c7", without, approve(uid)))
	r.until("the approved deletion", func() bool { return live("del-data") == nil })
	if c := live("del-other"); c == nil || c.DeletionTimestamp != nil {
		t.Error("a claim that nobody named was deleted")
	}
	// The approval is spent: the claim comes back under its name, and goes again; it stays.
	both := bundleApproving(t, "c7", with, approve(uid))
	r.hub.want(both)
	r.until("the claim made anew", func() bool { return live("del-data") != nil })
	r.hub.want(bundleApproving(t, "c7", without, approve(uid)))
	r.until("word of the UID that was approved", said("approved was the one with the UID "+uid))
	if c := live("del-data"); c == nil || c.DeletionTimestamp != nil {
		t.Error("one approval deleted two claims")
	}
	for _, name := range []string{"del-data", "del-other"} { // the next test has the same API server
		_ = r.c.Delete(t.Context(), live(name))
	}
}
