//go:build lab

package lvm_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/lvm"
)

// TestConformanceOfAMachine runs the suite on the machine's own groups, those of the
// disks.yaml that HOLDFAST_LVM_DISKS names, which must have room for 2 GiB and,
// for thin volumes, a pool. It is to be run as root on a machine made for it: build it
// with go test -c -tags lab.
func TestConformanceOfAMachine(t *testing.T) {
	name := os.Getenv("HOLDFAST_LVM_DISKS")
	if name == "" {
		t.Fatal("HOLDFAST_LVM_DISKS names no disks.yaml")
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := nodedisks.Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	root, err := hostfs.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	host := lvm.NewNodeHost(root)
	for _, info := range lvm.Groups(file) {
		t.Run(info.Name, func(t *testing.T) {
			e := lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: []lvm.GroupInfo{info}, Host: host, Mounts: host, Deadlines: lvm.DefaultDeadlines(),
				Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
			conform(t, machine{engine: e, group: info, thin: info.ThinPool != "", mkfs: true})
		})
	}
}
