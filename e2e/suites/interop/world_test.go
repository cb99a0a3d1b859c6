//go:build interop

// Package interop_test brings the branch that a real hub publishes into a cluster by
// Flux's and by Argo CD's own programs, as docs/interop.md says, and compares what is
// there then with what Holdfast's agent makes of the same commits. "make interop" builds
// the programs and runs it.
package interop_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/fleet"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/hostexec"
)

const (
	top    = "../../.." // of the repository
	binDir = top + "/bin"
	site   = "canary" // the cluster; other clusters of the fleet get nothing
	// patience is for one push to be healthy: Flux asks once a minute, and everything
	// shares two processors.
	patience = 6 * time.Minute
)

// fruits is an addon that the commits change: what leaves the branch, and what is in
// no addon of the catalogue.
const fruits = `apiVersion: v1
kind: Namespace
metadata: {name: fruits}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: apple, namespace: fruits}
data: {colour: red, "yes": "yes", octal: "0o17", lines: "one\ntwo\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: own, namespace: fruits, labels: {addonmanager.kubernetes.io/mode: EnsureExists}}
data: {colour: any}
`

const pear = `---
apiVersion: v1
kind: ConfigMap
metadata: {name: pear, namespace: fruits}
data: {colour: green}
`

// pearID is that object, as objects names it.
const pearID = "ConfigMap fruits/pear"

// ownID is the object that the agent makes and then leaves be.
const ownID = "ConfigMap fruits/own"

const orchard = `---
apiVersion: v1
kind: Namespace
metadata: {name: orchard}
`

// applier is who brings the branch into the cluster.
type applier struct {
	join []string // arguments of "holdfast join"
	// start is called when the agent has its certificate for the hub.
	start func(w *world)
	// applied fails the test unless the applier says that it has applied a commit of
	// the branch as a whole. gone are objects that left the branch with it.
	applied func(w *world, head string, gone ...string)
	// marks are the labels and annotations that it puts on every object.
	marks []string
}

// world is one cluster with a simulated node, and the fleet's git side.
type world struct {
	t       *testing.T
	dir     string
	cluster *cluster.Cluster
	client  client.Client
	fleet   *fleet.Fleet
}

// result is what was in the cluster after the first and the second commit.
type result struct{ first, second map[string]map[string]any }

