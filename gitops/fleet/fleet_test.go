package fleet_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/rollout"
	"holdfast.dev/internal/strictyaml"
)

const good = `apiVersion: holdfast.dev/v1alpha1
kind: Fleet
clusters:
- {name: az1-canary, az: az1, kubernetes: "1.36", labels: {tier: canary}}
- {name: az1-c1, az: az1, kubernetes: "1.36.3", labels: {tier: prod}}
- name: az2-c1
  az: az2
  kubernetes: "1.35"
rings:
- {name: canary, select: {tier: canary}, soak: 10m}
- {name: az1, select: {az: az1, tier: prod}, maxUnavailable: 2, timeout: 1h}
- {name: last, select: {cluster: az2-c1}}
`

func TestCompile(t *testing.T) {
	got, err := fleet.Compile("fleet.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := &fleet.Fleet{
		Clusters: []fleet.Cluster{
			{Name: "az1-canary", AZ: "az1", Kubernetes: "1.36", Labels: map[string]string{"tier": "canary"}, Ring: "canary", Line: 4},
			{Name: "az1-c1", AZ: "az1", Kubernetes: "1.36.3", Labels: map[string]string{"tier": "prod"}, Ring: "az1", Line: 5},
			{Name: "az2-c1", AZ: "az2", Kubernetes: "1.35", Ring: "last", Line: 6},
		},
		Rings: []fleet.Ring{
			{Name: "canary", Select: map[string]string{"tier": "canary"}, Soak: 10 * time.Minute, MaxUnavailable: 1, Timeout: 10 * time.Minute, RollbackAfter: 15 * time.Second, Clusters: []string{"az1-canary"}, Line: 10},
			{Name: "az1", Select: map[string]string{"az": "az1", "tier": "prod"}, MaxUnavailable: 2, Timeout: time.Hour, RollbackAfter: 15 * time.Second, Clusters: []string{"az1-c1"}, Line: 11},
			{Name: "last", Select: map[string]string{"cluster": "az2-c1"}, MaxUnavailable: 1, Timeout: 10 * time.Minute, RollbackAfter: 15 * time.Second, Clusters: []string{"az2-c1"}, Line: 12},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"id": "az1-c1", "cluster": "az1-c1", "az": "az1", "kubernetes": "1.36.3", "tier": "prod"}, got.Clusters[1].Grains()); diff != "" {
		t.Error(diff)
	}
}

