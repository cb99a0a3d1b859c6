package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// State is what must outlive the process that decides. The caller stores
// [Decision.State] before it acts on the decision. Without it the fleet is safe
// all the same, and only slower: gates are passed and approvals read anew.
type State struct {
	// Clusters by name.
	Clusters map[string]Record `json:"clusters,omitempty"`
	// Passed has, for each ring that has passed, the content that it passed with.
	Passed map[string]string `json:"passed,omitempty"`
	// Approvals by ring.
	Approvals map[string]Approval `json:"approvals,omitempty"`
	// Rollback is the rollback in force, if any.
	Rollback *Rollback `json:"rollback,omitempty"`
	// Used names the acts of people that have had their effect.
	Used []string `json:"used,omitempty"`
}

// Record is what is remembered of one cluster.
type Record struct {
	// Good is the digest with which its ring last passed, and GoodRevision the newest
	// published commit that has it: where a rollback goes.
	Good         string `json:"good,omitempty"`
	GoodRevision string `json:"goodRevision,omitempty"`
	// Away is the digest that was published while its agent was not there; empty
	// once the agent has been there since.
	Away string `json:"away,omitempty"`
	// Refused is the wanted digest that its API server would not take, and Why.
	Refused string `json:"refused,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Approval is a person's word for one ring's content.
type Approval struct {
	// Content is the hash of what the ring's clusters were to run.
	Content string `json:"content"`
	Act
}

// Act is what a person did: the annotated tag that says so.
type Act struct {
	// Ring is empty for an act on the whole rollout.
	Ring string `json:"ring,omitempty"`
	// Ref is the tag's name; it is never used again.
	Ref     string    `json:"ref"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Message string    `json:"message,omitempty"`
}

// Rollback is a rollout that is being, or was, taken back. It is in force while
// the failed cluster is still wanted at the failed digest.
type Rollback struct {
	Ring    string    `json:"ring"`
	Cluster string    `json:"cluster"`
	Digest  string    `json:"digest"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// contentsOf are, for each ring, the hash of what its clusters are to run: what passes,
// and what is approved.
func contentsOf(rings []Ring, clusters map[string]Cluster) map[string]string {
	out := make(map[string]string, len(rings))
	var buf []byte
	for _, r := range rings {
		buf = buf[:0]
		for _, name := range r.Clusters {
			buf = append(buf, name...)
			buf = append(buf, 0)
			buf = append(buf, clusters[name].Want...)
			buf = append(buf, '\n')
		}
		sum := sha256.Sum256(buf)
		out[r.Name] = hex.EncodeToString(sum[:16])
	}
	return out
}

// decider makes one decision. Its state is a copy that is made at the first write.
type decider struct {
	in       Input
	state    State
	contents map[string]string // by ring
	out      Decision
}

func (d *decider) recheck(t time.Time) {
	if d.out.Recheck.IsZero() || t.Before(d.out.Recheck) {
		d.out.Recheck = t
	}
}

func (d *decider) write() *State {
	if !d.out.Changed {
		d.out.Changed = true
		s := d.in.State
		d.state = State{Clusters: maps.Clone(s.Clusters), Passed: maps.Clone(s.Passed), Approvals: maps.Clone(s.Approvals), Rollback: s.Rollback, Used: slices.Clone(s.Used)}
		if d.state.Clusters == nil {
			d.state.Clusters = map[string]Record{}
		}
		if d.state.Passed == nil {
			d.state.Passed = map[string]string{}
		}
		if d.state.Approvals == nil {
			d.state.Approvals = map[string]Approval{}
		}
	}
	return &d.state
}

func (d *decider) setRecord(name string, r Record) {
	if d.state.Clusters[name] != r {
		d.write().Clusters[name] = r
	}
}

// good remembers that the cluster has proved what it runs.
func (d *decider) good(name string) {
	c, rec := d.in.Clusters[name], d.state.Clusters[name]
	if rec.Good != c.Want {
		rec.Good, rec.GoodRevision, rec.Away = c.Want, c.Revision, ""
		d.setRecord(name, rec)
	}
}

// settle takes in what happened since the last decision, and forgets what no
// longer matters.
func (d *decider) settle() {
	for name, rec := range d.state.Clusters {
		c, there := d.in.Clusters[name]
		if !there {
			delete(d.write().Clusters, name)
			continue
		}
		if c.Contact == Present {
			rec.Away = ""
		}
		if c.Published != "" && c.Published == rec.Good {
			// The content is the same, but an older commit of it may be in no history that
			// the hub knows for its own: its key and its memory of the branch were lost, and
			// it published the branch anew. There is no going back to that one.
			rec.GoodRevision = c.Revision
		}
		d.setRecord(name, rec)
	}
	d.settleTrials()
	if rb := d.state.Rollback; rb != nil {
		if c, there := d.in.Clusters[rb.Cluster]; !there || c.Want != rb.Digest {
			d.write().Rollback = nil
		}
	}
	d.contents = contentsOf(d.in.Rings, d.in.Clusters)
	for ring, passed := range d.state.Passed {
		if d.contents[ring] != passed {
			delete(d.write().Passed, ring)
		}
	}
	for ring, a := range d.state.Approvals {
		if d.contents[ring] != a.Content {
			delete(d.write().Approvals, ring)
		}
	}
	d.acts()
}

// acts takes in what people did, each thing once.
func (d *decider) acts() {
	current := make([]string, 0, len(d.in.Acts))
	for _, a := range d.in.Acts {
		current = append(current, a.Ref)
		if slices.Contains(d.state.Used, a.Ref) {
			continue
		}
		s := d.write()
		s.Used = append(s.Used, a.Ref)
		if a.Ring == "" {
			s.Rollback = nil
		} else if c, there := d.contents[a.Ring]; there {
			s.Approvals[a.Ring] = Approval{Content: c, Act: a}
		}
	}
	if slices.ContainsFunc(d.state.Used, func(ref string) bool { return !slices.Contains(current, ref) }) {
		s := d.write()
		s.Used = slices.DeleteFunc(s.Used, func(ref string) bool { return !slices.Contains(current, ref) })
	}
}
