package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev/gitops/protocol"
)

// A cluster that was taken over must not fill the hub's memory or its repository.
const (
	maxReport     = 1 << 20 // bytes of a report
	maxPlanReport = 4 << 20 // and of an answer
	maxList       = 10_000  // addons of a report, changes of an answer
	maxText       = 2 << 10 // bytes that are kept of one text
	maxFields     = 20      // that are kept of one change, as many as an agent names
	// maxRequests are one cluster's at once. Its agent has two or three; Flux and
	// Argo CD have some more.
	maxRequests = 16
	// maxBodies are one cluster's reports and answers that are read at once.
	maxBodies = 2
	// maxLarge are one cluster's bundles and questions that are sent at once.
	maxLarge = 4
	// maxGit are archives, questions and mirrors that are made at once, for all clusters.
	maxGit = 16
	// maxUploads are one cluster's git fetches at once, and maxAllUploads all clusters'.
	// They last as long as the client is slow, and so are not among those of maxGit.
	maxUploads    = 4
	maxAllUploads = 64
	// maxUploadTime is how long one fetch may take, of who sends slowly or reads slowly, too.
	maxUploadTime = 30 * time.Second
)

// busy counts what goes on for each cluster.
type busy struct {
	mu sync.Mutex
	n  map[string]int
}

// begin is false when most of the same kind go on already; else end must be called.
func (b *busy) begin(what string, most int) (end func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n[what] >= most {
		return nil, false
	}
	if b.n == nil {
		b.n = map[string]int{}
	}
	b.n[what]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.n[what]--; b.n[what] == 0 {
			delete(b.n, what)
		}
	}, true
}

// begin is that of the hub; when it is false, the answer is given.
func (h *Hub) begin(w http.ResponseWriter, what string, most int) (end func(), ok bool) {
	end, ok = h.busy.begin(what, most)
	if !ok {
		http.Error(w, fmt.Sprintf("%d %s go on already; wait for them", most, what), http.StatusTooManyRequests)
	}
	return end, ok
}

// few lets a cluster's request in when it has not too many already.
func (h *Hub) few(w http.ResponseWriter, r *http.Request, f http.HandlerFunc) {
	cluster := r.PathValue("cluster")
	end, ok := h.busy.begin(cluster, maxRequests)
	if !ok {
		http.Error(w, fmt.Sprintf("%d requests of %s are being answered already; wait for them", maxRequests, cluster), http.StatusTooManyRequests)
		return
	}
	defer end()
	f(w, r)
}

// read reads what a cluster says; false, and the answer given, when that is too much
// or not valid.
func (h *Hub) read(w http.ResponseWriter, r *http.Request, what string, limit int64, into any) bool {
	end, ok := h.busy.begin("body of "+r.PathValue("cluster"), maxBodies)
	if !ok {
		http.Error(w, fmt.Sprintf("%d are being read already; send one after the other", maxBodies), http.StatusTooManyRequests)
		return false
	}
	defer end()
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit)).Decode(into)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, fmt.Sprintf("the %s is larger than %d bytes", what, limit), http.StatusRequestEntityTooLarge)
	case errors.Is(err, errTooMany):
		http.Error(w, fmt.Sprintf("the %s: %v", what, err), http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, "the "+what+" is not valid JSON", http.StatusBadRequest)
	}
	return err == nil
}

// readReport reads a report, with texts of a length that can be kept.
func (h *Hub) readReport(w http.ResponseWriter, r *http.Request) (protocol.Report, bool) {
	var body struct {
		protocol.Report
		Addons list[protocol.AddonReport] `json:"addons"`
	}
	if !h.read(w, r, "report", maxReport, &body) {
		return protocol.Report{}, false
	}
	rep := body.Report
	rep.Addons = body.Addons
	clip(&rep.Revision, &rep.Digest, &rep.Refused, &rep.Error)
	for i := range rep.Addons {
		a := &rep.Addons[i]
		clip(&a.Name, &a.Version, &a.DesiredDigest, &a.AppliedDigest, (*string)(&a.Health), &a.Message)
	}
	return rep, true
}

// readPlanReport reads an answer to a question, likewise.
func (h *Hub) readPlanReport(w http.ResponseWriter, r *http.Request) (protocol.PlanReport, bool) {
	var body struct {
		protocol.PlanReport
		Changes list[protocol.PlanChange] `json:"changes"`
	}
	if !h.read(w, r, "answer", maxPlanReport, &body) {
		return protocol.PlanReport{}, false
	}
	rep := body.PlanReport
	rep.Changes = body.Changes
	clip(&rep.Cluster, &rep.Error)
	for i := range rep.Changes {
		c := &rep.Changes[i]
		c.Fields = slices.Clone(c.Fields[:min(len(c.Fields), maxFields)]) // the rest is not kept
		clip(&c.Addon, &c.Object, (*string)(&c.Action), &c.Message)
		for k := range c.Fields {
			clip(&c.Fields[k])
		}
	}
	return rep, true
}

// clip shortens texts: people read them, and the rollout's state keeps one.
func clip(texts ...*string) {
	for _, s := range texts {
		if len(*s) > maxText {
			*s = strings.ToValidUTF8((*s)[:maxText], "") + "…"
		}
	}
}

var errTooMany = fmt.Errorf("a list of more than %d", maxList)

// list is a JSON list that is not read further than maxList: in one megabyte there
// is room for a third of a million empty objects, which become fifty.
type list[T any] []T

// UnmarshalJSON reads the list, or null.
func (l *list[T]) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	switch open, err := dec.Token(); {
	case err != nil || open == nil:
		return err
	case open != json.Delim('['):
		return errors.New("not a list")
	}
	for dec.More() {
		if len(*l) == maxList {
			return errTooMany
		}
		var v T
		if err := dec.Decode(&v); err != nil {
			return err
		}
		*l = append(*l, v)
	}
	return nil
}

// sendLarge sends what write makes. It lies in a file without a name meanwhile: slow
// readers hold neither memory nor a place in the row. Only an error before anything
// was sent is returned.
func (h *Hub) sendLarge(w http.ResponseWriter, r *http.Request, contentType string, write func(context.Context, io.Writer) error) error {
	end, ok := h.begin(w, "downloads of "+r.PathValue("cluster"), maxLarge)
	if !ok {
		return nil
	}
	defer end()
	f, err := os.CreateTemp(h.opts.DataDir, ".sending-")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nobody else sees it
	if err := errors.Join(os.Remove(f.Name()), h.inRow(r.Context(), func() error { return write(r.Context(), f) })); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10)) // the agent must see a broken stream, not a short one
	if _, err := io.Copy(w, f); err != nil {
		h.log.Debug("download broken off", "cluster", r.PathValue("cluster"), "error", err.Error())
	}
	return nil
}

// inRow does what takes memory or processors, so many at once.
func (h *Hub) inRow(ctx context.Context, f func() error) error {
	if err := h.git.Acquire(ctx, 1); err != nil {
		return err
	}
	defer h.git.Release(1)
	return f()
}

// mirror is [gitrepo.Repo.Mirror] in the same row.
func (h *Hub) mirror(ctx context.Context, dir, branch, commit string, anew bool) error {
	return h.inRow(ctx, func() error { return h.repo.Mirror(ctx, dir, branch, commit, anew) })
}
