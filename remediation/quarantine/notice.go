package quarantine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/marks"
	"holdfast.dev/remediation/policy"
)

// ReasonQuarantined is the reason of the Warning Event on a claim whose disk is bad.
const ReasonQuarantined = "DiskQuarantined"

// notify tells the owner of a volume's claim, once for each claim, disk and
// quarantine. The Event's name is a function of these three, so a second
// attempt finds it there; and a note on the volume outlives the Event, which
// the API server forgets after an hour.
func (c *Controller) notify(ctx context.Context, cn *v1alpha1.ComputeNode, pv *corev1.PersistentVolume, e *v1alpha1.Quarantine) error {
	claim := pv.Spec.ClaimRef
	if !marks.Claimed(pv) || claim.UID == "" {
		return nil
	}
	name := eventName(claim, e)
	if pv.Annotations[v1alpha1.AnnotationNotified] == name {
		return nil
	}
	now := metav1.NewTime(c.Now())
	err := c.Client.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim",
			Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
		},
		Type:                corev1.EventTypeWarning,
		Reason:              ReasonQuarantined,
		Message:             message(cn, pv, e),
		Source:              corev1.EventSource{Component: v1alpha1.QuarantinedByController},
		ReportingController: "holdfast.dev/" + v1alpha1.QuarantinedByController,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	})
	switch {
	case err == nil:
		c.Decided("notify")
		c.Log.Info("told the claim's owner", "claim", claim.Namespace+"/"+claim.Name, "volume", pv.Name, "disk", e.Disk)
	case apierrors.IsAlreadyExists(err):
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the claim goes with its namespace
	default:
		return fmt.Errorf("tell claim %s/%s of the quarantine: %w", claim.Namespace, claim.Name, err)
	}
	uid := claim.UID
	_, err = c.write(ctx, pv, func(pv *corev1.PersistentVolume) bool {
		if !on(pv, cn.Name, e.Disk) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != uid || pv.Annotations[v1alpha1.AnnotationNotified] == name {
			return false
		}
		pv.Annotations[v1alpha1.AnnotationNotified] = name
		return true
	})
	if err != nil {
		return fmt.Errorf("note the Event on PersistentVolume %s: %w", pv.Name, err)
	}
	return nil
}

func eventName(claim *corev1.ObjectReference, e *v1alpha1.Quarantine) string {
	sum := sha256.Sum256([]byte(string(claim.UID) + "\n" + e.Disk + "\n" + policy.Stamp(e.Since.Time)))
	return "disk-quarantined-" + hex.EncodeToString(sum[:8])
}

// message says what happened, how it is known, and what to do.
func message(cn *v1alpha1.ComputeNode, pv *corev1.PersistentVolume, e *v1alpha1.Quarantine) string {
	return fmt.Sprintf("disk %s of node %s, which holds volume %s, is quarantined (%s, by %s%s). "+
		"The data may be lost or fail to be read: move or restore it to another volume, then delete this claim; the repair waits for that.",
		e.Disk, cn.Name, pv.Name, e.Reason, e.By, evidence(policy.Disk(cn, e.Disk)))
}

// evidence is the newest of the gravest faults.
func evidence(d *v1alpha1.Disk) string {
	if d == nil {
		return ""
	}
	var worst *v1alpha1.Fault
	for i := range d.Faults {
		f := &d.Faults[i]
		if worst == nil || graver(f, worst) {
			worst = f
		}
	}
	if worst == nil {
		return ""
	}
	if worst.Evidence == "" {
		return "; evidence: " + string(worst.Class)
	}
	return fmt.Sprintf("; evidence: %s: %q", worst.Class, worst.Evidence)
}

func graver(a, b *v1alpha1.Fault) bool {
	if a.Severity != b.Severity {
		return a.Severity == v1alpha1.SeverityCritical
	}
	return a.LastSeen.After(b.LastSeen.Time)
}
