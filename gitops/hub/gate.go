package hub

import (
	"fmt"
	"slices"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/rollout"
)

// heard is a report with when it came.
type heard struct {
	report       protocol.Report
	at           time.Time
	healthySince time.Time // without interruption, at this digest
	failingSince time.Time // without interruption, at this revision
}

// contactTimeout is how long an agent may be silent, which asks again at least
// every protocol.MaxWait, before it no longer counts as healthy.
const contactTimeout = 2 * protocol.MaxWait

// forRollout reduces a report to what a gate may look at. want is the bundle
// that the cluster is to run, published the commit at the head of its branch.
func (r heard) forRollout(want render.Index, published string) *rollout.Report {
	out := &rollout.Report{HealthySince: r.healthySince, FailingDigest: r.report.Digest, FailingSince: r.failingSince}
	if r.report.Error != "" && r.report.Refused == published {
		out.Failing, out.FailingDigest = r.report.Error, want.Digest
		return out
	}
	if r.report.Digest == want.Digest && !covers(r.report, want) {
		out.Waiting = "its agent does not report every addon of the bundle"
		return out
	}
	if r.report.Revision != "" && r.report.Revision != published {
		// What failed at an earlier publication says nothing of this one, even if
		// the digest is the same: it may have been tried again.
		out.FailingDigest = ""
	}
	if appliedAll(r.report) {
		out.Applied = r.report.Digest
	}
	out.Healthy = !r.healthySince.IsZero()
	for _, a := range r.report.Addons {
		said := fmt.Sprintf("addon %s: %s", a.Name, a.Message)
		if a.Health == "Degraded" && out.Failing == "" {
			out.Failing = said
		}
		if a.Health == "Progressing" && out.Waiting == "" {
			out.Waiting = said
		}
	}
	return out
}

// covers is true when a report speaks of exactly the bundle's addons at exactly
// their digests.
func covers(r protocol.Report, want render.Index) bool {
	if len(r.Addons) != len(want.Addons) {
		return false
	}
	for _, w := range want.Addons {
		if !slices.ContainsFunc(r.Addons, func(a protocol.AddonReport) bool { return a.Name == w.Name && a.DesiredDigest == w.Digest }) {
			return false
		}
	}
	return true
}

// appliedAll is true when every addon of the report is applied as desired.
func appliedAll(r protocol.Report) bool {
	return r.Digest != "" && len(r.Addons) > 0 && !slices.ContainsFunc(r.Addons, func(a protocol.AddonReport) bool {
		return a.AppliedDigest == "" || a.AppliedDigest != a.DesiredDigest
	})
}

// reportGrace is how long an agent that is there may take to report.
const reportGrace = 30 * time.Second

// contact is what is known of an agent's presence: the caller holds h.mu.
func (h *Hub) contact(cluster string, now time.Time) (c rollout.Contact, since, heardAt time.Time) {
	at, ok := h.contacts[cluster]
	_, reported := h.reports[cluster]
	if !ok {
		at = h.since
	}
	since = h.arrived[cluster]
	switch {
	case now.Sub(at) > contactTimeout:
		c = rollout.Silent
	case ok && (reported || now.Sub(since) > reportGrace):
		c = rollout.Present
	}
	return c, since, at
}

// touch notes that an agent is there. After a silence its soak begins anew.
func (h *Hub) touch(cluster string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if last, ok := h.contacts[cluster]; !ok || now.Sub(last) > contactTimeout {
		h.arrived[cluster] = now
		defer h.wakeUp() // it may have something to catch up with
	}
	if rep, ok := h.reports[cluster]; ok && now.Sub(h.contacts[cluster]) > contactTimeout && !rep.healthySince.IsZero() {
		rep.healthySince = now
		h.reports[cluster] = rep
	}
	h.contacts[cluster] = now
}

// hear takes in an agent's report.
func (h *Hub) hear(cluster string, r protocol.Report) {
	h.touch(cluster)
	now := h.now()
	healthy := r.Error == "" && appliedAll(r) && !slices.ContainsFunc(r.Addons, func(a protocol.AddonReport) bool { return a.Health != "Healthy" })
	h.mu.Lock()
	was := h.reports[cluster]
	next := heard{report: r, at: now}
	switch {
	case !healthy:
	case was.report.Digest == r.Digest && !was.healthySince.IsZero():
		next.healthySince = was.healthySince
	default:
		next.healthySince = now
	}
	if failing(r) {
		next.failingSince = now
		if !was.failingSince.IsZero() && was.report.Revision == r.Revision && was.report.Digest == r.Digest {
			next.failingSince = was.failingSince
		}
	}
	h.reports[cluster] = next
	h.mu.Unlock()
	h.wakeUp()
}

func failing(r protocol.Report) bool {
	return r.Error != "" || slices.ContainsFunc(r.Addons, func(a protocol.AddonReport) bool { return a.Health == "Degraded" })
}

func (h *Hub) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}
