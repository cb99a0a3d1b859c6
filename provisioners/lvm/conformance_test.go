package lvm_test

import (
	"errors"
	"testing"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
)

// machine is a node to try the engine on: the fake one, LVM without a device mapper
// (tag root), or a whole machine (tag lab).
type machine struct {
	engine *lvm.Engine
	group  lvm.GroupInfo
	thin   bool // there is a thin pool
	mkfs   bool // devices are there, so that file systems can be made
}

const mib = int64(1) << 20

// conform is what must hold on every machine.
func conform(t *testing.T, m machine) {
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
			t.Run(params["type"]+fs, func(t *testing.T) { m.life(t, params, fs) })
		}
	}
	t.Run("NoRoom", func(t *testing.T) {
		spec, err := lvm.ParseSpec(kinds[0], lvm.Block)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.engine.Create(t.Context(), lvm.CreateRequest{Kind: lvm.KindVolume, Name: "huge", Spec: spec, Size: 1 << 50}); !errors.Is(err, vg.ErrNoRoom) {
			t.Errorf("got %v", err)
		}
	})
	if m.thin {
		t.Run("Copies", m.copies)
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
	conform(t, machine{engine: w.engine, group: w.infos[0], thin: true, mkfs: true})
}
