//go:build interop

package interop_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/interop"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostexec"
)

// TestFlux: source-controller fetches the branch from the hub with the certificate of
// the agent beside it, and kustomize-controller applies it and waits until all of it is
// healthy. The cluster is then as the agent would have made it, and what leaves the
// branch goes, but for what takes data with it.
func TestFlux(t *testing.T) {
	flux := applier{
		join:  []string{"--apply=other"},
		marks: []string{"kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace"},
		start: startFlux,
		applied: func(w *world, head string, gone ...string) {
			ks := w.awaitReady(documented(t)["Kustomization"], "rendered/"+site+"@sha1:"+head)
			t.Logf("Kustomization: %s", condition(ks, "Ready")["message"])
			for _, o := range gone {
				if w.has(o) {
					t.Errorf("%s has left the branch and is still there", o)
				}
			}
		},
	}
	got, w := run(t, flux)
	compare(t, got)

	w.edit("addons/fruits/addon.yaml", "0.2.0", "0.3.0")
	w.edit("salt/states/fruits/files/all.yaml", orchard, "")
	w.push("no orchard", flux)
	var ns corev1.Namespace
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: "orchard"}, &ns); err != nil || ns.DeletionTimestamp != nil {
		t.Errorf("a namespace that left the branch: %v, deleted at %v", err, ns.DeletionTimestamp)
	}
	w.noWarnings()
}

// startFlux starts the two controllers as Flux's own manifests have them, and applies
// what docs/interop.md shows, with what differs for a branch that the hub serves.
func startFlux(w *world) {
	w.t.Helper()
	source, kustomize := interop.Module(w.t, top, "flux", "github.com/fluxcd/source-controller"), interop.Module(w.t, top, "flux", "github.com/fluxcd/kustomize-controller")
	for _, pattern := range []string{source + "/config/crd/bases/*.yaml", kustomize + "/config/crd/bases/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			w.t.Fatalf("%s: %d files (%v)", pattern, len(files), err)
		}
		for _, f := range files {
			w.applyFile(f)
		}
	}
	w.namespace("flux-system")
	docs := documented(w.t)
	repo, ks := docs["GitRepository"], docs["Kustomization"]
	set(w.t, repo, "holdfast-system", "metadata", "namespace")
	set(w.t, repo, w.branchURL(), "spec", "url")
	set(w.t, repo, "rendered/"+site, "spec", "ref", "branch")
	set(w.t, repo, "holdfast-agent-identity", "spec", "secretRef", "name")
	set(w.t, ks, "holdfast-system", "spec", "sourceRef", "namespace")
	w.awaitKind(repo)
	w.awaitKind(ks)
	w.apply(repo, ks)

	storage, artifacts := filepath.Join(w.dir, "artifacts"), freeAddress(w.t)
	if err := os.Mkdir(storage, 0o755); err != nil {
		w.t.Fatal(err)
	}
	common := []string{"--watch-all-namespaces=true", "--log-level=info", "--metrics-addr=0", "--health-addr=0"}
	env := []string{"RUNTIME_NAMESPACE=flux-system", "TUF_ROOT=" + w.dir}
	w.program("source-controller", hostexec.Command{Path: interop.Tool(w.t, "source-controller"), Env: env,
		Args: append([]string{"--storage-path=" + storage, "--storage-addr=" + artifacts, "--storage-adv-addr=" + artifacts}, common...)})
	w.program("kustomize-controller", hostexec.Command{Path: interop.Tool(w.t, "kustomize-controller"), Env: env, Args: common})
}

// awaitReady waits until the Kustomization is ready at a revision.
func (w *world) awaitReady(ks *unstructured.Unstructured, revision string) (o *unstructured.Unstructured) {
	w.t.Helper()
	wait.For(w.t, patience, "Kustomization ready at "+revision, func() bool {
		o = w.get(ks)
		at, _, err := unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
		ready := condition(o, "Ready")
		return err == nil && at == revision && ready["status"] == "True" && ready["observedGeneration"] == o.GetGeneration()
	})
	return o
}

// condition is one of an object's conditions; nil when it has none of that type.
func condition(o *unstructured.Unstructured, kind string) map[string]any {
	all, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range all {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			return c
		}
	}
	return nil
}

// noWarnings fails the test if Flux warned of anything but that its source was not
// there yet.
func (w *world) noWarnings() {
	w.t.Helper()
	var events corev1.EventList
	if err := w.client.List(w.t.Context(), &events); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Type == corev1.EventTypeWarning && strings.HasPrefix(e.Source.Component, "kustomize-controller") {
			w.t.Errorf("%s %s: %s", e.InvolvedObject.Kind, e.Reason, e.Message)
		}
	}
}

func (w *world) namespace(name string) {
	w.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	w.apply(o)
}

// awaitKind waits until the API server serves a kind that was defined just now.
func (w *world) awaitKind(like *unstructured.Unstructured) {
	w.t.Helper()
	wait.For(w.t, time.Minute, "the kind "+like.GetKind(), func() bool {
		l := &unstructured.UnstructuredList{}
		l.SetGroupVersionKind(like.GroupVersionKind())
		return w.client.List(w.t.Context(), l) == nil
	})
}
