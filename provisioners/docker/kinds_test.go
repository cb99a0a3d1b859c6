package docker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/inventory"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// both is a host that the CSI driver and the plugin share, with a volume of each by the
// same name.
func both(t *testing.T) (*world, *lvm.Engine, lvm.Volume) {
	w := newWorld(t)
	w.made("data", thick())
	driver := lvm.NewEngine(lvm.EngineOptions{Node: "h1", Cluster: "c1", Groups: w.infos, Host: w.host, Mounts: w.host, Deadlines: w.deadlines,
		Quarantine: engineQuarantine, Log: discard()})
	spec, err := lvm.ParseSpec(map[string]string{"pool": "db"}, "")
	w.must(err)
	v, err := driver.Create(t.Context(), lvm.CreateRequest{Kind: lvm.KindVolume, Name: "data", Spec: spec, Size: gib, Owner: lvm.Owner{Claim: "ns/data"}})
	w.must(err)
	w.host.With("hf-a", func(g *lvmfake.Group) { g.LVs[v.LV.Name].Data = "data of a claim" })
	w.restart()
	return w, driver, v
}

// TestCSIKnowsNoneOfDockers: neither list, nor handle, nor recovery.
func TestCSIKnowsNoneOfDockers(t *testing.T) {
	w, driver, own := both(t)
	w.must(driver.RefreshAll(t.Context()))
	s := lvm.NewService(driver, "v", nil)
	l, err := s.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	w.must(err)
	if len(l.GetEntries()) != 1 || l.GetEntries()[0].GetVolume().GetVolumeId() != own.Handle.String() {
		t.Errorf("CSI lists %v", l.GetEntries())
	}
	id := w.infos[0].UUID + "/hfd-data"
	if _, err := lvm.ParseHandle(id); err == nil {
		t.Error("a volume of Docker has a handle of CSI")
	}
	if _, err := s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil { // absent, CSI says
		t.Error(err)
	}
	mount := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
	_, err = s.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: id, TargetPath: t.TempDir() + "/x", VolumeCapability: mount})
	if status.Code(err) != codes.NotFound {
		t.Errorf("publish: %v", err)
	}
	inv, err := driver.Inventory(t.Context())
	w.must(err)
	volumes, skipped, err := inventory.Recover(inv)
	w.must(err)
	if len(volumes) != 1 || volumes[0].Name != "data" || volumes[0].Spec.CSI.VolumeHandle != own.Handle.String() {
		t.Errorf("recovered are %v", volumes)
	}
	if len(skipped) != 1 || skipped[0].Why != "it is of kind docker" {
		t.Errorf("left out are %v", skipped)
	}
	if lv := w.lv("data"); lv == nil || lv.Data != "data of data" {
		t.Errorf("Docker's volume is %+v", lv)
	}
}

// TestDockerKnowsNoneOfCSI: not by the name of a volume, nor of a logical volume, nor when
// somebody gave one Docker's name.
func TestDockerKnowsNoneOfCSI(t *testing.T) {
	w, _, own := both(t)
	untouched := func() {
		t.Helper()
		for _, l := range w.host.Volumes("hf-a") {
			if phase, _ := vg.Tags(l.Tags).Intent(); phase != vg.Ready {
				t.Errorf("%s is in phase %s", l.Name, phase)
			}
			if vg.Tags(l.Tags).Get(vg.KeyKind) == string(lvm.KindVolume) && l.Data != "data of a claim" {
				t.Errorf("the claim's volume is %+v", l)
			}
		}
	}
	if got := strings.Join(w.list(), " "); got != "data" {
		t.Errorf("Docker lists %q", got)
	}
	w.must(w.remove("data"))
	w.must(w.remove("data"))
	w.must(w.remove(own.LV.Name))
	if err := w.mount("data", "c1"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("mount of a claim's volume: %v", err)
	}
	if n := len(w.host.Volumes("hf-a")); n != 1 {
		t.Fatalf("%d volumes", n)
	}
	untouched()
	// lvrename by a person.
	w.host.With("hf-a", func(g *lvmfake.Group) {
		lv := g.LVs[own.LV.Name]
		delete(g.LVs, lv.Name)
		lv.Name = "hfd-data"
		g.LVs[lv.Name] = lv
	})
	w.restart()
	w.must(w.remove("data"))
	if _, err := w.get("data"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if err := w.mount("data", "c1"); err == nil {
		t.Error("a claim's volume was mounted for Docker")
	}
	if err := w.create("data", thick()); err == nil {
		t.Error("a claim's volume was taken for Docker's")
	}
	w.driver.Finish()()
	untouched()
	if n := len(w.host.Volumes("hf-a")); n != 1 {
		t.Errorf("%d volumes", n)
	}
}

// TestClaimsHalfMadeVolumeIsNotFinished: ending it is the CSI driver's.
func TestClaimsHalfMadeVolumeIsNotFinished(t *testing.T) {
	for _, phase := range []string{vg.Creating, vg.Deleting} {
		w, _, own := both(t)
		w.host.With("hf-a", func(g *lvmfake.Group) {
			lv := g.LVs[own.LV.Name]
			for i, tag := range lv.Tags {
				if strings.HasPrefix(tag, vg.KeyIntent) {
					lv.Tags[i] = vg.IntentTag(phase, "0123")
				}
			}
		})
		w.restart()
		w.must(w.engine.RefreshAll(t.Context()))
		w.host.Calls()
		w.driver.Finish()()
		for _, c := range w.host.Calls() {
			t.Errorf("%s: %s ran", phase, c.Line())
		}
	}
}

// Docker's names are one space over all pools: while a group of another pool cannot be read, a
// volume of that name may be in it, and Docker must not get an empty one in its place.
func TestNameIsTakenInAnyPool(t *testing.T) {
	w := newWorld(t, append(groups(), lvm3())...)
	w.made("data", map[string]string{"size": "5Gi", "pool": "log"})
	w.restart()
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "lvm" && slices.Contains(c.Args, "hf-c") {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	opts := map[string]string{"size": "5Gi", "pool": "db"}
	if err := w.create("data", opts); !errors.Is(err, lvm.ErrUnavailable) {
		t.Errorf("while its group cannot be read: %v", err)
	}
	w.restart()
	if err := w.create("data", opts); !errors.Is(err, lvm.ErrExists) {
		t.Errorf("when it can: %v", err)
	}
	if n := len(w.host.Volumes("hf-a")) + len(w.host.Volumes("hf-b")); n != 0 {
		t.Errorf("%d volumes were made", n)
	}
}
