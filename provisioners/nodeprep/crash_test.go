package nodeprep_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/nodeprep"
)

func quantity(s string) *resource.Quantity { q := resource.MustParse(s); return &q }

// flavor wants everything that can be made: file systems beside a raw
// partition, volume groups on each disk with a thin pool, and one over two disks.
func allKinds() *v1alpha1.NodeFlavor {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{
		{Name: "system", Role: v1alpha1.RoleSystem, Count: 1},
		{Name: "data", Role: v1alpha1.RoleStatic, Count: 1, MinSize: quantity("96Mi"), Layout: &v1alpha1.DiskLayout{Partitions: []v1alpha1.PartitionLayout{
			{Count: 2, Size: quantity("20Mi"), Filesystem: "ext4", StorageClass: "local", MountOptions: []string{"noatime"}},
			{StorageClass: "local-raw"},
		}}},
		{Name: "db", Role: v1alpha1.RoleLVM, Count: 1, MinSize: quantity("96Mi"), Layout: &v1alpha1.DiskLayout{VolumeGroup: &v1alpha1.VolumeGroupLayout{ThinPoolPercent: 80}}},
		{Name: "wide", Role: v1alpha1.RoleLVM, Count: 2, MinSize: quantity("96Mi"), Layout: &v1alpha1.DiskLayout{VolumeGroup: &v1alpha1.VolumeGroupLayout{Spread: v1alpha1.SpreadAll}}},
	}}}
	f.Name = "all-kinds"
	return f
}

// canaries plugs in disks that fit and must not be touched, each for a reason of its own.
func (w *world) canaries() []string {
	var all []string
	add := func(dev string) {
		w.add(dev, 96*mib)
		all = append(all, dev)
	}
	add("sdm") // a file system on the whole disk
	w.must(w.mkfs("sdm", []string{"-U", "11111111-2222-4333-8444-555555555555"}))
	add("sdn") // a partition table of somebody else
	w.must(w.sfdisk("sdn", "label-id: 21111111-2222-4333-8444-555555555555\nstart=2048, size=4096, type=0fc63daf-8483-4772-8e79-3d69d8477de4, uuid=31111111-2222-4333-8444-555555555555, \n"))
	add("sdo") // no signature, and data somewhere in the middle
	w.put("sdo", (96*mib-4096)/256*100/4096*4096, []byte("a database without a header"))
	add("sdp") // blank, and held by a driver
	w.write("sys/block/dm-0/dev", "253:0")
	w.must(os.MkdirAll(w.path("sys/block/sdp/holders/dm-0"), 0o755))
	add("sdq") // blank, and swap
	w.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdq partition 1 0 -2\n")
	add("sdr") // one byte at the very end
	w.put("sdr", 96*mib-1, []byte{1})
	return append(all, "sda")
}

// Every boundary of a whole preparation is cut once; after each, running again
// ends it. No byte of a canary changes, nothing that a pod wrote is lost, nothing
// is made twice over, and the outcome is the one of an undisturbed run.
func TestPowerCutAtEveryBoundary(t *testing.T) {
	setup := func(t *testing.T) (*world, []string, map[string]string) {
		w := newWorld(t)
		for _, dev := range []string{"sdb", "sdc", "sdd", "sde"} {
			w.add(dev, 96*mib)
		}
		canaries := w.canaries()
		return w, canaries, w.sums(canaries...)
	}
	w, canaries, before := setup(t)
	w.passed = 0
	out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	total := w.passed
	want := shape(w)
	if got := w.sums(canaries...); !cmp.Equal(before, got) {
		t.Fatalf("an undisturbed run touched a canary: %s", cmp.Diff(before, got))
	}
	t.Logf("%d boundaries; %d effects", total, len(w.effects))
	for n := range total {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w, canaries, before := setup(t)
			if _, _, wasCut := w.prepare(allKinds(), nodeprep.Options{Apply: true}, n); !wasCut {
				t.Error("the power did not fail")
			}
			w.intact()
			out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			w.intact()
			if got := shape(w); !cmp.Equal(got, want) {
				t.Errorf("the outcome differs: %s", cmp.Diff(want, got))
			}
			if got := w.sums(canaries...); !cmp.Equal(before, got) {
				t.Errorf("a canary was touched: %s", cmp.Diff(before, got))
			}
			effects := len(w.effects)
			if n%10 != 0 {
				return
			}
			if out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1); err != nil || len(w.effects) != effects {
				t.Errorf("a further run is not idle: %v %v\n%s", err, w.effects[effects:], out)
			}
		})
	}
}

