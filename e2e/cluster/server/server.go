// Package server runs a Kubernetes control plane in one process: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler as they are
// released, each with its own credentials, with certificates, RBAC and
// admission as kubeadm sets them up. Nodes are somebody else's.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"holdfast.dev/e2e/cluster/credential"
	"holdfast.dev/e2e/cluster/datadir"
)

// Ready is what is printed when the cluster is ready.
type Ready struct {
	Name       string  `json:"name"`
	Server     string  `json:"server"`
	Kubeconfig string  `json:"kubeconfig"`
	Dir        string  `json:"dir"`
	Seconds    float64 `json:"seconds"`
}

// Run runs a control plane until ctx ends, and then removes its data
// directory. It calls ready once. A process can run it only once: the
// components keep state of their own in package variables.
func Run(ctx context.Context, o Options, ready func(Ready) error) (err error) {
	began := time.Now()
	dir, removed, err := datadir.Create(ctx, o.Parent, o.Name)
	if err != nil {
		return err
	}
	defer func() {
		if o.Keep {
			err = errors.Join(err, dir.Release())
			return
		}
		err = errors.Join(err, dir.Remove(context.WithoutCancel(ctx)))
	}()
	p := &plane{o: o, dir: dir.Path(), logs: o.LogDir}
	if p.logs == "" {
		p.logs = filepath.Join(p.dir, "logs")
	}
	closeLog, err := p.openLog()
	if err != nil {
		return err
	}
	defer closeLog()
	for _, r := range removed {
		klog.InfoS("Removed a left-over data directory", "path", r)
	}
	if err := p.run(ctx, began, ready); err != nil {
		return fmt.Errorf("%w\n%s", err, p.logTail())
	}
	return nil
}

// plane is one control plane.
type plane struct {
	o      Options
	dir    string
	logs   string
	failed chan error // what ended before it was told to
}

func (p *plane) run(ctx context.Context, began time.Time, ready func(Ready) error) error {
	p.failed = make(chan error, 3)
	// The API server takes this listener over and panics when others close it.
	l, err := net.Listen("tcp", net.JoinHostPort(p.o.BindAddress, "0"))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	e, err := startEtcd(ctx, filepath.Join(p.dir, "etcd"), filepath.Join(p.logs, "etcd.log"), p.o.Fsync)
	if err != nil {
		return err
	}
	defer e.close()
	pki, err := newPKI(filepath.Join(p.dir, "pki"), l.Addr().(*net.TCPAddr).IP)
	if err != nil {
		return err
	}
	r := Ready{Name: p.o.Name, Server: "https://" + l.Addr().String(), Kubeconfig: filepath.Join(p.dir, "admin.kubeconfig"), Dir: p.dir}
	if err := p.writeKubeconfigs(pki, r); err != nil {
		return err
	}
	api, err := newAPIServer(ctx, pki, e.endpoint(), l, p.o.APIServerArgs)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-apiserver", api)
	starting, stop := context.WithTimeoutCause(ctx, p.o.ReadyTimeout, fmt.Errorf("not ready within %s", p.o.ReadyTimeout))
	defer stop()
	if err := p.startRest(ctx, starting, pki, r.Kubeconfig); err != nil {
		return err
	}
	if p.o.Kubeconfig != "" {
		b, err := os.ReadFile(r.Kubeconfig)
		if err != nil {
			return fmt.Errorf("read kubeconfig: %w", err)
		}
		if err := credential.WriteKubeconfig(p.o.Kubeconfig, b); err != nil {
			return err
		}
		if !p.o.Keep {
			defer os.Remove(p.o.Kubeconfig)
		}
	}
	r.Seconds = time.Since(began).Seconds()
	if err := ready(r); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-p.failed:
		return err
	case err := <-e.Err():
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
	cm, err := newControllerManager(ctx, pki, p.dir, &p.o)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-controller-manager", cm)
	sched, synced, err := newScheduler(ctx, p.dir, &p.o)
	if err != nil {
		return err
	}
	p.start(ctx, "kube-scheduler", sched)
	if err := synced(starting); err != nil {
		return fmt.Errorf("start kube-scheduler: %w", context.Cause(starting))
	}
	return p.await(starting, "kube-controller-manager", pr.controllersReady)
}

func (p *plane) writeKubeconfigs(k *pki, r Ready) error {
	for _, u := range []struct{ file, user, group string }{
		{r.Kubeconfig, "kubernetes-admin", "system:masters"},
		{filepath.Join(p.dir, "controller-manager.kubeconfig"), "system:kube-controller-manager", ""},
		{filepath.Join(p.dir, "scheduler.kubeconfig"), "system:kube-scheduler", ""},
	} {
		var groups []string
		if u.group != "" {
			groups = []string{u.group}
		}
		if err := k.kubeconfig(u.file, r.Name, r.Server, u.user, groups...); err != nil {
			return err
		}
	}
	return nil
}

// start runs a component for as long as the process lives: an orderly end
// drains connections for seconds, and nobody is there to be served.
func (p *plane) start(ctx context.Context, name string, run run) {
	ctx = klog.NewContext(context.WithoutCancel(ctx), klog.Background().WithName(name))
	go func() {
		err := run(ctx)
		if err == nil {
			err = errors.New("it returned")
		}
		p.failed <- fmt.Errorf("%s ended: %w", name, err)
	}()
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

func (p *plane) openLog() (func(), error) {
	if err := os.MkdirAll(p.logs, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	f, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	h := slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.Level(-p.o.Verbosity)})
	klog.SetSlogLogger(slog.New(h))
	return func() { f.Close() }, nil
}

func (p *plane) logFile() string { return filepath.Join(p.logs, "control-plane.log") }