func TestCompileRefuses(t *testing.T) {
	cases := map[string]struct{ old, new, want string }{
		"NoRing":         {"labels: {tier: prod}", "labels: {tier: test}", "fleet.yaml:5: the cluster \"az1-c1\" is in no ring (change its labels, or add a ring that selects them)\nfleet.yaml:11: the ring \"az1\" selects no cluster (correct its select, or remove it)"},
		"TwoRings":       {"select: {cluster: az2-c1}", "select: {az: az1, tier: prod}", "fleet.yaml:5: the cluster \"az1-c1\" is in two rings, \"az1\" (line 11) and \"last\" (line 12) (narrow the select of one)\nfleet.yaml:6: the cluster \"az2-c1\" is in no ring (change its labels, or add a ring that selects them)\nfleet.yaml:12: the ring \"last\" selects no cluster (correct its select, or remove it)"},
		"EmptyRing":      {"- {name: last,", "- {name: none, select: {tier: none}}\n- {name: last,", `fleet.yaml:12: the ring "none" selects no cluster (correct its select, or remove it)`},
		"SelectsAll":     {"select: {cluster: az2-c1}", "select: {}", `fleet.yaml:12: the ring "last" selects by no label (write select: {az: az1} or another label)`},
		"Duplicate":      {"- name: az2-c1", "- name: az1-c1", `fleet.yaml:6: the cluster "az1-c1" is there twice, first in line 5 (rename or remove one)`},
		"DuplicateRing":  {"name: last", "name: az1", `fleet.yaml:12: the ring "az1" is there twice, first in line 11 (rename or remove one)`},
		"Name":           {"- name: az2-c1", "- name: AZ2_c1", `fleet.yaml:6: the cluster's name "AZ2_c1" is not valid (use lower-case letters, digits and -, at most 63)`},
		"RingName":       {"name: last", "name: last.ring", `fleet.yaml:12: the ring's name "last.ring" is not valid (use lower-case letters, digits and -, at most 63)`},
		"NoAZ":           {"  az: az2\n", "", `fleet.yaml:6: the cluster "az2-c1" is in the availability zone "", which is not a valid name (write az: with lower-case letters, digits and -)`},
		"VersionNumber":  {`"1.35"`, "1.30", `fleet.yaml:8: the Kubernetes version of "az2-c1" is a number, in which 1.30 and 1.3 are the same (quote it: "1.30")`},
		"VersionText":    {`"1.35"`, "latest", `fleet.yaml:8: the Kubernetes version "latest" of "az2-c1" is not valid (write kubernetes: "1.36")`},
		"NoVersion":      {"  kubernetes: \"1.35\"\n", "", `fleet.yaml:6: the cluster "az2-c1" has no Kubernetes version (write kubernetes: "1.36")`},
		"ReservedLabel":  {"labels: {tier: prod}", "labels: {tier: prod, az: az3}", `fleet.yaml:5: the label "az" of the cluster "az1-c1" is reserved (remove it; the cluster's own fields say it)`},
		"Label":          {"labels: {tier: prod}", "labels: {tier: prod, a: 'b c'}", `fleet.yaml:5: the label "a": "b c" of the cluster "az1-c1" is not valid (use letters, digits, -, _ and ., at most 63)`},
		"MaxUnavailable": {"maxUnavailable: 2", "maxUnavailable: 0", `fleet.yaml:11: maxUnavailable of the ring "az1" is 0: no cluster could ever change (write 1 or more)`},
		"Percent":        {"maxUnavailable: 2", "maxUnavailable: 20%", "fleet.yaml:11: cannot unmarshal str `20%` into int"},
		"Soak":           {"soak: 10m", "soak: 10", `fleet.yaml:10: soak of the ring "canary" is "10", which is not a duration of at least 0s (write one such as 10m, at most 720h)`},
		"Timeout":        {"timeout: 1h", "timeout: 0s", `fleet.yaml:11: timeout of the ring "az1" is "0s", which is not a duration of at least 1s (write one such as 10m, at most 720h)`},
		"Field":          {"maxUnavailable: 2", "maxUnavailble: 2", `fleet.yaml:11: unknown field "maxUnavailble" (check its spelling and indentation)`},
		"Top":            {"kind: Fleet", "kind: Fleet\nkinds: 1", `fleet.yaml:3: unknown field "kinds" (check its spelling and indentation)`},
		"Kind":           {"kind: Fleet", "kind: Addon", `fleet.yaml:1: apiVersion "holdfast.dev/v1alpha1" and kind "Addon" are not a fleet's (write apiVersion: holdfast.dev/v1alpha1 and kind: Fleet)`},
		"Key":            {"  az: az2\n", "  az: az2\n  az: az3\n", `fleet.yaml:8: key "az" is there twice, first in line 7 (remove one)`},
		"Trap":           {"labels: {tier: prod}", "labels: {tier: prod, on: no}", "fleet.yaml:5: on is a boolean to some YAML readers and a string to others (quote it)"},
		"Syntax":         {"  az: az2\n", "  az: [az2\n", "fleet.yaml:7: not valid YAML: did not find expected ',' or ']', near `az: [az2` (check the indentation and the quotes around it)"},
		"Nothing":        {good, "apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\n", "fleet.yaml:1: the fleet has no cluster (add one below clusters:)\nfleet.yaml:1: the fleet has no ring (add one below rings:)"},
		"Several":        {"- name: az2-c1\n  az: az2", "- name: az2-c1\n  az: AZ2\n  labels: {az: x}", "fleet.yaml:6: the cluster \"az2-c1\" is in the availability zone \"AZ2\", which is not a valid name (write az: with lower-case letters, digits and -)\nfleet.yaml:6: the label \"az\" of the cluster \"az2-c1\" is reserved (remove it; the cluster's own fields say it)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, tc.old) {
				t.Fatalf("there is no %q", tc.old)
			}
			_, err := fleet.Compile("fleet.yaml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

const policies = `apiVersion: holdfast.dev/v1alpha1
kind: Fleet
windows:
- {days: [mon, tue], from: "09:00", to: "17:30", timezone: Europe/Berlin}
freeze:
- {from: "2026-12-18T17:00:00+01:00", until: "2027-01-04T08:00:00+01:00", reason: year end}
clusters:
- {name: a, az: az1, kubernetes: "1.36"}
- {name: b, az: az2, kubernetes: "1.36"}
- {name: c, az: az3, kubernetes: "1.36"}
rings:
- {name: r1, select: {az: az1}}
- name: r2
  select: {az: az2}
  approval: required
  onFailure: rollback
  rollbackAfter: 1m
  windows:
  - {days: [sat], from: "22:00", to: "04:00", timezone: UTC}
  freeze:
  - {reason: incident 7}
- {name: r3, select: {az: az3}, windows: [], approval: none, onFailure: halt}
`

func TestRingPolicies(t *testing.T) {
	f, err := fleet.Compile("fleet.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	weekdays := rollout.Window{Days: [7]bool{1: true, 2: true}, From: 540, To: 1050, Location: berlin}
	night := rollout.Window{Days: [7]bool{6: true}, From: 1320, To: 240, Location: time.UTC}
	yearEnd := rollout.Freeze{From: time.Date(2026, 12, 18, 16, 0, 0, 0, time.UTC), Until: time.Date(2027, 1, 4, 7, 0, 0, 0, time.UTC), Reason: "year end"}
	want := []fleet.Ring{
		{Name: "r1", Windows: []rollout.Window{weekdays}, Freezes: []rollout.Freeze{yearEnd}, RollbackAfter: 15 * time.Second},
		{Name: "r2", Windows: []rollout.Window{night}, Freezes: []rollout.Freeze{yearEnd, {Reason: "incident 7"}}, Approval: true, Rollback: true, RollbackAfter: time.Minute},
		{Name: "r3", Freezes: []rollout.Freeze{yearEnd}, RollbackAfter: 15 * time.Second},
	}
	ignore := cmpopts.IgnoreFields(fleet.Ring{}, "Select", "Timeout", "MaxUnavailable", "Clusters", "Line")
	sameZone := cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
	if diff := cmp.Diff(want, f.Rings, ignore, sameZone, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestRingPoliciesRefused(t *testing.T) {
	cases := map[string]struct{ old, new, want string }{
		"Approval":       {"approval: required", "approval: yes-please", `fleet.yaml:13: approval of the ring "r2" is "yes-please" (write required or none)`},
		"OnFailure":      {"onFailure: rollback", "onFailure: explode", "fleet.yaml:13: onFailure of the ring \"r2\" is \"explode\" (write halt or rollback)\nfleet.yaml:13: the ring \"r2\" has rollbackAfter and never rolls back (write onFailure: rollback, or remove it)"},
		"RollbackAfter":  {"rollbackAfter: 1m", "rollbackAfter: -1m", `fleet.yaml:13: rollbackAfter of the ring "r2" is "-1m", which is not a duration of at least 0s (write one such as 10m, at most 720h)`},
		"Day":            {"days: [sat]", "days: [saturday]", `fleet.yaml:19: the window's day "saturday" is not one (write sun, mon, tue, wed, thu, fri, sat)`},
		"DayTwice":       {"days: [sat]", "days: [sat, sat]", `fleet.yaml:19: the window has the day "sat" twice (remove one)`},
		"NoDay":          {"days: [sat]", "days: []", `fleet.yaml:19: the window has no days and never opens (write days: [mon, tue, wed, thu, fri])`},
		"Clock":          {`from: "22:00"`, `from: "22h"`, `fleet.yaml:19: from of the window is "22h", which is not a time of day (write it quoted, as in from: "09:00")`},
		"ClockMinutes":   {`to: "17:30"`, `to: "17:60"`, `fleet.yaml:4: to of the window is "17:60", which is not a time of day (write it quoted, as in to: "09:00")`},
		"ClockTooLate":   {`to: "04:00"`, `to: "24:01"`, `fleet.yaml:19: to of the window is "24:01", which is not a time of day (write it quoted, as in to: "09:00")`},
		"FromMidnight":   {`from: "22:00"`, `from: "24:00"`, `fleet.yaml:19: from of the window is "24:00", which is not a time of day (write it quoted, as in from: "09:00")`},
		"NoTime":         {`to: "04:00"`, `to: "22:00"`, `fleet.yaml:19: the window ends when it begins, at 22:00 (write from: "00:00" and to: "24:00" for the whole day)`},
		"Sexagesimal":    {`from: "22:00"`, `from: 22:00`, `fleet.yaml:19:`},
		"Zone":           {"timezone: Europe/Berlin", "timezone: Europe/Atlantis", `fleet.yaml:4: the window's timezone "Europe/Atlantis" is not one (write timezone: UTC, or one such as Europe/Berlin)`},
		"NoZone":         {", timezone: UTC}", "}", `fleet.yaml:19: the window's timezone "" is not one (write timezone: UTC, or one such as Europe/Berlin)`},
		"LocalZone":      {"timezone: UTC", "timezone: Local", `fleet.yaml:19: the window's timezone "Local" is not one (write timezone: UTC, or one such as Europe/Berlin)`},
		"WindowField":    {"timezone: UTC", "timezone: UTC, zone: x", `fleet.yaml:19: unknown field "zone" (check its spelling and indentation)`},
		"FreezeReason":   {"- {reason: incident 7}", `- {reason: ""}`, `fleet.yaml:21: the freeze has no reason (write reason: and why)`},
		"FreezeTime":     {"2027-01-04T08:00:00+01:00", "2027-01-04", `fleet.yaml:6: until of the freeze is "2027-01-04", which is not a time (write it with its zone, as in "2026-12-24T18:00:00+01:00")`},
		"FreezeBackward": {"2027-01-04T08:00:00+01:00", "2026-01-04T08:00:00+01:00", `fleet.yaml:6: the freeze ends before it begins (correct from or until)`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(policies, tc.old) {
				t.Fatalf("there is no %q", tc.old)
			}
			_, err := fleet.Compile("fleet.yaml", []byte(strings.Replace(policies, tc.old, tc.new, 1)))
			exact := !strings.HasSuffix(tc.want, ":")
			if err == nil || exact && err.Error() != tc.want || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// Whatever comes in: an error that names the file, or every cluster in exactly one ring.
func FuzzFleet(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(policies))
	f.Add([]byte("clusters: &a\n- {name: a}\nrings: *a\n"))
	f.Add([]byte("clusters: [[]]\nrings: {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fl, err := fleet.Compile("fleet.yaml", data)
		if err != nil {
			var e *strictyaml.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T is not an error with a place: %v", err, err)
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "fleet.yaml:") {
					t.Fatalf("the line %q of the error has no file", line)
				}
			}
			return
		}
		in := map[string]int{}
		for _, r := range fl.Rings {
			if len(r.Clusters) == 0 || r.MaxUnavailable < 1 || r.Timeout <= 0 || r.Soak < 0 {
				t.Fatalf("ring %+v", r)
			}
			for _, c := range r.Clusters {
				in[c]++
			}
		}
		for _, c := range fl.Clusters {
			if in[c.Name] != 1 {
				t.Fatalf("the cluster %q is in %d rings", c.Name, in[c.Name])
			}
		}
	})
}
