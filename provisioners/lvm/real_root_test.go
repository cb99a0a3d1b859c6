//go:build root

package lvm_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm"
)

// noMapper is the machine, whose LVM is told that there is no device mapper: metadata is
// written to real disks, and no device appears.
type noMapper struct {
	*lvm.NodeHost
	device string
}

func (h noMapper) Run(ctx context.Context, timeout time.Duration, program string, args ...string) ([]byte, error) {
	if program == "lvm" {
		args = slices.Insert(slices.Clone(args), 1, "--driverloaded", "n")
		if args[0] == "lvcreate" { // neither can be wiped without a device
			for i, a := range args {
				if a == "-W" || a == "-Z" {
					args[i+1] = "n"
				}
			}
			args = slices.Insert(args, 1, "-an")
		}
	}
	switch program { // there is no device that could be looked at or zeroed
	case "blkid":
		return nil, nothingFound{}
	case "blkdiscard":
		return nil, nil
	}
	return h.NodeHost.Run(ctx, timeout, program, args...)
}

// nothingFound is how blkid ends that has found nothing.
type nothingFound struct{}

func (nothingFound) Error() string   { return "exit status 2" }
func (nothingFound) ExitStatus() int { return 2 }

func (noMapper) Exclusive(string) error { return nil }

func (h noMapper) Devices(context.Context, lvm.GroupInfo) (lvm.Devices, error) {
	return lvm.Devices{Paths: []string{h.device}}, nil
}

// TestConformanceOfLVM runs the suite with LVM itself on a loop device. It shows that LVM
// takes our command lines and that we understand its reports; activation, file
// systems and thin pools need a device mapper and are the lab's.
func TestConformanceOfLVM(t *testing.T) {
	run := func(program string, args ...string) string {
		t.Helper()
		out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: program, Args: args, Stderr: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(512 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	dev := run("losetup", "-f", "--show", image)
	t.Cleanup(func() {
		if _, err := hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "losetup", Args: []string{"-d", dev}}); err != nil {
			t.Error(err)
		}
	})
	const name = "hf-conformance"
	run("lvm", "vgcreate", "--driverloaded", "n", "--devices", dev, name, dev)
	uuid := run("lvm", "vgs", "--driverloaded", "n", "--devices", dev, "--noheadings", "-o", "vg_uuid", name)
	root, err := hostfs.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	host := noMapper{NodeHost: lvm.NewNodeHost(root), device: dev}
	info := lvm.GroupInfo{Name: name, UUID: uuid, Pool: "db", Disks: []string{"loop"}}
	e := lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: []lvm.GroupInfo{info}, Host: host, Mounts: host, Deadlines: lvm.DefaultDeadlines(),
		Log: slog.New(slog.DiscardHandler), Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
	conform(t, machine{engine: e, host: host, mounts: host, group: info})
}
