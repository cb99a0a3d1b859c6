// Package fleet runs a fleet's git side for tests and demonstrations: a bare
// repository, a clone that "people" edit, the hub on it, and holdfast's own
// command line. All of it is what production runs.
package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

const (
	// hubTimeout bounds the start of a hub, which may share its processors.
	hubTimeout     = time.Minute
	commandTimeout = time.Minute
	callTimeout    = 5 * time.Second
)

// Options of a fleet.
type Options struct {
	// BinDir holds Holdfast's programs.
	BinDir string
	// Dir, which is there, receives the repositories and the hub's data.
	Dir string
	// Log receives what the hub logs.
	Log *os.File
	// Kubeconfig is what the command line uses; it may be written later.
	Kubeconfig string
	// HubURL makes the URL under which agents reach the hub that listens at
	// host:port; nil for https://host:port.
	HubURL func(listen string) string
}

// Fleet is a running hub with its repositories. It must be made by Start. Its
// methods are for one caller at a time.
type Fleet struct {
	// HubURL is the hub's for callers on this host.
	HubURL string
	// Credential is the file with the credential of the command line.
	Credential string
	// Repo is the bare repository, Work the clone that people edit.
	Repo, Work string

	o        Options
	hub      *hostexec.Process
	agentURL string
}

// Start makes the repositories, of which Work is yet to be filled (Init), and
// starts the hub.
func Start(ctx context.Context, o Options) (_ *Fleet, err error) {
	f := &Fleet{o: o, Repo: filepath.Join(o.Dir, "fleet.git"), Work: filepath.Join(o.Dir, "fleet"), Credential: filepath.Join(o.Dir, "admin.pem")}
	if err := f.git(ctx, o.Dir, "init", "-q", "--bare", "--initial-branch=main", f.Repo); err != nil {
		return nil, err
	}
	var listen string
	f.hub, listen, err = StartProgram(ctx, hubTimeout, hostexec.Command{Path: f.bin("holdfast-hub"), Stderr: o.Log,
		Args: []string{"--repo", f.Repo, "--data-dir", f.hubDir(), "--listen", "127.0.0.1:0"}})
	if err != nil {
		return nil, fmt.Errorf("start hub: %w", err)
	}
	f.HubURL = "https://" + listen
	f.agentURL = f.HubURL
	if o.HubURL != nil {
		f.agentURL = o.HubURL(listen)
	}
	credential, err := f.Holdfast(ctx, "join", "--admin", "--data-dir", f.hubDir(), "--hub", f.HubURL)
	if err == nil {
		err = os.WriteFile(f.Credential, credential, 0o600)
	}
	if err != nil {
		f.Stop()
		return nil, err
	}
	return f, nil
}

// Stop ends the hub. The files are the caller's.
func (f *Fleet) Stop() { f.hub.Stop(5 * time.Second) }

func (f *Fleet) bin(name string) string { return filepath.Join(f.o.BinDir, name) }

func (f *Fleet) hubDir() string { return filepath.Join(f.o.Dir, "hub") }

// Holdfast runs the command line and returns what it prints.
func (f *Fleet) Holdfast(ctx context.Context, args ...string) ([]byte, error) {
	env := append(os.Environ(), "KUBECONFIG="+f.o.Kubeconfig, "HOLDFAST_HUB="+f.HubURL, "HOLDFAST_CREDENTIAL_FILE="+f.Credential)
	return hostexec.Run(ctx, commandTimeout, hostexec.Command{Path: f.bin("holdfast"), Args: args, Env: env})
}

// Join brings the agent into a cluster, as "holdfast join | kubectl apply
// --server-side" does; args are more arguments of join.
func (f *Fleet) Join(ctx context.Context, c client.Client, cluster string, args ...string) error {
	manifests, err := f.Holdfast(ctx, append([]string{"join", cluster, "--data-dir", f.hubDir(), "--hub", f.agentURL}, args...)...)
	if err != nil {
		return err
	}
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read agent manifests: %w", err)
		}
		data, err := o.MarshalJSON()
		if err != nil {
			return err
		}
		if err := c.Patch(ctx, o, client.RawPatch(types.ApplyPatchType, data), client.FieldOwner("holdfast-join"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
}

// Status asks the hub.
func (f *Fleet) Status(ctx context.Context) (protocol.Status, error) {
	var st protocol.Status
	cred, err := trust.LoadCredential(f.Credential)
	if err != nil {
		return st, err
	}
	cfg, err := cred.Config()
	if err != nil {
		return st, err
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.HubURL+"/v1/status", nil)
	if err != nil {
		return st, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return st, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("ask the hub: %s", resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// ClusterOf is a cluster's part of a status; empty when it has none.
func ClusterOf(st protocol.Status, name string) protocol.ClusterStatus {
	for _, c := range st.Clusters {
		if c.Name == name {
			return c
		}
	}
	return protocol.ClusterStatus{}
}

// Landed is when every addon of a cluster was applied and healthy at the wanted digest.
type Landed struct {
	Applied, Healthy time.Time
}

// rolledOut tells whether a cluster runs what commit wants of it.
func rolledOut(st protocol.Status, commit, name string) (Landed, bool) {
	c := ClusterOf(st, name)
	if st.Commit != commit || c.Report == nil || c.Published == "" || c.Published != c.Want || c.Report.Digest != c.Want || len(c.Report.Addons) == 0 {
		return Landed{}, false
	}
	var l Landed
	for _, a := range c.Report.Addons {
		if a.AppliedDigest != a.DesiredDigest || a.Health != "Healthy" {
			return Landed{}, false
		}
		l.Applied = later(l.Applied, a.AppliedAt)
		l.Healthy = later(l.Healthy, a.HealthySince)
	}
	return l, true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// AwaitRollout waits until the clusters run what commit wants, and returns when each had it.
func (f *Fleet) AwaitRollout(ctx context.Context, commit string, timeout time.Duration, clusters ...string) (map[string]Landed, error) {
	got := map[string]Landed{}
	_, err := wait.Until(ctx, timeout, "rollout of "+commit[:12], func() (bool, error) {
		st, err := f.Status(ctx)
		if err != nil {
			return false, err
		}
		for _, name := range clusters {
			l, ok := rolledOut(st, commit, name)
			if !ok {
				return false, nil
			}
			got[name] = l
		}
		return true, nil
	})
	if err != nil {
		out, _ := f.Holdfast(ctx, "status") // for the reader of the failure; it may fail too
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return got, nil
}

// StartProgram starts a program and waits for the first line that it prints,
// by which Holdfast's programs say that they are ready; it returns that line.
func StartProgram(ctx context.Context, timeout time.Duration, c hostexec.Command) (*hostexec.Process, string, error) {
	line := &firstLine{full: make(chan struct{})}
	c.Stdout = line
	p, err := hostexec.Start(c)
	if err != nil {
		return nil, "", err
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-line.full:
		return p, line.String(), nil
	case <-p.Done():
		if err := p.Err(); err != nil {
			return nil, "", err
		}
		return nil, "", errors.New("it ended before it was ready")
	case <-t.C:
		err = fmt.Errorf("not ready within %s", timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.Stop(time.Second)
	return nil, "", err
}

// firstLine keeps the first line that a program prints and tells when it is complete.
type firstLine struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	done bool
	full chan struct{}
}

func (l *firstLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.buf.Write(p)
		if l.done = bytes.IndexByte(l.buf.Bytes(), '\n') >= 0; l.done {
			close(l.full)
		}
	}
	return len(p), nil
}

func (l *firstLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, _, _ := strings.Cut(l.buf.String(), "\n")
	return strings.TrimSpace(line)
}
