package remediation

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
)

func isConflict(err error) bool { return apierrors.IsConflict(err) }

func always() bool { return true }

// once fails when an effect happened twice, and returns the effects sorted.
func once(t fataler, l *lab, when string) []string {
	t.Helper()
	out := slices.Clone(l.effects)
	for i, e := range out {
		if strings.HasPrefix(e, "+ event ") { // its name has the time in it
			out[i] = e[:strings.Index(e, " named ")]
		}
	}
	slices.Sort(out)
	for i := 1; i < len(out); i++ {
		if out[i] == out[i-1] || strings.HasPrefix(out[i], "~") {
			t.Fatalf("%s: %q happened twice; all effects:\n%s", when, out[i], strings.Join(l.effects, "\n"))
		}
	}
	return out
}

// last are the facts of the end state, without what depends on time.
func last(l *lab) []string {
	var out []string
	for f := range l.observe() {
		f, _, _ = strings.Cut(f, " named ")
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}

// TestWholePlan: a disk fails, is replaced, and everything is as it should be.
func TestWholePlan(t *testing.T) {
	l := newLab(t, true)
	l.settle(l.start(0, false), always)
	p := l.plan(t)
	if p.Status.Phase != v1alpha1.PhaseSucceeded || p.Status.FinishedAt == nil {
		t.Errorf("the plan is %s: %s", p.Status.Phase, p.Status.Message)
	}
	got := once(t, l, "undisturbed")
	got = slices.DeleteFunc(got, func(e string) bool { return strings.Contains(e, "audit") })
	want := []string{
		"+ ComputeNode n1",
		"+ event DiskQuarantined on db-0",
		"+ marks of pv-bound",
		"+ marks of pv-free",
		"+ plan for wwn-bad",
		"+ quarantine n1/wwn-bad",
		"+ request n1/wwn-bad",
		"+ sentinel of pv-free",
		"+ slot on n1 in z1",
		"- marks of pv-bound",
		"- marks of pv-free",
		"- quarantine n1/wwn-bad",
		"- request n1/wwn-bad",
		"- sentinel of pv-free",
		"- slot on n1 in z1",
		"- volume pv-bound",
		"- volume pv-free",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("effects (-want +got):\n%s", d)
	}
	var audit []string
	for _, a := range p.Status.Audit {
		audit = append(audit, string(a.Step)+": "+a.Effect)
	}
	wantAudit := []string{
		"ReserveBudget: took a slot of every budget of RemediationPolicy default",
		"RequestReplacement: asked for a new disk in place of wwn-bad in ComputeNode n1",
		"RetireVolumes: deleted PersistentVolume pv-free (UID uid-pv-free)",
		"RetireVolumes: deleted PersistentVolume pv-bound (UID uid-pv-bound)",
		"LiftQuarantine: lifted the quarantine of disk wwn-bad and withdrew its replacement request in ComputeNode n1",
		"ReleaseBudget: gave the slot of every budget of RemediationPolicy default back",
	}
	if d := cmp.Diff(wantAudit, audit); d != "" {
		t.Errorf("audit trail (-want +got):\n%s", d)
	}
	t.Logf("%d API writes", l.writes)
}

// TestCrashAtEveryWrite kills the controller at each API write of a whole plan,
// before the write and after it, and starts another: the same end, each effect
// once. Invariant 5: a crash at any point leads to at most one effect per step.
func TestCrashAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, replace := range []bool{true, false} {
		t.Run(fmt.Sprintf("replaced=%v", replace), func(t *testing.T) {
			t.Parallel()
			ref := newLab(t, replace)
			ref.settle(ref.start(0, false), always)
			want, facts := once(t, ref, "undisturbed"), last(ref)
			for n := 1; n <= ref.writes; n++ {
				for _, after := range []bool{false, true} {
					when := fmt.Sprintf("killed at write %d of %d (after it: %v)", n, ref.writes, after)
					l := newLab(t, replace)
					l.settle(l.start(n, after), always)
					l.settle(l.start(0, false), always)
					if d := cmp.Diff(want, once(t, l, when)); d != "" {
						t.Fatalf("%s: effects (-undisturbed +got):\n%s", when, d)
					}
					if d := cmp.Diff(facts, last(l)); d != "" {
						t.Fatalf("%s: end state (-undisturbed +got):\n%s", when, d)
					}
				}
			}
		})
	}
}

// TestCrashesAndStaleCaches does the same with many crashes in one plan and
// with caches that lag behind by whole rounds.
func TestCrashesAndStaleCaches(t *testing.T) {
	t.Parallel()
	refs := map[bool]*lab{}
	for _, replace := range []bool{true, false} {
		refs[replace] = newLab(t, replace)
		refs[replace].settle(refs[replace].start(0, false), always)
	}
	rapid.Check(t, func(t *rapid.T) {
		replace := rapid.Bool().Draw(t, "replace")
		l := newLab(t, replace)
		stale := func() bool { return rapid.IntRange(0, 3).Draw(t, "fresh") == 0 }
		var kills []int
		for range rapid.IntRange(0, 8).Draw(t, "crashes") {
			n := rapid.IntRange(1, 12).Draw(t, "at")
			kills = append(kills, n)
			l.settle(l.start(n, rapid.Bool().Draw(t, "after")), stale)
		}
		l.settle(l.start(0, false), stale)
		when := fmt.Sprintf("killed at writes %v", kills)
		if d := cmp.Diff(once(t, refs[replace], "undisturbed"), once(t, l, when)); d != "" {
			t.Fatalf("%s: effects (-undisturbed +got):\n%s", when, d)
		}
		if d := cmp.Diff(last(refs[replace]), last(l)); d != "" {
			t.Fatalf("%s: end state (-undisturbed +got):\n%s", when, d)
		}
	})
}
