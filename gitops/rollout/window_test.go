package rollout_test

import (
	"testing"
	"time"

	"holdfast.dev/gitops/rollout"
)

// held decides for one cluster that has a change to receive.
func held(now time.Time, r rollout.Ring) rollout.Decision {
	r.Name, r.Clusters, r.MaxUnavailable, r.Timeout = "r", []string{"c"}, 1, time.Hour
	c := rollout.Cluster{Want: "new", Published: "old", Contact: rollout.Present, Report: &rollout.Report{Applied: "old", Healthy: true},
		Trial: &rollout.Trial{Digest: "new", At: now}}
	return rollout.Decide(rollout.Input{Now: now, Since: now, Rings: []rollout.Ring{r}, Clusters: map[string]rollout.Cluster{"c": c}})
}

func TestWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	day := func(names ...time.Weekday) (d [7]bool) {
		for _, n := range names {
			d[n] = true
		}
		return d
	}
	office := rollout.Window{Days: day(time.Monday, time.Tuesday), From: 9 * 60, To: 17 * 60, Location: berlin}
	night := rollout.Window{Days: day(time.Saturday), From: 22 * 60, To: 4 * 60, Location: time.UTC}
	whole := rollout.Window{Days: day(time.Sunday), From: 0, To: 24 * 60, Location: berlin}
	utc := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	cases := map[string]struct {
		reason  string
		windows []rollout.Window
		now     string
		until   string // when it opens; empty when it is open
	}{
		"None":         {"without a window it is always open", nil, "2026-03-01T00:00:00Z", ""},
		"Begin":        {"09:00 in Berlin is 08:00 UTC in winter", []rollout.Window{office}, "2026-03-02T08:00:00Z", ""},
		"Before":       {"a second before, it waits a second", []rollout.Window{office}, "2026-03-02T07:59:59Z", "2026-03-02T08:00:00Z"},
		"End":          {"at its end it is shut, until the day after", []rollout.Window{office}, "2026-03-02T16:00:00Z", "2026-03-03T08:00:00Z"},
		"Summer":       {"and 07:00 UTC in summer: the clock on the wall counts", []rollout.Window{office}, "2026-03-31T07:00:00Z", ""},
		"OverChange":   {"from a Tuesday before the change of clocks to the Monday after", []rollout.Window{office}, "2026-03-24T16:00:00Z", "2026-03-30T07:00:00Z"},
		"Night":        {"one that opens on Saturday is open on Sunday before 04:00", []rollout.Window{night}, "2026-03-08T03:59:00Z", ""},
		"NightOver":    {"and not at 04:00", []rollout.Window{night}, "2026-03-08T04:00:00Z", "2026-03-14T22:00:00Z"},
		"NotTheDay":    {"the evening of Sunday is not Saturday's", []rollout.Window{night}, "2026-03-08T22:30:00Z", "2026-03-14T22:00:00Z"},
		"ZoneDay":      {"Sunday begins in Berlin while it is Saturday in UTC", []rollout.Window{whole}, "2026-03-07T23:30:00Z", ""},
		"WholeDayEnds": {"24:00 is the end of the day", []rollout.Window{whole}, "2026-03-08T23:00:00Z", "2026-03-14T23:00:00Z"},
		"Several":      {"any of them will do, and the next is told", []rollout.Window{office, night}, "2026-03-04T00:00:00Z", "2026-03-07T22:00:00Z"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := held(utc(tc.now), rollout.Ring{Windows: tc.windows})
			if open := len(d.Publish) == 1; open != (tc.until == "") {
				t.Fatalf("published %v; reason: %s", d.Publish, tc.reason)
			}
			if tc.until == "" {
				return
			}
			st := d.Rings[0]
			if !st.Until.Equal(utc(tc.until)) || !d.Recheck.Equal(st.Until) || st.Phase != rollout.Held || st.WaitsFor != "window" || st.Action == "" {
				t.Errorf("ring %+v, recheck %s, want until %s; reason: %s", st, d.Recheck, tc.until, tc.reason)
			}
		})
	}
}

func TestFreezes(t *testing.T) {
	hour := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Hour) }
	cases := map[string]struct {
		reason  string
		freezes []rollout.Freeze
		held    bool
		recheck time.Time
	}{
		"Open":    {"no end", []rollout.Freeze{{Reason: "x"}}, true, time.Time{}},
		"Bounded": {"an end", []rollout.Freeze{{Reason: "x", Until: hour(2)}}, true, hour(2)},
		"Over":    {"over", []rollout.Freeze{{Reason: "x", Until: t0}}, false, time.Time{}},
		"Later":   {"it begins later, and the hub looks then", []rollout.Freeze{{Reason: "x", From: hour(1)}}, false, hour(1)},
		"Two":     {"the longest counts, the first end is looked at", []rollout.Freeze{{Reason: "x", Until: hour(1)}, {Reason: "y", Until: hour(3)}}, true, hour(1)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := held(t0, rollout.Ring{Freezes: tc.freezes})
			if (len(d.Publish) == 0) != tc.held || !d.Recheck.Equal(tc.recheck) {
				t.Errorf("published %v, recheck %s; reason: %s", d.Publish, d.Recheck, tc.reason)
			}
		})
	}
}
