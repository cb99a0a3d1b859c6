// Package marks puts a quarantine on a PersistentVolume and takes it off. Its
// functions change a value in memory; writing it, by compare-and-swap, is the
// caller's.
//
// A marked volume has the label holdfast.dev/quarantined=true, a taint with the
// key holdfast.dev/disk, and, when no claim had it, a claimRef to the sentinel
// claim. The stock scheduler and PV controller pass over a volume whose claimRef
// names another claim (k8s.io/component-helpers/storage/volume, FindMatchingVolume).
package marks

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/remediation/policy"
)

// DiskOf is the disk that a volume is on, or "" when its labels and annotation
// do not agree on one: such a volume is neither marked nor freed.
func DiskOf(pv *corev1.PersistentVolume) string {
	id := pv.Annotations[v1alpha1.AnnotationDisk]
	if id == "" || pv.Labels[v1alpha1.LabelDisk] != diskid.Label(id) {
		return ""
	}
	return id
}

// Put marks a volume whose disk is quarantined by e and says whether anything
// changed. Doing it twice changes nothing. A volume that a claim has, or had,
// keeps its claimRef.
func Put(pv *corev1.PersistentVolume, e *v1alpha1.Quarantine) bool {
	changed := false
	if pv.Labels[v1alpha1.LabelQuarantined] != "true" {
		if pv.Labels == nil {
			pv.Labels = map[string]string{}
		}
		pv.Labels[v1alpha1.LabelQuarantined] = "true"
		changed = true
	}
	want := v1alpha1.VolumeTaint{
		Key:       v1alpha1.TaintDisk,
		Value:     e.Reason,
		Effect:    v1alpha1.EffectNoBind,
		TimeAdded: policy.Stamp(e.Since.Time),
	}
	taints, _ := taintsOf(pv) // what cannot be read cannot be kept
	if !slices.Contains(taints, want) {
		taints = append(slices.DeleteFunc(taints, ours), want)
		setTaints(pv, taints)
		changed = true
	}
	if pv.Spec.ClaimRef == nil {
		pv.Spec.ClaimRef = &corev1.ObjectReference{
			APIVersion: "v1",
			Kind:       "PersistentVolumeClaim",
			Namespace:  v1alpha1.SentinelClaimNamespace,
			Name:       v1alpha1.SentinelClaimName,
		}
		changed = true
	}
	return changed
}

// Lift takes off what Put put on, and nothing else, and says whether anything
// changed. While a taint of someone else closes the volume, it stays closed.
func Lift(pv *corev1.PersistentVolume) bool {
	taints, ok := taintsOf(pv)
	if !ok || (!Sentinel(pv) && !slices.ContainsFunc(taints, ours)) {
		return false
	}
	changed := false
	if rest := slices.DeleteFunc(slices.Clone(taints), ours); len(rest) != len(taints) {
		taints = rest
		setTaints(pv, rest)
		changed = true
	}
	if _, ok := pv.Annotations[v1alpha1.AnnotationNotified]; ok {
		delete(pv.Annotations, v1alpha1.AnnotationNotified)
		changed = true
	}
	if slices.ContainsFunc(taints, func(t v1alpha1.VolumeTaint) bool { return t.Effect == v1alpha1.EffectNoBind }) {
		return changed
	}
	if _, ok := pv.Labels[v1alpha1.LabelQuarantined]; ok {
		delete(pv.Labels, v1alpha1.LabelQuarantined)
		changed = true
	}
	if Sentinel(pv) {
		pv.Spec.ClaimRef = nil
		changed = true
	}
	return changed
}

// On is true when a volume carries every mark: no new claim can bind it.
func On(pv *corev1.PersistentVolume) bool {
	taints, _ := taintsOf(pv)
	return pv.Labels[v1alpha1.LabelQuarantined] == "true" && pv.Spec.ClaimRef != nil && slices.ContainsFunc(taints, ours)
}

// Recovered is Quarantine.By of an entry that was read back from a volume's
// marks and was not for a disk's state: a person made it, whose name is lost.
const Recovered = "recovered-from-volume"

// Entry is the quarantine that a volume's marks tell of, or nil.
func Entry(pv *corev1.PersistentVolume) *v1alpha1.Quarantine {
	taints, _ := taintsOf(pv)
	i := slices.IndexFunc(taints, ours)
	disk := DiskOf(pv)
	if i < 0 || disk == "" {
		return nil
	}
	e := &v1alpha1.Quarantine{Disk: disk, Reason: taints[i].Value, By: Recovered, Since: pv.CreationTimestamp}
	switch v1alpha1.DiskState(e.Reason) {
	case v1alpha1.DiskFailed, v1alpha1.DiskMissing, v1alpha1.DiskDegraded:
		e.By = v1alpha1.QuarantinedByController
	}
	if t, err := time.Parse(time.RFC3339, taints[i].TimeAdded); err == nil {
		e.Since = metav1.NewTime(t)
	}
	return e
}

// Sentinel is true when a volume's claimRef is the sentinel claim.
func Sentinel(pv *corev1.PersistentVolume) bool {
	c := pv.Spec.ClaimRef
	return c != nil && c.Namespace == v1alpha1.SentinelClaimNamespace && c.Name == v1alpha1.SentinelClaimName && c.UID == ""
}

// Claimed is true when a claim, bound or yet to be bound, has the volume.
func Claimed(pv *corev1.PersistentVolume) bool {
	return pv.Spec.ClaimRef != nil && !Sentinel(pv) && !Released(pv)
}

// Released is true when the PV controller has said that the claim is gone.
func Released(pv *corev1.PersistentVolume) bool {
	return pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed
}

func ours(t v1alpha1.VolumeTaint) bool { return t.Key == v1alpha1.TaintDisk }

// taintsOf reads a volume's taints; ok is false when they cannot be read.
func taintsOf(pv *corev1.PersistentVolume) (taints []v1alpha1.VolumeTaint, ok bool) {
	text, set := pv.Annotations[v1alpha1.AnnotationTaints]
	if !set {
		return nil, true
	}
	if err := json.Unmarshal([]byte(text), &taints); err != nil {
		return nil, false
	}
	return taints, true
}

func setTaints(pv *corev1.PersistentVolume, taints []v1alpha1.VolumeTaint) {
	if len(taints) == 0 {
		delete(pv.Annotations, v1alpha1.AnnotationTaints)
		return
	}
	text, err := json.Marshal(taints)
	if err != nil { // strings only: it cannot happen
		panic(err)
	}
	if pv.Annotations == nil {
		pv.Annotations = map[string]string{}
	}
	pv.Annotations[v1alpha1.AnnotationTaints] = string(text)
}
