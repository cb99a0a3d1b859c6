package hub

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

const (
	maxPlan  = 64 << 20 // bytes of a request
	maxPlans = 4        // at once
)

// plan is a question to the clusters. It is in memory alone: it has no effect,
// and who asked is told when it is lost.
type plan struct {
	bundles map[string]protocol.PlanFiles
	taken   map[string]bool
	reports map[string]protocol.PlanReport
	changed chan struct{} // one place: something was answered
}

// pendingPlan is a question that the cluster has not taken yet; the caller holds h.mu.
func (h *Hub) pendingPlan(cluster string) string {
	for id, p := range h.plans {
		if _, asked := p.bundles[cluster]; asked && !p.taken[cluster] {
			return id
		}
	}
	return ""
}

// newPlanID names a question so that nobody guesses it.
func newPlanID() (string, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return hex.EncodeToString(raw), nil
}

func (h *Hub) postPlan(w http.ResponseWriter, r *http.Request) {
	var req protocol.PlanRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPlan)).Decode(&req); err != nil || len(req.Bundles) == 0 {
		http.Error(w, "the request is not a plan's: bundles by cluster", http.StatusBadRequest)
		return
	}
	id, err := newPlanID()
	if err != nil {
		http.Error(w, "the hub has no randomness", http.StatusInternalServerError)
		return
	}
	p, silent, err := h.beginPlan(id, req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTooManyRequests)
		return
	}
	defer func() {
		h.mu.Lock()
		delete(h.plans, id)
		h.mu.Unlock()
	}()
	deadline := time.NewTimer(protocol.PlanWait)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		waiting := len(p.bundles) - len(p.reports)
		h.mu.Unlock()
		if waiting == 0 {
			break
		}
		select {
		case <-p.changed:
			continue
		case <-deadline.C:
		case <-r.Context().Done():
			return
		}
		break
	}
	out := protocol.Plan{Clusters: silent}
	for name := range p.bundles {
		h.mu.Lock()
		rep, ok := p.reports[name]
		base := h.heads[name].tip
		h.mu.Unlock()
		if !ok {
			rep.Error = fmt.Sprintf("its agent did not answer within %s", protocol.PlanWait)
		}
		had, err := h.pathsOf(r.Context(), base)
		if err != nil { // of this cluster; the others have their answers
			rep.Error = "the hub cannot read what it has: " + err.Error()
		}
		judge(&rep, had, req.Retained[name])
		rep.Cluster = name
		out.Clusters = append(out.Clusters, rep)
	}
	slices.SortFunc(out.Clusters, func(a, b protocol.PlanReport) int { return cmp.Compare(a.Cluster, b.Cluster) })
	writeJSON(w, out)
}

// beginPlan puts the question to every cluster that is there; the others are
// named, and nobody waits for them.
func (h *Hub) beginPlan(id string, req protocol.PlanRequest) (*plan, []protocol.PlanReport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.plans) >= maxPlans {
		return nil, nil, fmt.Errorf("%d plans are being made already; try again in a minute", maxPlans)
	}
	p := &plan{bundles: map[string]protocol.PlanFiles{}, taken: map[string]bool{}, reports: map[string]protocol.PlanReport{}, changed: make(chan struct{}, 1)}
	var silent []protocol.PlanReport
	for name, files := range req.Bundles {
		if c, _, _ := h.contact(name, h.now()); c == rollout.Silent {
			silent = append(silent, protocol.PlanReport{Cluster: name, Error: "its agent is silent; what would change there is not known"})
			continue
		}
		p.bundles[name] = files
	}
	h.plans[id] = p
	h.announce() // the agents that wait for a revision have a question to answer
	return p, silent, nil
}

func (h *Hub) getPlan(w http.ResponseWriter, r *http.Request) {
	cluster := r.PathValue("cluster")
	h.mu.Lock()
	var files protocol.PlanFiles
	if p := h.plans[r.PathValue("id")]; p != nil {
		files = p.bundles[cluster]
		p.taken[cluster] = true
	}
	if t := h.trials[cluster]; t != nil && t.id == r.PathValue("id") {
		files, t.offer = t.files, h.now().Add(protocol.PlanWait)
	}
	h.mu.Unlock()
	if files == nil {
		http.Error(w, "nobody asks this any more", http.StatusNotFound)
		return
	}
	if err := h.sendLarge(w, r, "application/json", func(_ context.Context, w io.Writer) error { return json.NewEncoder(w).Encode(files) }); err != nil {
		h.log.Info("question not sent", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot write the question; ask again", http.StatusServiceUnavailable)
	}
}

func (h *Hub) postPlanReport(w http.ResponseWriter, r *http.Request) {
	rep, ok := h.readPlanReport(w, r)
	if !ok {
		return
	}
	h.mu.Lock()
	if p := h.plans[r.PathValue("id")]; p != nil && p.bundles[r.PathValue("cluster")] != nil {
		p.taken[r.PathValue("cluster")] = true // an agent may answer without a look at it
		p.reports[r.PathValue("cluster")] = rep
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	if h.hearTrial(r.PathValue("cluster"), r.PathValue("id"), rep) {
		defer h.wakeUp()
	}
	h.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}
