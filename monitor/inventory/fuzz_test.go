package inventory_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"holdfast.dev/monitor/inventory"
)

// FuzzScan changes, removes and links entries of a sysfs: whatever it holds, the
// disks have ids, each once, in order, and no look ends the process.
func FuzzScan(f *testing.F) {
	tree := realTree()
	maps.Copy(tree, remoteTree())
	names := slices.Sorted(maps.Keys(tree))
	for i := 0; i < len(names); i += 8 {
		f.Add(uint(i), []byte("x"), uint(i+1))
		f.Add(uint(i), []byte("-> ../.."), uint(i+7))
	}
	f.Fuzz(func(t *testing.T, which uint, data []byte, gone uint) {
		if len(data) > 4096 || slices.Contains(data, 0) {
			return // more than a file of sysfs holds; no name of a link
		}
		m := maps.Clone(tree)
		m[names[which%uint(len(names))]] = string(data)
		delete(m, names[gone%uint(len(names))])
		if string(data) == "-> " {
			return // a link must have a target
		}
		h, _ := host(t, m)
		s := inventory.Scan(h)
		for i, d := range s.Disks {
			if d.ID == "" || d.Device == "" || i > 0 && s.Disks[i-1].ID >= d.ID {
				t.Errorf("disk %d: %+v", i, d)
			}
		}
		var n inventory.Names
		n.Update(&s, time.Now())
	})
}
