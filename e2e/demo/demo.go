// Package demo runs the main job of Holdfast on one machine: three clusters of
// two nodes, a git push, a disk that fails, a disk that is replaced. Everything
// it runs is what a production fleet runs, the same programs and manifests; only
// the nodes have no kubelet (see e2e/node).
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// Options are the demo's settings.
type Options struct {
	// BinDir holds Holdfast's programs.
	BinDir string
	// Hold keeps everything up after the last step, until ctx ends.
	Hold bool
	// Bench measures more, and longer.
	Bench bool
	// Simulate uses recorded disks even where loop devices could be had.
	Simulate bool
}

type demo struct {
	opts  Options
	rep   *report
	world *world

	firstDigest   map[string]string // by cluster, after the first push
	pillarCommit  string
	pushToApplied []float64
	faults        []faultTimes
}

// Run runs the demo and prints to out. An error is the first check that did
// not hold; nothing is left behind either way.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	abs, err := filepath.Abs(o.BinDir)
	if err != nil {
		return err
	}
	o.BinDir = abs
	if os.Geteuid() != 0 {
		o.Simulate = true
	}
	d := &demo{opts: o, rep: newReport(out), firstDigest: map[string]string{}}
	if d.world, err = newWorld(ctx, o, d.rep); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.showLogs()
		}
		d.rep.line("\nending everything that was started")
		err = errors.Join(err, d.world.stop())
		if err == nil {
			err = d.nothingLeft()
		}
		if err == nil {
			d.rep.line("\ndemo: ok (%d checks)", d.rep.checks)
		}
	}()
	if err := d.steps(ctx); err != nil {
		return err
	}
	if o.Bench {
		if err := d.measure(ctx); err != nil {
			return err
		}
	}
	d.summary()
	if o.Hold {
		return d.hold(ctx)
	}
	return nil
}

func (d *demo) steps(ctx context.Context) error {
	steps := []struct {
		title string
		run   func(context.Context) error
	}{
		{"Three clusters, two nodes each, disks on each, and a hub", d.stepStart},
		{"git push of the initial fleet", d.stepFirstPush},
		{"git push of a pillar change", d.stepPillar},
		{"Pushes that must not pass", d.stepBadPushes},
		{"A change that makes the canary sick", d.stepSickCanary},
		{"A disk fault", d.stepFault},
		{"A disk disappears, the controller is killed, the disk is replaced", d.stepMissing},
		{"git revert", d.stepRevert},
	}
	for i, s := range steps {
		d.rep.step(i, s.title)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, strings.ToLower(s.title), err)
		}
	}
	return nil
}

func (d *demo) stepStart(ctx context.Context) error {
	w := d.world
	if d.opts.Simulate {
		d.rep.line("   disks: image files behind a recorded /sys tree (not root: loop devices cannot be had)")
	} else {
		d.rep.line("   disks: real loop devices; their errors are the kernel's own")
	}
	worst := 0.0
	for _, s := range w.sites {
		if err := w.startCluster(ctx, s); err != nil {
			return err
		}
		worst = max(worst, s.cluster.ReadySeconds())
		d.rep.ok("cluster %-7s ready after %.2f s (%s)", s.name, s.cluster.ReadySeconds(), s.cluster.Server())
	}
	d.rep.bench("cluster_ready_seconds", worst, "s", 5)
	for i, s := range w.sites {
		for j := range nodesPerCluster {
			if err := w.startNode(ctx, s, i, j); err != nil {
				return err
			}
		}
	}
	d.rep.ok("%d nodes with %d disks each", len(w.sites)*nodesPerCluster, disksPerNode)
	if err := w.startHub(ctx); err != nil {
		return err
	}
	if err := w.writeKubeconfig(); err != nil {
		return err
	}
	for _, s := range w.sites {
		if err := w.fleet.Join(ctx, s.client, s.name); err != nil {
			return err
		}
	}
	d.rep.ok("hub at %s; every cluster has its agent's manifests (holdfast join | kubectl apply)", w.fleet.HubURL)
	return nil
}

