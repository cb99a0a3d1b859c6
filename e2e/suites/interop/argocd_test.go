//go:build interop

package interop_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/interop"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostexec"
)

// TestArgoCD: the engine of Argo CD, by the agent of its own repository, applies a
// checkout of the branch. It orders, prunes and compares as Argo CD's controller does;
// what Argo CD has around it, the reading of git among that, is not there
// (gitops/render/interop_test.go reads the branch by its rules). Applied is the client's
// way: this agent has no flag for the ServerSideApply of docs/interop.md.
func TestArgoCD(t *testing.T) {
	checkout := filepath.Join(t.TempDir(), "checkout")
	argo := applier{
		join:  []string{"--apply=other"},
		marks: []string{"gitops-agent.argoproj.io/gc-mark", "kubectl.kubernetes.io/last-applied-configuration"},
		start: func(w *world) { startEngine(w, checkout) },
		applied: func(w *world, head string, gone ...string) {
			if at := w.git("-C", checkout, "rev-parse", "HEAD"); at != head {
				t.Errorf("the checkout is at %s, published is %s", at, head)
			}
			for _, o := range gone {
				wait.For(t, patience, "the pruning of "+o, func() bool { return !w.has(o) })
			}
		},
	}
	got, w := run(t, argo)
	compare(t, got)

	// Why docs/interop.md has prune off: a namespace goes with the rest.
	w.edit("addons/fruits/addon.yaml", "0.2.0", "0.3.0")
	w.edit("salt/states/fruits/files/all.yaml", orchard, "")
	w.push("no orchard", argo)
	wait.For(t, patience, "the deletion of the namespace", func() bool {
		var ns corev1.Namespace
		err := w.client.Get(t.Context(), client.ObjectKey{Name: "orchard"}, &ns)
		return err != nil || ns.DeletionTimestamp != nil
	})
	said, err := os.ReadFile(filepath.Join(w.dir, "gitops-agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(said)) {
		if strings.Contains(line, "Failed to") && !strings.Contains(line, "no such file or directory") { // nothing is published at first
			t.Errorf("the engine said: %s", line)
		}
	}
}

// startEngine keeps a checkout of the branch, and starts the engine on its folders, so
// that it does not read bundle.yaml.
func startEngine(w *world, checkout string) {
	w.t.Helper()
	interop.Module(w.t, top, "argocd", "github.com/argoproj/gitops-engine")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- follow(ctx, w.fleet.Repo, checkout) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	address := freeAddress(w.t)
	args := []string{checkout, "--kubeconfig", w.cluster.Kubeconfig(), "--default-namespace", "default", "--resync-seconds", "5",
		"--port", address[strings.LastIndexByte(address, ':')+1:]}
	for _, folder := range []string{"crds", "local-volume-provisioner", "disk-monitor", "remediation-controller", "fruits"} {
		args = append(args, "--path", folder)
	}
	w.program("gitops-agent", hostexec.Command{Path: interop.Tool(w.t, "agent"), Args: args})
}

// follow has what is published at checkout, until ctx ends. It is a link that is
// exchanged: the engine never reads half a commit.
func follow(ctx context.Context, repo, checkout string) error {
	for at := ""; ; {
		// An error is that nothing is published yet; when it is not, the test waits in vain.
		out, err := hostexec.Run(ctx, time.Minute, hostexec.Command{Path: "git", Dir: repo, Args: []string{"rev-parse", "-q", "--verify", "rendered/" + site}})
		if head := strings.TrimSpace(string(out)); err == nil && head != at {
			at = head
			tree := checkout + "-" + head
			if _, err := hostexec.Run(ctx, time.Minute, hostexec.Command{Path: "git", Dir: repo, Args: []string{"clone", "-q", "--single-branch", "--branch", "rendered/" + site, ".", tree}}); err != nil {
				return err
			}
			if err := os.Symlink(tree, tree+".link"); err != nil {
				return err
			}
			if err := os.Rename(tree+".link", checkout); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
