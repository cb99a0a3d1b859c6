// Package protocol is what hub, agents and command line say to each other:
// JSON over HTTPS. Who asks is in the client's certificate (gitops/trust).
//
//	POST /v1/clusters/{cluster}/enroll                   with a join token: CertificateRequest; Certificate
//	POST /v1/renew                                       CertificateRequest; Certificate
//	GET  /v1/clusters/{cluster}/desired?after=REVISION   waits up to MaxWait for another revision; Desired
//	GET  /v1/clusters/{cluster}/bundles/{revision}       the rendered branch as a tar stream
//	GET  /v1/clusters/{cluster}/bundles/{revision}/commit  the commit object of it, with its signature
//	POST /v1/clusters/{cluster}/report                   Report
//	GET  /v1/clusters/{cluster}/plans/{id}               the files that are asked about: PlanFiles
//	POST /v1/clusters/{cluster}/plans/{id}               PlanReport
//	GET  /v1/clusters/{cluster}/git/…                    the branch, for git fetch (gitprotocol-http(5))
//	GET  /v1/status                                      Status
//	POST /v1/plan                                        PlanRequest; Plan, when every cluster has answered or PlanWait is over
package protocol

import (
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/rollout"
)

// MaxWait is how long the hub holds a request for a desired revision.
const MaxWait = 55 * time.Second

// CertificateRequest asks for a certificate. Which identity it is for is not in
// it: the join token or the client's certificate says that.
type CertificateRequest struct {
	Request string `json:"request"` // PEM
}

// Certificate is the answer.
type Certificate struct {
	Certificate string `json:"certificate"` // PEM
	// Roots are the authorities that the hub's certificate may be of from now on, in PEM.
	Roots string `json:"roots"`
}

// Desired is what a cluster is to run.
type Desired struct {
	// Revision is the commit at the head of the cluster's rendered branch; empty before the first.
	Revision string `json:"revision"`
	// Unheard is true when the hub has no report of the cluster: it was restarted.
	Unheard bool `json:"unheard,omitempty"`
	// Plan is a question that the agent is to answer beside its work; empty for none.
	Plan string `json:"plan,omitempty"`
	// PlanChanged is true when addons that are applied at their digest need not be
	// tried: the bundle is about to be published, and the agent will not touch them.
	PlanChanged bool `json:"planChanged,omitempty"`
}

// Report is what an agent tells the hub; it replaces the report before.
type Report struct {
	// Revision and Digest are of the newest bundle that the agent has verified.
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
	// Refused is a newer revision that could not be taken, and Error why; empty when all is well.
	Refused string        `json:"refused,omitempty"`
	Error   string        `json:"error,omitempty"`
	Addons  []AddonReport `json:"addons"`
}

// AddonReport is one addon's AddonStatus, shortened.
type AddonReport struct {
	Name          string          `json:"name"`
	Version       string          `json:"version"`
	DesiredDigest string          `json:"desiredDigest"`
	AppliedDigest string          `json:"appliedDigest"`
	Health        v1alpha1.Health `json:"health"`
	Message       string          `json:"message,omitempty"`
	AppliedAt     time.Time       `json:"appliedAt,omitzero"`
	HealthySince  time.Time       `json:"healthySince,omitzero"`
}

// Status is the fleet as the hub sees it.
type Status struct {
	// Commit is the newest commit of the fleet's branch that was accepted.
	Commit string `json:"commit"`
	// Rejected is the newest commit when it was refused; Errors says why.
	Rejected string   `json:"rejected,omitempty"`
	Errors   []string `json:"errors,omitempty"`
	// Trouble is what keeps the hub itself from going on, one line each: it looks at no
	// commit or approval, or publishes nothing, until that is mended. It tries again by itself.
	Trouble []string `json:"trouble,omitempty"`
	// Rendered and Cached count the units of the newest accepted commit; RenderSeconds is what it took.
	Rendered      int      `json:"rendered"`
	Cached        int      `json:"cached"`
	RenderedUnits []string `json:"renderedUnits,omitempty"`
	RenderSeconds float64  `json:"renderSeconds"`

	Rings    []rollout.RingStatus `json:"rings"`
	Clusters []ClusterStatus      `json:"clusters"`
	// Rollback is the rollback in force, if any; Approvals are those in force, by ring.
	Rollback  *rollout.Rollback           `json:"rollback,omitempty"`
	Approvals map[string]rollout.Approval `json:"approvals,omitempty"`
}

// ClusterStatus is one cluster as the hub sees it.
type ClusterStatus struct {
	Name string `json:"name"`
	Ring string `json:"ring"`
	// Want and Published are bundle digests; Revision is the published commit.
	Want        string    `json:"want"`
	Published   string    `json:"published"`
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	Revision    string    `json:"revision"`
	// ReportedAt is when the agent last said anything; zero when it has not since the hub started.
	ReportedAt time.Time `json:"reportedAt,omitzero"`
	// Silent is true when the agent has said nothing for too long.
	Silent bool    `json:"silent,omitempty"`
	Report *Report `json:"report,omitempty"`
	// Trial is of the bundle that is wanted and not published yet; nil before it is tried.
	Trial *TrialStatus `json:"trial,omitempty"`
	// PublishError says why the cluster did not get what it is to have now.
	PublishError string `json:"publishError,omitempty"`
}
