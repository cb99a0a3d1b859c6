package agent_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
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

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

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
}

// newRig is one with an agent that has the API server for itself.
func newRig(t *testing.T, name string) *rig {
	t.Helper()
	c := connect(t)
	r := newRigOf(t, c, name)
	t.Cleanup(func() { // the next test has the same API server
		_ = c.DeleteAllOf(context.WithoutCancel(t.Context()), &v1alpha1.AddonStatus{})
		_ = c.DeleteAllOf(context.WithoutCancel(t.Context()), &corev1.ConfigMap{}, client.InNamespace("default"), client.HasLabels{v1alpha1.LabelAddon})
		_ = c.Delete(context.WithoutCancel(t.Context()), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "identity-" + name}})
	})
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
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

func TestApplyPruneAndDrift(t *testing.T) {
	r := newRig(t, "c1")
	first := bundle(t, "c1", map[string]addon{
		"one": {"0.1.0", map[string]string{"a.yaml": configMap("one-a", "1"), "b.yaml": configMap("one-b", "1"), "ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n"}},
		"two": {"0.1.0", map[string]string{"c.yaml": configMap("two-c", "1")}},
	})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	if r.value("one-a") != "1" || r.value("two-c") != "1" {
		t.Fatal("the report says applied, the objects are not there")
	}

	// Drift: what a person deletes or changes comes back.
	if err := r.c.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one-b"}}); err != nil {
		t.Fatal(err)
	}
	r.until("the deleted object", func() bool { return r.value("one-b") == "1" })

	// The second bundle drops an object, a Namespace and an addon.
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "foreign"}, Data: map[string]string{"value": "mine"}}
	if err := r.c.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	second := bundle(t, "c1", map[string]addon{"one": {"0.1.1", map[string]string{"a.yaml": configMap("one-a", "2")}}})
	r.hub.want(second)
	r.until("the second bundle", func() bool { return r.value("one-a") == "2" && r.value("one-b") == "" && r.value("two-c") == "" })
	if r.value("foreign") != "mine" {
		t.Error("an object that is not in the inventory was touched")
	}
	var ns corev1.Namespace
	if err := r.c.Get(t.Context(), client.ObjectKey{Name: "kept"}, &ns); err != nil || ns.DeletionTimestamp != nil {
		t.Errorf("a Namespace was pruned without a named approval: %v", err)
	}
	r.until("word of what is held", func() bool {
		for _, a := range r.hub.last().Addons {
			if strings.Contains(a.Message, "not pruned: Namespace/kept (nobody approved it in approvals.yaml)") {
				return true
			}
		}
		return false
	})
	r.until("the end of addon two", func() bool {
		err := r.c.Get(t.Context(), client.ObjectKey{Name: "two"}, &v1alpha1.AddonStatus{})
		return apierrors.IsNotFound(err)
	})
}

// TestOneBadAddonDelaysNoOther: kubernetes/kubernetes#92213, one object that
// fails stops pruning everywhere.
func TestOneBadAddonDelaysNoOther(t *testing.T) {
	r := newRig(t, "c2")
	immutable := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad-a, namespace: default}\nimmutable: true\ndata: {value: \"%s\"}\n"
	first := bundle(t, "c2", map[string]addon{
		"bad":  {"0.1.0", map[string]string{"a.yaml": fmt.Sprintf(immutable, "1")}},
		"good": {"0.1.0", map[string]string{"b.yaml": configMap("good-b", "1"), "c.yaml": configMap("good-c", "1")}},
	})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	second := bundle(t, "c2", map[string]addon{
		"bad":  {"0.1.1", map[string]string{"a.yaml": fmt.Sprintf(immutable, "2")}},
		"good": {"0.1.1", map[string]string{"b.yaml": configMap("good-b", "2")}},
	})
	r.hub.want(second)
	r.until("the good addon", func() bool { return r.value("good-b") == "2" && r.value("good-c") == "" })
	r.until("word of the bad one", func() bool {
		for _, a := range r.hub.last().Addons {
			if a.Name == "bad" && a.Health == v1alpha1.HealthDegraded && strings.Contains(a.Message, "immutable") && a.AppliedDigest != a.DesiredDigest {
				return true
			}
		}
		return false
	})
}

