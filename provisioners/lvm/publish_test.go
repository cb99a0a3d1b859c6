package lvm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// A raw volume shows every byte of its extents. Another class of the pool, or the
// owner of the disk before it was a volume group, wiped nothing.
func TestRawVolumesShowNothingOfOthers(t *testing.T) {
	w := newWorld(t)
	old := w.must("old", map[string]string{"wipe": "none"}, lvm.XFS, 50*gib)
	if err := w.engine.Delete(t.Context(), old.Handle); err != nil {
		t.Fatal(err)
	}
	var left int
	w.host.With("hf-a", func(g *lvmfake.Group) { left = len(g.Residue) })
	if left == 0 {
		t.Fatal("nothing of the old volume is left: this test shows nothing")
	}
	raw := w.must("raw", thick, lvm.Block, 2*gib)
	if l := w.find("hf-a", raw.LV.Name); len(l.Residue) > 0 {
		t.Errorf("a new volume shows %q", l.Residue)
	}
	if _, err := w.host.Run(t.Context(), 0, "mount", "-o", "bind", raw.Device(), "/a/pod"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also to what it has already
		if v, err := w.engine.Expand(t.Context(), raw.Handle, 40*gib, 0); err != nil || v.LV.Size != 40*gib {
			t.Fatalf("growth while a pod has it: %d bytes, %v", v.LV.Size, err)
		}
	}
	if l := w.find("hf-a", raw.LV.Name); len(l.Residue) > 0 || l.Data != "data of raw" || l.Size != 40*gib {
		t.Errorf("a volume that grew shows %q: %+v", l.Residue, l)
	}
	if n := len(w.host.Volumes("hf-a")); n != 1 {
		t.Errorf("%d volumes, want the one", n)
	}
	if _, err := w.host.Run(t.Context(), 0, "umount", "/a/pod"); err != nil {
		t.Fatal(err)
	}
	if v, err := w.engine.Expand(t.Context(), raw.Handle, 3*gib, 0); err != nil || v.LV.Size != 40*gib {
		t.Errorf("growth to less: %d bytes, %v", v.LV.Size, err)
	}
	r := w.request("larger", thick, lvm.Block, 44*gib)
	r.Source = &raw.Handle
	v, err := w.engine.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if l := w.find("hf-a", v.LV.Name); len(l.Residue) > 0 || l.Data != "data of raw" {
		t.Errorf("a larger copy shows %q and holds %q", l.Residue, l.Data)
	}
}

