// Package server runs a Kubernetes control plane in one process: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler as they are
// released, each with its own credentials, with certificates, RBAC and
// admission as kubeadm sets them up. Nodes are somebody else's.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/cluster/credential"
	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/internal/atomicfile"
)

// Run runs a control plane until ctx ends, and then removes its data
// directory. It calls ready once. A process can run it only once, and has to
// end after it: the components keep state of their own in package variables,
// and run on until the process ends. An orderly end would drain connections
// for seconds, with nobody there to be served.
func Run(ctx context.Context, o Options, ready func(cluster.Ready) error) (err error) {
	began := time.Now()
	if err := setVersion(); err != nil {
		return fmt.Errorf("set version: %w", err)
	}
	dir, removed, err := datadir.Create(ctx, o.Parent, o.Name)
	if err != nil {
		return err
	}
	if o.Keep {
		if err := dir.Keep(); err != nil {
			return err
		}
	}
	defer func() {
		if o.Keep {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		err = errors.Join(err, dir.Remove(ctx))
	}()
	p := &plane{o: o, began: began, dir: dir.Path(), failed: make(chan error, 1)}
	if err := p.openLog(); err != nil {
		return err
	}
	for _, r := range removed {
		klog.InfoS("Removed a left-over data directory", "path", r)
	}
	err = p.run(ctx, ready)
	if ctx.Err() != nil {
		return nil // told to end, perhaps while it was starting
	}
	if tail := logTail(p.log); tail != "" {
		return fmt.Errorf("%w\n%s", err, tail)
	}
	return err
}

// endTimeout bounds the wait for another process that makes or removes
// directories in the same place.
const endTimeout = 5 * time.Second

// plane is one control plane.
type plane struct {
	o      Options
	began  time.Time
	dir    string
	log    string     // where a failure is explained
	failed chan error // the first component that ended
}

// run runs the control plane until ctx ends or a component does.
func (p *plane) run(ctx context.Context, ready func(cluster.Ready) error) error {
	starting, stop := context.WithTimeoutCause(ctx, p.o.ReadyTimeout, fmt.Errorf("not ready within %s", p.o.ReadyTimeout))
	defer stop()
	// The API server takes this listener over and panics when others close it.
	l, err := net.Listen("tcp", net.JoinHostPort(p.o.BindAddress, "0"))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	etcdLog := strings.TrimSuffix(p.log, ".log") + "-etcd.log"
	e, err := startEtcd(starting, filepath.Join(p.dir, "etcd"), etcdLog, p.o.Fsync)
	if err != nil {
		p.log = etcdLog
		return err
	}
	klog.InfoS("Started etcd", "after", time.Since(p.began))
	pki, err := newPKI(filepath.Join(p.dir, "pki"), l.Addr().(*net.TCPAddr).IP)
	if err != nil {
		return err
	}
	r := cluster.Ready{Name: p.o.Name, Server: "https://" + l.Addr().String(), Kubeconfig: filepath.Join(p.dir, "admin.kubeconfig"), Dir: p.dir}
	defer p.removeCopies()
	if err := p.writeKubeconfigs(pki, r); err != nil {
		return err
	}
	api, err := newAPIServer(starting, pki, e.endpoint(), l, p.o.APIServerArgs)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-apiserver", api)
	if err := p.startRest(ctx, starting, pki, r.Kubeconfig); err != nil {
		return err
	}
	r.Seconds = time.Since(p.began).Seconds()
	if err := p.writeReadyFile(r); err != nil {
		return err
	}
	if err := ready(r); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-p.failed:
		return err
	case err := <-e.Err():
		p.log = etcdLog
		return fmt.Errorf("etcd ended: %w", err)
	}
}

// startRest waits for the API server, starts what needs it and returns when
// the cluster is ready.
func (p *plane) startRest(ctx, starting context.Context, pki *pki, kubeconfig string) error {
	pr, err := newProbe(kubeconfig)
	if err != nil {
		return err
	}
	if err := p.await(starting, "kube-apiserver", pr.apiServerReady); err != nil {
		return err
	}
	klog.InfoS("Started kube-apiserver", "after", time.Since(p.began))
	cm, err := newControllerManager(ctx, pki, p.controllerManagerKubeconfig(), &p.o)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-controller-manager", cm)
	sched, synced, err := newScheduler(ctx, p.schedulerKubeconfig(), &p.o)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-scheduler", sched)
	if err := synced(starting); err != nil {
		return fmt.Errorf("start kube-scheduler: %w", context.Cause(starting))
	}
	klog.InfoS("Started kube-scheduler", "after", time.Since(p.began))
	return p.await(starting, "kube-controller-manager", pr.controllersReady)
}

func (p *plane) writeKubeconfigs(k *pki, r cluster.Ready) error {
	type identity struct {
		file, user string
		groups     []string
	}
	all := []identity{
		{r.Kubeconfig, "kubernetes-admin", []string{"system:masters"}},
		{p.controllerManagerKubeconfig(), "system:kube-controller-manager", nil},
		{p.schedulerKubeconfig(), "system:kube-scheduler", nil},
	}
	if p.o.Kubeconfig != "" {
		all = append(all, identity{p.o.Kubeconfig, "kubernetes-admin", []string{"system:masters"}})
	}
	for _, i := range all {
		if err := k.kubeconfig(i.file, r.Name, r.Server, i.user, i.groups...); err != nil {
			return err
		}
	}
	return nil
}

func (p *plane) controllerManagerKubeconfig() string {
	return filepath.Join(p.dir, "controller-manager.kubeconfig")
}

func (p *plane) schedulerKubeconfig() string { return filepath.Join(p.dir, "scheduler.kubeconfig") }

// writeReadyFile writes the ready line in one step, so that who waits for the
// file never reads half of it.
func (p *plane) writeReadyFile(r cluster.Ready) error {
	if p.o.ReadyFile == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode ready line: %w", err)
	}
	if err := atomicfile.Replace(p.o.ReadyFile, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}

// removeCopies removes what was written outside of the data directory. What
// is not there need not be removed, and nothing more can be done otherwise.
func (p *plane) removeCopies() {
	if p.o.ReadyFile != "" {
		_ = os.Remove(p.o.ReadyFile)
	}
	if p.o.Kubeconfig != "" {
		credential.RemoveKubeconfig(p.o.Kubeconfig)
	}
}

// start runs a component for as long as the process lives.
func (p *plane) start(ctx context.Context, name string, run run) {
	ctx = klog.NewContext(context.WithoutCancel(ctx), klog.Background().WithName(name))
	go func() {
		err := run(ctx)
		if err == nil {
			err = errors.New("it returned")
		}
		p.fail(fmt.Errorf("%s ended: %w", name, err))
	}()
}

// fail reports the end of a component; the first one counts.
func (p *plane) fail(err error) {
	select {
	case p.failed <- err:
	default:
	}
}

// await polls until check holds or a component fails.
func (p *plane) await(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %w", what, context.Cause(ctx), err)
		case err := <-p.failed:
			return err
		case <-tick.C:
		}
	}
}

// openLog sends the components' log to a file, and turns their way to end the
// process at once into a failure that is cleaned up after.
func (p *plane) openLog() error {
	dir := p.o.LogDir
	if dir == "" {
		dir = filepath.Join(p.dir, "logs")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	p.log = filepath.Join(dir, p.o.Name+".log")
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	h := slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.Level(-p.o.Verbosity)})
	klog.SetSlogLogger(slog.New(h))
	klog.OsExit = func(code int) {
		p.fail(fmt.Errorf("a component gave up with exit code %d", code))
		select {} // its caller expects not to return
	}
	return nil
}
