package lvm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// machine is a node to try the engine on: the fake one, LVM without a device mapper
// (tag root), or a whole machine (tag lab).
type machine struct {
	engine *lvm.Engine
	host   lvm.Host
	mounts lvm.Mounts
	group  lvm.GroupInfo
	thin   bool // there is a thin pool
	mkfs   bool // devices are there, so that file systems can be made
	// zeroes turns the zeroing of the thin pool on and off.
	zeroes func(on bool) error
}

// cases are those that hold on a whole machine with a thin pool.
func cases() []string {
	return []string{"block", "xfs", "ext4", "thinblock", "thinxfs", "thinext4", "NoRoom", "Counted", "Devices", "Copies", "Zeroes"}
}

const mib = int64(1) << 20

// conform is what must hold on every machine. It returns the cases that were tried and hold.
func conform(t *testing.T, m machine) (held []string) {
	run := func(name string, f func(t *testing.T)) {
		if t.Run(name, f) {
			held = append(held, name)
		}
	}
	kinds := []map[string]string{{"pool": m.group.Pool, "wipe": "none"}}
	if m.thin {
		kinds = append(kinds, map[string]string{"pool": m.group.Pool, "type": "thin"})
	}
	for _, params := range kinds {
		filesystems := []string{lvm.Block}
		if m.mkfs {
			filesystems = append(filesystems, lvm.XFS, lvm.Ext4)
		}
		for _, fs := range filesystems {
			run(params["type"]+fs, func(t *testing.T) { m.life(t, params, fs) })
		}
	}
	run("NoRoom", func(t *testing.T) {
		spec, err := lvm.ParseSpec(kinds[0], lvm.Block)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.engine.Create(t.Context(), lvm.CreateRequest{Kind: lvm.KindVolume, Name: "huge", Spec: spec, Size: 1 << 50}); !errors.Is(err, vg.ErrNoRoom) {
			t.Errorf("got %v", err)
		}
	})
	run("Counted", m.counted)
	if m.mkfs {
		run("Devices", m.devices)
	}
	if m.thin {
		run("Copies", m.copies)
		run("Zeroes", m.poolZeroes)
	}
	return held
}

// counted: a group counts exactly the volumes that its report lists, with the hidden parts
// of a thin pool, and a report without one of the rows is refused.
func (m machine) counted(t *testing.T) {
	ctx := t.Context()
	spec, err := lvm.ParseSpec(map[string]string{"pool": m.group.Pool, "wipe": "none"}, lvm.Block)
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.engine.Create(ctx, lvm.CreateRequest{Kind: lvm.KindVolume, Name: "counted", Spec: spec, Size: 8 * mib})
	if err != nil {
		t.Fatal(err)
	}
	devices, err := m.host.Devices(ctx, m.group)
	if err != nil {
		t.Fatal(err)
	}
	args := vg.ReportArgs(m.group.Name)
	args = slices.Insert(args, 1, "--config", "devices{obtain_device_list_from_udev=0 scan_lvs=0}", "--devices", strings.Join(devices.Paths, ","))
	out, err := m.host.Run(ctx, time.Minute, "lvm", args...)
	if err != nil {
		t.Fatal(err)
	}
	var whole struct {
		Report []map[string][]map[string]string `json:"report"`
	}
	if err := json.Unmarshal(out, &whole); err != nil {
		t.Fatal(err)
	}
	r := whole.Report[0]
	if got, want := fmt.Sprint(len(r["lv"]), len(r["pv"])), r["vg"][0]["lv_count"]+" "+r["vg"][0]["pv_count"]; got != want {
		t.Errorf("logical and physical volumes: %s have a row, the group counts %s: %s", got, want, out)
	}
	if _, err := vg.ParseReport(out, m.group.UUID); err != nil {
		t.Error(err)
	}
	r["lv"] = slices.DeleteFunc(r["lv"], func(row map[string]string) bool { return row["lv_name"] == v.LV.Name })
	if out, err = json.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := vg.ParseReport(out, m.group.UUID); err == nil || !strings.Contains(err.Error(), "logical volumes") {
		t.Errorf("a report without %s is taken: %v", v.LV.Name, err)
	}
	if err := m.engine.Delete(ctx, v.Handle); err != nil {
		t.Error(err)
	}
}

