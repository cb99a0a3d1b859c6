package lvm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// snapshotsOf are the snapshots in a group of volumes, in whatever phase.
func snapshotsOf(w *world, group string) (all []lvmfake.LV) {
	for _, l := range w.host.Volumes(group) {
		if strings.HasPrefix(l.Name, "hfs-") {
			all = append(all, l)
		}
	}
	return all
}

// A set of snapshots is of one moment, or there is none: two of three databases restored from
// different moments are worse than an error.
func TestGroupSnapshotIsWholeOrNotThere(t *testing.T) {
	w := newWorld(t, groups()...)
	a := w.must("a", thin, lvm.XFS, 300*gib)
	r := w.request("b", thin, lvm.XFS, 500*gib)
	r.AvoidRequired = map[string]string{"disk-a": "ns/x"} // in the other volume group, where there is no room for a copy
	b, err := w.engine.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	sources := []lvm.Handle{a.Handle, b.Handle}
	if _, _, err := w.engine.SnapshotGroup(t.Context(), "set", sources, 0); !errors.Is(err, vg.ErrNoRoom) {
		t.Errorf("the second has no room: %v", err)
	}
	if _, err := w.host.Run(t.Context(), 0, "mount", "-t", "xfs", b.Device(), "/a/pod"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.engine.SnapshotGroup(t.Context(), "set", sources, 5); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("a volume in use: %v", err)
	}
	if left := append(snapshotsOf(w, "hf-a"), snapshotsOf(w, "hf-b")...); len(left) > 0 {
		t.Errorf("snapshots are left: %+v", left)
	}
	if _, err := w.host.Run(t.Context(), 0, "umount", "/a/pod"); err != nil {
		t.Fatal(err)
	}
	id, all, err := w.engine.SnapshotGroup(t.Context(), "set", sources, 5)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	w.write(a, "later")
	w.restart()
	if again, _, err := w.engine.SnapshotGroup(t.Context(), "set", []lvm.Handle{b.Handle, a.Handle}, 5); err != nil || again != id {
		t.Errorf("the same again: %s, %v", again, err)
	}
	if s := snapshotsOf(w, "hf-a"); len(s) != 1 || s[0].Data != "data of a" {
		t.Errorf("the snapshots are %+v", s)
	}
	if _, _, err := w.engine.SnapshotGroup(t.Context(), "set", sources[:1], 5); !errors.Is(err, lvm.ErrExists) {
		t.Errorf("that name with other volumes: %v", err)
	}
}

func TestGroupSnapshotService(t *testing.T) {
	w := neighbours(t)
	s := lvm.NewService(w.engine, "test", nil)
	ids := []string{handle("hfv-thin-x").String(), handle("hfv-block-v").String()}
	if _, err := s.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "set", SourceVolumeIds: append(ids, handle("hfv-thick-e").String())}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a thick volume among them: %v", err)
	}
	out, err := s.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "set", SourceVolumeIds: ids})
	if err != nil {
		t.Fatal(err)
	}
	set := out.GetGroupSnapshot()
	if !set.GetReadyToUse() || len(set.GetSnapshots()) != 2 || set.GetSnapshots()[0].GetGroupSnapshotId() != set.GetGroupSnapshotId() {
		t.Errorf("it is %v", set)
	}
	got, err := s.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: set.GetGroupSnapshotId()})
	if err != nil || len(got.GetGroupSnapshot().GetSnapshots()) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	one := set.GetSnapshots()[0].GetSnapshotId()
	if _, err := s.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: one}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a member alone: %v", err)
	}
	if _, err := s.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: set.GetGroupSnapshotId(), SnapshotIds: []string{one}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a list that lacks a member: %v", err)
	}
	for range 2 {
		if _, err := s.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: set.GetGroupSnapshotId()}); err != nil {
			t.Error(err)
		}
	}
	if left := snapshotsOf(w, "hf-a"); len(left) > 0 || count(w) != 4 {
		t.Errorf("left: %+v", left)
	}
}

// Whether a snapshot is a member of a group snapshot is known from its tags. When they could
// not be read it stays: what is left of a set would be no set.
func TestMemberStaysWhileItsSetIsNotKnown(t *testing.T) {
	w := neighbours(t)
	_, all, err := w.engine.SnapshotGroup(t.Context(), "set", []lvm.Handle{handle("hfv-thin-x"), handle("hfv-block-v")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.host.Calls()
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.N == 1 { // LVM answers again right after
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	s := lvm.NewService(w.engine, "test", nil)
	if _, err := s.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: all[0].Handle.String()}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if left := snapshotsOf(w, "hf-a"); len(left) != 2 {
		t.Errorf("of the set are left %+v", left)
	}
}

// Disks were moved to another node together with their volumes: two groups have one of the
// same name. A lock of that name is taken once.
func TestGroupSnapshotOfEqualNames(t *testing.T) {
	w := newWorld(t, groups()...)
	a := w.must("twin", thin, lvm.XFS, gib)
	if a.Info.Name != "hf-a" {
		t.Fatalf("it is in %s", a.Info.Name)
	}
	other := *w.find("hf-a", "hfv-twin")
	other.UUID, other.Tags = "other", slices.Clone(other.Tags)
	other.Tags[0] = vg.Tag(vg.KeyID, "fedcba9876543210")
	w.host.With("hf-b", func(g *lvmfake.Group) { g.LVs["hfv-twin"] = &other })
	w.restart()
	_, all, err := w.engine.SnapshotGroup(t.Context(), "set", []lvm.Handle{a.Handle, {Group: w.infos[1].UUID, LV: "hfv-twin"}}, 0)
	if err != nil || len(all) != 2 || len(snapshotsOf(w, "hf-a")) != 1 || len(snapshotsOf(w, "hf-b")) != 1 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
}
