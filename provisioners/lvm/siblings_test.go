package lvm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// renamed gives a volume another name, as a person does with lvrename, and a tag another value.
func (w *world) renamed(from, to, key, value string) {
	w.host.With("hf-a", func(g *lvmfake.Group) {
		lv := g.LVs[from]
		delete(g.LVs, from)
		lv.Name = to
		lv.Tags = slices.DeleteFunc(slices.Clone(lv.Tags), func(t string) bool { return strings.HasPrefix(t, key+"=") })
		lv.Tags = append(lv.Tags, vg.Tag(key, value))
		g.LVs[to] = lv
	})
	w.restart()
}

// What has the name of a volume's tail and is not one is neither zeroed nor removed: a copy
// has the tag of its source as well, and a tail of another volume is that one's.
func TestTailIsOneByItsTags(t *testing.T) {
	for name, c := range map[string]struct{ key, value string }{
		"Copy":      {vg.KeySource, "hfv-block-t"},
		"OfAnother": {vg.KeyKind, string(lvm.KindTail)},
		"NotOurs":   {vg.KeyIntent, "none"},
		"HalfMade":  {vg.KeyIntent, vg.Creating + "/0123"},
	} {
		for _, call := range []string{"Expand", "Delete"} {
			w := neighbours(t)
			r := w.request("copy", thick, lvm.Block, 10*gib)
			h := handle("hfv-block-t")
			r.Source = &h
			if name == "OfAnother" {
				h = handle("hfv-block-v")
			}
			if _, err := w.engine.Create(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			w.renamed("hfv-copy", "hft-v-block-t", c.key, c.value)
			w.host.Calls()
			var err error
			if call == "Expand" {
				_, err = w.engine.Expand(t.Context(), handle("hfv-block-t"), 20*gib, 0)
			} else {
				err = w.engine.Delete(t.Context(), handle("hfv-block-t"))
			}
			if !errors.Is(err, lvm.ErrRefused) || !strings.Contains(err.Error(), "has the name of its tail") {
				t.Errorf("%s, %s: %v", name, call, err)
			}
			for _, c := range w.host.Calls() {
				if c.Sub() != "fullreport" {
					t.Errorf("%s, %s: %s ran", name, call, c.Line())
				}
			}
		}
	}
}

// A snapshot that is there already is the one that is asked for by its tags, not by its name
// alone: what else has the name may be written to, and goes with what it belongs to.
func TestSnapshotIsOneByItsTags(t *testing.T) {
	for name, c := range map[string]struct{ key, value string }{
		"Writable":  {vg.KeyKind, string(lvm.KindVolume)},
		"NotOurs":   {vg.KeyID, ""},
		"OfASet":    {vg.KeyPV, "set"},
		"Ephemeral": {vg.KeyKind, string(lvm.KindEphemeral)},
	} {
		w := neighbours(t)
		if _, err := w.engine.Snapshot(t.Context(), handle("hfv-thin-x"), lvm.CreateRequest{Name: "snap"}); err != nil {
			t.Fatal(err)
		}
		w.renamed("hfs-snap", "hfs-snap", c.key, c.value)
		if v, err := w.engine.Snapshot(t.Context(), handle("hfv-thin-x"), lvm.CreateRequest{Name: "snap"}); !errors.Is(err, lvm.ErrRefused) {
			t.Errorf("%s: it is taken for the snapshot: %+v, %v", name, v, err)
		}
	}
}

// What another owner half made, or is deleting, is that one's to end, also under a name of
// ours: it is not made anew. A person's lvrename, or a restored group, brings that about.
func TestHalfMadeVolumeOfAnotherKindStays(t *testing.T) {
	for _, kind := range []lvm.Kind{lvm.KindDocker, lvm.KindSnapshot, lvm.KindEphemeral, lvm.KindTail} {
		for _, phase := range []string{vg.Creating, vg.Deleting} {
			w := neighbours(t)
			w.must("new", thick, lvm.XFS, gib)
			w.renamed("hfv-new", "hfv-new", vg.KeyKind, string(kind))
			w.renamed("hfv-new", "hfv-new", vg.KeyIntent, phase+"/0123")
			w.host.Calls()
			if _, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib)); !errors.Is(err, lvm.ErrRefused) || !strings.Contains(err.Error(), "was made as a "+string(kind)) {
				t.Errorf("%s in phase %s: %v", kind, phase, err)
			}
			if l := w.find("hf-a", "hfv-new"); l == nil || l.Data != "data of new" {
				t.Errorf("%s in phase %s: it is %+v", kind, phase, l)
			}
		}
	}
}
