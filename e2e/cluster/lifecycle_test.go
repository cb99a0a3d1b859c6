package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/internal/hostexec"
)

var build = sync.OnceValues(func() (string, error) { return cluster.Build(context.Background()) })

func binary(t *testing.T) string {
	t.Helper()
	b, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// output collects what a program writes while it is read.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func TestSideBySide(t *testing.T) {
	parent := t.TempDir()
	var wg sync.WaitGroup
	both := make([]*cluster.Cluster, 2)
	for i := range both {
		wg.Go(func() {
			c, err := cluster.Start(t.Context(), cluster.Options{Name: fmt.Sprintf("side-%d", i), Parent: parent, Binary: binary(t)})
			if err != nil {
				t.Error(err)
				return
			}
			both[i] = c
		})
	}
	wg.Wait()
	for _, c := range both {
		if c == nil {
			t.FailNow()
		}
		defer func() { _ = c.Stop(context.Background()) }()
	}
	if both[0].Server() == both[1].Server() || both[0].Dir() == both[1].Dir() {
		t.Errorf("both clusters have server %s and directory %s", both[0].Server(), both[0].Dir())
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "only-here"}}
	if _, err := admin(t, both[0]).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin(t, both[1]).CoreV1().Namespaces().Get(t.Context(), "only-here", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other cluster has the namespace too: %v", err)
	}
	// One's credentials are worth nothing to the other.
	config := both[0].RESTConfig()
	config.Host = both[1].Server()
	if _, err := clientset(t, config).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("one cluster's administrator is the other's too")
	}
	for _, c := range both {
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if p := processes(t, c.PID()); len(p) > 0 {
			t.Errorf("processes %d are left of %s", p, c.Name())
		}
	}
	if left := entries(t, parent); len(left) > 0 {
		t.Errorf("files are left: %s", left)
	}
}

func TestCommandLine(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			parent, out, errs := t.TempDir(), &output{}, &output{}
			kubeconfig, readyFile := filepath.Join(t.TempDir(), "kubeconfig"), filepath.Join(t.TempDir(), "ready")
			p, err := hostexec.Start(hostexec.Command{
				Path: binary(t), Stdout: out, Stderr: errs,
				Args: []string{"--name=cli", "--dir=" + parent, "--kubeconfig=" + kubeconfig, "--ready-file=" + readyFile},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop(0)
			var r cluster.Ready
			eventually(t, "ready file", func(context.Context) error {
				b, err := os.ReadFile(readyFile)
				if err != nil {
					return err
				}
				return json.Unmarshal(b, &r)
			})
			if _, err := withKubeconfig(t, kubeconfig).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("use the kubeconfig copy: %v", err)
			}
			var printed cluster.Ready
			eventually(t, "ready line", func(context.Context) error { return json.Unmarshal([]byte(out.String()), &printed) })
			if d := cmp.Diff(r, printed); d != "" {
				t.Errorf("ready file and ready line differ: %s", d)
			}
			if err := p.Signal(sig); err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.Done():
			case <-time.After(10 * time.Second):
				t.Fatalf("still there 10 s after %s", sig)
			}
			if err := p.Err(); err != nil {
				t.Errorf("end after %s: %v", sig, err)
			}
			if errs.String() != "" {
				t.Errorf("stderr is not quiet: %s", errs)
			}
			if left := processes(t, p.PID()); len(left) > 0 {
				t.Errorf("processes %d are left", left)
			}
			for _, dir := range []string{parent, filepath.Dir(kubeconfig), filepath.Dir(readyFile)} {
				if left := entries(t, dir); len(left) > 0 {
					t.Errorf("files are left: %s", left)
				}
			}
		})
	}
}

