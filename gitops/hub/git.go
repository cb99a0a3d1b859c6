package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	uploadPack    = "git-upload-pack"
	maxGitRequest = 4 << 20 // bytes: what a client has and wants
)

// mirrors are the repositories that git clients read, each with a cluster's branch
// and nothing else. They are copies, and what an earlier hub left of one is not
// looked at: it may have been killed in the middle.
type mirrors struct {
	dir string
	// bring brings a branch into a mirror, or makes the mirror anew (gitrepo.Repo.Mirror).
	bring func(ctx context.Context, dir, branch, commit string, anew bool) error

	mu        sync.Mutex
	byCluster map[string]*mirror
}

// mirror is one of them.
type mirror struct {
	turn   *semaphore.Weighted // of one, to change it; it guards what is below
	commit string              // that it has; empty when it is to be made anew
}

func (m *mirrors) of(cluster string) *mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byCluster == nil {
		m.byCluster = map[string]*mirror{}
	}
	if m.byCluster[cluster] == nil {
		m.byCluster[cluster] = &mirror{turn: semaphore.NewWeighted(1)}
	}
	return m.byCluster[cluster]
}

// path is where a cluster's mirror is.
func (m *mirrors) path(cluster string) string { return filepath.Join(m.dir, cluster+".git") }

// update brings a cluster's mirror to a commit. Clusters do not wait for each other.
// ctx ends the waiting, not what was begun: others want it, too.
func (m *mirrors) update(ctx context.Context, cluster, commit string) error {
	one := m.of(cluster)
	if err := one.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer one.turn.Release(1)
	if one.commit == commit {
		return nil
	}
	anew := one.commit == ""
	one.commit = "" // until it is known
	if err := m.bring(context.WithoutCancel(ctx), m.path(cluster), BranchPrefix+cluster, commit, anew); err != nil {
		return err
	}
	one.commit = commit
	return nil
}

// doubt has a mirror of which git could not even list the refs made anew before it is
// read again. A client's request may fail by its own fault, and is no reason: others
// read the same mirror.
func (m *mirrors) doubt(ctx context.Context, cluster string) {
	one := m.of(cluster)
	if one.turn.Acquire(ctx, 1) == nil {
		one.commit = ""
		one.turn.Release(1)
	}
}

// refs is git's list of the refs of a cluster's mirror, which is at commit then. A
// mirror that cannot be read is made anew, once.
func (h *Hub) refs(ctx context.Context, cluster, commit, protocol string) ([]byte, error) {
	var err error
	for range 2 {
		if err = h.mirrors.update(ctx, cluster, commit); err != nil {
			return nil, err
		}
		var out bytes.Buffer
		if err = h.repo.UploadPack(ctx, h.mirrors.path(cluster), protocol, true, nil, &out); err == nil {
			return out.Bytes(), nil
		}
		if ctx.Err() != nil { // the client has gone, and git with it
			return nil, err
		}
		h.mirrors.doubt(ctx, cluster)
	}
	return nil, err
}

// getRefs begins a git fetch of the cluster's branch, for Flux, Argo CD and people.
func (h *Hub) getRefs(w http.ResponseWriter, r *http.Request) {
	cluster := r.PathValue("cluster")
	if service := r.URL.Query().Get("service"); service != uploadPack {
		http.Error(w, "only git fetch is served here", http.StatusForbidden)
		return
	}
	commit, ok := h.head(w, cluster)
	if !ok {
		return
	}
	protocol := r.Header.Get("Git-Protocol")
	refs, err := h.refs(r.Context(), cluster, commit, protocol)
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
	if protocol != "version=2" {
		service := "# service=" + uploadPack + "\n"
		refs = slices.Concat(fmt.Appendf(nil, "%04x%s0000", len(service)+4, service), refs)
	}
	if _, err := w.Write(refs); err != nil {
		return // the client is gone
	}
}

// head is the cluster's published commit; false, and the answer given, when it has none.
func (h *Hub) head(w http.ResponseWriter, cluster string) (string, bool) {
	h.mu.Lock()
	commit := h.heads[cluster].commit
	h.mu.Unlock()
	if commit == "" {
		http.Error(w, "nothing is published to "+cluster+" yet", http.StatusNotFound)
	}
	return commit, commit != ""
}

func (h *Hub) postUploadPack(w http.ResponseWriter, r *http.Request) {
	cluster := r.PathValue("cluster")
	commit, ok := h.head(w, cluster)
	if !ok {
		return
	}
	if err := h.mirrors.update(r.Context(), cluster, commit); err != nil {
		h.log.Info("branch not served", "cluster", cluster, "error", err.Error())
		http.Error(w, "the hub cannot read the branch", http.StatusInternalServerError)
		return
	}
	end, ok := h.begin(w, "fetches of "+cluster, maxUploads)
	if !ok {
		return
	}
	defer end()
	endAll, ok := h.begin(w, "fetches of all clusters", maxAllUploads)
	if !ok {
		return
	}
	defer endAll()
	body, err := h.gitRequest(w, r)
	if err != nil {
		h.log.Info("request of git not taken", "cluster", cluster, "error", err.Error())
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			http.Error(w, fmt.Sprintf("the request is larger than %d bytes", maxGitRequest), http.StatusRequestEntityTooLarge)
		} else {
			http.Error(w, fmt.Sprintf("the request did not come within %s, or is not valid", h.uploadTime), http.StatusBadRequest)
		}
		return
	}
	defer func() { _ = body.Close() }() // nobody else sees it
	w.Header().Set("Content-Type", "application/x-"+uploadPack+"-result")
	w.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), h.uploadTime)
	defer cancel()
	if err := h.repo.UploadPack(ctx, h.mirrors.path(cluster), r.Header.Get("Git-Protocol"), false, body, w); err != nil {
		h.log.Info("branch not served", "cluster", cluster, "error", err.Error())
		panic(http.ErrAbortHandler) // the client must see a broken stream, not a short one
	}
}

// gitRequest is all that a client says, in a file without a name, read before git is
// started: net/http waits without end for the rest of a request whose handler gave up.
func (h *Hub) gitRequest(w http.ResponseWriter, r *http.Request) (*os.File, error) {
	c := http.NewResponseController(w)
	if err := c.SetReadDeadline(time.Now().Add(h.uploadTime)); err != nil {
		return nil, err
	}
	body := io.Reader(http.MaxBytesReader(w, r.Body, maxGitRequest))
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = http.MaxBytesReader(w, z, maxGitRequest) // z holds nothing that must be closed
	}
	f, err := os.CreateTemp(h.opts.DataDir, ".sending-")
	if err != nil {
		return nil, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, body)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{}) // it would end the answer, too
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
