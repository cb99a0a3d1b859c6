package scheduler

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// TestJointChoice is kubernetes#61813: a node with two disks, the smaller
// volumes both on one of them. The stock scheduler takes the two smallest.
func TestJointChoice(t *testing.T) {
	l := newLive(t, "joint")
	l.run(ours)
	l.node("joint-1")
	for _, v := range [][3]string{{"joint-a1", "wwn-a", "1Gi"}, {"joint-a2", "wwn-a", "1Gi"}, {"joint-b1", "wwn-b", "5Gi"}} {
		l.localVolume(v[0], "joint-1", v[1], v[2])
	}
	asks := []ask{{"data", staticClass, "1Gi", v1alpha1.LabelAntiAffinity, "db"}, {"log", staticClass, "1Gi", v1alpha1.LabelAntiAffinity, "db"}}

	l.pod("stock", "default-scheduler", asks...)
	if disks := l.where("stock"); disks[0] != disks[1] {
		t.Errorf("the stock scheduler chose the disks %v: this test proves nothing any more", disks)
	}
	l.forget("stock", "joint-a1", "joint-a2")

	l.pod("ours", schedulerName, asks...)
	if disks := slices.Sorted(slices.Values(l.where("ours"))); !slices.Equal(disks, []string{"wwn-a", "wwn-b"}) {
		t.Errorf("claims of one group are on the disks %v", disks)
	}

	// A second pod of the group finds both disks used, and says so. It goes on
	// as soon as the first pod's claims are gone.
	l.pod("next", schedulerName, asks[:1]...)
	l.waits("next", "node(s) had no disk left that group joint/db does not use yet")
	l.forget("ours")
	l.where("next")
}

// forget deletes a pod and its claims, and wipes the volumes as a person would.
func (l *live) forget(pod string, volumes ...string) {
	l.t.Helper()
	var p corev1.Pod
	if err := l.api.Get(context.Background(), types.NamespacedName{Namespace: l.ns, Name: pod}, &p); err != nil {
		l.t.Fatal(err)
	}
	if err := l.api.Delete(context.Background(), &p, client.GracePeriodSeconds(0)); err != nil {
		l.t.Fatal(err)
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: l.ns, Name: v.PersistentVolumeClaim.ClaimName}}
		if err := l.api.Delete(context.Background(), pvc); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			l.eventually("claim "+v.PersistentVolumeClaim.ClaimName+" is gone", func() string {
				var pvc corev1.PersistentVolumeClaim
				err := l.api.Get(context.Background(), types.NamespacedName{Namespace: l.ns, Name: v.PersistentVolumeClaim.ClaimName}, &pvc)
				if apierrors.IsNotFound(err) {
					return ""
				}
				return fmt.Sprintf("%v, deleted at %v, finalizers %v", err, pvc.DeletionTimestamp, pvc.Finalizers)
			})
		}
	}
	for _, name := range volumes {
		l.eventually("volume "+name+" is wiped", func() string {
			var pv corev1.PersistentVolume
			if err := l.api.Get(context.Background(), types.NamespacedName{Name: name}, &pv); err != nil {
				return err.Error()
			}
			if pv.Status.Phase == corev1.VolumeAvailable {
				return ""
			}
			if pv.Status.Phase == corev1.VolumeReleased && pv.Spec.ClaimRef != nil {
				pv.Spec.ClaimRef = nil
				if err := l.api.Update(context.Background(), &pv); err != nil {
					return err.Error()
				}
			}
			return fmt.Sprintf("phase %s, claim %v", pv.Status.Phase, pv.Spec.ClaimRef)
		})
	}
}

// TestQuarantine: the record of quarantine closes a disk before any mark is on
// its volumes, and opens it at once.
func TestQuarantine(t *testing.T) {
	l := newLive(t, "quarantine")
	l.run(ours)
	l.node("quarantine-1")
	l.localVolume("quarantine-a", "quarantine-1", "wwn-qa", "1Gi")
	l.localVolume("quarantine-b", "quarantine-1", "wwn-qb", "9Gi")
	l.quarantine("quarantine-1", "wwn-qa")

	one := ask{"data", staticClass, "1Gi", "", ""}
	l.pod("first", schedulerName, one)
	if disks := l.where("first"); disks[0] != "wwn-qb" {
		t.Errorf("the claim is on disk %v, which is in quarantine", disks)
	}
	l.pod("second", schedulerName, one)
	l.waits("second", "node(s) had no free volume of storage class local for the claim, not counting disks in quarantine")
	l.quarantine("quarantine-1")
	if disks := l.where("second"); disks[0] != "wwn-qa" {
		t.Errorf("the claim is on disk %v", disks)
	}
}

// TestBadInput: what cannot work is refused in words.
func TestBadInput(t *testing.T) {
	l := newLive(t, "bad")
	l.run(ours)
	l.node("bad-1")
	l.localVolume("bad-a", "bad-1", "wwn-ba", "1Gi")
	l.localVolume("bad-b", "bad-1", "", "2Gi")

	group := v1alpha1.LabelAntiAffinity
	cases := map[string]struct {
		reason string
		asks   []ask
		why    string
	}{
		"empty": {"a label without a group", []ask{{"d", staticClass, "1Gi", group, ""}},
			"claim bad/empty-d: label holdfast.dev/disk-anti-affinity has no group"},
		"network": {"a class whose disks nobody knows", []ask{{"d", "network", "1Gi", group, "g"}},
			"nobody knows the disks of its storage class network (cinder.example.com)"},
		"toomany": {"more claims in a group than disks", []ask{{"x", staticClass, "1Gi", group, "m"}, {"y", staticClass, "1Gi", group, "m"}},
			"node(s) had fewer free disks than the 2 claims of the pod in group bad/m need"},
		"unnamed": {"room only where no disk is named", []ask{{"d", staticClass, "2Gi", group, "u"}},
			"node(s) had room only where the disk is not named (label holdfast.dev/disk)"},
		"large": {"no volume is large enough", []ask{{"d", staticClass, "3Gi", "", ""}},
			"node(s) had no free volume of storage class local that is large enough"},
		"lvm": {"nobody publishes room", []ask{{"d", thickClass, "3Gi", "", ""}}, "node(s) had no volume group for storage class lvm"},
	}
	for name, tc := range cases {
		l.pod(name, schedulerName, tc.asks...)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l.waits(name, tc.why)
		})
	}
}
