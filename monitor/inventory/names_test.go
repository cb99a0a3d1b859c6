package inventory_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/monitor/inventory"
)

// What is stacked comes and goes without a line in the log.
func TestNamesOfStacks(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	alone := inventory.Snapshot{Disks: []inventory.Disk{{ID: "a", Names: []string{"sda"}, Above: []string{"md0"}}, {ID: "b", Names: []string{"sdb"}}}}
	both := inventory.Snapshot{Disks: []inventory.Disk{{ID: "a", Names: []string{"sda"}}, {ID: "b", Names: []string{"sdb"}}}, Shared: []string{"md0"}}
	var n inventory.Names
	n.Update(&alone, at(10))
	n.Update(&both, at(20))
	for _, tc := range []struct {
		reason string
		at     int
		ids    string
		answer inventory.Answer
	}{
		{"before the first look it may have been anybody's", 5, "", inventory.Unknown},
		{"then it lay on one disk", 10, "a", inventory.Known},
		{"and now on two: of neither", 21, "", inventory.Known},
	} {
		ids, how, answer := n.Resolve("md0", at(tc.at))
		if strings.Join(ids, " ") != tc.ids || answer != tc.answer || answer == inventory.Known && how != inventory.Above {
			t.Errorf("at %d: %v, %v, %v; %s", tc.at, ids, how, answer, tc.reason)
		}
	}
	later := at(20).Add(25 * time.Hour)
	n.Update(&inventory.Snapshot{}, later)
	if _, _, answer := n.Resolve("md0", later); answer != inventory.Unknown {
		t.Error("a name that has been nobody's for a day is remembered")
	}
}

// A disk that is bad from the beginning speaks of itself before it was looked at: by whatever
// name, that is no word on its predecessor, as soon as the log says that another came.
func TestNamesOfASuccessor(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	nvme := []string{"nvme0n1", "259:0", "nvme0n1p1", "nvme0", "0000:01:00.0"}
	sd := []string{"sdc", "8:32", "sdc1", "8:33", "ata3", "ata3.00", "2:0:0:0"}
	cases := map[string]struct {
		reason string
		names  []string
		came   string
		stale  []string // of the names
	}{
		"NVMe":      {"nvme nvme0: pci function 0000:01:00.0", nvme, "nvme0", nvme},
		"SD":        {"sd 2:0:0:0: [sdc] 7814037168 512-byte logical blocks", sd, "sdc", sd},
		"SCSI":      {"scsi 2:0:0:0: Direct-Access", sd, "2:0:0:0", sd},
		"ATA":       {"ata3.00: ATA-9", sd, "ata3.00", sd},
		"Elsewhere": {"sd 3:0:0:0: [sdd]", sd, "sdd", nil},
		"Likewise":  {"sd 3:0:0:0: [sdca]", sd, "sdca", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := inventory.Snapshot{Disks: []inventory.Disk{
				{ID: "old", Device: tc.names[0], Names: tc.names, Above: []string{"dm-3"}},
				{ID: "other", Device: "sdz", Names: []string{"sdz", "sdz1", "nvme1", "nvme1n1", "8:3"}},
			}}
			var n inventory.Names
			n.Update(&old, at(10))
			n.Update(&inventory.Snapshot{}, at(20)) // pulled
			n.Attached(tc.came, at(30))
			for _, name := range append(slices.Clone(tc.names), "dm-3", "sdz", "sdz1", "nvme1n1", "8:3") {
				want := inventory.Known
				if slices.Contains(tc.stale, name) {
					want = inventory.Stale
				}
				if ids, _, got := n.Resolve(name, at(31)); got != want {
					t.Errorf("%s is of %v (%v); reason: %s", name, ids, got, tc.reason)
				}
				if ids, _, got := n.Resolve(name, at(29)); got != inventory.Known {
					t.Errorf("before it, %s is of %v (%v)", name, ids, got)
				}
			}
			n.Update(&inventory.Snapshot{Disks: []inventory.Disk{{ID: "new", Names: tc.names}}}, at(40))
			for _, name := range tc.stale {
				if ids, _, got := n.Resolve(name, at(31)); got != inventory.Known || len(ids) != 1 || ids[0] != "new" {
					t.Errorf("after a look, %s is of %v (%v); reason: %s", name, ids, got, tc.reason)
				}
			}
		})
	}
}