// devices: the device mapper's name of a volume is the one that its node is checked by, also
// with hyphens, which LVM doubles; and a pod's node of it is seen in the mount table.
func (m machine) devices(t *testing.T) {
	ctx := t.Context()
	spec, err := lvm.ParseSpec(map[string]string{"pool": m.group.Pool}, lvm.Block)
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.engine.Create(ctx, lvm.CreateRequest{Kind: lvm.KindVolume, Name: "with-hyphens--two", Spec: spec, Size: 8 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if there, err := m.host.Present(v.Device()); err != nil || !there {
		t.Errorf("%s is there: %v, %v", v.Device(), there, err)
	}
	target := filepath.Join(t.TempDir(), "pods", "u", "volumeDevices", "x")
	if err := m.engine.Publish(ctx, lvm.PublishRequest{Handle: v.Handle, Target: target, Block: true}); err != nil {
		t.Fatal(err)
	}
	if mounts, err := m.mounts.Of(v.Device()); err != nil || len(mounts) != 1 || mounts[0].Target != target {
		t.Errorf("mounts of %s: %+v, %v", v.Device(), mounts, err)
	}
	if err := m.engine.Delete(ctx, v.Handle); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("it was deleted while a pod has its node: %v", err)
	}
	if err := m.engine.Unpublish(ctx, v.LV.Name, target); err != nil {
		t.Fatal(err)
	}
	if err := m.engine.Delete(ctx, v.Handle); err != nil {
		t.Error(err)
	}
	if there, err := m.host.Present(v.Device()); err != nil || there {
		t.Errorf("%s is there after its removal: %v, %v", v.Device(), there, err)
	}
}

// poolZeroes: a pool that shows new volumes what others left takes none (lvs -o zero).
func (m machine) poolZeroes(t *testing.T) {
	ctx := t.Context()
	spec, err := lvm.ParseSpec(map[string]string{"pool": m.group.Pool, "type": "thin"}, lvm.Block)
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{false, true} {
		if err := m.zeroes(on); err != nil {
			t.Fatal(err)
		}
		if err := m.engine.RefreshAll(ctx); err != nil {
			t.Fatal(err)
		}
		v, err := m.engine.Create(ctx, lvm.CreateRequest{Kind: lvm.KindVolume, Name: "zeroed", Spec: spec, Size: 8 * mib})
		switch {
		case on && err != nil:
			t.Errorf("a pool that zeroes: %v", err)
		case on:
			if err := m.engine.Delete(ctx, v.Handle); err != nil {
				t.Error(err)
			}
		case err == nil || !strings.Contains(err.Error(), "does not zero"):
			t.Errorf("a pool that does not zero: %v", err)
		}
	}
}

func (m machine) life(t *testing.T, params map[string]string, fs string) {
	ctx := t.Context()
	spec, err := lvm.ParseSpec(params, fs)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(30) * mib
	if fs == lvm.XFS {
		size = 320 * mib
	}
	r := lvm.CreateRequest{Kind: lvm.KindVolume, Name: "life-" + fs + params["type"], Spec: spec, Size: size,
		Owner: lvm.Owner{Claim: "ns/claim #1", Class: "class", MountOptions: "noatime,nodiratime"}}
	v, err := m.engine.Create(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.engine.Create(ctx, r); err != nil || again.Handle != v.Handle {
		t.Errorf("the same request again: %v, %v", again.Handle, err)
	}
	other := r
	other.Size *= 2
	if _, err := m.engine.Create(ctx, other); !errors.Is(err, lvm.ErrExists) {
		t.Errorf("the same name with another size: %v", err)
	}
	grown, err := m.engine.Expand(ctx, v.Handle, size+10*mib, 0)
	if err != nil || grown.LV.Size < size+10*mib {
		t.Errorf("expand: %d bytes, %v", grown.LV.Size, err)
	}
	if _, err := m.engine.Expand(ctx, v.Handle, size, 0); err != nil {
		t.Errorf("expand to less: %v", err)
	}
	inv, err := m.engine.Inventory(ctx) // reads all anew
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, iv := range inv.Volumes {
		if iv.Handle != v.Handle.String() {
			continue
		}
		found = true
		if iv.Claim != "ns/claim #1" || iv.MountOptions != "noatime,nodiratime" || iv.Phase != vg.Ready || iv.Bytes != grown.LV.Size || iv.Filesystem != fs {
			t.Errorf("the disk tells %+v", iv)
		}
	}
	if !found {
		t.Errorf("the disk does not tell of %s", v.Handle)
	}
	for range 2 {
		if err := m.engine.Delete(ctx, v.Handle); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := m.engine.Volume(ctx, v.Handle); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

func (m machine) copies(t *testing.T) {
	ctx := t.Context()
	spec, err := lvm.ParseSpec(map[string]string{"pool": m.group.Pool, "type": "thin"}, lvm.Block)
	if err != nil {
		t.Fatal(err)
	}
	src, err := m.engine.Create(ctx, lvm.CreateRequest{Kind: lvm.KindVolume, Name: "source", Spec: spec, Size: 32 * mib})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := m.engine.Snapshot(ctx, src.Handle, lvm.CreateRequest{Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	cp, err := m.engine.Create(ctx, lvm.CreateRequest{Kind: lvm.KindVolume, Name: "copy", Spec: spec, Size: 64 * mib, Source: &snap.Handle})
	if err != nil || cp.LV.Size != 64*mib {
		t.Fatalf("copy: %+v, %v", cp.LV, err)
	}
	for _, h := range []lvm.Handle{src.Handle, snap.Handle, cp.Handle} {
		if err := m.engine.Delete(ctx, h); err != nil {
			t.Errorf("delete %s: %v", h, err)
		}
	}
}

func TestConformanceOfTheFake(t *testing.T) {
	w := newWorld(t)
	held := conform(t, machine{engine: w.engine, host: w.host, mounts: w.host, group: w.infos[0], thin: true, mkfs: true, zeroes: func(on bool) error {
		w.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["pool0"].Unzeroed = !on })
		return nil
	}})
	if !slices.Equal(held, cases()) {
		t.Errorf("%q hold, want %q", held, cases())
	}
}
