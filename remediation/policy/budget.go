package policy

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/api/v1alpha1"
)

// Admit takes a slot of every budget for want, given the slots that are held.
// It returns the new list of slots, or why there is no room. The caller writes
// the list by compare-and-swap on the object that both the budgets and the held
// slots came from, so that two plans cannot take the last slot.
//
// Unlisted are plans that run without a slot in the list: the policy object was
// deleted and made again. Their zone is not known, so they count in every zone.
func Admit(p *v1alpha1.RemediationPolicySpec, held []v1alpha1.Reservation, unlisted []v1alpha1.Remediation, want v1alpha1.Reservation) ([]v1alpha1.Reservation, string) {
	if p == nil || p.Paused || len(p.Budgets) == 0 {
		return nil, "no plan may start"
	}
	others := slices.DeleteFunc(slices.Clone(held), func(r v1alpha1.Reservation) bool {
		// A name recurs only after the object that had it is gone, so another UID is a slot of no one.
		return r.Remediation == want.Remediation
	})
	for _, b := range p.Budgets {
		var users []string
		for _, r := range others {
			if shares(b.Scope, r.Node, r.Zone, want) {
				users = append(users, r.Remediation)
			}
		}
		for i := range unlisted {
			if u := &unlisted[i]; u.Name != want.Remediation && shares(b.Scope, u.Spec.Node, want.Zone, want) {
				users = append(users, u.Name)
			}
		}
		if len(users) >= int(b.Max) {
			by := "nobody may run"
			if len(users) > 0 {
				by = "held by " + strings.Join(users, ", ")
			}
			return nil, fmt.Sprintf("the %s budget of %d has no room (%s)", b.Scope, b.Max, by)
		}
	}
	return append(others, want), ""
}

// Held is true when the plan has a slot.
func Held(held []v1alpha1.Reservation, name string, uid types.UID) bool {
	return slices.ContainsFunc(held, func(r v1alpha1.Reservation) bool { return r.Remediation == name && r.UID == uid })
}

// Release gives a plan's slot back. It returns the new list and whether there was one.
func Release(held []v1alpha1.Reservation, name string, uid types.UID) ([]v1alpha1.Reservation, bool) {
	next := slices.DeleteFunc(slices.Clone(held), func(r v1alpha1.Reservation) bool { return r.Remediation == name && r.UID == uid })
	return next, len(next) != len(held)
}

// Unlisted are the plans that have started and not finished but hold no slot.
func Unlisted(plans []v1alpha1.Remediation, held []v1alpha1.Reservation) []v1alpha1.Remediation {
	var out []v1alpha1.Remediation
	for i := range plans {
		p := &plans[i]
		if p.Status.StartedAt != nil && p.Status.FinishedAt == nil && !Held(held, p.Name, p.UID) && !releasing(p) {
			out = append(out, *p)
		}
	}
	return out
}

// releasing is true for a plan that is past all its effects.
func releasing(p *v1alpha1.Remediation) bool {
	s := StepOf(p, v1alpha1.StepReleaseBudget)
	return s != nil && s.State != v1alpha1.StepPending
}

// shares is true when a slot of a node and zone counts in the same budget as want.
func shares(scope v1alpha1.BudgetScope, node, zone string, want v1alpha1.Reservation) bool {
	switch scope {
	case v1alpha1.ScopeNode:
		return node == want.Node
	case v1alpha1.ScopeZone:
		return zone == want.Zone
	}
	// Cluster, and any scope that this version does not know: count everything.
	return true
}
