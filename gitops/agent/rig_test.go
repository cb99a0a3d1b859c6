package agent_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/agent"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/salt"
)

// addon is one addon of a test fleet: manifests by file name.
type addon struct {
	version   string
	manifests map[string]string
}

// bundle renders a fleet of one cluster with the addons given.
func bundle(t *testing.T, name string, addons map[string]addon) map[string][]byte {
	t.Helper()
	return bundleApproving(t, name, addons, "")
}

// bundleApproving is that with approved deletions, as approvals.yaml lists them.
func bundleApproving(t *testing.T, name string, addons map[string]addon, deletions string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{
		"fleet.yaml":           []byte("apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n- {name: " + name + ", az: az1, kubernetes: \"1.36\"}\nrings:\n- {name: all, select: {az: az1}}\n"),
		"salt/pillar/top.sls":  []byte("base: {}\n"),
		"salt/states/top.sls":  []byte("base:\n  '*':\n"),
		"salt/pillar/none.sls": []byte("{}\n"),
	}
	if deletions != "" {
		files["approvals.yaml"] = []byte("apiVersion: holdfast.dev/v1alpha1\nkind: Approvals\ndeletions:\n" + deletions)
	}
	for _, a := range slices.Sorted(maps.Keys(addons)) {
		files["salt/states/top.sls"] = append(files["salt/states/top.sls"], []byte("  - "+a+"\n")...)
		files["addons/"+a+"/addon.yaml"] = fmt.Appendf(nil, "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: %s\nversion: %s\nsummary: test\norder: 10\nhealth: {timeout: 1s}\nupgradeNotes: none\n", a, addons[a].version)
		var sls strings.Builder
		for _, m := range slices.Sorted(maps.Keys(addons[a].manifests)) {
			fmt.Fprintf(&sls, "/etc/kubernetes/addons/%s/%s:\n  file.managed:\n  - source: salt://%s/files/%s\n", a, m, a, m)
			files["salt/states/"+a+"/files/"+m] = []byte(addons[a].manifests[m])
		}
		files["salt/states/"+a+"/init.sls"] = []byte(sls.String())
	}
	tree, err := render.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	res, err := render.Fleet(t.Context(), tree, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Bundles[name].Files
}

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: default}\ndata: {value: \"" + value + "\"}\n"
}

// rig is an agent at work on a real API server.
type rig struct {
	t    *testing.T
	c    client.Client
	hub  *fakeHub
	url  string
	dir  string // of the invitation
	keys string // file with those who may sign; empty for not asked for
	name string
	stop func()
	// As whom the agent works, and where its identity is, if it is not the administrator.
	as, identity string
	// How objects come into the cluster, if not by the agent.
	apply, addons string
	grace         time.Duration
	through       func(http.RoundTripper) http.RoundTripper // what its requests go through, if anything
}

