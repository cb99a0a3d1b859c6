package placement_test

import (
	"strings"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/placement"
)

func TestGroups(t *testing.T) {
	const must, may = v1alpha1.LabelAntiAffinity, v1alpha1.LabelAntiAffinityPreferred
	for name, c := range map[string]struct {
		reason              string
		labels              map[string]string
		required, preferred string
		says                string
	}{
		"None":      {"most claims have none", map[string]string{"app": "db"}, "", "", ""},
		"Required":  {"a group is one of a namespace", map[string]string{must: "db"}, "ns/db", "", ""},
		"Preferred": {"the same", map[string]string{may: "db"}, "", "ns/db", ""},
		"Both":      {"two groups", map[string]string{must: "db", may: "all"}, "ns/db", "ns/all", ""},
		"Same":      {"which of the two is meant?", map[string]string{must: "db", may: "db"}, "", "", "keep one of the two"},
		"Empty":     {"a rule that is silently not kept is worse", map[string]string{must: ""}, "", "", must + " has no group"},
		"EmptyToo":  {"beside a good one as well", map[string]string{must: "db", may: ""}, "", "", may + " has no group"},
	} {
		required, preferred, err := placement.Groups("ns", c.labels)
		said := ""
		if err != nil {
			said = err.Error()
		}
		if required != c.required || preferred != c.preferred || (said == "") != (c.says == "") || !strings.Contains(said, c.says) {
			t.Errorf("%s (%s): %q, %q, %v", name, c.reason, required, preferred, err)
		}
	}
}