// "After kill -9 of the parent: no process survives, and the next start cleans
// up left-over directories … never remove a dir without our marker file in it."
func TestKilledParent(t *testing.T) {
	parent, out := t.TempDir(), &output{}
	foreign := filepath.Join(parent, "orphan-12345")
	if err := os.MkdirAll(filepath.Join(foreign, "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := hostexec.Start(hostexec.Command{
		Path: self, Stdout: out,
		Env: append(os.Environ(), helperEnv+"="+parent, "HOLDFAST_CLUSTER_BINARY="+binary(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(0)
	var s started
	eventually(t, "helper's cluster", func(context.Context) error {
		select {
		case <-p.Done():
			t.Fatalf("helper ended: %v", p.Err())
		default:
		}
		return json.Unmarshal([]byte(out.String()), &s)
	})
	if len(processes(t, s.PID)) == 0 {
		t.Fatal("the cluster's process is not seen, so its end would not be either")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end of the orphan", func(context.Context) error {
		if left := processes(t, s.PID); len(left) > 0 {
			return fmt.Errorf("processes %d are left", left)
		}
		return nil
	})
	if _, err := os.Stat(s.Dir); err != nil {
		t.Fatalf("the directory is not left over, so this test shows nothing: %v", err)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{Name: "next", Parent: parent, Binary: binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Stop(context.Background()) }()
	if d := cmp.Diff([]string{filepath.Base(c.Dir()), "orphan-12345"}, entries(t, parent)); d != "" {
		t.Errorf("directories after the next start (-want +got):\n%s", d)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"etcd"}, entries(t, foreign)); d != "" {
		t.Errorf("the foreign directory was changed (-want +got):\n%s", d)
	}
}

func TestCrash(t *testing.T) {
	parent := t.TempDir()
	c, err := cluster.Start(t.Context(), cluster.Options{Parent: parent, Binary: binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "ended already") {
		t.Errorf("stop of a crashed cluster: %v, want an error that says so", err)
	}
	if left := entries(t, parent); len(left) > 0 {
		t.Errorf("files are left: %s", left)
	}
}

func TestCancelledStart(t *testing.T) {
	parent, bin := t.TempDir(), binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{Parent: parent, Binary: bin})
	if err == nil {
		_ = c.Stop(context.Background())
		t.Fatal("a start within half a second was not expected")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v does not say that the context ended", err)
	}
	if left := entries(t, parent); len(left) > 0 {
		t.Errorf("files are left: %s", left)
	}
}

func TestKeep(t *testing.T) {
	// A path that no socket's address could hold (108 bytes, unix(7)).
	parent, logs := filepath.Join(t.TempDir(), strings.Repeat("long", 50)), t.TempDir()
	c, err := cluster.Start(t.Context(), cluster.Options{Name: "kept", Parent: parent, LogDir: logs, Keep: true, Binary: binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir(), "etcd", "data")); err != nil {
		t.Errorf("data were not kept: %v", err)
	}
	if d := cmp.Diff([]string{"kept-etcd.log", "kept.log"}, entries(t, logs)); d != "" {
		t.Errorf("logs (-want +got):\n%s", d)
	}
}

func TestStartErrors(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(kubeconfig, []byte("apiVersion: v1\nkind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		reason string
		args   []string
		binary string
		want   []string
	}{
		"NoProgram":      {reason: "a wrong path is named", binary: "/nonexistent/holdfast-cluster", want: []string{"/nonexistent/holdfast-cluster", "no such file"}},
		"OtherProgram":   {reason: "a program that ends at once is not waited for", binary: "/bin/true", want: []string{"ended before it was ready"}},
		"Name":           {reason: "the name becomes part of paths", args: []string{"--name=../x"}, want: []string{`--name "../x"`}},
		"Address":        {reason: "0.0.0.0 is no address to connect to", args: []string{"--bind-address=0.0.0.0"}, want: []string{"--bind-address", "choose one"}},
		"Argument":       {reason: "a forgotten dash must not go unseen", args: []string{"keep"}, want: []string{`unexpected argument "keep"`}},
		"APIServer":      {reason: "a component's own flags are checked by it", args: []string{"--apiserver-arg=--no-such-flag"}, want: []string{"kube-apiserver", "no-such-flag"}},
		"Controller":     {reason: "a failure late in the start is told as well", args: []string{"--controller-manager-arg=--controllers=nonesuch"}, want: []string{"kube-controller-manager", "nonesuch"}},
		"Scheduler":      {reason: "a file that is not there is named", args: []string{"--scheduler-arg=--config=/nonexistent/scheduler.yaml"}, want: []string{"kube-scheduler", "/nonexistent/scheduler.yaml"}},
		"Timeout":        {reason: "a start that takes too long is given up, with the end of the log", args: []string{"--ready-timeout=500ms"}, want: []string{"start kube-apiserver", "not ready within 500ms", "level="}},
		"Kubeconfig":     {reason: "a user's own kubeconfig is never overwritten", args: []string{"--kubeconfig=" + kubeconfig}, want: []string{kubeconfig, "name another file"}},
		"UnusableParent": {reason: "the directory is named", args: []string{"--dir=/proc/x"}, want: []string{"/proc/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			if tc.binary == "" {
				tc.binary = binary(t)
			}
			c, err := cluster.Start(t.Context(), cluster.Options{Parent: parent, Binary: tc.binary, Args: tc.args})
			if err == nil {
				_ = c.Stop(context.Background())
				t.Fatalf("%s: the cluster started", tc.reason)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %q does not mention %q", tc.reason, err, want)
				}
			}
			if left := entries(t, parent); len(left) > 0 {
				t.Errorf("%s: files are left: %s", tc.reason, left)
			}
		})
	}
	if b, err := os.ReadFile(kubeconfig); err != nil || string(b) != "apiVersion: v1\nkind: Config\n" {
		t.Errorf("the user's kubeconfig is now %q, %v", b, err)
	}
}
