package smart_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// nvmeDump answers with a controller's own pages, and refuses what it has refused.
func nvmeDump(t testing.TB, dir string) *disk {
	t.Helper()
	d := &disk{nvme: true, admin: map[string][]byte{}, errs: map[string]error{}}
	for _, file := range recordings(t, "nvme/"+filepath.Base(dir)+"/*.bin", 4) {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d.admin[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".bin"), "-", " ")] = page
	}
	refused, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(refused)) {
		var name string
		var status int
		if _, err := fmt.Sscanf(line, "%s 0x%x", &name, &status); err != nil {
			t.Fatal(err)
		}
		d.errs[strings.ReplaceAll(name, "-", " ")] = smart.AdminStatus(status)
	}
	return d
}

// QEMU's controller is what its command line says: record-qemu.py, and hw/nvme/ctrl.c for the temperature.
func TestNVMePagesOfQEMU(t *testing.T) {
	d := nvmeDump(t, "testdata/pages/nvme/qemu")
	celsius, failing, zero := 50, true, uint64(0) // NVME_TEMPERATURE is 323 K
	want := &smart.Report{
		Protocol: smart.NVMe, Model: "QEMU NVMe Ctrl", Serial: "SERIAL012345", Firmware: "7.2.22", CapacityBytes: 1 << 30, RPM: new(uint16),
		Failing: &failing, Celsius: &celsius, PowerOnHours: &zero, PowerCycles: &zero, PercentUsed: new(uint8),
		NVMe: &smart.NVMeHealth{CriticalWarning: smart.SpareLow | smart.ReliabilityDegraded},
	}
	if d := cmp.Diff(want, read(t, d), cmpopts.IgnoreUnexported(smart.Report{})); d != "" {
		t.Errorf("QEMU (-) and this package (+): %s", d)
	}
	for _, asked := range d.asked {
		if d.errs[asked] != nil {
			t.Errorf("%s is asked for, which the controller does not have: that counts as an error there", asked)
		}
	}
}