// shape is what a preparation leads to, without what is random.
func shape(w *world) []string {
	f := w.listed()
	var out []string
	for _, d := range f.Disks {
		text := fmt.Sprintf("%s %s %s", d.ID, d.Group, d.Role)
		if d.VolumeGroup != "" {
			text += " vg"
		}
		for _, p := range d.Partitions {
			text += fmt.Sprintf(" %s/%s", p.Filesystem, p.StorageClass)
			if p.MountPoint != "" && !w.imm[p.MountPoint] {
				text += " (its directory can be written to)"
			}
		}
		out = append(out, text)
	}
	for _, g := range f.VolumeGroups {
		out = append(out, fmt.Sprintf("%s %s: %d disks, %d pools", g.Pool, g.ThinPool, len(w.vgs[g.Name].pvs), len(w.vgs[g.Name].pools)))
	}
	slices.Sort(out)
	return append(out, fmt.Sprintf("%d mounts, %d volume groups in all", strings.Count(w.read("proc/1/mountinfo"), "/mnt/"), len(w.vgs)))
}

// Any sequence of power cuts, one after the other.
func TestPowerCutsInARow(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			for _, dev := range []string{"sdb", "sdc", "sdd", "sde"} {
				w.add(dev, 96*mib)
			}
			canaries := w.canaries()
			before := w.sums(canaries...)
			for range 1 + rnd.IntN(6) {
				w.prepare(allKinds(), nodeprep.Options{Apply: true}, rnd.IntN(60)) //nolint:errcheck // it was cut
				w.intact()
			}
			out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			w.intact()
			if got := w.sums(canaries...); !cmp.Equal(before, got) {
				t.Fatalf("a canary was touched: %s", cmp.Diff(before, got))
			}
		})
	}
}

// A wipe that a power cut ended is continued by its own token and by nothing
// else, and the token is worth nothing afterwards.
func TestPowerCutInAWipe(t *testing.T) {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{allKinds().Spec.Disks[1]}}}
	setup := func(t *testing.T) (*world, string) {
		w := newWorld(t)
		w.add("sdb", 96*mib)
		w.must(w.sfdisk("sdb", "label-id: 21111111-2222-4333-8444-555555555555\nstart=2048, size=65536, type=0fc63daf-8483-4772-8e79-3d69d8477de4, uuid=31111111-2222-4333-8444-555555555555, \n"))
		w.must(w.mkfs("sdb1", []string{"-U", "41111111-2222-4333-8444-555555555555"}))
		_, err, _ := w.prepare(f, nodeprep.Options{}, -1)
		if !errors.Is(err, nodeprep.ErrRefused) {
			t.Fatalf("got %v", err)
		}
		return w, w.token(f, "wwn-sdb")
	}
	w, token := setup(t)
	w.passed = 0
	apply := nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdb": token}}
	if out, err, _ := w.prepare(f, apply, -1); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	total := w.passed
	if !slices.ContainsFunc(w.effects, func(e string) bool { return strings.HasPrefix(e, "wipefs --all") }) {
		t.Fatalf("nothing was wiped: %v", w.effects)
	}
	for n := range total {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w, token := setup(t)
			apply := nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdb": token}}
			w.prepare(f, apply, n) //nolint:errcheck // it was cut
			before := w.sums("sdb", "sdb1")
			consumed := strings.Contains(w.read("var/lib/holdfast/nodeprep/state.json"), token)
			// A run that nobody gave the token to goes on only where nothing is left to wipe.
			effects := len(w.effects)
			out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
			if err != nil {
				for _, e := range w.effects[effects:] {
					t.Errorf("without the token: %s", e)
				}
				if got := w.sums("sdb", "sdb1"); !cmp.Equal(before, got) {
					t.Errorf("without the token the disk was changed: consumed %t\n%s", consumed, out)
				}
				if out, err, _ = w.prepare(f, apply, -1); err != nil {
					t.Fatalf("with the token: %v\n%s", err, out)
				}
			}
			w.intact()
			// What is on the disk now is not what the token was for.
			effects = len(w.effects)
			if _, err, _ := w.prepare(f, apply, -1); err == nil {
				t.Error("the token is taken again")
			}
			if len(w.effects) != effects {
				t.Errorf("a used token led to %v", w.effects[effects:])
			}
			w.intact()
		})
	}
}

