package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"holdfast.dev/gitops/protocol"
)

func TestTextsAreBounded(t *testing.T) {
	for _, n := range []int{0, 1, maxText / 2, maxText/2 + 1, 1000, 100_000} {
		for _, letter := range []string{"a", "é", "磁"} {
			text := strings.Repeat(letter, n)
			got := oneLine(errors.New(text))
			kept, said, cut := strings.Cut(got, "… (")
			if len(got) > maxText || !utf8.ValidString(got) || !strings.HasPrefix(text, kept) {
				t.Errorf("%d times %s: %d bytes, %q", n, letter, len(got), got)
			}
			if want := fmt.Sprintf("%d bytes more)", len(text)-len(kept)); cut != (len(text) > maxText) || cut && said != want {
				t.Errorf("%d times %s: said %q, want %q", n, letter, said, want)
			}
		}
	}
}

// TestAnswerIsBounded: the hub takes 4 MiB; what it goes by must be among them.
func TestAnswerIsBounded(t *testing.T) {
	var rep protocol.PlanReport
	for _, action := range []protocol.PlanAction{protocol.PlanCreate, protocol.PlanHeld, protocol.PlanRefused, protocol.PlanChanged, protocol.PlanPrune} {
		for range 3 * maxChanges {
			rep.Changes = append(rep.Changes, protocol.PlanChange{Action: action})
		}
	}
	bound(&rep)
	got := map[protocol.PlanAction]int{}
	for _, c := range rep.Changes {
		got[c.Action]++
	}
	for action, n := range got {
		want := maxChanges
		if action == protocol.PlanHeld {
			want = 3 * maxChanges
		}
		if n != want {
			t.Errorf("%d of %s, want %d", n, action, want)
		}
	}
	if len(got) != 5 || rep.Omitted != 4*2*maxChanges {
		t.Errorf("omitted %d, named %v", rep.Omitted, got)
	}
}

func TestBundleIsBounded(t *testing.T) {
	many := map[string][]byte{}
	for i := range maxObjects + 2 {
		many[fmt.Sprint(i)] = nil
	}
	for name, files := range map[string]map[string][]byte{"Many": many, "Large": {"a": make([]byte, maxBundle), "b": {0}}} {
		_, _, err := parseBundle("c", files)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("an agent takes %d of %d; give the cluster fewer or smaller ones", maxObjects, maxBundle)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
