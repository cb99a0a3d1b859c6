//go:build bench

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/salt"
)

// rig is a fleet on this machine: a hub, and for each cluster a control plane
// and the agent's own program.
type rig struct {
	t     *testing.T
	fleet *Fleet
	dir   string
	sites []*site
}

// site is one cluster of the rig.
type site struct {
	name    string
	cluster *cluster.Cluster
	client  client.Client
	agent   *hostexec.Process
	metrics string // address
	log     string // the agent's
}

const landTimeout = 5 * time.Minute

// newRig starts n control planes, a few at a time, and the hub.
func newRig(t *testing.T, n int) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.startHub()
	sites := make([]*site, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 3)
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			sites[i], errs[i] = r.startSite(fmt.Sprintf("c%d", i))
		})
	}
	wg.Wait()
	for _, s := range sites {
		if s != nil {
			r.sites = append(r.sites, s)
			t.Cleanup(func() { r.stopSite(s) })
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) startHub() {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, "hub.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	bin := os.Getenv("HOLDFAST_BIN_DIR")
	if bin == "" {
		r.t.Fatal("HOLDFAST_BIN_DIR does not say where Holdfast's programs are (use make bench-gitops)")
	}
	r.fleet, err = Start(r.t.Context(), Options{BinDir: bin, Dir: r.dir, Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.fleet.Stop(); _ = log.Close() })
}

func (r *rig) startSite(name string) (*site, error) {
	ctx := r.t.Context()
	c, err := cluster.Start(ctx, cluster.Options{Name: name, Parent: filepath.Join(r.dir, "c"), ReadyTimeout: 5 * time.Minute})
	if err != nil {
		return nil, err
	}
	s := &site{name: name, cluster: c, log: filepath.Join(r.dir, name+".log")}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return s, err
	}
	if s.client, err = client.New(c.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return s, err
	}
	return s, s.installCRD(ctx)
}

// installCRD makes the one kind that the agent needs before it can install anything.
func (s *site) installCRD(ctx context.Context) error {
	crd, err := salt.Data.ReadFile("states/crds/files/holdfast.dev_addonstatuses.yaml")
	if err != nil {
		return err
	}
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(crd, &o.Object); err != nil {
		return err
	}
	if err := s.client.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = wait.Until(ctx, time.Minute, "the kind AddonStatus of "+s.name, func() (bool, error) {
		return s.client.List(ctx, &v1alpha1.AddonStatusList{}) == nil, nil
	})
	return err
}

// startAgent starts the agent's program, as a pod would.
func (r *rig) startAgent(s *site) {
	r.t.Helper()
	token, ca := filepath.Join(r.dir, s.name+".token"), filepath.Join(r.dir, s.name+".ca.crt")
	if _, err := os.Stat(token); err != nil {
		if err := r.invite(s.name, token, ca); err != nil {
			r.t.Fatal(err)
		}
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = log.Close() }) // what the agent writes comes through this process
	s.metrics = freeAddress(r.t)
	s.agent, err = hostexec.Start(hostexec.Command{Path: r.fleet.bin("holdfast-agent"), Stderr: log, Env: append(os.Environ(), "KUBECONFIG="+s.cluster.Kubeconfig()),
		Args: []string{"--cluster", s.name, "--hub", r.fleet.agentURL, "--token-file", token, "--hub-ca-file", ca, "--identity-secret", "default/holdfast-agent-identity", "--metrics-address", s.metrics}})
	if err != nil {
		r.t.Fatal(err)
	}
}

// invite is "holdfast join" and "kubectl apply" of what it prints.
func (r *rig) invite(name, token, ca string) error {
	store, err := trust.Open(r.fleet.hubDir(), time.Now)
	if err != nil {
		return err
	}
	roots, err := store.Roots()
	if err != nil {
		return err
	}
	text, err := store.Invite(trust.Identity{Kind: trust.Cluster, Name: name})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(ca, roots, 0o600), os.WriteFile(token, []byte(text), 0o600))
}

func (r *rig) startAgents() {
	r.t.Helper()
	for _, s := range r.sites {
		r.startAgent(s)
	}
}

func (r *rig) stopSite(s *site) {
	if s.agent != nil {
		s.agent.Stop(5 * time.Second)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.cluster.Stop(ctx); err != nil {
		r.t.Error(err)
	}
}

// freeAddress is a loopback address that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // its address is all that is wanted
	return l.Addr().String()
}

func (r *rig) names() []string {
	var out []string
	for _, s := range r.sites {
		out = append(out, s.name)
	}
	return out
}

// commit commits what is in the work tree, pushes it, and returns the commit and
// when the push began.
func (r *rig) commit(message string) (string, time.Time) {
	r.t.Helper()
	commit, err := r.fleet.Commit(r.t.Context(), message)
	if err != nil {
		r.t.Fatal(err)
	}
	return commit, r.push()
}

func (r *rig) push() time.Time {
	r.t.Helper()
	start, err := r.fleet.Push(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return start
}

// landed waits until all sites run a commit, and returns how long after start the
// last one had applied it, in seconds.
func (r *rig) landed(commit string, start time.Time) float64 {
	r.t.Helper()
	got, err := r.fleet.AwaitRollout(r.t.Context(), commit, landTimeout, r.names()...)
	if err != nil {
		said, _ := os.ReadFile(r.sites[0].log)
		r.t.Fatalf("%v\nthe agent of %s said at last: %s", err, r.sites[0].name, said[max(0, len(said)-2000):])
	}
	last := start
	for _, l := range got {
		last = later(last, l.Applied)
	}
	return last.Sub(start).Seconds()
}

func (r *rig) edit(path, old, replacement string) {
	r.t.Helper()
	if err := r.fleet.Edit(path, old, replacement); err != nil {
		r.t.Fatal(err)
	}
}

// begin fills the work tree with a fleet of clusters and rings; addons are made
// of objects that need no node, each as many times as is said.
func (r *rig) begin(clusters []string, rings string, addons map[string]int) {
	r.t.Helper()
	if err := writeFleet(r.t.Context(), r.fleet, clusters, rings, addons); err != nil {
		r.t.Fatal(err)
	}
}

// logged reads the times of log lines of the agent whose message is msg.
func (s *site) logged(t *testing.T, msg string) []time.Time {
	t.Helper()
	data, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	var out []time.Time
	for line := range strings.Lines(string(data)) {
		var l struct {
			Time time.Time
			Msg  string
		}
		if yaml.Unmarshal([]byte(line), &l) == nil && l.Msg == msg {
			out = append(out, l.Time)
		}
	}
	return out
}
