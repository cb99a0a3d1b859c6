package lvm_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// scenario is one change that is interrupted, and what must be true when it was
// repeated to its end.
type scenario struct {
	name string
	act  func(w *world) error
	// check says what is wrong afterwards; the neighbours are checked for all.
	check func(w *world) string
}

// earlier is on all extents that are free: the disk had an owner before it was a volume group.
const earlier = "data of an earlier owner"

// neighbours are volumes with data that no change of another one may touch, and the
// sources of snapshots and copies.
func neighbours(t testing.TB) *world {
	w := newWorld(t)
	w.must("thin-x", thin, lvm.XFS, 10*gib)
	w.must("thick-e", thick, lvm.Ext4, 10*gib)
	w.must("block-t", thick, lvm.Block, 10*gib)
	w.must("block-v", thin, lvm.Block, 10*gib)
	w.host.With("hf-a", func(g *lvmfake.Group) { g.Residue = []string{earlier} })
	return w
}

func handle(name string) lvm.Handle { return lvm.Handle{Group: groups()[0].UUID, LV: name} }

func scenarios() []scenario {
	var all []scenario
	for _, c := range []struct {
		name   string
		params map[string]string
		fs     string
	}{
		{"thin-xfs", thin, lvm.XFS}, {"thick-ext4", thick, lvm.Ext4}, {"thick-block", thick, lvm.Block}, {"thin-block", thin, lvm.Block},
	} {
		all = append(all, scenario{"create-" + c.name, func(w *world) error {
			_, err := w.engine.Create(w.t.Context(), w.request("new", c.params, c.fs, 5*gib))
			return err
		}, func(w *world) string {
			l := w.find("hf-a", "hfv-new")
			formats := 1
			if c.fs == lvm.Block {
				formats = 0
			}
			switch {
			case l == nil:
				return "the volume is not there"
			case l.Formats != formats || l.Size != 5*gib || (c.fs != lvm.Block && l.FS != c.fs):
				return fmt.Sprintf("the volume is %+v", *l)
			case !strings.HasPrefix(vg.Tags(l.Tags).Get(vg.KeyIntent), vg.Ready+"/"):
				return "the volume is not ready"
			case count(w) != 5:
				return "there are more volumes than were made"
			}
			return ""
		}})
	}
	for _, victim := range []string{"thin-x", "thick-e", "block-t"} {
		all = append(all, scenario{"delete-" + victim, func(w *world) error { return w.engine.Delete(w.t.Context(), handle("hfv-"+victim)) }, func(w *world) string {
			if w.find("hf-a", "hfv-"+victim) != nil || count(w) != 3 {
				return "the volume is still there, or another one is not"
			}
			var residue []string
			w.host.With("hf-a", func(g *lvmfake.Group) { residue = g.Residue })
			if slices.Contains(residue, "data of "+victim) {
				return fmt.Sprintf("its data is still on the disk: %q", residue)
			}
			return ""
		}})
	}
	all = append(all,
		scenario{"snapshot", func(w *world) error {
			_, err := w.engine.Snapshot(w.t.Context(), handle("hfv-thin-x"), lvm.CreateRequest{Name: "snap"})
			return err
		}, func(w *world) string {
			if l := w.find("hf-a", "hfs-snap"); l == nil || l.Data != "data of thin-x" || !l.ReadOnly || count(w) != 5 {
				return fmt.Sprintf("the snapshot is %+v", l)
			}
			return ""
		}},
		scenario{"group-snapshot", func(w *world) error {
			_, all, err := w.engine.SnapshotGroup(w.t.Context(), "set", []lvm.Handle{handle("hfv-thin-x"), handle("hfv-block-v")}, 0)
			if err == nil && len(all) != 2 {
				return fmt.Errorf("%d snapshots", len(all))
			}
			return err
		}, func(w *world) string {
			data := map[string]bool{}
			for _, l := range w.host.Volumes("hf-a") {
				phase, _ := vg.Tags(l.Tags).Intent()
				if strings.HasPrefix(l.Name, "hfs-") && phase == vg.Ready && l.ReadOnly && vg.Tags(l.Tags).Get(vg.KeySet) != "" {
					data[l.Data] = true
				}
			}
			if !data["data of thin-x"] || !data["data of block-v"] || count(w) != 6 {
				return fmt.Sprintf("the snapshots are %v of %d volumes", data, count(w))
			}
			return ""
		}},
		scenario{"group-snapshot-deleted", func(w *world) error {
			id, _, err := w.engine.SnapshotGroup(w.t.Context(), "set", []lvm.Handle{handle("hfv-thin-x"), handle("hfv-block-v")}, 0)
			if err != nil {
				return err
			}
			return w.engine.DeleteGroup(w.t.Context(), id)
		}, func(w *world) string {
			if count(w) != 4 {
				return "a snapshot is left"
			}
			return ""
		}},
		clone("clone", 10*gib), clone("clone-larger", 15*gib), cloneWithoutRoom(),
	)
	for source, params := range map[string]map[string]string{"thick-e": thick, "block-t": thick, "block-v": thick} {
		all = append(all, fullCopy(source, params))
	}
	for _, victim := range []string{"thin-x", "thick-e", "block-t", "block-v"} {
		all = append(all, scenario{"expand-" + victim, func(w *world) error {
			_, err := w.engine.Expand(w.t.Context(), handle("hfv-"+victim), 20*gib, 0)
			return err
		}, func(w *world) string {
			if l := w.find("hf-a", "hfv-"+victim); l == nil || l.Size != 20*gib || count(w) != 4 {
				return fmt.Sprintf("the volume is %+v", l)
			}
			return ""
		}})
	}
	return all
}