// A way to a disk that comes back leads to it still.
func TestNamesOfAWay(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	var n inventory.Names
	n.Update(&inventory.Snapshot{Disks: []inventory.Disk{{ID: "a", Names: []string{"sda", "sdb", "sdb1"}, Paths: []string{"sda", "sdb", "sdb1"}}}}, at(10))
	n.Attached("sdb", at(30))
	for name, want := range map[string]inventory.Answer{"sda": inventory.Known, "sdb": inventory.Stale, "sdb1": inventory.Stale} {
		if _, _, got := n.Resolve(name, at(31)); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	a := inventory.Snapshot{Disks: []inventory.Disk{{ID: "a", Names: []string{"sdc", "sdc1", "ata3"}}, {ID: "n1", Names: []string{"nvme0n1", "nvme0"}}, {ID: "n2", Names: []string{"nvme0n2", "nvme0"}}}}
	gone := inventory.Snapshot{}
	b := inventory.Snapshot{Disks: []inventory.Disk{{ID: "b", Names: []string{"sdc", "sdc1", "ata3"}}, {ID: "l", Names: []string{"loop9"}}}}
	var n inventory.Names
	n.Update(&a, at(10))
	n.Update(&a, at(20))
	n.Update(&gone, at(30))
	n.Update(&b, at(40))

	type want struct {
		ids    string
		answer inventory.Answer
	}
	cases := map[string]struct {
		reason, name string
		at           int
		want         want
	}{
		"Before":     {"the backlog of the owner found at the start", "sdc", 5, want{"a", inventory.Known}},
		"Now":        {"the present owner", "sdc", 40, want{"b", inventory.Known}},
		"Dying":      {"the last words of a disk come when it is gone", "sdc1", 35, want{"a", inventory.Known}},
		"Partition":  {"a partition that was never seen is its disk's", "sdc7", 41, want{"b", inventory.Known}},
		"Nobody":     {"a name without a disk", "sdx", 41, want{"", inventory.Unknown}},
		"Shared":     {"a controller has two namespaces", "nvme0", 12, want{"n1 n2", inventory.Known}},
		"Early":      {"the disk came later than the line", "loop9", 39, want{"", inventory.Unknown}},
		"Controller": {"a port is its disk's", "ata3", 41, want{"b", inventory.Known}},
		"Similar":    {"sdcc is no partition of sdc", "sdcc", 41, want{"", inventory.Unknown}},
	}
	check := func(t *testing.T, name string, when time.Time, w want, reason string) {
		t.Helper()
		ids, _, ans := n.Resolve(name, when)
		if strings.Join(ids, " ") != w.ids || ans != w.answer {
			t.Errorf("%s: %v %v, want %v; reason: %s", name, ids, ans, w, reason)
		}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { check(t, tc.name, at(tc.at), tc.want, tc.reason) })
	}
	t.Run("LogSaysWhen", func(t *testing.T) {
		n.Attached("sdc", at(33))
		n.Attached("loop9", at(38))
		check(t, "sdc", at(32), want{"a", inventory.Known}, "before the new disk came")
		check(t, "sdc1", at(34), want{"b", inventory.Known}, "after it came, before it was looked at")
		check(t, "loop9", at(39), want{"l", inventory.Known}, "the log shows that it was there")
		check(t, "loop9", at(37), want{"", inventory.Unknown}, "and that it was not")
		n.Attached("sdc", at(50))
		check(t, "sdc", at(45), want{"b", inventory.Known}, "still the last one that was seen")
		check(t, "sdc1", at(51), want{"", inventory.Stale}, "somebody else came; look again")
		c := inventory.Snapshot{Disks: []inventory.Disk{{ID: "c", Names: []string{"sdc", "sdc1"}}}}
		n.Update(&c, at(52))
		check(t, "sdc1", at(51), want{"c", inventory.Known}, "and now it is known who")
	})
}
