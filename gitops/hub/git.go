package hub

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
)

const (
	uploadPack    = "git-upload-pack"
	maxGitRequest = 4 << 20 // bytes: what a client has and wants
)

// mirrorOf is the repository that holds a cluster's branch and nothing else.
func (h *Hub) mirrorOf(cluster string) string {
	return filepath.Join(h.opts.DataDir, "git", cluster+".git")
}

// getRefs begins a git fetch of the cluster's branch, for Flux, Argo CD and people.
func (h *Hub) getRefs(w http.ResponseWriter, r *http.Request) {
	cluster := r.PathValue("cluster")
	if service := r.URL.Query().Get("service"); service != uploadPack {
		http.Error(w, "only git fetch is served here", http.StatusForbidden)
		return
	}
	h.mu.Lock()
	commit := h.heads[cluster].commit
	h.mu.Unlock()
	if commit == "" {
		http.Error(w, "nothing is published to "+cluster+" yet", http.StatusNotFound)
		return
	}
	h.gitMu.Lock()
	err := h.repo.Mirror(r.Context(), h.mirrorOf(cluster), BranchPrefix+cluster)
	h.gitMu.Unlock()
	if err == nil {
		err = h.taking(r.Context(), cluster)
	}
	if err != nil {
		h.log.Info("branch not served", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot read the branch", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-"+uploadPack+"-advertisement")
	w.Header().Set("Cache-Control", "no-store")
	protocol := r.Header.Get("Git-Protocol")
	if protocol != "version=2" {
		service := "# service=" + uploadPack + "\n"
		if _, err := fmt.Fprintf(w, "%04x%s0000", len(service)+4, service); err != nil {
			return // the client is gone
		}
	}
	if err := h.repo.UploadPack(r.Context(), h.mirrorOf(cluster), protocol, true, nil, w); err != nil {
		h.log.Info("branch not served", "cluster", cluster, "error", err.Error())
		panic(http.ErrAbortHandler) // the client must see a broken stream, not a short one
	}
}

func (h *Hub) postUploadPack(w http.ResponseWriter, r *http.Request) {
	cluster := r.PathValue("cluster")
	body := io.Reader(http.MaxBytesReader(w, r.Body, maxGitRequest))
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, "the request is not gzip", http.StatusBadRequest)
			return
		}
		body = io.LimitReader(z, maxGitRequest)
	}
	w.Header().Set("Content-Type", "application/x-"+uploadPack+"-result")
	w.Header().Set("Cache-Control", "no-store")
	if err := h.repo.UploadPack(r.Context(), h.mirrorOf(cluster), r.Header.Get("Git-Protocol"), false, body, w); err != nil {
		h.log.Info("branch not served", "cluster", cluster, "error", err.Error())
		panic(http.ErrAbortHandler)
	}
}
