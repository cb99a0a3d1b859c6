package hub

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

// Serve answers agents and people on l until ctx ends.
func (h *Hub) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: h.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 2 * protocol.PlanWait, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, TLSConfig: h.tls.Config(),
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)} // of whoever cannot speak TLS
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		return srv.Close()
	}
	return nil
}

// handler is the hub's API.
func (h *Hub) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/clusters/{cluster}/enroll", h.postEnroll)
	mux.HandleFunc("POST /v1/renew", h.postRenew)
	mux.HandleFunc("GET /v1/clusters/{cluster}/desired", h.asCluster(h.getDesired))
	mux.HandleFunc("GET /v1/clusters/{cluster}/bundles/{revision}", h.asCluster(h.getBundle))
	mux.HandleFunc("GET /v1/clusters/{cluster}/bundles/{revision}/commit", h.asCluster(h.getCommit))
	mux.HandleFunc("POST /v1/clusters/{cluster}/report", h.asCluster(h.postReport))
	mux.HandleFunc("GET /v1/clusters/{cluster}/plans/{id}", h.asCluster(h.getPlan))
	mux.HandleFunc("POST /v1/clusters/{cluster}/plans/{id}", h.asCluster(h.postPlanReport))
	mux.HandleFunc("GET /v1/clusters/{cluster}/git/info/refs", h.asCluster(h.getRefs))
	mux.HandleFunc("POST /v1/clusters/{cluster}/git/git-upload-pack", h.asCluster(h.postUploadPack))
	mux.HandleFunc("POST /v1/plan", h.asAdmin(h.postPlan))
	mux.HandleFunc("GET /v1/status", h.asAdmin(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, h.Status()) }))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func (h *Hub) getDesired(w http.ResponseWriter, r *http.Request) {
	cluster, after := r.PathValue("cluster"), r.URL.Query().Get("after")
	h.touch(cluster)
	deadline := time.NewTimer(protocol.MaxWait)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		_, heardOf := h.reports[cluster]
		d := protocol.Desired{Revision: h.heads[cluster].commit, Unheard: !heardOf, Plan: h.pendingPlan(cluster)}
		if d.Plan == "" {
			d.Plan = h.offerTrial(cluster, h.now())
			d.PlanChanged = d.Plan != ""
		}
		changed := h.changed
		h.mu.Unlock()
		if d.Revision != "" && d.Revision != after || (d.Unheard && after != "") || d.Plan != "" {
			writeJSON(w, d)
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			writeJSON(w, d)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (h *Hub) getBundle(w http.ResponseWriter, r *http.Request) {
	cluster, revision := r.PathValue("cluster"), r.PathValue("revision")
	if !h.current(w, cluster, revision) {
		return
	}
	if err := h.taking(r.Context(), cluster); err != nil {
		h.log.Info("bundle not sent", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot write its state", http.StatusInternalServerError)
		return
	}
	if err := h.sendLarge(w, r, "application/x-tar", func(ctx context.Context, w io.Writer) error { return h.repo.Archive(ctx, revision, w) }); err != nil {
		h.log.Info("bundle not sent", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot read the bundle; ask again", http.StatusServiceUnavailable)
	}
}

// current is false, and the answer given, for any revision but the published one.
func (h *Hub) current(w http.ResponseWriter, cluster, revision string) bool {
	h.mu.Lock()
	current := h.heads[cluster].commit
	h.mu.Unlock()
	if revision == "" || revision != current {
		http.Error(w, "not the revision that is wanted of "+cluster+" now; ask for the desired one again", http.StatusNotFound)
		return false
	}
	return true
}

// getCommit sends the commit object, which carries the signature.
func (h *Hub) getCommit(w http.ResponseWriter, r *http.Request) {
	cluster, revision := r.PathValue("cluster"), r.PathValue("revision")
	if !h.current(w, cluster, revision) {
		return
	}
	raw, err := h.repo.Commit(r.Context(), revision)
	if err != nil {
		h.log.Info("commit not sent", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot read the commit", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := w.Write(raw); err != nil {
		return // the agent is gone
	}
}

func (h *Hub) postReport(w http.ResponseWriter, r *http.Request) {
	rep, ok := h.readReport(w, r)
	if !ok {
		return
	}
	h.hear(r.PathValue("cluster"), rep)
	w.WriteHeader(http.StatusNoContent)
}

// Status is the fleet as the hub sees it now.
func (h *Hub) Status() protocol.Status {
	h.decide()
	h.mu.Lock()
	defer h.mu.Unlock()
	st := protocol.Status{Rejected: h.rejected, Errors: h.errs, Trouble: h.trouble, Rings: h.decision.Rings}
	if h.accepted == nil {
		return st
	}
	res := h.accepted.result
	st.Commit = h.accepted.commit
	if h.state != nil {
		st.Rollback, st.Approvals = h.state.Rollback, h.state.Approvals
	}
	e := h.accepted.effort
	st.Rendered, st.Cached, st.RenderSeconds, st.RenderedUnits = e.Rendered, e.Cached, e.Seconds, slices.Clone(e.Units)
	for _, ring := range h.accepted.rings {
		for _, name := range ring.Clusters {
			c := protocol.ClusterStatus{Name: name, Ring: ring.Name, Want: res.Bundles[name].Index.Digest,
				Published: h.heads[name].digest, PublishedAt: h.heads[name].at, Revision: h.heads[name].commit}
			contact, _, _ := h.contact(name, h.now())
			c.Silent = contact == rollout.Silent
			if c.Want != c.Published && !c.Silent {
				c.Trial = h.trialStatus(name, c.Want)
			}
			if err := h.turns[name]; err != nil {
				c.PublishError = err.Error()
			} else if none := h.noWayBack[name]; none != nil && h.state != nil && h.state.Rollback != nil && none.revision == h.state.Clusters[name].GoodRevision {
				c.PublishError = none.Error()
			}
			if rep, ok := h.reports[name]; ok {
				c.ReportedAt, c.Report = rep.at, &rep.report
			}
			st.Clusters = append(st.Clusters, c)
		}
	}
	return st
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the hub cannot write its answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(data); err != nil && !errors.Is(err, http.ErrHandlerTimeout) {
		return // the peer is gone
	}
}
