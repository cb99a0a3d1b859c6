//go:build lab

package lab_test

import (
	"cmp"
	"encoding/json"
	"strings"
	"testing"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/monitor/smart"
)

// smartctl is what smartctl's JSON has in common with our report.
type smartctl struct {
	Model    string `json:"model_name"`
	Product  string `json:"scsi_model_name"`
	Serial   string `json:"serial_number"`
	Firmware string `json:"firmware_version"`
	Revision string `json:"scsi_revision"`
	Capacity struct {
		Bytes uint64 `json:"bytes"`
	} `json:"user_capacity"`
	Temperature *struct {
		Current int `json:"current"`
	} `json:"temperature"`
	PowerOn *struct {
		Hours uint64 `json:"hours"`
	} `json:"power_on_time"`
	Status *struct {
		Passed bool `json:"passed"`
	} `json:"smart_status"`
	ATA *struct {
		Table []struct {
			ID     uint8 `json:"id"`
			Value  uint8 `json:"value"`
			Worst  uint8 `json:"worst"`
			Thresh uint8 `json:"thresh"`
			Raw    struct {
				Value uint64 `json:"value"`
			} `json:"raw"`
		} `json:"table"`
	} `json:"ata_smart_attributes"`
	NVMe *struct {
		CriticalWarning uint8  `json:"critical_warning"`
		Spare           uint8  `json:"available_spare"`
		SpareThreshold  uint8  `json:"available_spare_threshold"`
		PercentUsed     uint8  `json:"percentage_used"`
		UnitsRead       uint64 `json:"data_units_read"`
		UnitsWritten    uint64 `json:"data_units_written"`
		Reads           uint64 `json:"host_reads"`
		MediaErrors     uint64 `json:"media_errors"`
		ErrorEntries    uint64 `json:"num_err_log_entries"`
	} `json:"nvme_smart_health_information_log"`
}

// sameSmart compares what disk-monitor and smartctl read of a disk.
func sameSmart(t *testing.T, n *lab.Node, dev string) {
	t.Helper()
	a, b, err := n.SmartJSON(t.Context(), dev)
	must(t, err)
	var reports []struct {
		Report *smart.Report
		Error  string
	}
	var want smartctl
	must(t, json.Unmarshal(a, &reports))
	must(t, json.Unmarshal(b, &want))
	if len(reports) != 1 {
		t.Fatalf("disk-monitor says %s", a)
	}
	got := reports[0].Report
	if got == nil {
		if want.Status != nil || want.ATA != nil || want.NVMe != nil {
			t.Errorf("%s: disk-monitor says %s; smartctl says %s", dev, a, b)
		}
		t.Logf("%s has no health to tell: %s", dev, reports[0].Error)
		return
	}
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s of %s is %v, smartctl says %v", what, dev, got, want)
		}
	}
	check("model", got.Model, strings.TrimSpace(cmp.Or(want.Model, want.Product[min(len(want.Product), len(got.Vendor)):])))
	check("serial", got.Serial, want.Serial)
	check("firmware", got.Firmware, cmp.Or(want.Firmware, want.Revision))
	check("capacity", got.CapacityBytes, want.Capacity.Bytes)
	// What smartctl can tell, we must; the reverse is not asked.
	if w := want.Temperature; w != nil {
		check("temperature told", got.Celsius != nil, true)
		if got.Celsius != nil {
			check("temperature", *got.Celsius, w.Current)
		}
	}
	if w := want.PowerOn; w != nil {
		check("power-on hours told", got.PowerOnHours != nil, true)
		if got.PowerOnHours != nil {
			check("power-on hours", *got.PowerOnHours, w.Hours)
		}
	}
	if w := want.Status; w != nil {
		check("prediction told", got.Failing != nil, true)
		if got.Failing != nil {
			check("prediction", *got.Failing, !w.Passed)
		}
	}
	check("is ATA", got.ATA != nil, want.ATA != nil)
	check("is NVMe", got.NVMe != nil, want.NVMe != nil)
	if h := got.ATA; h != nil && want.ATA != nil {
		check("number of attributes", len(h.Attributes), len(want.ATA.Table))
		for _, w := range want.ATA.Table {
			g, _ := h.Attribute(w.ID)
			if g.Threshold == nil {
				t.Errorf("attribute %d of %s has no threshold, smartctl says %d", w.ID, dev, w.Thresh)
				continue
			}
			check("attribute", [5]uint64{uint64(g.ID), uint64(g.Value), uint64(g.Worst), uint64(*g.Threshold), g.Raw},
				[5]uint64{uint64(w.ID), uint64(w.Value), uint64(w.Worst), uint64(w.Thresh), w.Raw.Value})
		}
	}
	if h, w := got.NVMe, want.NVMe; h != nil && w != nil {
		check("health", [6]uint64{uint64(h.CriticalWarning), uint64(h.AvailableSpare), uint64(h.SpareThreshold), uint64(*got.PercentUsed), h.MediaErrors, h.ErrorLogEntries},
			[6]uint64{uint64(w.CriticalWarning), uint64(w.Spare), uint64(w.SpareThreshold), uint64(w.PercentUsed), w.MediaErrors, w.ErrorEntries})
		check("read and written", [3]uint64{h.BytesRead, h.BytesWritten, h.ReadCommands}, [3]uint64{w.UnitsRead * 512_000, w.UnitsWritten * 512_000, w.Reads})
	}
}
