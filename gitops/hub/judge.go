package hub

import (
	"slices"
	"strings"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
)

// judge makes a refusal of every object of a data-bearing kind that the bundle
// drops although nobody approved its deletion, and nobody said that it stays.
// What was dropped before, and is held since, is none: had are the paths of what
// the cluster has now.
func judge(rep *protocol.PlanReport, had map[string]bool, retained []fleet.Retention) {
	for i := range rep.Changes {
		c := &rep.Changes[i]
		if c.Action != protocol.PlanHeld {
			continue
		}
		kind, label, _ := strings.Cut(c.Object, " ")
		namespace, name, namespaced := strings.Cut(label, "/")
		if !namespaced {
			namespace, name = "", label
		}
		if !had[render.ObjectPath(c.Addon, kind, namespace, name)] {
			continue
		}
		plain, _, _ := strings.Cut(kind, ".")
		if slices.ContainsFunc(retained, func(r fleet.Retention) bool {
			return r.Kind == plain && r.Namespace == namespace && r.Name == name
		}) {
			c.Message = "stays on the cluster without its addon, as " + fleet.ApprovalsFile + " says"
			continue
		}
		c.Action = protocol.PlanRefused
		c.Message = "is no longer in the bundle, and nobody approved that: " + strings.TrimPrefix(c.Message, protocol.HeldPrefix) + "; or, to leave it there, name it under retained"
	}
}
