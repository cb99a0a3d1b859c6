package diskid_test

import (
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// The disk monitor and node preparation had a rule each, with opposite answers for a disk
// that does not tell: one of them called it missing after the other had prepared it.
func TestMedia(t *testing.T) {
	cases := map[string]struct {
		dev, rotational string
		want            v1alpha1.Media
	}{
		"Spinning":   {"sda", "1", v1alpha1.MediaHDD},
		"Flash":      {"sda", "0", v1alpha1.MediaSSD},
		"NotTold":    {"sda", "", v1alpha1.MediaHDD},
		"NVMe":       {"nvme0n1", "0", v1alpha1.MediaNVMe},
		"NVMeUntold": {"nvme0n1", "", v1alpha1.MediaNVMe},
		"Virtual":    {"vda", "1", v1alpha1.MediaVirtual},
		"Loop":       {"loop0", "0", v1alpha1.MediaVirtual},
	}
	for name, tc := range cases {
		if got := diskid.Media(tc.dev, tc.rotational); got != tc.want {
			t.Errorf("%s: %s with rotational %q is %s, want %s", name, tc.dev, tc.rotational, got, tc.want)
		}
	}
}
