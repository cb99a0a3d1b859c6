package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/internal/output"
	"holdfast.dev/monitor/smart"
)

// diskReport is one disk of "disk-monitor smart -o json".
type diskReport struct {
	Device string        `json:"device"`
	Report *smart.Report `json:"report,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// runSmart prints what disks say of their health. Disks are read one after the
// other, and one that fails does not keep the others from being printed.
func runSmart(ctx context.Context, w io.Writer, args []string) error {
	format := output.Table
	fs := flag.NewFlagSet("disk-monitor smart", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "Usage: disk-monitor smart [-o table|json|yaml] [-timeout 30s] [-d TYPE] DEVICE…\n\nPrints what disks say of their health, such as /dev/sda or /dev/nvme0n1. Needs root. Nothing is changed.")
		fs.PrintDefaults()
	}
	fs.Func("o", "table, json or yaml (default table)", format.Set)
	timeout := fs.Duration("timeout", 30*time.Second, "how long to wait for one disk")
	through := fs.String("d", "", "ask the drive behind a RAID adapter through smartctl, with this option -d of its, such as megaraid,3")
	if err := daemon.Parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("smart: name a device, such as /dev/sda")
	}
	if *timeout <= 0 {
		return fmt.Errorf("smart: -timeout %s is not positive", *timeout)
	}
	var reader smart.Reader
	if *through != "" {
		a, err := smart.AdapterOf(*through)
		if err != nil {
			return fmt.Errorf("smart: -d: %w", err)
		}
		reader.Ask = func(ctx context.Context, device string) (*smart.Report, error) {
			return (&smart.Smartctl{}).Ask(ctx, a, device)
		}
	}
	var disks []diskReport
	var rows [][]string
	var errs []error
	for _, device := range fs.Args() {
		d := diskReport{Device: device}
		diskCtx, cancel := context.WithTimeout(ctx, *timeout)
		report, err := reader.Read(diskCtx, device)
		cancel()
		if err != nil {
			errs, d.Error = append(errs, err), err.Error()
		} else {
			d.Report = report
			for _, row := range smartRows(report) {
				rows = append(rows, append([]string{device}, row...))
			}
		}
		disks = append(disks, d)
	}
	if format != output.Table || len(rows) > 0 { // a table of nothing says nothing
		if err := output.Print(w, format, disks, []string{"DISK", "FIELD", "VALUE"}, rows); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// smartRows are the fields of a report and their values. What the disk does not
// tell is left out.
func smartRows(r *smart.Report) [][]string {
	var rows [][]string
	row := func(field, format string, args ...any) {
		rows = append(rows, []string{field, fmt.Sprintf(format, args...)})
	}
	row("model", "%s", strings.TrimSpace(r.Vendor+" "+r.Model))
	row("serial", "%s", r.Serial)
	row("firmware", "%s", r.Firmware)
	row("capacity", "%d bytes", r.CapacityBytes)
	if r.Failing != nil {
		row("predicts its failure", "%t", *r.Failing)
	} else {
		row("predicts its failure", "does not tell")
	}
	if r.Celsius != nil {
		row("temperature", "%d °C", *r.Celsius)
	}
	if r.PowerOnHours != nil {
		row("power-on", "%d h", *r.PowerOnHours)
	}
	if r.PercentUsed != nil {
		row("endurance used", "%d %%", *r.PercentUsed)
	}
	switch {
	case r.ATA != nil:
		if r.ATA.Errors != nil {
			row("errors logged", "%d", *r.ATA.Errors)
		}
		if r.ATA.Uncorrectable != nil {
			row("uncorrectable errors", "%d", *r.ATA.Uncorrectable)
		}
		row("failed self-tests", "%s", orUnknown(r.ATA.SelfTestFailures))
		for _, a := range r.ATA.Attributes {
			row(strings.TrimSpace(strconv.Itoa(int(a.ID))+" "+a.Name), "%s", attributeText(a))
		}
	case r.NVMe != nil:
		rows = append(rows, nvmeRows(r.NVMe)...)
	case r.SCSI != nil:
		rows = append(rows, scsiRows(r.SCSI)...)
	}
	for _, p := range r.Problems {
		row("not read", "%s", p)
	}
	return rows
}

// orUnknown is a number, or that the disk does not tell it.
func orUnknown[T any](n *T) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

func attributeText(a smart.Attribute) string {
	s := fmt.Sprintf("%d (value %d, worst %d, threshold %s)", a.Count, a.Value, a.Worst, orUnknown(a.Threshold))
	if a.Failed() {
		s += " FAILED"
	}
	return s
}

func nvmeRows(h *smart.NVMeHealth) [][]string {
	warning := "none"
	if reasons := h.CriticalWarning.Reasons(); len(reasons) > 0 {
		warning = strings.Join(reasons, ", ")
	}
	return [][]string{
		{"critical warning", warning},
		{"spare", fmt.Sprintf("%d %% (threshold %d %%)", h.AvailableSpare, h.SpareThreshold)},
		{"media errors", strconv.FormatUint(h.MediaErrors, 10)},
		{"errors logged", strconv.FormatUint(h.ErrorLogEntries, 10)},
		{"unsafe shutdowns", strconv.FormatUint(h.UnsafeShutdowns, 10)},
		{"written", fmt.Sprintf("%d bytes", h.BytesWritten)},
		{"failed self-tests", orUnknown(h.SelfTestFailures)},
	}
}

func scsiRows(h *smart.SCSIHealth) [][]string {
	rows := [][]string{{"informational exception", orUnknown[uint8](nil)}}
	if h.ASC != nil && h.ASCQ != nil {
		rows[0][1] = fmt.Sprintf("0x%02x/0x%02x", *h.ASC, *h.ASCQ)
	}
	for _, c := range []struct {
		name string
		*smart.ErrorCounters
	}{{"read", h.Read}, {"write", h.Write}, {"verify", h.Verify}} {
		if c.ErrorCounters != nil {
			rows = append(rows, []string{c.name + " errors", fmt.Sprintf("%s uncorrected, %s corrected", orUnknown(c.Uncorrected), orUnknown(c.Corrected))})
		}
	}
	if h.WWN != "" {
		rows = append([][]string{{"WWN", h.WWN}}, rows...)
	}
	return append(rows, []string{"bad places found by scans", orUnknown(h.ScanErrors)}, []string{"grown defects", orUnknown(h.GrownDefects)}, []string{"failed self-tests", orUnknown(h.SelfTestFailures)})
}
