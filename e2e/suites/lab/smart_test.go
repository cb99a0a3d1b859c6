//go:build lab

package lab_test

import (
	"encoding/json"
	"reflect"
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
	got, err := read("")
	if got == nil {
		t.Logf("%s has no health to tell: %s", dev, err)
		if want, _ := read("scsi"); want != nil {
			t.Errorf("smartctl says of %s %+v", dev, want)
		}
		return
	}
	want, err := read(map[smart.Protocol]string{smart.ATA: "sat", smart.SCSI: "scsi", smart.NVMe: "nvme"}[got.Protocol])
	if want == nil {
		t.Fatalf("smartctl says nothing of %s: %s", dev, err)
	}
	untold := cmp.FilterPath(func(p cmp.Path) bool {
		_, told := p.Last().Values()
		k := told.Kind()
		return told.IsValid() && (k == reflect.Pointer || k == reflect.Slice) && told.IsNil()
	}, cmp.Ignore())
	if d := cmp.Diff(got, want, untold, cmpopts.IgnoreUnexported(smart.Report{}), cmpopts.IgnoreFields(smart.Report{}, "Problems")); d != "" {
		t.Errorf("%s by ioctl (-) and by smartctl (+):\n%s", dev, d)
	}
	told, _ := json.Marshal(want) // for whoever wants to know what was compared
	t.Logf("%s: smartctl tells %s", dev, told)
}
