//go:build lab

package lvm_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/lvm"
)

// TestConformanceOfAMachine runs the suite on the machine's own groups, those of the
// disks.yaml that HOLDFAST_LVM_DISKS names, which must have room for 2 GiB and,
// a thin pool. It is to be run as root on a machine made for it: build it
// with go test -c -tags lab. What holds goes into the file that HOLDFAST_LVM_RESULT names,
// as JSON: the cases by volume group.
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
	result := map[string][]string{}
	for _, info := range lvm.Groups(file) {
		t.Run(info.Name, func(t *testing.T) {
			e := lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: []lvm.GroupInfo{info}, Host: host, Mounts: host, Deadlines: lvm.DefaultDeadlines(),
				Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
			if err := e.RefreshAll(t.Context()); err != nil { // the first command of a slow machine takes seconds
				t.Fatal(err)
			}
			held := conform(t, machine{engine: e, host: host, mounts: host, group: info, thin: info.ThinPool != "", mkfs: true, zeroes: func(on bool) error {
				yes := map[bool]string{true: "y", false: "n"}[on]
				_, err := host.Run(t.Context(), time.Minute, "lvm", "lvchange", "--zero", yes, info.Name+"/"+info.ThinPool)
				return err
			}})
			result[info.Name] = held
			if info.ThinPool != "" && !slices.Equal(held, cases()) {
				t.Errorf("%q hold, want %q", held, cases())
			}
		})
	}
	if len(result) == 0 {
		t.Errorf("%s lists no volume group", name)
	}
	out, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("HOLDFAST_LVM_RESULT"), out, 0o600); err != nil {
		t.Fatal(err)
	}
}
