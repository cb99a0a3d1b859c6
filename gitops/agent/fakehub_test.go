package agent_test

import (
	"archive/tar"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/signature"
	"holdfast.dev/gitops/trust"
)

// fakeHub stands in for the hub: the agent's half of the protocol (package
// protocol) is under test here, and the other half does what a test says. It holds
// one cluster's bundle, with or without a signed commit, answers the long poll when
// that changes, signs certificates by a real authority, puts questions (plan), and
// keeps the last report and answer. The real hub against a real agent is in
// TestHubAsksFirst.
type fakeHub struct {
	mu       sync.Mutex
	revision int
	files    map[string][]byte
	report   protocol.Report
	changed  chan struct{}
	hold     time.Duration     // of a question for the next revision
	ask      map[string][]byte // a plan's bundle, until it is taken
	answer   *protocol.PlanReport

	commit []byte // of the revision, when it is signed
	trust  *trust.Store
	later  time.Duration // how far the hub's clock is ahead
	issued []string      // how the agent came by its certificates
	lose   int           // answers with certificates that do not arrive
	turned []string      // last parts of the paths of requests that were not let in
	broken int           // handshakes that came to nothing
}

// plan asks the agent what a bundle would change.
func (h *fakeHub) plan(files map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ask, h.answer = files, nil
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *fakeHub) answered() *protocol.PlanReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answer
}

func (h *fakeHub) want(files map[string][]byte) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision++
	h.files, h.commit = files, nil
	close(h.changed)
	h.changed = make(chan struct{})
	return fmt.Sprint("r", h.revision)
}

// wantCommit wants a bundle by its commit.
func (h *fakeHub) wantCommit(files map[string][]byte, commit []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files, h.commit = files, commit
	close(h.changed)
	h.changed = make(chan struct{})
}

// name is the revision's; the caller holds h.mu.
func (h *fakeHub) name() string {
	if h.commit != nil {
		return signature.CommitID(h.commit)
	}
	return fmt.Sprint("r", h.revision)
}

func (h *fakeHub) last() protocol.Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// history is how the agent came by its certificates.
func (h *fakeHub) history() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.issued)
}

// sign answers for certificates, as the hub does.
func (h *fakeHub) sign(w http.ResponseWriter, r *http.Request, shown *x509.Certificate) {
	var req protocol.CertificateRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	how, cert, err := "renewed", []byte(nil), error(nil)
	if strings.HasSuffix(r.URL.Path, "/enroll") {
		how = "enrolled"
		id := trust.Identity{Kind: trust.Cluster, Name: strings.Split(r.URL.Path, "/")[3]}
		cert, err = h.trust.Enroll(id, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), []byte(req.Request))
	} else {
		cert, err = h.trust.Renew(shown, []byte(req.Request))
	}
	if err != nil {
		h.turnAway(w, r, err)
		return
	}
	roots, _ := h.trust.Roots()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.issued = append(h.issued, how)
	if h.lose > 0 {
		h.lose--
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(protocol.Certificate{Certificate: string(cert), Roots: string(roots)})
}

func (h *fakeHub) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned = append(h.turned, path.Base(r.URL.Path))
	http.Error(w, err.Error(), http.StatusUnauthorized)
}

// turnedAway is true when a request of the path's last part was not let in.
func (h *fakeHub) turnedAway(last string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.turned, last)
}

// Write is the server's own log, which says when a client broke off a handshake.
func (h *fakeHub) Write(line []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if strings.Contains(string(line), "TLS handshake error") {
		h.broken++
	}
	return len(line), nil
}

func (h *fakeHub) handshakesBroken() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken
}

// holdFor makes the hub answer the long poll after so long at the latest.
func (h *fakeHub) holdFor(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold = d
	close(h.changed)
	h.changed = make(chan struct{})
}

// setLate moves the hub's clock.
func (h *fakeHub) setLate(by time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.later = by
}

func (h *fakeHub) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.later)
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var shown *x509.Certificate
	if len(r.TLS.PeerCertificates) > 0 {
		shown = r.TLS.PeerCertificates[0]
	}
	if strings.HasSuffix(r.URL.Path, "/enroll") || r.URL.Path == "/v1/renew" {
		h.sign(w, r, shown)
		return
	}
	if _, err := h.trust.Authenticate(shown); err != nil {
		h.turnAway(w, r, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rev := h.name()
	switch {
	case strings.HasSuffix(r.URL.Path, "/commit"):
		_, _ = w.Write(h.commit)
	case strings.HasSuffix(r.URL.Path, "/desired"):
		if r.URL.Query().Get("after") == rev && h.ask == nil {
			changed, hold := h.changed, h.hold
			h.mu.Unlock()
			select {
			case <-changed:
			case <-time.After(hold):
			case <-r.Context().Done():
			}
			h.mu.Lock()
			rev = h.name()
		}
		d := protocol.Desired{Revision: rev}
		if h.ask != nil {
			d.Plan, d.PlanChanged = "question", true
		}
		_ = json.NewEncoder(w).Encode(d)
	case strings.HasSuffix(r.URL.Path, "/plans/question") && r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(protocol.PlanFiles(h.ask))
		h.ask = nil
	case strings.HasSuffix(r.URL.Path, "/plans/question"):
		h.answer = &protocol.PlanReport{}
		_ = json.NewDecoder(r.Body).Decode(h.answer)
		w.WriteHeader(http.StatusNoContent)
	case strings.HasSuffix(r.URL.Path, "/report"):
		var rep protocol.Report
		if json.NewDecoder(r.Body).Decode(&rep) == nil {
			h.report = rep
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		tw := tar.NewWriter(w)
		for name, data := range h.files {
			_ = tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
			_, _ = tw.Write(data)
		}
		_ = tw.Close()
	}
}