// newRig is one with an agent that has the API server for itself.
func newRig(t *testing.T, name string) *rig {
	t.Helper()
	c := connect(t)
	r := newRigOf(t, c, name)
	t.Cleanup(func() { // the next test has the same API server
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(
			c.DeleteAllOf(ctx, &v1alpha1.AddonStatus{}),
			c.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace("default"), client.HasLabels{v1alpha1.LabelAddon}),
			client.IgnoreNotFound(c.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "identity-" + name}})),
		); err != nil {
			t.Error(err)
		}
		disown(t, c)
	})
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// disown takes the label of the addon from what a test leaves behind: the next agent has
// no inventory, and would find it.
func disown(t *testing.T, c client.Client) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "Namespace"}, {Version: "v1", Kind: "PersistentVolumeClaim"}, {Version: "v1", Kind: "ConfigMap"},
		{Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
	} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(gvk)
		if err := c.List(ctx, list, client.HasLabels{v1alpha1.LabelAddon}); err != nil {
			t.Error(err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			o.SetGroupVersionKind(gvk)
			patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"`+v1alpha1.LabelAddon+`":null}}}`))
			if err := client.IgnoreNotFound(c.Patch(ctx, o, patch)); err != nil {
				t.Error(err)
			}
		}
	}
}

// connect is the tests' own client of the API server, which serves AddonStatus.
func connect(t *testing.T) client.Client {
	t.Helper()
	cl := cluster.ForTest(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, rbacv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(cl.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	crd, err := salt.Data.ReadFile("states/crds/files/holdfast.dev_addonstatuses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(crd, &o.Object); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "AddonStatus served", func() bool { return c.List(t.Context(), &v1alpha1.AddonStatusList{}) == nil })
	return c
}

// newRigOf is one without an agent yet.
func newRigOf(t *testing.T, c client.Client, name string) *rig {
	t.Helper()
	r := &rig{t: t, c: c, hub: &fakeHub{changed: make(chan struct{}), hold: protocol.MaxWait}, name: name, dir: t.TempDir()}
	var err error
	if r.hub.trust, err = trust.Open(t.TempDir(), r.hub.now); err != nil {
		t.Fatal(err)
	}
	r.invite()
	srv := httptest.NewUnstartedServer(r.hub)
	srv.Config.ErrorLog = log.New(r.hub, "", 0)
	srv.Listener = tls.NewListener(srv.Listener, r.hub.trust.Server(trust.Given{}).Config())
	srv.Start()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	r.url = strings.Replace(srv.URL, "http:", "https:", 1)
	return r
}

// invite is "holdfast join".
func (r *rig) invite() (token string) {
	r.t.Helper()
	token, err := r.hub.trust.Invite(trust.Identity{Kind: trust.Cluster, Name: r.name})
	if err != nil {
		r.t.Fatal(err)
	}
	roots, err := r.hub.trust.Roots()
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(token, roots)
	return token
}

// put is "kubectl apply" of what join prints.
func (r *rig) put(token string, roots []byte) {
	r.t.Helper()
	for name, data := range map[string][]byte{"token": []byte(token + "\n"), "ca.crt": roots} {
		if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) options() agent.Options {
	identity := cmp.Or(r.identity, "default/identity-"+r.name)
	return agent.Options{Cluster: r.name, Hub: r.url, TokenFile: filepath.Join(r.dir, "token"), HubCAFile: filepath.Join(r.dir, "ca.crt"),
		Identity: identity, SignersFile: r.keys, Apply: r.apply, AddonsDir: r.addons, PruneGrace: r.grace}
}

// start starts an agent; stop ends it as abruptly as a test can.
func (r *rig) start() {
	r.t.Helper()
	cfg := cluster.ForTest(r.t).RESTConfig()
	cfg.Impersonate.UserName = r.as
	if r.through != nil {
		cfg.Wrap(r.through)
	}
	a, err := agent.New(cfg, r.options(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	r.untilWithin(30*time.Second, what, ok, func() string { return "" })
}

// untilWithin waits; said explains what is there instead.
func (r *rig) untilWithin(limit time.Duration, what string, ok func() bool, said func() string) {
	r.t.Helper()
	if _, err := wait.Until(context.Background(), limit, what, func() (bool, error) { return ok(), nil }); err != nil {
		data, _ := json.MarshalIndent(r.hub.last(), "", " ")
		r.t.Fatalf("%v; %s; last report:\n%s", err, said(), data)
	}
}

func (r *rig) value(name string) string {
	var cm corev1.ConfigMap
	if err := r.c.Get(r.t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &cm); err != nil {
		return ""
	}
	return cm.Data["value"]
}

// settled is true when the report is about the bundle given and every addon is healthy.
func (r *rig) settled(files map[string][]byte) bool {
	idx, err := render.ParseIndex("bundle.yaml", files[render.BundleFile])
	if err != nil {
		r.t.Fatal(err)
	}
	return r.settledAt(idx)
}

func (r *rig) settledAt(idx *render.Index) bool {
	rep := r.hub.last()
	if rep.Digest != idx.Digest || rep.Error != "" {
		return false
	}
	for _, a := range rep.Addons {
		if a.Health != v1alpha1.HealthHealthy || a.AppliedDigest != a.DesiredDigest {
			return false
		}
	}
	return len(rep.Addons) == len(idx.Addons)
}
