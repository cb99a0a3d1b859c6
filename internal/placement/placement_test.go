package placement_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/placement"
)

func volume(id, disk string, room int64) placement.Bin {
	return placement.Bin{ID: id, Disk: disk, Room: room, Offers: []placement.Offer{{Pool: "p"}}}
}

func group(id, disk string, room int64) placement.Bin {
	b := volume(id, disk, room)
	b.Kind = placement.Group
	return b
}

func claim(id string, size int64, required ...string) placement.Claim {
	return placement.Claim{ID: id, Size: size, Pool: "p", Required: required}
}

func TestSolve(t *testing.T) {
	cases := map[string]struct {
		reason  string
		problem placement.Problem
		want    map[string]string
		refusal *placement.Refusal
	}{
		"Nothing": {
			reason: "no claims need nothing", want: map[string]string{},
		},
		"TightestFit": {
			reason:  "the smallest volume that is large enough is taken, whatever its name",
			problem: placement.Problem{Claims: []placement.Claim{claim("c", 5)}, Bins: []placement.Bin{volume("a", "d1", 9), volume("b", "d1", 6), volume("z", "d2", 5)}},
			want:    map[string]string{"c": "z"},
		},
		"Joint": {
			reason: "the tightest volume of the first claim is left to the one that has no other disk",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("data", 5, "g"), claim("log", 5, "g")},
				Bins:   []placement.Bin{volume("a1", "d1", 5), volume("a2", "d1", 5), volume("b1", "d2", 9)},
			},
			want: map[string]string{"data": "a1", "log": "b1"},
		},
		"JointBySize": {
			reason: "greedy puts the small claim on the only disk of the large one",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("large", 9, "g"), claim("small", 1, "g")},
				Bins:   []placement.Bin{volume("a1", "d1", 2), volume("a2", "d1", 9), volume("b1", "d2", 3)},
			},
			want: map[string]string{"large": "a2", "small": "b1"},
		},
		"Preferred": {
			reason: "preferred keeps claims apart before fit is looked at, and gives way where it must",
			problem: placement.Problem{
				Claims: []placement.Claim{
					{ID: "x", Size: 1, Pool: "p", Preferred: []string{"g"}}, {ID: "y", Size: 1, Pool: "p", Preferred: []string{"g"}}, {ID: "z", Size: 1, Pool: "p", Preferred: []string{"g"}},
				},
				Bins: []placement.Bin{volume("a1", "d1", 1), volume("a2", "d1", 1), volume("a3", "d1", 1), volume("b1", "d2", 100)},
			},
			want: map[string]string{"x": "a1", "y": "a2", "z": "b1"},
		},
		"Spread": {
			reason: "equal fit goes to the disk with fewer volumes, the claims of the pod itself counted",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("x", 1), claim("y", 1)},
				Bins: []placement.Bin{
					{ID: "a", Disk: "d1", Room: 9, Kind: placement.Group, Load: 1, Offers: []placement.Offer{{Pool: "p"}}},
					{ID: "b", Disk: "d2", Room: 9, Kind: placement.Group, Load: 1, Offers: []placement.Offer{{Pool: "p"}}},
				},
			},
			want: map[string]string{"x": "a", "y": "b"},
		},
		"VolumeBeforeGroup": {
			reason:  "a volume that is there is used before room is taken for a new one",
			problem: placement.Problem{Claims: []placement.Claim{claim("c", 1)}, Bins: []placement.Bin{group("a", "d1", 9), volume("z", "d2", 9)}},
			want:    map[string]string{"c": "z"},
		},
		"SharedRoom": {
			reason:  "the room of a volume group is shared by the claims, so the last one must go elsewhere",
			problem: placement.Problem{Claims: []placement.Claim{claim("x", 4), claim("y", 4), claim("z", 4)}, Bins: []placement.Bin{group("a", "d1", 8), group("b", "d2", 4)}},
			want:    map[string]string{"x": "a", "y": "a", "z": "b"},
		},
		"Mirror": {
			reason: "a pool whose volumes cost twice their size fits half as often",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("x", 4), claim("y", 4)},
				Bins:   []placement.Bin{{ID: "a", Disk: "d1", Kind: placement.Group, Room: 15, Offers: []placement.Offer{{Pool: "p", Num: 2, Den: 1}}}},
			},
			refusal: &placement.Refusal{Kind: placement.NotTogether},
		},
		"NoBin":  {reason: "nobody offers the pool", problem: placement.Problem{Claims: []placement.Claim{claim("c", 1)}}, refusal: &placement.Refusal{Kind: placement.NoBin, Claim: "c"}},
		"NoRoom": {reason: "all too small", problem: placement.Problem{Claims: []placement.Claim{claim("c", 5)}, Bins: []placement.Bin{volume("a", "d1", 4)}}, refusal: &placement.Refusal{Kind: placement.NoRoom, Claim: "c"}},
		"NoDisk": {
			reason:  "a required group cannot be kept on a disk that nobody knows",
			problem: placement.Problem{Claims: []placement.Claim{claim("c", 1, "g")}, Bins: []placement.Bin{volume("a", "", 4)}},
			refusal: &placement.Refusal{Kind: placement.NoDisk, Claim: "c"},
		},
		"GroupUsed": {
			reason: "another pod's claim of the group has the only disk",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("c", 1, "g")}, Bins: []placement.Bin{volume("a", "d1", 4)},
				Members: []placement.Member{{Group: "g", Disk: "d1", Required: true}},
			},
			refusal: &placement.Refusal{Kind: placement.GroupUsed, Claim: "c", Group: "g"},
		},
		"PreferredMember": {
			reason: "a claim that only prefers the group forbids nothing to one that requires it",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("c", 1, "g")}, Bins: []placement.Bin{volume("a", "d1", 4)},
				Members: []placement.Member{{Group: "g", Disk: "d1"}},
			},
			want: map[string]string{"c": "a"},
		},
		"GroupTooLarge": {
			reason: "three claims of a group and two disks, however many volumes",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("x", 1, "g"), claim("y", 1, "g"), claim("z", 1, "g")},
				Bins:   []placement.Bin{volume("a1", "d1", 4), volume("a2", "d1", 4), volume("b1", "d2", 4), volume("b2", "d2", 4)},
			},
			refusal: &placement.Refusal{Kind: placement.GroupTooLarge, Group: "g", Need: 3, Have: 2},
		},
		"Bound": {
			reason: "at the bound nothing is claimed",
			problem: placement.Problem{
				Claims: []placement.Claim{claim("x", 1), claim("y", 1)}, Bins: []placement.Bin{volume("a", "d1", 4), volume("b", "d1", 4)}, Steps: 1,
			},
			refusal: &placement.Refusal{Kind: placement.Undecided},
		},
		"Huge": {
			reason:  "sizes near the largest number do not wrap around",
			problem: placement.Problem{Claims: []placement.Claim{claim("x", math.MaxInt64), claim("y", math.MaxInt64)}, Bins: []placement.Bin{group("a", "d1", math.MaxInt64)}},
			refusal: &placement.Refusal{Kind: placement.NotTogether},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, refusal := placement.Solve(tc.problem)
			if diff := cmp.Diff(tc.refusal, refusal); diff != "" {
				t.Fatalf("%s: refusal (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.want, names(tc.problem, got)); diff != "" {
				t.Fatalf("%s: assignment (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestPigeonholes are the problems on which a search without a matching takes
// forever: ten claims of a group, nine disks of five volumes each.
func TestPigeonholes(t *testing.T) {
	var p placement.Problem
	for i := range 10 {
		p.Claims = append(p.Claims, claim(fmt.Sprint("c", i), int64(10+i), "g"))
	}
	for d := range 9 {
		for v := range 5 {
			p.Bins = append(p.Bins, volume(fmt.Sprint("v", d, v), fmt.Sprint("d", d), int64(20+v)))
		}
	}
	_, got := placement.Solve(p)
	want := &placement.Refusal{Kind: placement.GroupTooLarge, Group: "g", Need: 10, Have: 9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ten claims, nine disks (-want +got):\n%s", diff)
	}
	p.Bins = append(p.Bins, volume("w", "d9", 20))
	if a, r := placement.Solve(p); a == nil {
		t.Errorf("ten claims, ten disks: %+v", r)
	}
}
