package vg_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast.dev/provisioners/lvm/vg"
)

// uuid is that of the group in the recordings of LVM 2.03.16.
const uuid = "yUUeOy-WLUV-8N5C-U7Vk-FrjK-Vl6m-rKHpDg"

func recording(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestParseReport(t *testing.T) {
	g, err := vg.ParseReport([]byte(recording(t, "whole.json")), uuid)
	if err != nil {
		t.Fatal(err)
	}
	if g.Complete() != nil || g.FreeExtents != 63 || len(g.PVs) != 2 || g.Free() != 63*g.ExtentSize {
		t.Errorf("group is %+v", g)
	}
	lv := g.Find("hfv-pvc-1")
	phase, nonce := lv.Tags.Intent()
	if phase != vg.Ready || nonce != "ab12" || lv.Tags.Get(vg.KeyPV) != "a/b !:&" || lv.Tags.Get(vg.KeyOptions) != "noatime,nodiratime" || !lv.Tags.Ours() {
		t.Errorf("volume is %+v, %q", lv, lv.Tags.Get(vg.KeyPV))
	}
	if g.Find("hf-two").Tags.Ours() {
		t.Error("a volume with other tags is ours")
	}
	history := strings.Replace(recording(t, "whole.json"), `"lv_count":"4"`, `"lv_count":"3"`, 1)
	if _, err := vg.ParseReport([]byte(history), uuid); err != nil {
		t.Errorf("a volume that LVM shows and does not count, as historical ones: %v", err)
	}
	p, err := vg.ParseReport([]byte(recording(t, "partial.json")), uuid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Complete(); !errors.Is(err, vg.ErrIncomplete) {
		t.Errorf("a group without a disk: %v", err)
	}
}

// TestHiddenVolumesAreNotCounted: a group with parts of a thin pool and of a RAID, spare metadata,
// both kinds of snapshots, the origin of a sparse one and a lock volume is a whole one.
func TestHiddenVolumesAreNotCounted(t *testing.T) {
	g, err := vg.ParseReport([]byte(recording(t, "hidden.json")), "pN5OYl-4HvN-aVDo-me8j-AJG5-Dv52-3bH5An")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range g.LVs {
		names = append(names, l.Name)
	}
	if want := []string{"cow", "hfv-a", "hfv-thin", "orig", "pool0", "r1", "sparse"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// TestParseReportRefuses: what is not exactly one whole group is an error.
func TestParseReportRefuses(t *testing.T) {
	whole := recording(t, "whole.json")
	cases := map[string]struct{ reason, in, want string }{
		"Empty":      {"a program that printed nothing", "", "parse report"},
		"NoReport":   {"a group that is not there", `{"report": []}`, "it tells of 0 groups"},
		"NoGroup":    {"a report without a group", `{"report": [{}]}`, "not of one"},
		"Half":       {"a pipe that broke", whole[:len(whole)/2], "parse report"},
		"OtherUUID":  {"names recur", strings.Replace(whole, uuid, "zUUeOy-WLUV-8N5C-U7Vk-FrjK-Vl6m-rKHpDg", 1), "it is of another group"},
		"NoDisks":    {"no physical volume", strings.Replace(whole, `"pv": [`, `"pvx": [`, 1), "no physical volume"},
		"NoNumber":   {"a unit that was not asked for", strings.Replace(whole, `"41943040"`, `"40m"`, 1), "not a number"},
		"NoField":    {"another version of LVM", strings.ReplaceAll(whole, `"lv_tags"`, `"tags"`), "field lv_tags is not there"},
		"NoVolumes":  {"the group counts volumes that are not listed", regexp.MustCompile(`"lv": \[[^]]*\]`).ReplaceAllString(whole, `"lv": []`), "2 of 2 physical volumes and 0 of 4 logical volumes"},
		"OneIsOut":   {"the same of a single one", regexp.MustCompile(`\{"lv_name":"hfv-pvc-1".*`).ReplaceAllString(whole, ""), "3 of 4 logical volumes"},
		"DiskIsOut":  {"room and completeness are those of all disks", regexp.MustCompile(`,\s*\{"pv_name":"/dev/loop2".*`).ReplaceAllString(whole, ""), "1 of 2 physical volumes"},
		"UnknownBit": {"LVM does not know", strings.Replace(whole, `"vg_partial":"0"`, `"vg_partial":"-1"`, 1), "not 0 or 1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := vg.ParseReport([]byte(tc.in), uuid); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
}

// TestTagsKeepAnyValue: whatever a claim or class is called comes back from the disk.
func TestTagsKeepAnyValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.String().Draw(t, "value")
		tag := vg.Tag(vg.KeyPVC, v)
		for i := range len(tag) {
			c := tag[i]
			if c <= ' ' || c >= 0x7f || strings.IndexByte(`,"'{}[]()*%@$^;<>?|~`+"`\\", c) >= 0 {
				t.Fatalf("tag %q has byte %q", tag, c)
			}
		}
		if got := vg.ParseTags("a," + tag + ",b").Get(vg.KeyPVC); got != v {
			t.Fatalf("got %q, want %q", got, v)
		}
	})
}

func candidate(name string, free int64, disks ...string) vg.Candidate {
	return vg.Candidate{Pool: "db", Disks: disks, Group: &vg.Group{Name: name, UUID: name, ExtentSize: 1, Extents: 100, FreeExtents: free,
		PVs: []vg.PV{{Name: "d", UUID: "d", Allocatable: true, Extents: 100, Allocated: 100 - free}}}}
}

func TestChoose(t *testing.T) {
	a, b, c := candidate("a", 10, "d1"), candidate("b", 50, "d2"), candidate("c", 90, "d3")
	closed := c
	closed.Closed = "disk d3 is quarantined"
	broken := vg.Candidate{Pool: "db", Err: errors.New("no answer"), Group: c.Group}
	part := candidate("p", 90, "d4")
	part.Group.Missing = 1
	avoid := map[string]string{"d2": "ns/x"}
	cases := map[string]struct {
		reason    string
		all       []vg.Candidate
		want      vg.Want
		got, fail string
	}{
		"Pack":      {"the least room that is enough", []vg.Candidate{c, b, a}, vg.Want{Size: 5}, "a", ""},
		"Spread":    {"the most room", []vg.Candidate{a, b, c}, vg.Want{Size: 5, Spread: true}, "c", ""},
		"Fits":      {"one that has room", []vg.Candidate{a, b, c}, vg.Want{Size: 20}, "b", ""},
		"Required":  {"never beside a claim of the group", []vg.Candidate{a, b}, vg.Want{Size: 20, AvoidRequired: avoid}, "", "has claim ns/x of the same group"},
		"Preferred": {"not beside one when it can be had", []vg.Candidate{b, c}, vg.Want{Size: 20, AvoidPreferred: avoid}, "c", ""},
		"Forced":    {"beside one when nothing else fits", []vg.Candidate{a, b}, vg.Want{Size: 20, AvoidPreferred: avoid}, "b", ""},
		"Closed":    {"no new volume on a quarantined disk", []vg.Candidate{closed}, vg.Want{Size: 5}, "", "quarantined"},
		"Broken":    {"a group that does not answer", []vg.Candidate{broken, b}, vg.Want{Size: 5}, "b", ""},
		"Partial":   {"a group without one of its disks", []vg.Candidate{part}, vg.Want{Size: 5}, "", "lacks 1 physical volumes"},
		"NoPool":    {"another pool", []vg.Candidate{a}, vg.Want{Pool: "other", Size: 5}, "", "no volume group in pool"},
		"NoThin":    {"thin without a pool", []vg.Candidate{a}, vg.Want{Size: 5, Thin: true, Overcommit: 1}, "", "it has no thin pool"},
		"Source":    {"a copy is made where its source is", []vg.Candidate{a, b}, vg.Want{Size: 5, Group: "b"}, "b", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.want.Pool == "" {
				tc.want.Pool = "db"
			}
			for range 3 { // the order of the candidates does not matter
				got, err := vg.Choose(tc.all, tc.want)
				slices.Reverse(tc.all)
				switch {
				case tc.fail != "" && (err == nil || !errors.Is(err, vg.ErrNoRoom) || !strings.Contains(err.Error(), tc.fail)):
					t.Errorf("got %v, want %q; reason: %s", err, tc.fail, tc.reason)
				case tc.fail == "" && (err != nil || got.Group.Name != tc.got):
					t.Errorf("got %+v, %v, want %s; reason: %s", got.Group, err, tc.got, tc.reason)
				}
			}
		})
	}
}

// TestThinPoolRoom: what a pool may promise, and that one that is nearly full or does not
// tell promises nothing.
func TestThinPoolRoom(t *testing.T) {
	pool := func(data, meta float64) *vg.Group {
		return &vg.Group{ExtentSize: 1, LVs: []vg.LV{{Name: "pool0", Attr: "twi-aotz--", Size: 100, DataPercent: data, MetadataPercent: meta}, {Name: "v", Pool: "pool0", Size: 30}}}
	}
	for _, tc := range []struct {
		data, meta, overcommit float64
		want                   int64
	}{{10, 10, 1, 70}, {10, 10, 2, 170}, {89.9, 10, 1, 70}, {90, 10, 1, 0}, {10, 80, 1, 0}, {vg.Unknown, vg.Unknown, 1, 0}} {
		if got := pool(tc.data, tc.meta).FreeThin("pool0", tc.overcommit); got != tc.want {
			t.Errorf("data %v metadata %v overcommit %v: %d, want %d", tc.data, tc.meta, tc.overcommit, got, tc.want)
		}
	}
}
