// Package policy is the pure core of remediation: values in, values out. It has
// no client, no clock and no state. The controllers read, ask it what to do,
// and do it; tests ask it the same questions without a cluster.
package policy

import (
	"slices"
	"time"

	"holdfast.dev/api/v1alpha1"
)

// Snapshot is what Decide looks at: one node, its plans, and the policy.
type Snapshot struct {
	// Policy is nil when there is no policy: disks are still quarantined, by
	// the default states, and no plan is made.
	Policy *v1alpha1.RemediationPolicySpec
	Node   *v1alpha1.ComputeNode
	// Plans are the node's Remediations, finished ones too.
	Plans []v1alpha1.Remediation
	Now   time.Time
}

// Intents is what should change. Its order is that of the node's own lists.
type Intents struct {
	// Add are quarantine entries that are missing.
	Add []v1alpha1.Quarantine
	// Lift are disk ids whose entry, made by the controller, is no longer wanted.
	Lift []string
	// Create are plans to make. Each name is a function of the node's UID, the
	// disk and the quarantine, so that making one twice is one plan.
	Create []v1alpha1.Remediation
	// Again is after how long a rule's waiting time ends; 0: not by time alone.
	Again time.Duration
}

// Decide says which disks to quarantine, which quarantines to lift and which
// plans to make. A state of Unknown changes nothing, and neither does a disk
// that is no longer listed: absence is never evidence.
func Decide(s Snapshot) Intents {
	var in Intents
	states := QuarantineStates(s.Policy)
	blind := inventoryUnread(s.Node)
	for i := range s.Node.Status.Disks {
		d := &s.Node.Status.Disks[i]
		entry := Entry(s.Node, d.ID)
		switch {
		case entry == nil && slices.Contains(states, d.State) && !retired(s, d):
			in.Add = append(in.Add, v1alpha1.Quarantine{
				Disk:   d.ID,
				Reason: string(d.State),
				By:     v1alpha1.QuarantinedByController,
				Since:  seconds(s.Now),
			})
		case entry != nil && entry.By == v1alpha1.QuarantinedByController && d.State == v1alpha1.DiskHealthy && !blind:
			in.Lift = append(in.Lift, d.ID)
		case entry != nil && d.State != v1alpha1.DiskUnknown && d.State != v1alpha1.DiskHealthy:
			in.plan(s, d, entry)
		}
	}
	return in
}

// plan adds a plan for a quarantined disk when a rule asks for one.
func (in *Intents) plan(s Snapshot, d *v1alpha1.Disk, entry *v1alpha1.Quarantine) {
	if Blocked(s.Policy, s.Node) != "" {
		return
	}
	rule := match(s.Policy.Rules, d)
	if rule == nil {
		return
	}
	name := PlanName(s.Node.Spec.NodeUID, d.ID, entry.Since.Time)
	for i := range s.Plans {
		p := &s.Plans[i]
		if p.Name == name || (p.Spec.Disk == d.ID && p.Status.FinishedAt == nil) {
			return
		}
	}
	since := entry.Since.Time
	if d.Since != nil {
		since = d.Since.Time
	}
	if left := since.Add(rule.After.Duration).Sub(s.Now); left > 0 {
		if in.Again == 0 || left < in.Again {
			in.Again = left
		}
		return
	}
	in.Create = append(in.Create, NewPlan(s.Node, d, rule.Action, entry.Since.Time))
}

// Blocked says why no plan may be made or go on for a node; empty when it may.
func Blocked(p *v1alpha1.RemediationPolicySpec, n *v1alpha1.ComputeNode) string {
	switch {
	case p == nil:
		return "there is no RemediationPolicy named " + v1alpha1.DefaultPolicy
	case p.Paused:
		return "the RemediationPolicy is paused"
	case len(p.Budgets) == 0:
		return "the RemediationPolicy has no budgets"
	case n.Spec.Maintenance:
		return "the node is in maintenance"
	}
	return ""
}

// QuarantineStates are the states that close a disk. With no policy, or one
// that does not say, they are Failed and Missing. Healthy and Unknown are never
// among them, whatever a policy says.
func QuarantineStates(p *v1alpha1.RemediationPolicySpec) []v1alpha1.DiskState {
	if p == nil || p.QuarantineStates == nil {
		return []v1alpha1.DiskState{v1alpha1.DiskFailed, v1alpha1.DiskMissing}
	}
	var out []v1alpha1.DiskState
	for _, s := range p.QuarantineStates {
		if s != v1alpha1.DiskUnknown && s != v1alpha1.DiskHealthy {
			out = append(out, s)
		}
	}
	return out
}

// Entry is the node's quarantine of a disk, or nil.
func Entry(n *v1alpha1.ComputeNode, disk string) *v1alpha1.Quarantine {
	for i := range n.Spec.Quarantine {
		if n.Spec.Quarantine[i].Disk == disk {
			return &n.Spec.Quarantine[i]
		}
	}
	return nil
}

// Disk is what the node says of a disk, or nil.
func Disk(n *v1alpha1.ComputeNode, id string) *v1alpha1.Disk {
	for i := range n.Status.Disks {
		if n.Status.Disks[i].ID == id {
			return &n.Status.Disks[i]
		}
	}
	return nil
}

// retired is true for a disk that is gone because a plan replaced it. The
// monitor lists such a disk until it sees that nothing names it any more;
// quarantining it again would keep it listed for ever. A disk that came back
// (it has a device) or went missing anew is judged afresh.
func retired(s Snapshot, d *v1alpha1.Disk) bool {
	if d.Device != "" {
		return false
	}
	for i := range s.Plans {
		p := &s.Plans[i]
		if p.Spec.Disk != d.ID || p.Spec.NodeUID != s.Node.Spec.NodeUID || ReplacedBy(p) == "" {
			continue
		}
		lift := StepOf(p, v1alpha1.StepLiftQuarantine)
		if lift == nil || lift.State == v1alpha1.StepPending {
			continue
		}
		if d.Since == nil || p.Annotations[v1alpha1.AnnotationGoneSince] == stamp(d.Since.Time) ||
			(lift.StartedAt != nil && !d.Since.After(lift.StartedAt.Time)) {
			return true
		}
	}
	return false
}

// inventoryUnread is true while the monitor says that it cannot list disks.
func inventoryUnread(n *v1alpha1.ComputeNode) bool {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == v1alpha1.ConditionInventoryRead {
			return c.Status == "False"
		}
	}
	return false
}

func match(rules []v1alpha1.RemediationRule, d *v1alpha1.Disk) *v1alpha1.RemediationRule {
	for i := range rules {
		r := &rules[i]
		if !slices.Contains(r.States, d.State) {
			continue
		}
		if len(r.FaultClasses) == 0 || slices.ContainsFunc(d.Faults, func(f v1alpha1.Fault) bool {
			return slices.Contains(r.FaultClasses, f.Class)
		}) {
			return r
		}
	}
	return nil
}
