package agent_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/gitops/agent"
	"holdfast.dev/internal/hostexec"
)

// applyAs applies a bundle as Flux does: server-side, with a name of its own.
func (r *rig) applyAs(files map[string][]byte, owner client.FieldOwner) {
	r.t.Helper()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if path == "bundle.yaml" {
			continue
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(files[path], o); err != nil {
			r.t.Fatal(err)
		}
		if err := r.c.Apply(r.t.Context(), client.ApplyConfigurationFromUnstructured(o), owner, client.ForceOwnership); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestAnotherApplies: with Flux or Argo CD at work the agent applies and prunes
// nothing, and reports health for what they applied, at exactly that digest.
func TestAnotherApplies(t *testing.T) {
	r := newRig(t, "c10")
	r.stop()
	r.apply = agent.ApplyOther
	r.start()
	files := bundle(t, "c10", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("other-a", "1"), "b.yaml": configMap("other-b", "1")}}})
	r.hub.want(files)
	r.until("the wait", func() bool {
		a := r.hub.last().Addons
		return len(a) == 1 && strings.Contains(a[0].Message, "waits for whoever applies it: ConfigMap default/other-") && a[0].Health == "Progressing" && a[0].AppliedDigest == ""
	})
	if r.value("other-a") != "" {
		t.Fatal("the agent applied what another is to apply")
	}
	r.applyAs(files, "kustomize-controller")
	r.until("health of what the other applied", func() bool { return r.settled(files) })

	next := bundle(t, "c10", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": configMap("other-a", "2")}}})
	r.hub.want(next)
	r.until("the wait for the change", func() bool {
		a := r.hub.last().Addons
		return len(a) == 1 && strings.Contains(a[0].Message, "waits for") && a[0].AppliedDigest != a[0].DesiredDigest
	})
	r.applyAs(next, "kustomize-controller")
	r.until("health of the change", func() bool { return r.settled(next) })
	if r.value("other-b") != "1" {
		t.Error("the agent pruned what another applied")
	}
}

// kubeAddonManager runs one pass of the unmodified script over the directory.
func kubeAddonManager(t *testing.T, dir string) {
	t.Helper()
	out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "go", Args: []string{"list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"}, Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(strings.TrimSpace(string(out)), "cluster/addons/addon-manager/kube-addons.sh")
	kubectl, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "sh", Args: []string{"-c", "command -v kubectl"}, Env: os.Environ()})
	if err != nil {
		t.Fatal("kubectl is not there (kube-addon-manager is a script around it): ", err)
	}
	env := append(os.Environ(), "KUBECTL_BIN="+strings.TrimSpace(string(kubectl)), "KUBECTL_OPTS=--kubeconfig "+filepath.Join(cluster.ForTest(t).Dir(), "admin.kubeconfig"), "ADDON_PATH="+dir)
	text := `. "$0"; ensure_addons; reconcile_addons; true`
	pass, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "bash", Args: []string{"-c", text, script}, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", pass)
}

// TestKubeAddonManager is the legacy way with the real script: the agent writes
// files, the script applies them; what the script does not prune the agent does,
// and what the script would prune with its data stays in the directory.
func TestKubeAddonManager(t *testing.T) {
	r := newRig(t, "c11")
	r.stop()
	dir := filepath.Join(t.TempDir(), "kubernetes", "addons")
	r.apply, r.addons, r.grace = agent.ApplyFiles, dir, 2*time.Second
	foreign := filepath.Join(dir, "foreign.yaml")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte(strings.Replace(configMap("kam-foreign", "1"), "namespace: default", "namespace: default, labels: {addonmanager.kubernetes.io/mode: Reconcile}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	class := "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: kam-class}\nprovisioner: example.com/x\n"
	ns := "apiVersion: v1\nkind: Namespace\nmetadata: {name: kam-ns}\n"
	t.Cleanup(func() { // the next test has the same API server
		_ = r.c.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kam-ns"}})
	})
	first := bundle(t, "c11", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("kam-a", "1"), "b.yaml": configMap("kam-b", "1"), "class.yaml": class, "ns.yaml": ns}}})
	r.hub.want(first)
	written := func(n int) func() bool {
		return func() bool {
			names, _ := filepath.Glob(filepath.Join(dir, "holdfast-one", "*.yaml"))
			return len(names) == n
		}
	}
	r.until("the files", written(4))
	if r.value("kam-a") != "" {
		t.Fatal("the agent applied what kube-addon-manager is to apply")
	}
	kubeAddonManager(t, dir)
	r.until("health of what it applied", func() bool { return r.settled(first) })

	second := bundle(t, "c11", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": configMap("kam-a", "2")}}})
	r.hub.want(second)
	r.until("the files of the change, and the namespace's", written(2))
	kubeAddonManager(t, dir)
	r.until("health of the change", func() bool { return r.settled(second) || heldNamespace(r) })
	missing := func(o client.Object) bool { return r.c.Get(t.Context(), client.ObjectKeyFromObject(o), o) != nil }
	sc := &unstructured.Unstructured{}
	sc.SetGroupVersionKind(storagev1.SchemeGroupVersion.WithKind("StorageClass"))
	sc.SetName("kam-class")
	r.until("the pruning of a class, which kube-addon-manager leaves", func() bool { return missing(sc) })
	r.until("the pruning of the map", func() bool { return r.value("kam-b") == "" })
	kubeAddonManager(t, dir)
	var live corev1.Namespace
	if err := r.c.Get(t.Context(), client.ObjectKey{Name: "kam-ns"}, &live); err != nil || live.DeletionTimestamp != nil {
		t.Errorf("the namespace, which nobody approved the deletion of: %v, deleted at %v", err, live.DeletionTimestamp)
	}
	if r.value("kam-foreign") != "1" || r.value("kam-a") != "2" {
		t.Errorf("foreign %q, ours %q", r.value("kam-foreign"), r.value("kam-a"))
	}

	r.hub.want(bundleApproving(t, "c11", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": configMap("kam-a", "2")}}}, "- {cluster: c11, kind: Namespace, name: kam-ns, uid: "+string(live.UID)+", reason: empty}\n"))
	r.until("the approved deletion", func() bool {
		err := r.c.Get(t.Context(), client.ObjectKey{Name: "kam-ns"}, &live)
		return written(1)() && (err != nil || live.DeletionTimestamp != nil)
	})
}

func heldNamespace(r *rig) bool {
	a := r.hub.last().Addons
	return len(a) == 1 && strings.Contains(a[0].Message, "not pruned: Namespace/kam-ns") && a[0].AppliedDigest == a[0].DesiredDigest
}