// tuneFleet fits the fleet that "holdfast init" wrote to the demo: a minute is a long time here.
func (d *demo) tuneFleet() error {
	return d.world.fleet.Edit("fleet.yaml", "soak: 10m}", "soak: 1s, timeout: 20s}")
}

// summary closes the demo.
func (d *demo) summary() {
	if len(d.pushToApplied) > 0 {
		d.rep.bench("push_to_applied_seconds_p95", percentile(d.pushToApplied, 95), "s", 5)
	}
	if len(d.faults) > 0 {
		var known, closed []float64
		for _, f := range d.faults {
			known = append(known, f.computeNode.Seconds())
			closed = append(closed, f.quarantine.Seconds())
		}
		d.rep.line("BENCH name=fault_to_computenode_seconds_p99 value=%.3f unit=s samples=%d", percentile(known, 99), len(known))
		d.rep.bench("fault_to_quarantine_seconds_p99", percentile(closed, 99), "s", 2)
	}
	d.rep.table()
}

func (d *demo) hold(ctx context.Context) error {
	w := d.world
	d.rep.line("\nEverything stays up until you press Ctrl-C.")
	d.rep.line("  export KUBECONFIG=%s HOLDFAST_HUB=%s HOLDFAST_CREDENTIAL_FILE=%s", w.kubeconfig, w.fleet.HubURL, w.fleet.Credential)
	d.rep.line("  %s status; %s disks; %s repairs", w.bin("holdfast"), w.bin("holdfast"), w.bin("holdfast"))
	d.rep.line("  kubectl --context canary get computenodes,remediations,addonstatuses,pv")
	d.rep.line("  the fleet: git -C %s push %s main", w.fleet.Work, w.fleet.Repo)
	for _, s := range w.sites {
		for _, n := range s.nodes {
			d.rep.line("  %-10s metrics http://%s:9808/metrics   faults: curl --unix-socket %s http://node/v1/state", n.name, n.address, filepath.Join(w.dir, n.name+".sock"))
		}
	}
	<-ctx.Done()
	return nil
}

// showLogs prints the end of each part's log: a failure explains itself.
func (d *demo) showLogs() {
	logs, err := filepath.Glob(filepath.Join(d.world.dir, "log", "*.log"))
	if err != nil {
		return
	}
	pods, err := filepath.Glob(filepath.Join(d.world.dir, "n", "*", "var", "log", "pods", "*", "*", "*.log"))
	if err != nil {
		return
	}
	for _, path := range append(logs, pods...) {
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		d.rep.line("--- the end of %s\n%s", strings.TrimPrefix(path, d.world.dir+"/"), strings.Join(lines[max(0, len(lines)-4):], "\n"))
	}
}

// nothingLeft checks that no file, process or loop device of the demo remains.
func (d *demo) nothingLeft() error {
	if _, err := os.Stat(d.world.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is left behind", d.world.dir)
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, f := range backing {
		if data, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(data), d.world.dir) {
			return fmt.Errorf("%s is left behind", f)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range procs {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), d.world.dir) {
			return fmt.Errorf("process %s is left behind", filepath.Base(filepath.Dir(f)))
		}
	}
	d.rep.ok("no process, file or loop device is left behind")
	return nil
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return string(data), err
}

// rename gives a kubeconfig's only context, cluster and user one name.
func rename(cfg *api.Config, name string) {
	for _, c := range cfg.Contexts {
		cfg.Clusters = map[string]*api.Cluster{name: cfg.Clusters[c.Cluster]}
		cfg.AuthInfos = map[string]*api.AuthInfo{name: cfg.AuthInfos[c.AuthInfo]}
		c.Cluster, c.AuthInfo = name, name
		cfg.Contexts = map[string]*api.Context{name: c}
		cfg.CurrentContext = name
		return
	}
}
