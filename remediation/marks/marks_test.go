package marks

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

var entry = &v1alpha1.Quarantine{
	Disk: "wwn-1", Reason: "Failed", By: v1alpha1.QuarantinedByController,
	Since: metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)),
}

const ourTaint = `{"key":"holdfast.dev/disk","value":"Failed","effect":"NoBind","timeAdded":"2026-03-01T12:00:00Z"}`

func volume(claim *corev1.ObjectReference, taints string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{}
	pv.Labels = map[string]string{v1alpha1.LabelDisk: "wwn-1"}
	pv.Annotations = map[string]string{v1alpha1.AnnotationDisk: "wwn-1"}
	if taints != "" {
		pv.Annotations[v1alpha1.AnnotationTaints] = taints
	}
	pv.Spec.ClaimRef = claim
	return pv
}

func TestPut(t *testing.T) {
	claim := &corev1.ObjectReference{Namespace: "a", Name: "b"}
	foreign := `{"key":"example.com/x","value":"","effect":"NoBind","timeAdded":""}`
	cases := map[string]struct {
		reason   string
		pv       *corev1.PersistentVolume
		taints   string
		sentinel bool
	}{
		"Unbound":  {reason: "no claim has it", pv: volume(nil, ""), taints: "[" + ourTaint + "]", sentinel: true},
		"Prebound": {reason: "it waits for a claim by name: that stays", pv: volume(claim, ""), taints: "[" + ourTaint + "]"},
		"Foreign":  {reason: "another's taint stays", pv: volume(nil, "["+foreign+"]"), taints: "[" + foreign + "," + ourTaint + "]", sentinel: true},
		"Earlier":  {reason: "the taint of an earlier quarantine is replaced", pv: volume(nil, strings.ReplaceAll("["+ourTaint+"]", "12:00", "11:00")), taints: "[" + ourTaint + "]", sentinel: true},
		"Garbage":  {reason: "what cannot be read must not keep the volume open", pv: volume(nil, "{"), taints: "[" + ourTaint + "]", sentinel: true},
		"NoMaps":   {reason: "a volume without labels and annotations", pv: &corev1.PersistentVolume{}, taints: "[" + ourTaint + "]", sentinel: true},
		"LabelOnly": {reason: "someone put the label on", pv: func() *corev1.PersistentVolume {
			pv := volume(nil, "")
			pv.Labels[v1alpha1.LabelQuarantined] = "true"
			return pv
		}(), taints: "[" + ourTaint + "]", sentinel: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if !Put(c.pv, entry) {
				t.Errorf("%s: nothing changed", c.reason)
			}
			if Put(c.pv, entry) {
				t.Errorf("%s: a second time changed something", c.reason)
			}
			if !On(c.pv) || Sentinel(c.pv) != c.sentinel {
				t.Errorf("%s: On = %v, Sentinel = %v, want true, %v", c.reason, On(c.pv), Sentinel(c.pv), c.sentinel)
			}
			if d := cmp.Diff(c.taints, c.pv.Annotations[v1alpha1.AnnotationTaints]); d != "" {
				t.Errorf("%s: taints (-want +got):\n%s", c.reason, d)
			}
		})
	}
}

// TestEntry: the quarantine can be read back from a volume.
func TestEntry(t *testing.T) {
	pv := volume(nil, "")
	if e := Entry(pv); e != nil {
		t.Errorf("Entry of an unmarked volume = %+v", e)
	}
	Put(pv, entry)
	if d := cmp.Diff(entry, Entry(pv)); d != "" {
		t.Errorf("Entry (-want +got):\n%s", d)
	}
	by := *entry
	by.Reason, by.By = "Recall", "alice"
	pv = volume(nil, "")
	Put(pv, &by)
	if e := Entry(pv); e.By != Recovered || e.Reason != "Recall" {
		t.Errorf("Entry of a person's quarantine = %+v", e)
	}
}

// TestLiftUndoesPut: for any volume, lifting after marking gives it back as it was.
func TestLiftUndoesPut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pv := volume(nil, "")
		if rapid.Bool().Draw(t, "claim") {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "b", UID: "u"}
		}
		if rapid.Bool().Draw(t, "foreign taint") {
			effect := rapid.SampledFrom([]string{"NoBind", "Other"}).Draw(t, "effect")
			pv.Annotations[v1alpha1.AnnotationTaints] = `[{"key":"example.com/x","value":"","effect":"` + effect + `","timeAdded":""}]`
			if effect == "NoBind" { // who puts such a taint on closes the volume too
				pv.Labels[v1alpha1.LabelQuarantined] = "true"
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "b"}
			}
		}
		before := pv.DeepCopy()
		if Lift(pv) {
			t.Fatalf("lifting an unmarked volume changed it: %+v", cmp.Diff(before, pv))
		}
		Put(pv, entry)
		pv.Annotations[v1alpha1.AnnotationNotified] = "x"
		if !Lift(pv) {
			t.Fatal("lifting changed nothing")
		}
		if d := cmp.Diff(before, pv); d != "" {
			t.Fatalf("after marking and lifting (-before +after):\n%s", d)
		}
	})
}

func TestLiftLeavesWhatIsNotOurs(t *testing.T) {
	cases := map[string]struct {
		reason string
		pv     *corev1.PersistentVolume
	}{
		"LabelByHand": {reason: "a person set the label", pv: func() *corev1.PersistentVolume {
			pv := volume(nil, "")
			pv.Labels[v1alpha1.LabelQuarantined] = "true"
			return pv
		}()},
		"Garbage":   {reason: "taints that cannot be read are nobody's we know", pv: volume(nil, "{")},
		"RealClaim": {reason: "a claim has it", pv: volume(&corev1.ObjectReference{Namespace: "a", Name: "b"}, "")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := c.pv.DeepCopy()
			if Lift(c.pv) || cmp.Diff(before, c.pv) != "" {
				t.Errorf("%s: changed: %s", c.reason, cmp.Diff(before, c.pv))
			}
		})
	}
	// A sentinel that bears a UID is not the one that we write.
	pv := volume(&corev1.ObjectReference{Namespace: v1alpha1.SentinelClaimNamespace, Name: v1alpha1.SentinelClaimName, UID: "x"}, "["+ourTaint+"]")
	if Lift(pv); pv.Spec.ClaimRef == nil {
		t.Error("a claimRef with a UID was removed")
	}
}

func TestDiskOf(t *testing.T) {
	long := "wwn-" + strings.Repeat("0123456789", 8)
	with := func(label, annotation string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{}
		pv.Labels = map[string]string{v1alpha1.LabelDisk: label}
		pv.Annotations = map[string]string{v1alpha1.AnnotationDisk: annotation}
		return pv
	}
	cases := map[string]struct {
		reason, want string
		pv           *corev1.PersistentVolume
	}{
		"Short":        {reason: "they agree", want: "wwn-1", pv: with("wwn-1", "wwn-1")},
		"Long":         {reason: "the label is the id cut", want: long, pv: with(diskid.Label(long), long)},
		"Disagree":     {reason: "one of them is wrong, and nobody knows which", pv: with("wwn-1", "wwn-2")},
		"NoAnnotation": {reason: "a label alone may stand for several ids", pv: with("wwn-1", "")},
		"Nothing":      {reason: "not a volume of ours", pv: &corev1.PersistentVolume{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := DiskOf(c.pv); got != c.want {
				t.Errorf("%s: DiskOf = %q, want %q", c.reason, got, c.want)
			}
		})
	}
}