func clone(name string, size int64) scenario {
	return scenario{name, func(w *world) error {
		r := w.request("copy", thin, lvm.XFS, size)
		h := handle("hfv-thin-x")
		r.Source = &h
		v, err := w.engine.Create(w.t.Context(), r)
		if err == nil && v.LV.Size != size {
			return fmt.Errorf("size is %d", v.LV.Size)
		}
		return err
	}, func(w *world) string {
		if l := w.find("hf-a", "hfv-copy"); l == nil || l.Data != "data of thin-x" || l.Size != size || l.Formats != 0 || count(w) != 5 {
			return fmt.Sprintf("the copy is %+v", l)
		}
		return ""
	}}
}

// cloneWithoutRoom is a copy whose pool fills up as soon as it is there: whatever happened in
// between, it is whole, or there is nothing of it, for another node is asked next.
func cloneWithoutRoom() scenario {
	sc := clone("clone-without-room", 15*gib)
	act, check := sc.act, sc.check
	sc.act = func(w *world) error {
		if w.find("hf-a", "hfv-copy") != nil {
			w.host.With("hf-a", func(g *lvmfake.Group) { g.PoolData = 95 })
		}
		err := act(w)
		if errors.Is(err, vg.ErrNoRoom) {
			return nil
		}
		return err
	}
	sc.check = func(w *world) string {
		if count(w) == 4 {
			return ""
		}
		return check(w)
	}
	return sc
}

// fullCopy is a copy byte by byte.
func fullCopy(source string, params map[string]string) scenario {
	fs := map[byte]string{'t': lvm.Ext4, 'b': lvm.Block}[source[0]]
	return scenario{"copy-" + source, func(w *world) error {
		r := w.request("copy", params, fs, 5*gib) // less than its source has
		h := handle("hfv-" + source)
		r.Source = &h
		_, err := w.engine.Create(w.t.Context(), r)
		return err
	}, func(w *world) string {
		if l := w.find("hf-a", "hfv-copy"); l == nil || l.Data != "data of "+source || l.Size != 10*gib || l.Pool != "" || l.Formats != 0 || count(w) != 5 {
			return fmt.Sprintf("the copy is %+v", l)
		}
		return ""
	}}
}

