package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

func (b *builder) conditions(s *v1alpha1.ComputeNodeStatus, wholeErr error) {
	v := b.view
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		const limit = 1024 // the API's is 32768; a person reads this
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: strings.ToValidUTF8(message[:min(len(message), limit)], ""),
			LastTransitionTime: metav1.NewTime(v.Now),
		})
	}
	switch {
	case !v.Looked:
		set(v1alpha1.ConditionInventoryRead, metav1.ConditionUnknown, "Starting", "the first look at the disks has not ended")
	case wholeErr != nil:
		set(v1alpha1.ConditionInventoryRead, metav1.ConditionFalse, "Unreadable", wholeErr.Error())
	default:
		set(v1alpha1.ConditionInventoryRead, metav1.ConditionTrue, "Read", "")
	}
	switch {
	case v.LogErr != nil:
		set(v1alpha1.ConditionKernelLogRead, metav1.ConditionFalse, "Unreadable", v.LogErr.Error())
	case !v.LogRead && meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKernelLogRead) != nil:
	case !v.LogRead:
		set(v1alpha1.ConditionKernelLogRead, metav1.ConditionUnknown, "Starting", "the kernel log has not been opened")
	default:
		set(v1alpha1.ConditionKernelLogRead, metav1.ConditionTrue, "Read", "")
	}
	switch silent := v.silent(); {
	case v.Health == nil:
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionHealthRead)
	case silent != "":
		set(v1alpha1.ConditionHealthRead, metav1.ConditionFalse, "NoAnswer", silent)
	case v.unasked() && meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthRead) != nil: // what was last said stands
	case v.unasked():
		set(v1alpha1.ConditionHealthRead, metav1.ConditionUnknown, "Starting", "not every disk has been asked")
	default:
		set(v1alpha1.ConditionHealthRead, metav1.ConditionTrue, "Read", "")
	}
	switch {
	case !v.FlavorRead:
	case v.FlavorErr != nil:
		set(v1alpha1.ConditionFlavorSatisfied, metav1.ConditionUnknown, "FlavorUnknown", v.FlavorErr.Error())
	case v.Flavor == nil:
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionFlavorSatisfied)
	case !b.whole:
		set(v1alpha1.ConditionFlavorSatisfied, metav1.ConditionUnknown, "InventoryUnread", "the disks could not be listed")
	default:
		status := metav1.ConditionFalse
		reason, message := verdict.Compare(v.Flavor.Spec.Disks, b.sights(s.Disks), v.Snapshot.System != nil)
		if reason == verdict.Satisfied {
			status = metav1.ConditionTrue
		}
		set(v1alpha1.ConditionFlavorSatisfied, status, reason, message)
	}
}

// silent names the disks that do not tell their health, and since when.
func (v *View) silent() string {
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(v.Health)) {
		if h := v.Health[id]; h.Err != "" {
			texts = append(texts, fmt.Sprintf("%s since %s: %s", id, h.ErrSince.UTC().Format(time.RFC3339), h.Err))
		}
	}
	return strings.Join(texts, "; ")
}

// unasked says whether a disk has not been asked yet.
func (v *View) unasked() bool {
	for _, h := range v.Health {
		if !h.Read && h.Err == "" {
			return true
		}
	}
	return false
}
