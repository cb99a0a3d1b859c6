package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/gitops/agent"
)

// sequences is how many random sequences of edits are run unless
// HOLDFAST_SEQUENCES says otherwise; one takes about a second.
const sequences = 12

// faults stands between an agent and its API server.
type faults struct {
	mu     sync.Mutex
	rng    *rand.Rand
	errors int  // of a hundred requests that fail, half of them after the server did what they ask
	deny   bool // deletions are forbidden
	left   int  // requests until the process is dead; below zero for never
	next   http.RoundTripper
}

var errDead = errors.New("the process is dead")

// verdict says what becomes of a request: whether it reaches the server, and
// whether its answer reaches the agent.
func (f *faults) verdict(r *http.Request) (sent, answered bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return false, false, errDead
	}
	if f.left > 0 {
		if f.left--; f.left == 0 { // killed while it waited for this answer
			return f.rng.IntN(2) == 0, false, errDead
		}
	}
	if r.URL.Query().Get("watch") == "" && f.rng.IntN(100) < f.errors {
		return f.rng.IntN(2) == 0, false, errors.New("connection reset by peer")
	}
	return true, true, nil
}

func (f *faults) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, answered, err := f.verdict(r)
	f.mu.Lock()
	denied := f.deny && r.Method == http.MethodDelete
	f.mu.Unlock()
	if sent && denied {
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"nobody may delete now"}`
		return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
	}
	if !sent {
		return nil, err
	}
	resp, rerr := f.next.RoundTrip(r)
	if rerr == nil && !answered {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, rerr
}

func (f *faults) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// startThrough starts an agent whose requests meet the faults.
func (r *rig) startThrough(f *faults) {
	r.t.Helper()
	cfg := cluster.ForTest(r.t).RESTConfig()
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { f.next = next; return f })
	f.set(func() { f.left = -1 })
	r.startWith(cfg)
}

// startWith starts an agent, and another one when it ends by itself, as a kubelet does.
func (r *rig) startWith(cfg *rest.Config) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			a, err := agent.New(cfg, r.options(), slog.New(slog.DiscardHandler))
			if err == nil {
				err = a.Run(ctx)
			}
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// sequenceTimeout is how long one sequence may take to be well again: the agent's
// longest pause between two tries of one addon, and a busy machine.
const sequenceTimeout = 3 * time.Minute

// awaitDeath waits until the process is dead, or sends nothing more.
func (r *rig) awaitDeath(f *faults) {
	r.t.Helper()
	const quiet = 300 * time.Millisecond
	was, since := -1, time.Now()
	r.untilWithin(sequenceTimeout, "the death of the agent", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.left != was {
			was, since = f.left, time.Now()
		}
		return f.left == 0 || time.Since(since) > quiet
	}, func() string { return "" })
}

// sequenceWorld is what the sequences are about: at most three addons with at most
// four objects each, out of a few names, so that objects move between addons.
type sequenceWorld struct {
	rng     *rand.Rand
	version int
	addons  map[string]map[string]string // by addon, values by object
	foreign map[string]string            // UIDs of other people's objects
	widgets bool                         // the kind Widget is served
}

func (w *sequenceWorld) edit() {
	w.version++
	names := []string{"one", "two", "three"}
	if a := names[w.rng.IntN(3)]; w.addons[a] == nil || len(w.addons) > 1 && w.rng.IntN(3) == 0 {
		if w.addons[a] != nil {
			delete(w.addons, a)
		} else {
			w.addons[a] = map[string]string{}
		}
	}
	for a := range w.addons {
		for range 1 + w.rng.IntN(3) {
			o := fmt.Sprintf("%s/seq-%d", []string{"ConfigMap", "ServiceAccount", "Role", "Widget"}[w.rng.IntN(4)], w.rng.IntN(3))
			if strings.HasPrefix(o, "Widget") && !w.widgets {
				continue
			}
			for other := range w.addons {
				delete(w.addons[other], o) // it moves
			}
			if w.rng.IntN(3) > 0 {
				w.addons[a][o] = strconv.Itoa(w.version)
			}
		}
	}
	for a := range w.addons { // an addon has one object at least
		w.addons[a]["ConfigMap/own-"+a] = strconv.Itoa(w.version)
	}
}

// bundle renders what is wanted now; every addon has a new version.
func (w *sequenceWorld) bundle(t *testing.T, name string) map[string][]byte {
	t.Helper()
	addons := map[string]addon{}
	for a, objects := range w.addons {
		manifests := map[string]string{}
		for o, value := range objects {
			kind, on, _ := strings.Cut(o, "/")
			manifests[strings.ToLower(kind)+"-"+on+".yaml"] = fmt.Sprintf(map[string]string{
				"ConfigMap":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {value: \"%s\"}\n",
				"ServiceAccount": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: default, annotations: {value: \"%s\"}}\n",
				"Role":           "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: %s, namespace: default, annotations: {value: \"%s\"}}\nrules: []\n",
				"Widget":         "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: %s, namespace: default, annotations: {value: \"%s\"}}\n",
			}[kind], on, value)
		}
		addons[a] = addon{fmt.Sprintf("0.1.%d", w.version), manifests}
	}
	return bundle(t, name, addons)
}

func widgetCRD() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "widgets.example.com"}, "spec": map[string]any{
			"group": "example.com", "scope": "Namespaced",
			"names": map[string]any{"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}
}

func widgetList() *unstructured.UnstructuredList {
	l := &unstructured.UnstructuredList{}
	l.SetAPIVersion("example.com/v1")
	l.SetKind("WidgetList")
	return l
}

// serveWidgets makes the kind, or takes it away as a person would.
func (w *sequenceWorld) serveWidgets(r *rig, served bool) {
	r.t.Helper()
	if w.widgets == served {
		return
	}
	w.widgets = served
	crd := widgetCRD()
	if served {
		if err := r.c.Create(r.t.Context(), crd); err != nil {
			r.t.Fatal(err)
		}
		probe := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "foreign", "namespace": "default"}}}
		r.until("the kind", func() bool { return r.c.Create(r.t.Context(), probe.DeepCopy()) == nil })
		return
	}
	if err := r.c.Delete(r.t.Context(), crd); err != nil {
		r.t.Fatal(err)
	}
	r.until("the end of the kind", func() bool {
		return apierrors.IsNotFound(r.c.Get(r.t.Context(), client.ObjectKeyFromObject(crd), widgetCRD())) && r.c.List(r.t.Context(), widgetList()) != nil
	})
	for _, objects := range w.addons {
		maps.DeleteFunc(objects, func(o, _ string) bool { return strings.HasPrefix(o, "Widget/") })
	}
}

// makeForeign makes other people's objects: two that only look like the addons',
// with their labels, but in nobody's inventory.
func (w *sequenceWorld) makeForeign(r *rig) {
	r.t.Helper()
	for i, labels := range []map[string]string{nil, {v1alpha1.LabelAddon: "one", v1alpha1.LabelAddonMode: "Reconcile"}, {v1alpha1.LabelAddon: "gone"}} {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("foreign-%d", i), Labels: labels}, Data: map[string]string{"value": "mine"}}
		if err := r.c.Create(r.t.Context(), cm); err != nil {
			r.t.Fatal(err)
		}
		w.foreign[cm.Name] = string(cm.UID)
	}
}

// live is what the API server has with the label of an addon, as sequenceWorld
// writes it, less the foreign objects, which must be what they were.
func (w *sequenceWorld) live(t *testing.T, c client.Client) (map[string]map[string]string, error) {
	t.Helper()
	out := map[string]map[string]string{}
	foreign := 0
	kinds := map[string]client.ObjectList{"ConfigMap": &corev1.ConfigMapList{}, "ServiceAccount": &corev1.ServiceAccountList{}, "Role": &rbacv1.RoleList{}, "Widget": widgetList()}
	if !w.widgets {
		delete(kinds, "Widget")
	}
	add := func(kind string, o client.Object, value string) {
		if uid, ok := w.foreign[o.GetName()]; ok && kind == "ConfigMap" {
			if string(o.GetUID()) == uid && value == "mine" {
				foreign++
			}
			return
		}
		a := o.GetLabels()[v1alpha1.LabelAddon]
		if a == "" {
			return
		}
		if out[a] == nil {
			out[a] = map[string]string{}
		}
		out[a][kind+"/"+o.GetName()] = value
	}
	for kind, list := range kinds {
		if err := c.List(t.Context(), list, client.InNamespace("default")); err != nil {
			return nil, err
		}
		switch l := list.(type) {
		case *corev1.ConfigMapList:
			for _, o := range l.Items {
				add(kind, &o, o.Data["value"])
			}
		case *corev1.ServiceAccountList:
			for _, o := range l.Items {
				add(kind, &o, o.Annotations["value"])
			}
		case *rbacv1.RoleList:
			for _, o := range l.Items {
				add(kind, &o, o.Annotations["value"])
			}
		case *unstructured.UnstructuredList:
			for _, o := range l.Items {
				add(kind, &o, o.GetAnnotations()["value"])
			}
		}
	}
	if foreign != len(w.foreign) {
		return nil, fmt.Errorf("%d of %d foreign objects are as they were", foreign, len(w.foreign))
	}
	return out, nil
}

// TestRandomSequences pushes random bundles, several at once, through API errors
// (half of them after the server did what was asked), forbidden deletions, kinds that go away
// and processes that are killed in the middle of any request. When all is well
// again, exactly the last bundle's objects are there, and nobody else's were touched.
func TestRandomSequences(t *testing.T) {
	n := sequences
	if text := os.Getenv("HOLDFAST_SEQUENCES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("HOLDFAST_SEQUENCES: %v", err)
		}
	}
	seed := uint64(1)
	if text := os.Getenv("HOLDFAST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("HOLDFAST_SEED: %v", err)
		}
	}
	r := newRig(t, "c8")
	r.stop()
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &sequenceWorld{rng: rng, addons: map[string]map[string]string{}, foreign: map[string]string{}}
	f := &faults{rng: rand.New(rand.NewPCG(seed, 2)), left: -1}
	t.Cleanup(func() { // the next test has the same API server
		ctx := context.WithoutCancel(t.Context())
		_ = r.c.Delete(ctx, widgetCRD())
		_ = r.c.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace("default"))
		_ = r.c.DeleteAllOf(ctx, &rbacv1.Role{}, client.InNamespace("default"))
		_ = r.c.DeleteAllOf(ctx, &corev1.ServiceAccount{}, client.InNamespace("default"), client.HasLabels{v1alpha1.LabelAddon})
	})
	w.makeForeign(r)
	w.serveWidgets(r, true)
	r.startThrough(f)
	kinds := map[string]int{}
	for i := range n {
		var did []string
		fault := func(what string) { did = append(did, what); kinds[what]++ }
		if rng.IntN(25) == 0 {
			fault("kind gone or back")
			w.serveWidgets(r, !w.widgets)
		}
		if rng.IntN(3) == 0 {
			fault("API errors")
			f.set(func() { f.errors = 1 + rng.IntN(30) })
		}
		if rng.IntN(3) == 0 {
			fault("forbidden deletions")
			f.set(func() { f.deny = true })
		}
		for range 1 + rng.IntN(3) {
			w.edit()
			next := w.bundle(t, r.name)
			if rng.IntN(2) == 0 {
				fault("killed")
				f.set(func() { f.left = 1 + rng.IntN(60) })
				r.hub.want(next)
				r.awaitDeath(f)
				r.stop()
				r.startThrough(f)
				continue
			}
			r.hub.want(next)
		}
		f.set(func() { f.errors, f.deny = 0, false })
		if rng.IntN(8) > 0 {
			w.edit() // what failed has a reason to be tried at once
		}
		last := w.bundle(t, r.name)
		r.hub.want(last)
		var got map[string]map[string]string
		var err error
		r.untilWithin(sequenceTimeout, fmt.Sprintf("sequence %d of seed %d (%s): wanted %v", i, seed, strings.Join(did, ", "), w.addons), func() bool {
			if !r.settled(last) {
				return false
			}
			got, err = w.live(t, r.c)
			return err == nil && maps.EqualFunc(got, w.addons, maps.Equal)
		}, func() string { return fmt.Sprintf("there is %v; %v", got, err) })
		r.checkInventories(w)
		if (i+1)%100 == 0 {
			t.Logf("%d sequences, with %v", i+1, kinds)
		}
	}
	t.Logf("%d sequences of seed %d, with %v", n, seed, kinds)
}

// checkInventories compares the inventories with what is wanted: what is missing in
// one would never be pruned.
func (r *rig) checkInventories(w *sequenceWorld) {
	r.t.Helper()
	ok := func() (string, bool) {
		var list v1alpha1.AddonStatusList
		if err := r.c.List(r.t.Context(), &list); err != nil {
			return err.Error(), false
		}
		for _, st := range list.Items {
			if len(st.Status.Inventory) != len(w.addons[st.Name]) {
				return fmt.Sprintf("%s has the inventory %v, wanted are %v", st.Name, st.Status.Inventory, slices.Sorted(maps.Keys(w.addons[st.Name]))), false
			}
		}
		return fmt.Sprintf("there are %d statuses, %d addons", len(list.Items), len(w.addons)), len(list.Items) == len(w.addons)
	}
	var said string
	r.untilWithin(sequenceTimeout, "the inventories", func() (done bool) { said, done = ok(); return done }, func() string { return said })
}
