package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"holdfast.dev/e2e/node/disk"
)

// State is what a node is at the moment.
type State struct {
	Name string    `json:"name"`
	PID  int       `json:"pid"`
	Root string    `json:"root"`
	Mode disk.Mode `json:"mode"` // loop or simulated
	// Address is the node's, and that of its pods with hostNetwork.
	Address string      `json:"address"`
	Disks   []disk.Disk `json:"disks"`
	Pods    []PodState  `json:"pods"`
}

// PodState is a pod on the node.
type PodState struct {
	Namespace  string           `json:"namespace"`
	Name       string           `json:"name"`
	UID        string           `json:"uid"`
	IP         string           `json:"ip"`
	Phase      string           `json:"phase"`
	Ready      bool             `json:"ready"`
	Containers []ContainerState `json:"containers"`
}

// ContainerState is a container of a pod.
type ContainerState struct {
	Name         string `json:"name"`
	PID          int    `json:"pid,omitempty"` // 0 while no process runs
	RestartCount int32  `json:"restartCount"`
	Log          string `json:"log,omitempty"` // file of the last instance's output
}

// Killed lists the processes that got SIGKILL.
type Killed struct {
	PIDs []int `json:"pids"`
}

// faultDeadline bounds one request: reads are repeated until the kernel has
// logged one, and it logs 10 in 5 seconds.
const faultDeadline = 30 * time.Second

// api serves the fault API.
type api struct {
	options  *Options
	disks    *disk.Set
	provider *provider
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.state(), nil) })
	onDisk := func(verb string, do func(ctx context.Context, name string) (any, error)) {
		mux.HandleFunc("POST /v1/disks/{name}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), faultDeadline)
			defer cancel()
			v, err := do(ctx, r.PathValue("name"))
			answer(w, v, err)
		})
	}
	onDisk("fail", func(ctx context.Context, name string) (any, error) { return a.disks.Fail(ctx, name) })
	onDisk("error", func(ctx context.Context, name string) (any, error) { return a.disks.ReadError(ctx, name) })
	onDisk("restore", func(ctx context.Context, name string) (any, error) { return a.disk(name, a.disks.Restore(ctx, name)) })
	onDisk("remove", func(_ context.Context, name string) (any, error) { return a.disk(name, a.disks.Remove(name)) })
	onDisk("reinsert", func(ctx context.Context, name string) (any, error) { return a.disk(name, a.disks.Reinsert(ctx, name)) })
	onDisk("replace", func(ctx context.Context, name string) (any, error) { return a.disk(name, a.disks.Replace(ctx, name)) })
	mux.HandleFunc("POST /v1/pods/{namespace}/{name}/kill", func(w http.ResponseWriter, r *http.Request) {
		pids, err := a.provider.kill(r.PathValue("namespace"), r.PathValue("name"))
		answer(w, Killed{PIDs: pids}, err)
	})
	return mux
}

func (a *api) disk(name string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	for _, d := range a.disks.List() {
		if d.Name == name {
			return d, nil
		}
	}
	return nil, disk.ErrUnknown
}

func (a *api) state() State {
	s := State{Name: a.options.Name, PID: os.Getpid(), Root: a.options.Root, Mode: a.disks.Mode(), Address: a.options.Address, Disks: a.disks.List(), Pods: []PodState{}}
	for _, p := range a.provider.all() {
		o := p.withStatus()
		ps := PodState{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), IP: p.ip, Phase: string(o.Status.Phase), Ready: conditionTrue(o.Status.Conditions, "Ready")}
		p.mu.Lock()
		for _, c := range append(append([]*container(nil), p.init...), p.main...) {
			ps.Containers = append(ps.Containers, ContainerState{Name: c.state.name, PID: c.state.pid, RestartCount: c.state.restartCount, Log: c.state.log})
		}
		p.mu.Unlock()
		s.Pods = append(s.Pods, ps)
	}
	return s
}

// problem is the body of a refusal.
type problem struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, disk.ErrUnknown), errors.Is(err, errNoPod):
		w.WriteHeader(http.StatusNotFound)
	case errors.Is(err, disk.ErrState):
		w.WriteHeader(http.StatusConflict)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
	if err != nil {
		v = problem{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // the other end may have gone
}

// serve listens on the socket until stop is called.
func (a *api) serve() (stop func(), err error) {
	if err := os.Remove(a.options.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the last run's socket: %w", err)
	}
	l, err := net.Listen("unix", a.options.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for the fault API: %w", err)
	}
	srv := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	return func() {
		_ = srv.Close() // nothing of the server is left to save
		<-done
	}, nil
}