// members are those of a group snapshot that are there, and deletes says whether one is going.
func members(w *world, set string) (n int) {
	for _, l := range w.host.Volumes("hf-a") {
		if vg.Tags(l.Tags).Get(vg.KeySet) == set {
			n++
		}
	}
	return n
}

func deletes(w *world, set string) bool {
	return slices.ContainsFunc(w.host.Volumes("hf-a"), func(l lvmfake.LV) bool {
		phase, _ := vg.Tags(l.Tags).Intent()
		return vg.Tags(l.Tags).Get(vg.KeySet) == set && phase == vg.Deleting
	})
}

func count(w *world) int { return len(w.host.Volumes("hf-a")) }

// intact says which neighbour lost its data. Those that the scenario deletes are
// not there; that is the scenario's to check.
func intact(w *world) string {
	for _, l := range w.host.Volumes("hf-a") {
		for _, n := range []string{"thin-x", "thick-e", "block-t", "block-v"} {
			if l.Name == "hfv-"+n && (l.Data != "data of "+n || l.Formats > 1) && !strings.HasPrefix(vg.Tags(l.Tags).Get(vg.KeyIntent), vg.Deleting) {
				return fmt.Sprintf("%s lost its data: %+v", l.Name, l)
			}
		}
		phase, _ := vg.Tags(l.Tags).Intent()
		if set := vg.Tags(l.Tags).Get(vg.KeySet); set != "" && phase == vg.Ready {
			if n := members(w, set); n != 2 && !deletes(w, set) {
				return fmt.Sprintf("%s is ready and its group snapshot has %d of 2", l.Name, n)
			}
		}
		if vg.Tags(l.Tags).Get(vg.KeyFS) == lvm.Block && phase == vg.Ready && len(l.Residue) > 0 {
			return fmt.Sprintf("%s shows what others left: %+v", l.Name, l)
		}
	}
	return ""
}

var faults = []lvmfake.Mode{lvmfake.KillBefore, lvmfake.KillAfter, lvmfake.Fail, lvmfake.Empty, lvmfake.Garbage, lvmfake.Hang, lvmfake.HangAfter, lvmfake.LieNotFound}