// TestBundleThatIsNotWhole: k0s#8220, a half-published directory pruned what it did not name.
func TestBundleThatIsNotWhole(t *testing.T) {
	r := newRig(t, "c3")
	good := bundle(t, "c3", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("whole-a", "1"), "b.yaml": configMap("whole-b", "1")}}})
	r.hub.want(good)
	r.until("the good bundle", func() bool { return r.settled(good) })
	cases := map[string]struct {
		reason string
		change func(map[string][]byte)
		want   string
	}{
		"Missing": {"an object is not there", func(f map[string][]byte) { delete(f, pathOf(f, "whole-b")) }, "its index says 2"},
		"Changed": {"an object has other bytes", func(f map[string][]byte) { f[pathOf(f, "whole-a")] = []byte("{}") }, "digest"},
		"Extra":   {"an object that the index does not know", func(f map[string][]byte) { f["x/y.yaml"] = []byte("{}") }, "accounts for"},
		"Other": {"another cluster's bundle", func(f map[string][]byte) {
			f[render.BundleFile] = []byte(strings.Replace(string(f[render.BundleFile]), "cluster: c3", "cluster: c4", 1))
		}, `for cluster "c4"`},
		"NoIndex": {"nothing at all", func(f map[string][]byte) { clear(f) }, "has no bundle.yaml"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			broken := maps.Clone(good)
			tc.change(broken)
			r.hub.want(broken)
			r.until("the refusal", func() bool { return strings.Contains(r.hub.last().Error, tc.want) })
			if r.value("whole-a") != "1" || r.value("whole-b") != "1" {
				t.Errorf("the cluster changed; reason: %s", tc.reason)
			}
		})
	}
}

func pathOf(files map[string][]byte, name string) string {
	for p := range files {
		if strings.Contains(p, name) {
			return p
		}
	}
	return ""
}

// TestRestartAnywhere stops the agent at random moments of an update with a
// prune and starts another: nothing may be left that no bundle names.
func TestRestartAnywhere(t *testing.T) {
	r := newRig(t, "c4")
	for i := range 12 {
		manifests := map[string]string{}
		for j := range 4 {
			manifests[fmt.Sprintf("m%d.yaml", j)] = configMap(fmt.Sprintf("restart-%d-%d", i%3, j), fmt.Sprint(i))
		}
		next := bundle(t, "c4", map[string]addon{"one": {fmt.Sprintf("0.1.%d", i), manifests}})
		r.hub.want(next)
		time.Sleep(time.Duration(i*17%120) * time.Millisecond) // the moment is what varies here
		r.stop()
		r.start()
		r.until("the bundle", func() bool { return r.settled(next) })
		var list corev1.ConfigMapList
		if err := r.c.List(t.Context(), &list, client.InNamespace("default"), client.MatchingLabels{v1alpha1.LabelAddon: "one"}); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != len(manifests) {
			t.Fatalf("round %d: %d objects, want %d: orphans", i, len(list.Items), len(manifests))
		}
	}
}

// thingCRD is a kind with two versions. With a webhook that nobody answers,
// objects stored as v1 cannot be listed as v2.
func thingCRD(storage string, webhook bool) *unstructured.Unstructured {
	version := func(name string) map[string]any {
		return map[string]any{"name": name, "served": true, "storage": name == storage,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}
	}
	spec := map[string]any{
		"group": "example.com", "scope": "Namespaced",
		"names":    map[string]any{"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
		"versions": []any{version("v1"), version("v2")},
	}
	if webhook {
		spec["conversion"] = map[string]any{"strategy": "Webhook", "webhook": map[string]any{
			"conversionReviewVersions": []any{"v1"}, "clientConfig": map[string]any{"url": "https://127.0.0.1:1/"}}}
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "things.example.com"}, "spec": spec}}
}

// TestKindThatCannotBeListed: one dead conversion webhook hung the agent for good.
func TestKindThatCannotBeListed(t *testing.T) {
	r := newRig(t, "c5")
	crd := thingCRD("v1", false)
	if err := r.c.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.c.Delete(context.WithoutCancel(t.Context()), crd) })
	old := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "old", "namespace": "default"}}}
	r.until("the kind to be served", func() bool { return r.c.Create(t.Context(), old.DeepCopy()) == nil })
	next := thingCRD("v2", true)
	r.until("the webhook", func() bool {
		var now unstructured.Unstructured
		now.SetGroupVersionKind(crd.GroupVersionKind())
		if r.c.Get(t.Context(), client.ObjectKeyFromObject(crd), &now) != nil {
			return false
		}
		next.SetResourceVersion(now.GetResourceVersion())
		return r.c.Update(t.Context(), next.DeepCopy()) == nil
	})
	thing := "apiVersion: example.com/v2\nkind: Thing\nmetadata: {name: fresh, namespace: default}\n"
	addons := map[string]addon{
		"bad":  {"0.1.0", map[string]string{"thing.yaml": thing}},
		"good": {"0.1.0", map[string]string{"a.yaml": configMap("listed-a", "1")}},
	}
	r.hub.want(bundle(t, "c5", addons))
	r.until("the good addon", func() bool { return r.value("listed-a") == "1" })
	addons["good"] = addon{"0.1.1", map[string]string{"a.yaml": configMap("listed-a", "2")}}
	r.hub.want(bundle(t, "c5", addons))
	r.until("the good addon's next version", func() bool { return r.value("listed-a") == "2" })
	r.until("word of the bad one", func() bool {
		for _, a := range r.hub.last().Addons {
			if a.Name == "bad" && a.Health == v1alpha1.HealthDegraded && strings.Contains(a.Message, "Thing") {
				return true
			}
		}
		return false
	})
}
