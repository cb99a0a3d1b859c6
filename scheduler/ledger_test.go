package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
)

// Another scheduler overwrites the selected node and leaves this one's choice standing. Its
// volume may be in any volume group of that node.
func TestChoiceIsOfItsNodeAlone(t *testing.T) {
	for name, c := range map[string]struct{ selected, of, group, disk string }{
		"Ours":       {"n1", "n1", "vg1", "wwn-1"},
		"Stale":      {"n2", "n1", "", ""},
		"OfNobody":   {"n1", "", "", ""},
		"GivenBack":  {"", "n1", "", ""},
		"NotPlaced":  {"", "", "", ""},
		"OtherFirst": {"n2", "", "", ""},
	} {
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			volume.AnnSelectedNode: c.selected, v1alpha1.VolumeGroupNode: c.of, v1alpha1.LabelVolumeGroup: "vg1", v1alpha1.LabelDisk: "wwn-1"}}}
		if node, group, disk := chosen(pvc); node != c.selected || group != c.group || disk != c.disk {
			t.Errorf("%s: %q, %q, %q", name, node, group, disk)
		}
	}
}
