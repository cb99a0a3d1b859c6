package verdict_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

// Who writes one window or one rule keeps all others: until addon 0.4.2 a list of one's own took the
// place of the whole built-in one, and a disk that answered nothing counted no more as NoAnswer says.
func TestThresholdsLieOverTheBuiltIn(t *testing.T) {
	rules := func(th *verdict.Thresholds) (all []string) {
		for _, r := range th.Rules {
			if r.Remove {
				t.Errorf("rule that removes: %+v", r)
			}
			all = append(all, r.Signal+" "+r.Name)
		}
		return all
	}
	windows := func(th *verdict.Thresholds) (all []string) {
		for _, w := range th.Windows {
			if w.Remove {
				t.Errorf("window that removes: %+v", w)
			}
			all = append(all, fmt.Sprintf("%s %d", w.Name, w.AtLeast))
		}
		return all
	}
	built := verdict.DefaultThresholds()
	without := func(all []string, gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(gone, s) })
	}
	cases := map[string]struct {
		reason, text   string
		rules, windows []string
	}{
		"Accepted": {"what is not spoken of stays", "accepted: [{disk: d, signal: hdd.187, upTo: 2, why: w}]", rules(built), windows(built)},
		"Add": {"a new name is one more", "windows: [{name: mine, class: Link, atLeast: 2, within: 1m, severity: Critical, why: w}]",
			rules(built), append(windows(built), "mine 2")},
		"Replace": {"a name that there is takes its place", "windows: [{name: no-answer-hung, class: NoAnswer, atLeast: 9, within: 10m, severity: Critical, why: w}]",
			rules(built), append(without(windows(built), "no-answer-hung 4"), "no-answer-hung 9")},
		"Remove": {"said by name", "windows: [{name: pcie-corrected, remove: true}]", rules(built), without(windows(built), "pcie-corrected 10")},
		"Rule": {"two rules about a signal take the place of the one that is about it", `rules:
- {signal: hdd.5, name: spares, atLeast: 50, severity: Warning, why: w}
- {signal: hdd.5, name: many spares, atLeast: 500, severity: Critical, why: w}`,
			append(without(rules(built), "hdd.5 reallocated sectors"), "hdd.5 spares", "hdd.5 many spares"), windows(built)},
		"NewRule":    {"about a signal that none is about", "rules: [{signal: ssd.5, name: spares, atLeast: 50, severity: Warning, why: w}]", append(rules(built), "ssd.5 spares"), windows(built)},
		"RemoveRule": {"all about the signal", "rules: [{signal: hdd.10, remove: true}]", without(rules(built), "hdd.10 spin retries"), windows(built)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			th, err := verdict.ParseThresholds("t.yaml", []byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.rules, rules(th)); d != "" {
				t.Errorf("rules: %s: %s", tc.reason, d)
			}
			if d := cmp.Diff(tc.windows, windows(th)); d != "" {
				t.Errorf("windows: %s: %s", tc.reason, d)
			}
		})
	}
	th, err := verdict.ParseThresholds("t.yaml", []byte("windows: [{name: mine, class: Link, atLeast: 2, within: 1m, severity: Critical, why: w}]"))
	if err != nil {
		t.Fatal(err)
	}
	l := verdict.Line{Class: v1alpha1.FaultNoAnswer, Severity: v1alpha1.SeverityWarning, Text: "2 requests wait and none was answered", Count: 1, Seen: []verdict.Sighting{{At: began}}}
	if _, o := th.Weigh(verdict.Recent{}, &l); !o.Until.Equal(began.Add(10 * time.Minute)) {
		t.Errorf("a silence counts until %s, want the ten minutes of the built-in window", o.Until)
	}
}
