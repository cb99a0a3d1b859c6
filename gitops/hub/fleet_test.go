package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

// fleet is a bare repository with a clone that a person edits.
type fleet struct {
	t          *testing.T
	bare, work string
	opts       hub.Options
	store      *trust.Store
	admin      *agent // of status, once it was asked for
	steps      *steps
	hub        *hub.Hub // that runs, or ran last
	agents     map[string]*agent
	// trials has what API servers answer when the hub asks whether they would take
	// a bundle; those that are not in it take everything.
	trials map[string]protocol.PlanReport
	asked  []string // in order
}

// steps counts what a hub's log tells of its steps, failed ones too.
type steps struct {
	slog.Handler
	n atomic.Int64
}

func (*steps) Enabled(context.Context, slog.Level) bool { return true }

func (s *steps) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "hub step ") {
		s.n.Add(1)
	}
	return nil
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{t: t, agents: map[string]*agent{}, trials: map[string]protocol.PlanReport{}, steps: &steps{Handler: slog.DiscardHandler}, bare: filepath.Join(dir, "fleet.git"), work: filepath.Join(dir, "fleet")}
	f.opts = hub.Options{Repo: f.bare, Branch: "main", DataDir: filepath.Join(dir, "hub"), Listen: "127.0.0.1:0"}
	var err error
	if f.store, err = trust.Open(f.opts.DataDir, time.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := render.Init(f.work, render.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	f.edit("fleet.yaml", "soak: 10m", "soak: 1ms")
	f.git(dir, "init", "-q", "--bare", "--initial-branch=main", f.bare)
	f.git(f.work, "init", "-q", "--initial-branch=main")
	f.commit("the fleet")
	return f
}

func (f *fleet) git(dir string, args ...string) string {
	f.t.Helper()
	env := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := hostexec.Run(f.t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: dir, Env: env, Args: args})
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (f *fleet) edit(path, old, replacement string) {
	f.t.Helper()
	full := filepath.Join(f.work, path)
	data, err := os.ReadFile(full)
	if err != nil {
		f.t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(old)) {
		f.t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(full, bytes.Replace(data, []byte(old), []byte(replacement), 1), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// commit commits everything, pushes it past any hook, and returns it.
func (f *fleet) commit(message string) string {
	f.t.Helper()
	f.git(f.work, "add", "-A")
	f.git(f.work, "commit", "-q", "-m", message)
	f.git(f.work, "push", "-q", f.bare, "main")
	return f.git(f.work, "rev-parse", "HEAD")
}

// start runs a hub until stop is called.
func (f *fleet) start() (url string, stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	h, err := hub.New(ctx, f.opts, slog.New(f.steps))
	if err != nil {
		f.t.Fatal(err)
	}
	f.hub = h
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- h.Run(ctx) }()
	go func() { done <- h.Serve(ctx, l) }()
	stop = func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
				f.t.Error(err)
			}
		}
	}
	return "https://" + l.Addr().String(), stop
}

// agent is a cluster's agent reduced to its half of the protocol.
type agent struct {
	t            *testing.T
	url, cluster string
	client       *http.Client
	token        string // of joining
}

func (f *fleet) agent(url, cluster string) *agent {
	f.t.Helper()
	a := f.agents[cluster]
	if a == nil {
		a = f.as(url, trust.Identity{Kind: trust.Cluster, Name: cluster})
		f.agents[cluster] = a
	}
	a.url = url
	return a
}

// answerTrials lets the agents answer what the hub asks before it publishes.
func (f *fleet) answerTrials(st protocol.Status) {
	f.t.Helper()
	for _, c := range st.Clusters {
		a := f.agents[c.Name]
		if a == nil || c.Trial == nil || c.Trial.State == protocol.TrialTakes || !c.Trial.AnsweredAt.IsZero() || c.Trial.AskedAt.IsZero() {
			continue
		}
		_, body := a.do(http.MethodGet, "/v1/clusters/"+a.cluster+"/desired?after="+c.Revision, nil)
		var d protocol.Desired
		if err := json.Unmarshal(body, &d); err != nil {
			f.t.Fatal(err)
		}
		if !d.PlanChanged {
			continue
		}
		path := "/v1/clusters/" + a.cluster + "/plans/" + d.Plan
		var files protocol.PlanFiles
		if code, body := a.do(http.MethodGet, path, nil); code != http.StatusOK || json.Unmarshal(body, &files) != nil {
			f.t.Fatalf("trial of %s: %d %.80s", a.cluster, code, body)
		}
		if idx, err := render.ParseIndex("bundle.yaml", files["bundle.yaml"]); err != nil || idx.Cluster != a.cluster || idx.Digest != c.Want {
			f.t.Fatalf("%s was asked about %+v (%v), wanted is %s", a.cluster, idx, err, c.Want)
		}
		f.asked = append(f.asked, a.cluster)
		if code, body := a.do(http.MethodPost, path, f.trials[a.cluster]); code != http.StatusNoContent {
			f.t.Fatalf("trial of %s: %d %s", a.cluster, code, body)
		}
	}
}

