package nodeprep_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/nodeprep"
)

// Between the look at a disk and an effect the kernel gives its name to another
// disk. Found in a review: sfdisk, mkfs and pvcreate were given the name, and went
// to whatever had it by then.
func TestNameMovesToAnotherDisk(t *testing.T) {
	for _, group := range []int{1, 2} { // file systems, a volume group
		f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[group : group+1]}}
		for _, when := range []string{"after the intent is recorded", "while a program begins"} {
			for n := 0; ; n++ {
				moved := false
				t.Run(fmt.Sprintf("%s/%s/%d", f.Spec.Disks[0].Name, when, n), func(t *testing.T) {
					w := newWorld(t)
					w.add("sdb", 96*mib)
					w.add("sdm", 96*mib)
					w.must(w.mkfs("sdm", []string{"-U", "11111111-2222-4333-8444-555555555555"}))
					w.put("sdm", 40*mib, []byte("somebody's data"))
					before := w.sums("sdm")
					count := n
					move := func() {
						if count == 0 {
							w.exchange("sdb", "sdm")
							moved = true
						}
						count--
					}
					if when == "while a program begins" {
						w.before = func(c hostexec.Command) {
							if slices.Contains([]string{"sfdisk", "partx", "mkfs.ext4"}, c.Path) { // those that only look are believed when the look ends
								move()
							}
						}
					} else {
						w.onSave = move
					}
					w.effects = nil
					out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
					w.before, w.onSave = nil, nil
					if err != nil && !moved {
						t.Fatalf("%v\n%s", err, out)
					}
					now := "sdm"
					if moved {
						now = "sdb"
					}
					if got := w.sums(now); got[now] != before["sdm"] {
						t.Errorf("the other disk was changed: %v\n%s\n%s", w.effects, out, cmp.Diff(before["sdm"], got[now]))
					}
				})
				if t.Failed() || !moved {
					break
				}
			}
		}
	}
}
