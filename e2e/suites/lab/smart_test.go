//go:build lab

package lab_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/monitor/smart"
)

// sameSmart compares, field by field, what disk-monitor reads of a disk by ioctl
// with what it makes of smartctl's answer. What smartctl tells we must; the reverse
// is not asked: 7.3, the nodes' own, does not tell an NVMe disk's self-tests.
func sameSmart(t *testing.T, n *lab.Node, dev string) {
	t.Helper()
	read := func(through string) (*smart.Report, string) {
		t.Helper()
		var reports []struct {
			Report *smart.Report
			Error  string
		}
		data := have[[]byte](t)(n.SmartJSON(t.Context(), dev, through))
		must(t, json.Unmarshal(data, &reports))
		if len(reports) != 1 {
			t.Fatalf("disk-monitor says %s", data)
		}
		return reports[0].Report, reports[0].Error
	}
	protocol := smart.SCSI
	switch {
	case strings.HasPrefix(dev, "nvme"):
		protocol = smart.NVMe
	case strings.Contains(sh(t, n, "readlink -f /sys/block/%s", dev), "/ata"):
		protocol = smart.ATA
	}
	got, said := read("")
	want, theirs := read(map[smart.Protocol]string{smart.ATA: "sat", smart.SCSI: "scsi", smart.NVMe: "nvme"}[protocol])
	if got == nil && want == nil && protocol == smart.SCSI { // QEMU's SCSI disks
		t.Logf("%s has no health to tell: %s; %s", dev, said, theirs)
		return
	}
	if got == nil || want == nil {
		t.Fatalf("of %s disk-monitor says %v %s, smartctl %v %s", dev, got, said, want, theirs)
	}
	if want.Failing == nil || want.Celsius == nil || want.Protocol != protocol || protocol == smart.ATA && len(want.ATA.Attributes) == 0 {
		t.Errorf("smartctl tells so little of %s that there is nothing to compare: %+v", dev, want)
	}
	untold := cmp.FilterPath(func(p cmp.Path) bool {
		_, told := p.Last().Values()
		k := told.Kind()
		return told.IsValid() && (k == reflect.Pointer || k == reflect.Slice) && told.IsNil()
	}, cmp.Ignore())
	if d := cmp.Diff(got, want, untold, cmpopts.IgnoreUnexported(smart.Report{}), cmpopts.IgnoreFields(smart.Report{}, "Problems")); d != "" {
		t.Errorf("%s by ioctl (-) and by smartctl (+):\n%s", dev, d)
	}
	t.Logf("%s: smartctl tells %s", dev, have[[]byte](t)(json.Marshal(want)))
}