// run pushes the commits and tells what each led to. The second takes ConfigMap pear
// out of the branch, and changes apple.
func run(t *testing.T, a applier) (r result, w *world) {
	t.Helper()
	w = newWorld(t)
	if err := w.fleet.Join(t.Context(), w.client, site, a.join...); err != nil {
		t.Fatal(err)
	}
	w.startNode()
	wait.For(t, patience, "the agent's certificate for the hub", func() bool {
		var s corev1.Secret
		return w.client.Get(t.Context(), client.ObjectKey{Namespace: "holdfast-system", Name: "holdfast-agent-identity"}, &s) == nil && len(s.Data["tls.crt"]) > 0
	})
	a.start(w)

	if err := w.fleet.Init(t.Context(), render.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	w.edit("fleet.yaml", "soak: 10m}", "soak: 1s, timeout: 5m}")
	w.write("addons/fruits/addon.yaml", "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: fruits\nversion: 0.1.0\nsummary: what the commits change\norder: 50\nhealth: {timeout: 1m}\nupgradeNotes: none\n")
	w.write("salt/states/fruits/init.sls", "/etc/kubernetes/addons/fruits/all.yaml:\n  file.managed:\n  - source: salt://fruits/files/all.yaml\n")
	w.write("salt/states/fruits/files/all.yaml", fruits+pear+orchard)
	w.edit("salt/states/top.sls", "    - remediation-controller\n", "    - remediation-controller\n    - fruits\n")
	w.push("the fleet", a)
	r.first = w.objects(a.marks)

	w.edit("addons/fruits/addon.yaml", "0.1.0", "0.2.0")
	w.edit("salt/states/fruits/files/all.yaml", pear, "")
	w.edit("salt/states/fruits/files/all.yaml", "red", "yellow")
	w.push("no pear", a, pearID)
	r.second = w.objects(a.marks)
	return r, w
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	// Pods of controllers run as another user and must reach their files.
	if err := errors.Join(os.Chmod(filepath.Dir(w.dir), 0o711), os.Chmod(w.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	w.cluster = cluster.FreshWith(t, cluster.Options{Name: site})
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.client, err = client.New(w.cluster.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	w.fleet, err = fleet.Start(t.Context(), fleet.Options{BinDir: abs(t, binDir), Dir: w.dir, Log: w.log("hub"), Kubeconfig: w.cluster.Kubeconfig()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.fleet.Stop)
	return w
}

// nodes are those that this run has started.
var nodes atomic.Int32

// startNode starts a node with two simulated disks, which runs the pods.
func (w *world) startNode() {
	w.t.Helper()
	kubeconfig, err := w.cluster.NodeKubeconfig("n1")
	if err != nil {
		w.t.Fatal(err)
	}
	net := 16 + (os.Getpid()*3+int(nodes.Add(1)))%192 // loopback addresses of its own, for each node of each run
	p, _, err := fleet.StartProgram(w.t.Context(), time.Minute, hostexec.Command{Path: filepath.Join(abs(w.t, binDir), "holdfast-node"), Stderr: w.log("node"), Args: []string{
		"--name", "n1", "--kubeconfig", kubeconfig, "--root", filepath.Join(w.dir, "n1"), "--address", fmt.Sprintf("127.%d.0.10", net),
		"--pod-cidr", fmt.Sprintf("127.%d.128.0/24", net), "--bin-dir", abs(w.t, binDir), "--labels", "topology.kubernetes.io/zone=az1",
		"--disks", "2", "--flavor", "database", "--simulate"}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.Stop(15 * time.Second) })
}

// program starts a program that runs until the end of the test.
func (w *world) program(name string, c hostexec.Command) {
	w.t.Helper()
	if c.Stderr == nil {
		c.Stderr = w.log(name)
	}
	c.Stdout, c.Env = c.Stderr, append(append(os.Environ(), "KUBECONFIG="+w.cluster.Kubeconfig(), "HOME="+w.dir), c.Env...)
	p, err := hostexec.Start(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { p.Stop(15 * time.Second) })
}

// log is a file for what a program says; a failed test prints its end.
func (w *world) log(name string) *os.File {
	w.t.Helper()
	path := filepath.Join(w.dir, name+".log")
	f, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		said, err := os.ReadFile(path)
		if err := errors.Join(err, f.Close()); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("--- the end of %s\n%s", filepath.Base(path), said[max(0, len(said)-4000):])
		}
	})
	return f
}

// write writes a new file of the fleet.
func (w *world) write(path, text string) {
	w.t.Helper()
	if err := w.fleet.AddFile(path, text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) edit(path, old, replacement string) {
	w.t.Helper()
	if err := w.fleet.Edit(path, old, replacement); err != nil {
		w.t.Fatal(err)
	}
}

// push pushes what was edited, and waits until the agent tells the hub that the
// cluster has all of it and is healthy. The applier must say so, too.
func (w *world) push(message string, a applier, gone ...string) {
	w.t.Helper()
	commit, err := w.fleet.Commit(w.t.Context(), message)
	if err != nil {
		w.t.Fatal(err)
	}
	start, err := w.fleet.Push(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := w.fleet.AwaitRollout(w.t.Context(), commit, patience, site)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("%q: healthy %s after the push", message, got[site].Healthy.Sub(start).Round(time.Second/10))
	a.applied(w, w.git("rev-parse", "rendered/"+site), gone...)
}

// git runs git in the fleet's repository.
func (w *world) git(args ...string) string {
	w.t.Helper()
	out, err := hostexec.Run(w.t.Context(), time.Minute, hostexec.Command{Path: "git", Dir: w.fleet.Repo, Args: args})
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// branchURL is where the hub serves the cluster its branch.
func (w *world) branchURL() string { return w.fleet.HubURL + "/v1/clusters/" + site + "/git" }

func abs(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return full
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

// compare fails the test where an applier's objects differ from those that Holdfast's
// own agent makes of the same commits. Of mode EnsureExists the agent makes what is not
// there and leaves it be; others hold those objects to the branch, as docs/interop.md says.
func compare(t *testing.T, got result) {
	t.Helper()
	want := byAgent(t)
	for commit, r := range map[string]struct{ want, got map[string]map[string]any }{
		"first": {want.first, got.first}, "second": {want.second, got.second},
	} {
		if diff := cmp.Diff(r.want, r.got, cmpopts.EquateEmpty(), cmpopts.IgnoreMapEntries(isKept)); diff != "" {
			t.Errorf("other objects of the %s commit (-agent +this):\n%.8000s", commit, diff)
		}
	}
	if _, there := got.first[pearID]; !there || len(got.first) < 30 {
		t.Errorf("the first commit led to %d objects; pear is one of them: %t", len(got.first), there)
	}
	if agent, this := versionOf(want.second[ownID]), versionOf(got.second[ownID]); agent != "0.1.0" || this != "0.2.0" {
		t.Errorf("%s has version %q of the agent and %q of this: want 0.1.0 and 0.2.0", ownID, agent, this)
	}
	t.Logf("%d objects, then %d: each as the agent has it", len(got.first), len(got.second))
}

// isKept tells of an entry of objects whether its mode is EnsureExists.
func isKept(_ string, o map[string]any) bool {
	return labelsOf(o)[v1alpha1.LabelAddonMode] == "EnsureExists"
}

func versionOf(o map[string]any) string { return labelsOf(o)[v1alpha1.LabelAddonVersion] }

func labelsOf(o map[string]any) map[string]string {
	metadata, _ := o["metadata"].(map[string]any)
	labels, _ := metadata["labels"].(map[string]string)
	return labels
}

// byAgent is what Holdfast's own agent makes of the commits.
func byAgent(t *testing.T) result {
	t.Helper()
	ours.once.Do(func() {
		ours.result, _ = run(t, applier{start: func(*world) {}, applied: func(w *world, _ string, gone ...string) {
			for _, o := range gone {
				wait.For(t, patience, "the pruning of "+o, func() bool { return !w.has(o) })
			}
		}})
	})
	if ours.first == nil {
		t.Fatal("the agent did not apply the branch; an earlier test says why")
	}
	return ours.result
}

var ours struct {
	once sync.Once
	result
}
