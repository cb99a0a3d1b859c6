package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"holdfast.dev/api/v1alpha1"
)

// Without /dev/kmsg the journal is tried, unless it must not be; what cannot be
// read is said, and its position is not that of another source.
func TestKernelLogSources(t *testing.T) {
	cases := map[string]struct {
		reason, source string
		want, not      string
	}{
		"Auto":    {"both are tried", "auto", "open journal", ""},
		"Kmsg":    {"only the device", "kmsg", "open kernel log", "journal"},
		"Journal": {"only the journal", "journal", "open journal", "open kernel log"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h, api := newHost(t), newMemory()
			if err := os.Remove(filepath.Join(h.dir, "dev/kmsg")); err != nil {
				t.Fatal(err)
			}
			o := h.options("n")
			o.KernelLog = tc.source
			watch(t, h, api, o)
			n := api.await(t, "the log cannot be read", condition(v1alpha1.ConditionKernelLogRead, "False"))
			got := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionKernelLogRead).Message
			if !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
				t.Errorf("%q; reason: %s", got, tc.reason)
			}
		})
	}
}