// token is the one that the plan prints for a disk.
func (w *world) token(f *v1alpha1.NodeFlavor, id string) string {
	w.t.Helper()
	out, _, _ := w.prepare(f, nodeprep.Options{}, -1)
	for line := range strings.Lines(out) {
		if _, after, ok := strings.Cut(line, "--wipe "+id+"="); ok {
			return strings.TrimSpace(after)
		}
	}
	w.t.Fatalf("no token for %s in\n%s", id, out)
	return ""
}

// Programs that fail, hang, say nothing or say nonsense: nothing is made and
// nothing is wiped on their word, whichever of their answers it is.
func TestProgramsThatLie(t *testing.T) {
	lies := map[string]func() ([]byte, error){
		"fails":     func() ([]byte, error) { return nil, fails(1, "Input/output error") },
		"killed":    func() ([]byte, error) { return nil, fails(-1, "killed") },
		"times out": func() ([]byte, error) { return nil, errTimeout },
		"is silent": func() ([]byte, error) { return nil, nil },
		"raves":     func() ([]byte, error) { return []byte("{]"), nil },
		"empty":     func() ([]byte, error) { return []byte("{}"), nil },
	}
	for _, tool := range []string{"blkid", "wipefs", "lsblk", "pvs", "vgs", "lvs"} {
		for how, answer := range lies {
			t.Run(tool+" "+how, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				for _, dev := range []string{"sdb", "sdc", "sdd", "sde"} {
					w.add(dev, 96*mib)
				}
				canaries := w.canaries()
				before := w.sums(canaries...)
				f := allKinds()
				f.Spec.Disks[1].Count = 9 // every disk gets a place, or is told why not
				token := w.token(f, "wwn-sdm")
				f.Spec.Disks[1].Count = 2
				w.lie = func(name string, args []string) ([]byte, error, bool) {
					if name != tool && (len(args) == 0 || args[0] != tool) || name == "wipefs" && args[0] != "--no-act" {
						return nil, nil, false
					}
					out, err := answer()
					return out, err, true
				}
				_, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdm": token}}, -1)
				if err == nil {
					t.Error("nobody is told")
				}
				forbidden := []string{"sfdisk", "mkfs", "wipefs", "lvm pvcreate", "lvm vgcreate", "lvm lvcreate"}
				if strings.HasSuffix(tool, "vs") || strings.HasSuffix(tool, "gs") { // LVM is asked about volume groups only
					forbidden = []string{"lvm vgcreate", "lvm lvcreate"}
				}
				for _, e := range w.effects {
					for _, f := range forbidden {
						if strings.HasPrefix(e, f) {
							t.Errorf("on its word: %s", e)
						}
					}
				}
				if !strings.HasSuffix(tool, "s") || tool == "wipefs" {
					if got := w.sums(canaries...); !cmp.Equal(before, got) {
						t.Errorf("a canary was touched: %s", cmp.Diff(before, got))
					}
				}
				// Once it speaks the truth again, all is as it should be.
				w.lie = nil
				if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdm": token}}, -1); err != nil && !errors.Is(err, nodeprep.ErrRefused) {
					t.Errorf("%v\n%s", err, out)
				}
				w.intact()
			})
		}
	}
}

