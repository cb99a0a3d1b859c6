package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// replaceDisk are the steps of ReplaceDisk, in order.
var replaceDisk = [...]v1alpha1.StepName{
	v1alpha1.StepReserveBudget,
	v1alpha1.StepConfirmQuarantine,
	v1alpha1.StepRequestReplacement,
	v1alpha1.StepAwaitReplacement,
	v1alpha1.StepRetireVolumes,
	v1alpha1.StepLiftQuarantine,
	v1alpha1.StepReleaseBudget,
}

// PlanName is the name of the one plan for one quarantine of one disk on one
// node. A plan that was cancelled is therefore not made again for the same
// quarantine, and a node re-created under the same name gets plans of its own.
func PlanName(node types.UID, disk string, since time.Time) string {
	return "replace-disk-" + digest(string(node), disk, stamp(since))[:16]
}

// NewPlan is the plan for a quarantined disk.
func NewPlan(n *v1alpha1.ComputeNode, d *v1alpha1.Disk, action v1alpha1.Action, since time.Time) v1alpha1.Remediation {
	known := []string{}
	for i := range n.Status.Disks {
		if n.Status.Disks[i].Device != "" {
			known = append(known, n.Status.Disks[i].ID)
		}
	}
	slices.Sort(known)
	r := v1alpha1.Remediation{
		ObjectMeta: metav1.ObjectMeta{
			Name:        PlanName(n.Spec.NodeUID, d.ID, since),
			Labels:      map[string]string{v1alpha1.LabelNode: n.Name, v1alpha1.LabelDisk: diskid.Label(d.ID)},
			Annotations: map[string]string{v1alpha1.AnnotationKnownDisks: mustJSON(known)},
			Finalizers:  []string{v1alpha1.FinalizerBudget},
		},
		Spec: v1alpha1.RemediationSpec{
			Node:    n.Name,
			NodeUID: n.Spec.NodeUID,
			Disk:    d.ID,
			Slot:    d.Slot,
			Group:   d.Group,
			Reason:  d.State,
			Action:  action,
			Steps:   slices.Clone(replaceDisk[:]),
		},
	}
	r.Spec.PlanHash = PlanHash(&r.Spec)
	return r
}

// PlanHash is the SHA-256 of a plan's target and steps, in hex.
func PlanHash(s *v1alpha1.RemediationSpec) string {
	parts := []string{s.Node, string(s.NodeUID), s.Disk, s.Slot, s.Group, string(s.Action)}
	for _, step := range s.Steps {
		parts = append(parts, string(step))
	}
	return digest(parts...)
}

// StepOf is the state of a step, or nil when nothing was recorded of it.
func StepOf(r *v1alpha1.Remediation, name v1alpha1.StepName) *v1alpha1.StepStatus {
	for i := range r.Status.Steps {
		if r.Status.Steps[i].Name == name {
			return &r.Status.Steps[i]
		}
	}
	return nil
}

// ReplacedBy is the disk that was found in the old one's place, or "".
func ReplacedBy(r *v1alpha1.Remediation) string {
	return r.Annotations[v1alpha1.AnnotationReplacedBy]
}

// Replacement finds the disk that took the place of a plan's disk: a healthy
// one, present now, in the same slot; or else a healthy one of the same group of
// the flavor that the node did not have when the plan was made and that is not
// claimed by another plan (see Claimed). While the old disk is still there, or
// the monitor cannot list disks, there is none.
func Replacement(n *v1alpha1.ComputeNode, r *v1alpha1.Remediation, claimed []string) (string, bool) {
	if inventoryUnread(n) {
		return "", false
	}
	if old := Disk(n, r.Spec.Disk); old != nil && old.Device != "" {
		return "", false
	}
	var known []string
	if err := json.Unmarshal([]byte(r.Annotations[v1alpha1.AnnotationKnownDisks]), &known); err != nil {
		known = nil
	}
	byGroup := ""
	for i := range n.Status.Disks {
		d := &n.Status.Disks[i]
		if d.ID == r.Spec.Disk || d.State != v1alpha1.DiskHealthy || d.Device == "" {
			continue
		}
		if r.Spec.Slot != "" && d.Slot == r.Spec.Slot {
			return d.ID, true
		}
		if byGroup == "" && known != nil && r.Spec.Group != "" && d.Group == r.Spec.Group &&
			!slices.Contains(known, d.ID) && !slices.Contains(claimed, d.ID) {
			byGroup = d.ID
		}
	}
	return byGroup, byGroup != ""
}

// Claimed are the disks that a plan may not count as its own by their group
// alone: those in the slot that another open plan is for, and those that another
// plan counted, unless it had ended before this one was made.
func Claimed(n *v1alpha1.ComputeNode, r *v1alpha1.Remediation, plans []v1alpha1.Remediation) []string {
	var out []string
	for i := range plans {
		o := &plans[i]
		if o.Name == r.Name || (o.Status.FinishedAt != nil && o.Status.FinishedAt.Before(&r.CreationTimestamp)) {
			continue
		}
		if by := ReplacedBy(o); by != "" {
			out = append(out, by)
		}
		for j := range n.Status.Disks {
			if d := &n.Status.Disks[j]; o.Spec.Slot != "" && d.Slot == o.Spec.Slot && o.Status.FinishedAt == nil {
				out = append(out, d.ID)
			}
		}
	}
	return out
}

// Stamp is how a time is written where it is compared: RFC 3339, in seconds, UTC.
func Stamp(t time.Time) string { return stamp(t) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// seconds cuts a time to what the API keeps of it.
func seconds(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

// digest is the SHA-256 of parts, each with its length before it, in hex.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// mustJSON encodes strings, which cannot fail.
func mustJSON(v []string) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