// as speaks to the hub as anybody.
func (f *fleet) as(url string, id trust.Identity) *agent {
	f.t.Helper()
	return f.with(url, id.Name, f.credential(id))
}

func (f *fleet) credential(id trust.Identity) *trust.Credential {
	f.t.Helper()
	roots, err := f.store.Roots()
	if err != nil {
		f.t.Fatal(err)
	}
	cred, err := f.store.Credential(id, roots)
	if err != nil {
		f.t.Fatal(err)
	}
	return cred
}

func (f *fleet) with(url, cluster string, cred *trust.Credential) *agent {
	f.t.Helper()
	cfg, err := cred.Config()
	if err != nil {
		f.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &agent{t: f.t, url: url, cluster: cluster, client: &http.Client{Transport: tr}}
}

func (a *agent) do(method, path string, body any) (int, []byte) {
	a.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, bytes.NewReader(data))
	if err != nil {
		a.t.Fatal(err)
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, out
}

// index is that of the bundle at the head of the cluster's branch.
func (f *fleet) index(cluster string) *render.Index {
	f.t.Helper()
	idx, err := render.ParseIndex("bundle.yaml", []byte(f.git(f.bare, "cat-file", "blob", "rendered/"+cluster+":bundle.yaml")))
	if err != nil {
		f.t.Fatal(err)
	}
	return idx
}

// report says that the whole bundle is applied, with the health given.
func (a *agent) report(idx *render.Index, health v1alpha1.Health) {
	a.t.Helper()
	a.reportAt(idx, "", health)
}

// reportAt says the same of a certain publication.
func (a *agent) reportAt(idx *render.Index, revision string, health v1alpha1.Health) {
	a.t.Helper()
	r := protocol.Report{Revision: revision, Digest: idx.Digest}
	for _, w := range idx.Addons {
		r.Addons = append(r.Addons, protocol.AddonReport{Name: w.Name, DesiredDigest: w.Digest, AppliedDigest: w.Digest, Health: health, Message: "from the test"})
	}
	a.send(r)
}

func (a *agent) send(r protocol.Report) {
	a.t.Helper()
	if code, body := a.do(http.MethodPost, "/v1/clusters/"+a.cluster+"/report", r); code != http.StatusNoContent {
		a.t.Fatalf("report: %d %s", code, body)
	}
}

func (f *fleet) status(url string) protocol.Status {
	f.t.Helper()
	if f.admin == nil || f.admin.url != url {
		f.admin = f.as(url, trust.Identity{Kind: trust.Admin, Name: "admin"})
	}
	code, body := f.admin.do(http.MethodGet, "/v1/status", nil)
	var st protocol.Status
	if err := json.Unmarshal(body, &st); err != nil || code != http.StatusOK {
		f.t.Fatalf("status: %d %s %v", code, body, err)
	}
	return st
}

func (f *fleet) await(url, what string, ok func(protocol.Status) bool) (st protocol.Status) {
	f.t.Helper()
	if _, err := wait.Until(f.t.Context(), time.Minute, what, func() (bool, error) {
		st = f.status(url)
		done := ok(st)
		if !done {
			f.answerTrials(st)
		}
		return done, nil
	}); err != nil {
		data, _ := json.MarshalIndent(st, "", " ")
		f.t.Fatalf("%v:\n%s", err, data)
	}
	return st
}

// never makes the hub take four more steps and looks after each. The first may have
// begun before what the test did last, the second knows of all of it, the others of
// what the agents answered to what it asked.
func (f *fleet) never(url, what string, bad func(protocol.Status) bool) {
	f.t.Helper()
	for range 4 {
		before := f.steps.n.Load()
		f.git(f.bare, "update-ref", fmt.Sprintf("refs/tags/look.%d", before), "refs/heads/main") // the hub looks at every new tag
		wait.For(f.t, 20*time.Second, "a step of the hub", func() bool { return f.steps.n.Load() > before })
		st := f.status(url)
		if bad(st) {
			f.t.Fatalf("%s came about", what)
		}
		f.answerTrials(st)
	}
}

func published(st protocol.Status) (names []string) {
	for _, c := range st.Clusters {
		if c.Published != "" && c.Published == c.Want {
			names = append(names, c.Name)
		}
	}
	return names
}

func want(st protocol.Status, cluster string) string {
	for _, c := range st.Clusters {
		if c.Name == cluster {
			return c.Want
		}
	}
	return ""
}