func TestPublish(t *testing.T) {
	w := neighbours(t)
	target := filepath.Join(t.TempDir(), "pods", "u", "mount")
	r := lvm.PublishRequest{Handle: handle("hfv-thin-x"), Target: target, Options: []string{"noatime"}}
	w.host.Calls()
	for range 2 {
		if err := w.engine.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	calls := w.host.Calls()
	if len(calls) != 1 || !strings.Contains(calls[0].Line(), "mount -t xfs -o nouuid,noatime /dev/hf-a/hfv-thin-x "+target) {
		t.Errorf("it ran %v", calls)
	}
	ro := r
	ro.Target, ro.ReadOnly = target+"-ro", true
	if err := w.engine.Publish(t.Context(), ro); err != nil {
		t.Fatal(err)
	}
	if m, _, _ := w.host.At(ro.Target, ""); m == nil || !m.ReadOnly {
		t.Errorf("the second mount is %+v", m)
	}
	for what, bad := range map[string]lvm.PublishRequest{
		"as a raw volume":     {Handle: r.Handle, Target: target + "2", Block: true},
		"as another system":   {Handle: r.Handle, Target: target + "2", FS: lvm.Ext4},
		"over another volume": {Handle: handle("hfv-thick-e"), Target: target},
		"a volume not there":  {Handle: handle("hfv-none"), Target: target + "2"},
	} {
		if err := w.engine.Publish(t.Context(), bad); err == nil {
			t.Errorf("%s: it was published", what)
		}
	}
	for _, at := range []string{target, ro.Target} {
		for range 2 {
			if err := w.engine.Unpublish(t.Context(), "hfv-thin-x", at); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", at)
		}
	}
	for _, c := range w.host.Calls() {
		if strings.HasPrefix(c.Program, "mkfs") {
			t.Errorf("publishing ran %s", c.Line())
		}
	}
}

// TestHalfMadeVolumeIsNotPublished, nor is a snapshot or what is being deleted.
func TestHalfMadeVolumeIsNotPublished(t *testing.T) {
	w := neighbours(t)
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "mkfs.xfs" {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	if _, err := w.engine.Create(t.Context(), w.request("half", thin, lvm.XFS, gib)); err == nil {
		t.Fatal("it was made")
	}
	if err := w.engine.Publish(t.Context(), lvm.PublishRequest{Handle: handle("hfv-half"), Target: t.TempDir()}); !errors.Is(err, lvm.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// TestUnpublishKeepsData: a directory in which something is, is not removed.
func TestUnpublishKeepsData(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "data")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Unpublish(t.Context(), "hfv-x", dir); err == nil {
		t.Error("it was removed")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestStatsTellWhatIsWrong(t *testing.T) {
	w := neighbours(t)
	target := filepath.Join(t.TempDir(), "m")
	h := handle("hfv-thin-x")
	if err := w.engine.Publish(t.Context(), lvm.PublishRequest{Handle: h, Target: target}); err != nil {
		t.Fatal(err)
	}
	u, wrong, err := w.engine.Stats(t.Context(), h, target)
	if err != nil || wrong != "" || u.Total != 10*gib || u.Inodes == 0 {
		t.Errorf("well: %+v, %q, %v", u, wrong, err)
	}
	w.host.With("hf-a", func(g *lvmfake.Group) { g.PoolData = 95; g.Missing = true })
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, wrong, err = w.engine.Stats(t.Context(), h, target); err != nil || !strings.Contains(wrong, "95.0% full") || !strings.Contains(wrong, "physical volume under it is missing") {
		t.Errorf("ill: %q, %v", wrong, err)
	}
	w.host.Misbehave(func(lvmfake.Call) lvmfake.Mode { return lvmfake.Hang })
	_ = w.engine.RefreshAll(t.Context()) // that it fails is what is looked at
	if _, wrong, err = w.engine.Stats(t.Context(), h, target); err != nil || !strings.Contains(wrong, "no answer within") {
		t.Errorf("hung: %q, %v", wrong, err)
	}
}

// TestFullPoolTakesNothingNew: neither volumes nor copies nor more room.
func TestFullPoolTakesNothingNew(t *testing.T) {
	w := neighbours(t)
	w.host.With("hf-a", func(g *lvmfake.Group) { g.PoolData = 91 })
	w.restart()
	if _, err := w.engine.Create(t.Context(), w.request("new", thin, lvm.XFS, gib)); err == nil || !strings.Contains(err.Error(), "91.0% full") {
		t.Errorf("a volume: %v", err)
	}
	if _, err := w.engine.Snapshot(t.Context(), handle("hfv-thin-x"), lvm.CreateRequest{Name: "s"}); err == nil {
		t.Error("a snapshot was made")
	}
	if _, err := w.engine.Expand(t.Context(), handle("hfv-thin-x"), 20*gib, 0); err == nil {
		t.Error("a volume was expanded")
	}
	if _, err := w.engine.Create(t.Context(), w.request("thick", thick, lvm.XFS, gib)); err != nil {
		t.Errorf("a thick volume needs no pool: %v", err)
	}
}

// ephemeralCalls are the kubelet's for a pod's own volume: when it comes and when it goes.
func ephemeralCalls(t *testing.T) (*csi.NodePublishVolumeRequest, *csi.NodeUnpublishVolumeRequest) {
	target := filepath.Join(t.TempDir(), "pods", "u", "mount")
	req := &csi.NodePublishVolumeRequest{VolumeId: "csi-0123456789abcdef", TargetPath: target,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}},
		VolumeContext: map[string]string{"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": "p", "csi.storage.k8s.io/pod.namespace": "ns",
			"pool": "db", "type": "thin", "size": "5Gi"}}
	return req, &csi.NodeUnpublishVolumeRequest{VolumeId: req.GetVolumeId(), TargetPath: target}
}

// TestEphemeralVolumes live from publish to unpublish.
func TestEphemeralVolumes(t *testing.T) {
	w := newWorld(t)
	s := lvm.NewService(w.engine, "test", nil)
	req, gone := ephemeralCalls(t)
	// What is an administrator's to say in a class is not a pod's.
	for key, value := range map[string]string{"mkfsOptions": "-m 0", "overcommit": "50", "wipe": "none", "csi.storage.k8s.io/fstype": "ext4"} {
		req.VolumeContext[key] = value
		if _, err := s.NodePublishVolume(t.Context(), req); status.Code(err) != codes.InvalidArgument || len(w.host.Volumes("hf-a")) != 0 {
			t.Errorf("%s: %v", key, err)
		}
		delete(req.VolumeContext, key)
	}
	for range 2 {
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if all := w.host.Volumes("hf-a"); len(all) != 1 || all[0].Size != 5*gib || all[0].Formats != 1 {
		t.Errorf("there is %+v", all)
	}
	for range 2 {
		if _, err := s.NodeUnpublishVolume(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.host.Volumes("hf-a")); n != 0 {
		t.Errorf("%d volumes are left", n)
	}
}

// TestQuarantineStopsThickGrowth: new extents would come from the bad disk.
func TestQuarantineStopsThickGrowth(t *testing.T) {
	w := neighbours(t)
	for name, q := range map[string]lvm.Quarantine{
		"quarantined": {Disks: map[string]string{"disk-a": "Media"}}, "not known": {Err: errors.New("no answer")},
	} {
		w.q = q
		if _, err := w.engine.Expand(t.Context(), handle("hfv-thick-e"), 20*gib, 0); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.engine.Create(t.Context(), w.request("new", thin, lvm.XFS, gib)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.engine.Expand(t.Context(), handle("hfv-thin-x"), 20*gib, 0); err != nil {
		t.Errorf("a thin volume takes room of its pool only: %v", err)
	}
}

// A kill -9 in the middle of a growth leaves extents that belong to nobody but it: they
// are used when the volume grows after all, and go with it when it does not.
func TestGrowthThatWasCutOffGoesOnOrGoes(t *testing.T) {
	for name, last := range map[string]func(w *world, h lvm.Handle) error{
		"goes on": func(w *world, h lvm.Handle) error { _, err := w.engine.Expand(t.Context(), h, 9*gib, 0); return err },
		"to another size": func(w *world, h lvm.Handle) error {
			_, err := w.engine.Expand(t.Context(), h, 11*gib, 0)
			return err
		},
		"is deleted": func(w *world, h lvm.Handle) error { return w.engine.Delete(t.Context(), h) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.host.With("hf-a", func(g *lvmfake.Group) { g.Residue = []string{earlier} })
			v := w.must("raw", thick, lvm.Block, 2*gib)
			zeroed := 0
			w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
				if c.Program == "blkdiscard" {
					if zeroed++; zeroed == 2 { // the second of two chunks
						return lvmfake.KillBefore
					}
				}
				return lvmfake.Honest
			})
			if _, err := w.engine.Expand(t.Context(), v.Handle, 9*gib, 0); !errors.Is(err, lvmfake.ErrKilled) {
				t.Fatalf("it was not killed: %v", err)
			}
			if l := w.find("hf-a", v.LV.Name); l.Size != 2*gib || len(w.host.Volumes("hf-a")) != 2 {
				t.Fatalf("the volume has %d bytes, want what it had, and %d volumes are there, want it and its tail", l.Size, len(w.host.Volumes("hf-a")))
			}
			w.restart()
			if inv, err := w.engine.Inventory(t.Context()); err != nil || len(inv.Volumes) != 2 {
				t.Errorf("the disk tells of %+v, %v", inv, err)
			}
			if err := last(w, v.Handle); err != nil {
				t.Fatal(err)
			}
			for _, l := range w.host.Volumes("hf-a") {
				if l.Name != v.LV.Name || len(l.Residue) > 0 || l.Size < 9*gib {
					t.Errorf("%+v is there", l)
				}
			}
			if n := len(w.host.Volumes("hf-a")); (n == 1) == (name == "is deleted") {
				t.Errorf("%d volumes", n)
			}
		})
	}
}
