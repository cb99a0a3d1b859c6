package protocol

import (
	"time"

	"holdfast.dev/gitops/fleet"
)

// PlanWait is how long the hub waits for the clusters' answers to a person's question.
const PlanWait = 90 * time.Second

// TrialWait is how long the hub waits for a cluster's answer about a bundle of so
// many files before it publishes it: a large one must be tried as well, even by an API
// server that is slow.
func TrialWait(files int) time.Duration {
	return PlanWait + time.Duration(files)*500*time.Millisecond
}

// PlanFiles is a bundle by path; nothing of it is applied.
type PlanFiles map[string][]byte

// PlanRequest asks what bundles would change, by cluster.
type PlanRequest struct {
	Bundles map[string]PlanFiles `json:"bundles"`
	// Retained has what approvals.yaml says that stays, by cluster.
	Retained map[string][]fleet.Retention `json:"retained,omitempty"`
}

// Plan is what the clusters answered.
type Plan struct {
	// Clusters in order of their names; one that did not answer has Error.
	Clusters []PlanReport `json:"clusters"`
}

// PlanReport is what one cluster's API server said about a bundle.
type PlanReport struct {
	Cluster string `json:"cluster"`
	// Error says why there is no answer, or not a whole one.
	Error string `json:"error,omitempty"`
	// Changes are all but what would stay as it is; of each action but Held at most so
	// many as an agent names.
	Changes []PlanChange `json:"changes"`
	// Omitted counts those that are not named.
	Omitted int `json:"omitted,omitempty"`
	// Unchanged counts the rest.
	Unchanged int `json:"unchanged"`
}

// PlanAction is what would happen to an object.
type PlanAction string

// Actions. Refused: the API server, or a webhook, would not take it, or it is of a
// data-bearing kind and dropped without a person's approval. Held: it was dropped
// before, or is retained, and stays. Unsure: it needs a namespace, a kind or a schema
// of its kind that the change itself brings, so that no server can try it yet.
const (
	PlanCreate  PlanAction = "create"
	PlanChanged PlanAction = "change"
	PlanPrune   PlanAction = "prune"
	PlanHeld    PlanAction = "held"
	PlanRefused PlanAction = "refused"
	PlanUnsure  PlanAction = "unsure"
)

// HeldPrefix begins the message of what is held because its deletion is not approved.
const HeldPrefix = "stays: data goes with it; "

// PlanChange is what would happen to one object.
type PlanChange struct {
	Addon  string     `json:"addon"`
	Object string     `json:"object"` // kind.group namespace/name
	Action PlanAction `json:"action"`
	// Fields are the paths that would change; values are not told, they may be secret.
	Fields  []string `json:"fields,omitempty"`
	Message string   `json:"message,omitempty"`
}

// TrialState is what became of the question whether a cluster would take the
// bundle that is to be published next.
type TrialState string

// States. Unknown: there was no answer, or not a whole one; nothing is published.
const (
	TrialAsked   TrialState = "Asked"
	TrialTakes   TrialState = "Takes"
	TrialRefuses TrialState = "Refuses"
	TrialUnknown TrialState = "Unknown"
)

// TrialStatus is that question with its answer.
type TrialStatus struct {
	State      TrialState `json:"state"`
	AskedAt    time.Time  `json:"askedAt,omitzero"`
	AnsweredAt time.Time  `json:"answeredAt,omitzero"`
	// AgainAt is when it is asked again; zero when that is not due.
	AgainAt time.Time `json:"againAt,omitzero"`
	// Message is the first refusal, or why there is no answer.
	Message  string       `json:"message,omitempty"`
	Refusals []PlanChange `json:"refusals,omitempty"`
}
