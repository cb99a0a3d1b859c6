package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/output"
)

// The reason of a failed disk was the first of its faults by the alphabet, such as a command that was tried again.
func TestDisksWhy(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	err := printDisks(cmd, output.Table, fleetDisks{Disks: []fleetDisk{{Disk: v1alpha1.Disk{ID: "naa.1", State: v1alpha1.DiskFailed, Faults: []v1alpha1.Fault{
		{Class: v1alpha1.FaultATA, Severity: v1alpha1.SeverityWarning, Count: 9, Evidence: "failed command: READ DMA"},
		{Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical, Count: 2, Evidence: "critical medium error, dev sda"},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Medium ×2: critical medium error, dev sda"; !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant %q", out.String(), want)
	}
}