// TestCrashMatrix interrupts every change at each program that it runs, in each
// way, and its repetition once more. A lie about mkfs, blkdiscard and the like
// is an exit code 0 for nothing, which no caller can see: there only LVM lies.
func TestCrashMatrix(t *testing.T) {
	runs := 0
	for _, sc := range scenarios() {
		w := neighbours(t)
		w.restart()
		w.host.Calls()
		if err := sc.act(w); err != nil {
			t.Fatalf("%s without any fault: %v", sc.name, err)
		}
		steps := len(w.host.Calls())
		for first := 1; first <= steps; first++ {
			for _, mode := range faults {
				for second := 0; second <= steps; second++ {
					for _, mode2 := range faults {
						if second == 0 && mode2 != faults[0] {
							continue
						}
						if second > 0 && (int(mode)+int(mode2)+first+second)%5 != 0 { // a fifth of the pairs
							continue
						}
						runs++
						if msg := interrupt(t, sc, first, mode, second, mode2); msg != "" {
							t.Errorf("%s, program %d mode %d, then %d mode %d: %s", sc.name, first, mode, second, mode2, msg)
						}
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
	if runs < 1000 {
		t.Errorf("only %d runs", runs)
	}
}

func interrupt(t *testing.T, sc scenario, first int, mode lvmfake.Mode, second int, mode2 lvmfake.Mode) string {
	w := neighbours(t)
	w.restart()
	w.host.Calls()
	fault := func(n int, m lvmfake.Mode) func(lvmfake.Call) lvmfake.Mode {
		return func(c lvmfake.Call) lvmfake.Mode {
			lies := m == lvmfake.Empty || m == lvmfake.Garbage || m == lvmfake.LieNotFound
			if c.N != n || lies && c.Program != "lvm" {
				return lvmfake.Honest
			}
			return m
		}
	}
	w.host.Misbehave(fault(first, mode))
	err := sc.act(w)
	if w.host.Dead() {
		w.restart()
	}
	w.host.Calls()
	if err != nil && second > 0 {
		w.host.Misbehave(fault(second, mode2))
		_ = sc.act(w) // whatever it says, the next call must set it right
		if w.host.Dead() {
			w.restart()
		}
	}
	w.host.Misbehave(nil)
	if msg := intact(w); msg != "" { // a pod that has a volume open does not wait for the repetition
		return "right after the fault: " + msg
	}
	if err := w.retry(func() error { return sc.act(w) }); err != nil {
		return err.Error()
	}
	if msg := intact(w); msg != "" {
		return msg
	}
	return sc.check(w)
}

// TestAbsenceDeletesNothing: no object, no group in disks.yaml, a partial group and an
// answer without the volume are no reason to call a volume deleted.
func TestAbsenceDeletesNothing(t *testing.T) {
	w := neighbours(t)
	before := count(w)
	t.Run("MissingDisk", func(t *testing.T) {
		w.host.With("hf-a", func(g *lvmfake.Group) { g.Missing = true })
		w.restart()
		if err := w.engine.Delete(t.Context(), handle("hfv-gone")); !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("a volume that is not reported by a group without its disk: %v", err)
		}
		if err := w.engine.Delete(t.Context(), handle("hfv-thin-x")); err == nil {
			t.Error("a volume of a group without its disk was deleted")
		}
		w.host.With("hf-a", func(g *lvmfake.Group) { g.Missing = false })
	})
	t.Run("UnknownGroup", func(t *testing.T) {
		h := lvm.Handle{Group: "zzzzzz-0000-0000-0000-0000-0000-000009", LV: "hfv-thin-x"}
		if err := w.engine.Delete(t.Context(), h); !errors.Is(err, lvm.ErrUnavailable) {
			t.Errorf("a group that disks.yaml does not name: %v", err)
		}
	})
	t.Run("OtherGroupOfThatName", func(t *testing.T) {
		w.host.With("hf-a", func(g *lvmfake.Group) { g.Info.UUID = "cccccc-0000-0000-0000-0000-0000-000003" })
		w.restart()
		if err := w.engine.Delete(t.Context(), handle("hfv-thin-x")); err == nil {
			t.Error("a volume of another group of the same name was deleted")
		}
		w.host.With("hf-a", func(g *lvmfake.Group) { g.Info.UUID = groups()[0].UUID })
	})
	t.Run("NotOurs", func(t *testing.T) {
		w.host.With("hf-a", func(g *lvmfake.Group) {
			g.LVs["hfv-foreign"] = &lvmfake.LV{Name: "hfv-foreign", UUID: "f", Size: gib, Active: true, Data: "x"}
		})
		w.restart()
		if err := w.engine.Delete(t.Context(), handle("hfv-foreign")); !errors.Is(err, lvm.ErrRefused) {
			t.Errorf("a volume without our tags: %v", err)
		}
		if _, err := w.engine.Create(t.Context(), w.request("foreign", thick, lvm.XFS, gib)); !errors.Is(err, lvm.ErrRefused) {
			t.Errorf("a volume of the same name without our tags: %v", err)
		}
	})
	if n := count(w); n != before+1 || intact(w) != "" {
		t.Errorf("%d volumes, %s", n, intact(w))
	}
}

// TestCopyNeedsAQuietSource: what is written to while it is copied is no copy of anything.
func TestCopyNeedsAQuietSource(t *testing.T) {
	w := newWorld(t, groups()...)
	w.must("src", thin, lvm.XFS, 6*gib)
	h := handle("hfv-src")
	snap, err := w.engine.Snapshot(t.Context(), h, lvm.CreateRequest{Name: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.host.Run(t.Context(), 0, "mount", "-t", "xfs", "/dev/hf-a/hfv-src", "/somewhere"); err != nil {
		t.Fatal(err)
	}
	r := w.request("copy", thick, lvm.XFS, gib)
	r.Source = &h
	if _, err := w.engine.Create(t.Context(), r); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("a mounted source: %v", err)
	}
	r.Source = &snap.Handle
	// Not where the source is: into any group that has room.
	r.AvoidRequired = map[string]string{"disk-a": "ns/x"}
	v, err := w.engine.Create(t.Context(), r)
	if err != nil || v.Info.Name != "hf-b" {
		t.Fatalf("a snapshot: %v in %s", err, v.Info.Name)
	}
	if l := w.find("hf-b", "hfv-copy"); l.Data != "data of src" || l.Size != 6*gib || l.FS != lvm.XFS {
		t.Errorf("the copy is %+v", l)
	}
}

// TestInUseIsNotDeleted: mounted or open, also by what the driver did not do.
func TestInUseIsNotDeleted(t *testing.T) {
	w := neighbours(t)
	w.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-thick-e"].Open = true })
	if err := w.engine.Delete(t.Context(), handle("hfv-thick-e")); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("an open volume: %v", err)
	}
	if _, err := w.host.Run(t.Context(), 0, "mount", "-t", "xfs", "/dev/hf-a/hfv-thin-x", "/somewhere"); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Delete(t.Context(), handle("hfv-thin-x")); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("a mounted volume: %v", err)
	}
	for _, l := range w.host.Volumes("hf-a") {
		if phase, _ := vg.Tags(l.Tags).Intent(); phase != vg.Ready {
			t.Errorf("%s is in phase %s", l.Name, phase)
		}
	}
	if msg := intact(w); msg != "" {
		t.Error(msg)
	}
}

// TestLyingTools: whatever blkid and LVM's reports say or fail to say, nothing that may
// hold data is formatted or wiped.
func TestLyingTools(t *testing.T) {
	for _, mode := range []lvmfake.Mode{lvmfake.Fail, lvmfake.Empty, lvmfake.Garbage, lvmfake.Hang, lvmfake.LieNotFound} {
		for _, program := range []string{"blkid", "fullreport"} {
			if program == "blkid" && mode == lvmfake.LieNotFound {
				continue // it lists no volumes
			}
			w := neighbours(t)
			w.restart()
			w.host.Calls()
			w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
				if c.Sub() == program {
					return mode
				}
				return lvmfake.Honest
			})
			if _, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib)); err == nil {
				t.Errorf("%s mode %d: the volume was made", program, mode)
			}
			if program == "fullreport" {
				if err := w.engine.Delete(t.Context(), handle("hfv-thick-e")); err == nil {
					t.Errorf("%s mode %d: a volume was deleted", program, mode)
				}
			}
			for _, c := range w.host.Calls() {
				if slices.Contains([]string{"mkfs.xfs", "mkfs.ext4", "blkdiscard", "lvremove"}, c.Sub()) {
					t.Errorf("%s mode %d: %s ran", program, mode, c.Line())
				}
			}
			if msg := intact(w); msg != "" {
				t.Error(msg)
			}
		}
	}
}

// TestOpenHalfMadeVolumeIsLeftAlone: what something has open is neither removed nor
// formatted, however certain it is that it was never published.
func TestOpenHalfMadeVolumeIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	first := true
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Sub() == "lvcreate" && first {
			first = false
			return lvmfake.HangAfter // made, and we do not know
		}
		return lvmfake.Honest
	})
	if _, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib)); err == nil {
		t.Fatal("no answer was taken for success")
	}
	w.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-new"].Open = true })
	w.host.Calls()
	if _, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib)); !errors.Is(err, lvm.ErrInUse) {
		t.Errorf("a half made volume that something has open: %v", err)
	}
	for _, c := range w.host.Calls() {
		if c.Sub() == "mkfs.xfs" || c.Sub() == "lvremove" {
			t.Errorf("%s ran", c.Line())
		}
	}
}
