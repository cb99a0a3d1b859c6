package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

// pushed is a fleet repository of one cluster with a hub.
type pushed struct {
	t               *testing.T
	bare, work, url string
	store           *trust.Store
	admin           *http.Client
}

func newPushed(t *testing.T) *pushed {
	t.Helper()
	dir := t.TempDir()
	p := &pushed{t: t, bare: filepath.Join(dir, "fleet.git"), work: filepath.Join(dir, "fleet"), admin: &http.Client{}}
	p.git(dir, "init", "-q", "--bare", "--initial-branch=main", p.bare)
	p.git(dir, "init", "-q", "--initial-branch=main", p.work)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	h, err := hub.New(ctx, hub.Options{Repo: p.bare, Branch: "main", DataDir: filepath.Join(dir, "hub")}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.url = "https://" + l.Addr().String()
	done := make(chan error, 2)
	go func() { done <- h.Serve(ctx, l) }()
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		p.admin.CloseIdleConnections()
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	if p.store, err = trust.Open(filepath.Join(dir, "hub"), time.Now); err != nil {
		t.Fatal(err)
	}
	cred, err := p.store.Credential(trust.Identity{Kind: trust.Admin, Name: "admin"}, p.roots())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := cred.Config()
	if err != nil {
		t.Fatal(err)
	}
	p.admin.Transport = &http.Transport{TLSClientConfig: cfg}
	return p
}

func (p *pushed) roots() []byte {
	p.t.Helper()
	roots, err := p.store.Roots()
	if err != nil {
		p.t.Fatal(err)
	}
	return roots
}

func (p *pushed) git(dir string, args ...string) {
	p.t.Helper()
	env := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	if _, err := hostexec.Run(p.t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: dir, Env: env, Args: args}); err != nil {
		p.t.Fatal(err)
	}
}

// push commits files over what is there.
func (p *pushed) push(files map[string]string) {
	p.t.Helper()
	for path, text := range files {
		full := filepath.Join(p.work, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.git(p.work, "add", "-A")
	p.git(p.work, "commit", "-q", "-m", "a change")
	p.git(p.work, "push", "-q", p.bare, "main")
}

func (p *pushed) status() (st protocol.Status) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+"/v1/status", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.admin.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		p.t.Fatal(err)
	}
	return st
}

// TestHubAsksFirst is the whole way with a real hub, a real agent and a real API
// server: "rendering correctly and applying successfully are not the same test"
// (kustomize-controller #506: the parameters of a StorageClass are immutable).
func TestHubAsksFirst(t *testing.T) {
	r := newRig(t, "c9")
	r.stop() // its hub is a fake one
	p := newPushed(t)
	token, err := p.store.Invite(trust.Identity{Kind: trust.Cluster, Name: "c9"})
	if err != nil {
		t.Fatal(err)
	}
	r.put(token, p.roots())
	r.url = p.url
	class := func(kind string) string {
		return "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: trial-class}\nprovisioner: example.com/x\nparameters: {type: " + kind + "}\n"
	}
	unit := func(version string) string {
		return "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: one\nversion: " + version + "\nsummary: test\norder: 10\nhealth: {timeout: 1s}\nupgradeNotes: none\n"
	}
	const dir = "salt/states/one/"
	manifest := func(name string) string {
		return "/etc/kubernetes/addons/one/" + name + ":\n  file.managed:\n  - source: salt://one/files/" + name + "\n"
	}
	p.push(map[string]string{
		"fleet.yaml":          "apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n- {name: c9, az: az1, kubernetes: \"1.36\"}\nrings:\n- {name: all, select: {az: az1}}\n",
		"salt/pillar/top.sls": "base: {}\n", "salt/pillar/none.sls": "{}\n", "salt/states/top.sls": "base:\n  '*':\n  - one\n",
		"addons/one/addon.yaml": unit("0.1.0"), dir + "init.sls": manifest("class.yaml") + manifest("map.yaml") + manifest("ns.yaml"),
		dir + "files/class.yaml": class("fast"), dir + "files/map.yaml": configMap("trial-map", "1"),
		dir + "files/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: trial-ns}\n",
	})
	t.Cleanup(func() { // the next test has the same API server
		ctx := context.WithoutCancel(t.Context())
		_ = r.c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "trial-ns"}})
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(storagev1.SchemeGroupVersion.WithKind("StorageClass"))
		o.SetName("trial-class")
		_ = r.c.Delete(ctx, o)
	})
	r.start()
	passed := func() bool {
		st := p.status()
		return len(st.Rings) == 1 && st.Rings[0].Phase == rollout.Passed && st.Clusters[0].Published == st.Clusters[0].Want
	}
	r.until("the first rollout", passed)
	head := p.status().Clusters[0].Revision

	held := func(what string, why ...string) {
		t.Helper()
		r.until("the hold because of "+what, func() bool {
			st := p.status()
			return st.Rings[0].Phase == rollout.Held && st.Rings[0].WaitsFor == "plan" && strings.Contains(st.Rings[0].Message, why[0])
		})
		st := p.status()
		for _, w := range why {
			if !strings.Contains(st.Rings[0].Message, w) {
				t.Errorf("%s: the ring says %q, and not %q", what, st.Rings[0].Message, w)
			}
		}
		if st.Clusters[0].Revision != head || r.value("trial-map") != "1" {
			t.Errorf("%s: something was published or applied: %+v", what, st.Clusters[0])
		}
	}
	p.push(map[string]string{"addons/one/addon.yaml": unit("0.2.0"), dir + "files/class.yaml": class("slow"), dir + "files/map.yaml": configMap("trial-map", "2")})
	held("an immutable field", "cluster c9 refuses the change", "StorageClass.storage.k8s.io trial-class", "field is immutable")

	p.push(map[string]string{"addons/one/addon.yaml": unit("0.3.0"), dir + "files/class.yaml": class("fast"), dir + "init.sls": manifest("class.yaml") + manifest("map.yaml")})
	var ns corev1.Namespace
	if err := r.c.Get(t.Context(), client.ObjectKey{Name: "trial-ns"}, &ns); err != nil {
		t.Fatal(err)
	}
	held("a namespace that would lose its addon", "Namespace trial-ns: is no longer in the bundle, and nobody approved that", "uid: "+string(ns.UID))

	p.push(map[string]string{"addons/one/addon.yaml": unit("0.4.0"), dir + "init.sls": manifest("class.yaml") + manifest("map.yaml") + manifest("ns.yaml") + manifest("old.yaml"),
		dir + "files/old.yaml": "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: trial-old, namespace: default}\nspec: {maxUnavailable: 1}\n"})
	held("an API version that is gone", "PodDisruptionBudget.policy default/trial-old", "policy/v1beta1")

	p.push(map[string]string{"addons/one/addon.yaml": unit("0.5.0"), dir + "init.sls": manifest("class.yaml") + manifest("map.yaml") + manifest("ns.yaml")})
	r.until("the repair", func() bool { return passed() && r.value("trial-map") == "2" })
}
