package lvm_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"holdfast.dev/provisioners/lvm"
)

func TestParsePolicy(t *testing.T) {
	for text, want := range map[string]lvm.Policy{
		"threshold=80%,step=20%,ceiling=500Gi":  {Threshold: .8, StepShare: .2, Ceiling: 500 * gib},
		"ceiling=10Gi, step=1Gi, threshold=90%": {Threshold: .9, Step: gib, Ceiling: 10 * gib},
	} {
		if got, err := lvm.ParsePolicy(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, reason := range map[string]string{
		"":                                      "nothing is no policy",
		"threshold=80%,step=20%":                "growth without a ceiling",
		"threshold=80,step=20%,ceiling=1Gi":     "80 bytes or 80 percent?",
		"threshold=0%,step=20%,ceiling=1Gi":     "it would always grow",
		"threshold=80%,step=-1Gi,ceiling=1Gi":   "it would shrink",
		"threshold=80%,step=20%,ceiling=x":      "no quantity",
		"threshold=80%,step=1%,step=2%,ceiling": "twice",
		"threshold=80%,steps=1%,ceiling=1Gi":    "misspelt",
	} {
		if got, err := lvm.ParsePolicy(text); !errors.Is(err, lvm.ErrInvalid) {
			t.Errorf("%q: %+v, %v; reason: %s", text, got, err, reason)
		}
	}
}

// TestGrowthStaysBelowItsCeiling, and grows only above the threshold.
func TestGrowthStaysBelowItsCeiling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := lvm.Policy{Threshold: rapid.Float64Range(.1, .99).Draw(t, "threshold"), StepShare: rapid.Float64Range(.01, 1).Draw(t, "step"), Ceiling: rapid.Int64Range(1, 1<<50).Draw(t, "ceiling")}
		size := rapid.Int64Range(1, 1<<50).Draw(t, "size")
		used := rapid.Int64Range(0, size).Draw(t, "used")
		next := p.Next(size, used, size)
		switch {
		case next > p.Ceiling:
			t.Fatalf("%d is above the ceiling", next)
		case next != 0 && next <= size:
			t.Fatalf("%d is not more than %d", next, size)
		case next != 0 && float64(used) < p.Threshold*float64(size):
			t.Fatalf("it grows at %d of %d", used, size)
		}
	})
}
