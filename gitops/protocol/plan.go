package protocol

import "time"

// PlanWait is how long the hub waits for the clusters' answers.
const PlanWait = 90 * time.Second

// PlanFiles is a bundle by path; nothing of it is applied.
type PlanFiles map[string][]byte

// PlanRequest asks what bundles would change, by cluster.
type PlanRequest struct {
	Bundles map[string]PlanFiles `json:"bundles"`
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
	// Changes are all but what would stay as it is.
	Changes []PlanChange `json:"changes"`
	// Unchanged counts the rest.
	Unchanged int `json:"unchanged"`
}

// PlanAction is what would happen to an object.
type PlanAction string

// Actions. Refused: the API server, or a webhook, would not take it. Held: it is
// no longer in the bundle and its kind is never pruned. Unsure: it needs a kind or
// a namespace that the change itself brings, so that no server can try it yet.
const (
	PlanCreate  PlanAction = "create"
	PlanChanged PlanAction = "change"
	PlanPrune   PlanAction = "prune"
	PlanHeld    PlanAction = "held"
	PlanRefused PlanAction = "refused"
	PlanUnsure  PlanAction = "unsure"
)

// PlanChange is what would happen to one object.
type PlanChange struct {
	Addon  string     `json:"addon"`
	Object string     `json:"object"` // kind.group namespace/name
	Action PlanAction `json:"action"`
	// Fields are the paths that would change; values are not told, they may be secret.
	Fields  []string `json:"fields,omitempty"`
	Message string   `json:"message,omitempty"`
}
