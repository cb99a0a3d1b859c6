package nodeprep_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/nodeprep"
)

const (
	weakID = "path-block-sdb-device"
	// hidden lies between two of the samples that are read of a disk of 96 MiB.
	hidden = (96*mib-4096)/256*100/4096*4096 + 8192
)

// otherDrive puts a drive of the same size into the slot of sdb, which has data at some places.
func (w *world) otherDrive(places ...int64) {
	w.pull("sdb")
	parts, err := filepath.Glob(w.path("dev/sdb?*"))
	w.must(err)
	for _, p := range parts {
		w.must(os.Remove(p))
	}
	w.vgs, w.used = map[string]*fakeVG{}, map[string][]byte{}
	w.add("sdb", 96*mib)
	w.weaken("sdb")
	for _, at := range places {
		w.put("sdb", at, []byte("somebody's data"))
	}
}

// A power cut, and then another drive in the slot whose id is that of the place.
// Found in a review: what the record said of the first drive was done to the second.
func TestPowerCutAndOtherDriveInTheSlot(t *testing.T) {
	for _, group := range []int{1, 2} { // file systems, a volume group
		f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[group : group+1]}}
		for n, cut := 0, true; cut && !t.Failed(); n++ {
			t.Run(fmt.Sprintf("%s/%d", f.Spec.Disks[0].Name, n), func(t *testing.T) {
				w := newWorld(t)
				w.add("sdb", 96*mib)
				w.weaken("sdb")
				if _, _, cut = w.prepare(f, nodeprep.Options{Apply: true}, n); !cut {
					return
				}
				w.otherDrive(hidden)
				before := w.sums("sdb")
				out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
				if got := w.sums("sdb"); err == nil || got["sdb"] != before["sdb"] {
					t.Fatalf("the other drive was taken: %v\n%s", err, out)
				}
				if n%5 > 0 {
					return
				}
				give := nodeprep.Options{Apply: true, Wipe: map[string]string{weakID: w.token(f, weakID)}}
				if out, err, _ := w.prepare(f, give, -1); err != nil || len(w.listed().Disks) != 1 {
					t.Errorf("a person gave it up: %v\n%s", err, out)
				}
			})
		}
	}
}

// The same drive goes on where it was cut.
func TestPowerCutOnAWeakDisk(t *testing.T) {
	for _, group := range []int{1, 2} {
		f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[group : group+1]}}
		for n, cut := 0, true; cut && !t.Failed(); n++ {
			t.Run(fmt.Sprintf("%s/%d", f.Spec.Disks[0].Name, n), func(t *testing.T) {
				w := newWorld(t)
				w.add("sdb", 96*mib)
				w.weaken("sdb")
				_, _, cut = w.prepare(f, nodeprep.Options{Apply: true}, n)
				w.intact()
				if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil || len(w.listed().Disks) != 1 {
					t.Errorf("%v\n%s", err, out)
				}
				w.intact()
			})
		}
	}
}

// A token gives up one drive. Another one in its slot, whatever was begun, needs its own.
func TestTokenAndOtherDriveInTheSlot(t *testing.T) {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[1:2]}}
	for _, places := range [][]int64{{hidden}, {4096}} {
		for n, cut := 0, true; cut && !t.Failed(); n += 3 {
			t.Run(fmt.Sprintf("%d/%d", places, n), func(t *testing.T) {
				w := newWorld(t)
				w.add("sdb", 96*mib)
				w.weaken("sdb")
				w.put("sdb", hidden, []byte("old data, which a wipe leaves"))
				w.put("sdb", 2*mib+5, []byte("old data"))
				give := nodeprep.Options{Apply: true, Wipe: map[string]string{weakID: w.token(f, weakID)}}
				var out string
				var err error
				if out, err, cut = w.prepare(f, give, n); !cut {
					if err != nil {
						t.Errorf("%v\n%s", err, out)
					}
					return
				}
				w.otherDrive(places...)
				before := w.sums("sdb")
				out, err, _ = w.prepare(f, give, -1)
				if got := w.sums("sdb"); err == nil || got["sdb"] != before["sdb"] {
					t.Errorf("the other drive was taken: %v\n%s", err, out)
				}
				if !strings.Contains(out, "--wipe "+weakID) {
					t.Errorf("nobody is told how to give it up:\n%s", out)
				}
			})
		}
	}
}