var errTimeout = &hostexec.Error{Name: "fake", ExitCode: -1, Err: fmt.Errorf("no answer within 30s: %w", context.DeadlineExceeded)}

// All of them call a disk blank that is not: the bytes are read all the same.
func TestProgramsThatConspire(t *testing.T) {
	w := newWorld(t)
	canaries := w.canaries()
	before := w.sums(canaries...)
	w.lie = func(name string, args []string) ([]byte, error, bool) {
		switch {
		case name == "blkid":
			return nil, fails(2, ""), true
		case name == "wipefs" && args[0] == "--no-act":
			return []byte(`{"signatures": []}`), nil, true
		}
		return nil, nil, false
	}
	out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1)
	if !errors.Is(err, nodeprep.ErrRefused) || len(w.effects) > 0 {
		t.Errorf("%v, effects %v\n%s", err, w.effects, out)
	}
	if got := w.sums(canaries...); !cmp.Equal(before, got) {
		t.Errorf("a canary was touched: %s", cmp.Diff(before, got))
	}
}

// A program that is killed while it makes something, or that says so and has
// made nothing, is not believed.
func TestProgramsThatDoNothing(t *testing.T) {
	for _, tool := range []string{"sfdisk", "mkfs.ext4", "systemctl", "pvcreate", "vgcreate", "lvcreate"} {
		t.Run(tool, func(t *testing.T) {
			w := newWorld(t)
			for _, dev := range []string{"sdb", "sdc", "sdd", "sde"} {
				w.add(dev, 96*mib)
			}
			calls := 0
			w.lie = func(name string, args []string) ([]byte, error, bool) {
				if name == tool || args[0] == tool {
					calls++
					return nil, nil, true
				}
				return nil, nil, false
			}
			if _, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1); err == nil || calls == 0 {
				t.Errorf("got %v after %d calls", err, calls)
			}
			w.lie = nil
			if out, err, _ := w.prepare(allKinds(), nodeprep.Options{Apply: true}, -1); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Half made and then used by a person: never made anew.
func TestHalfMadeAndUsed(t *testing.T) {
	f := allKinds()
	f.Spec.Disks = f.Spec.Disks[1:2]
	var w *world
	for n := 0; ; n++ { // cut right before the outcome of the first mkfs is recorded
		if n > 200 {
			t.Fatal("no such boundary")
		}
		w = newWorld(t)
		w.add("sdb", 96*mib)
		w.prepare(f, nodeprep.Options{Apply: true}, n) //nolint:errcheck // it was cut
		if kind, _ := w.kindOf("sdb1"); kind != "ext4" || string(w.get("sdb1", 8192, 5)) != "WHOLE" {
			continue
		}
		var st nodeprep.State
		w.must(json.Unmarshal([]byte(w.read(nodeprep.StatePath)), &st))
		if phase := st.Disks["wwn-sdb"].Table.Partitions[0].Phase; phase == nodeprep.Begun {
			break
		}
	}
	// The person mounted it by hand, wrote, and the power failed: its checker finds faults.
	x, err := os.OpenFile(filepath.Join(w.dir, "dev/sdb1"), os.O_WRONLY, 0)
	w.must(err)
	_, e1 := x.WriteAt([]byte{1, 0}, 1024+52)
	_, e2 := x.WriteAt([]byte("DIRTY"), 8192)
	_, e3 := x.WriteAt([]byte("somebody's data"), 4*mib)
	w.must(errors.Join(e1, e2, e3, x.Close()))
	before := w.sums("sdb1")
	out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
	if err == nil || !strings.Contains(out, "damaged ext4 that may have been used") {
		t.Errorf("got %v\n%s", err, out)
	}
	if got := w.sums("sdb1"); !cmp.Equal(before, got) {
		t.Error("it was made anew")
	}
}

func (w *world) kindOf(dev string) (string, string) {
	if _, err := os.Stat(w.path("dev/" + dev)); err != nil {
		return "", ""
	}
	return w.kind(dev)
}
