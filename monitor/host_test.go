package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/report"
)

// host is a recorded tree with a pipe for the kernel log.
type host struct {
	t    *testing.T
	dir  string
	kmsg *os.File
	seq  int
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), seq: 100}
	h.write("proc/sys/kernel/random/boot_id", "boot-1\n")
	h.write("proc/uptime", "5000.00 1.00\n")
	h.write("sys/devices/virtual/x", "")
	h.write("dev/null", "")
	path := filepath.Join(h.dir, "dev/kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // keeps the pipe while no monitor runs
	if err != nil {
		t.Fatal(err)
	}
	h.kmsg = f
	t.Cleanup(func() { _ = f.Close() })
	return h
}

func (h *host) write(name, data string) {
	h.t.Helper()
	p := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(name string) {
	h.t.Helper()
	// At once, as the kernel does, and not entry by entry.
	gone := filepath.Join(h.t.TempDir(), "gone")
	if err := os.Rename(filepath.Join(h.dir, name), gone); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
}

// plug adds a loop device with a backing file; its disk id is "loop-<name>".
func (h *host) plug(dev, name string) {
	h.t.Helper()
	h.write("sys/block/"+dev+"/size", "2048\n")
	h.write("sys/block/"+dev+"/dev", "7:1\n")
	h.write("sys/block/"+dev+"/"+dev+"p1/partition", "1\n")
	h.write("sys/block/"+dev+"/loop/backing_file", "/"+name+"\n")
}

// plugDisk adds a real disk, with a serial; its disk id is "model-<serial>".
func (h *host) plugDisk(dev, serial string) {
	h.t.Helper()
	h.write("sys/block/"+dev+"/size", "2048\n")
	h.write("sys/block/"+dev+"/dev", "8:0\n")
	h.write("sys/block/"+dev+"/device/model", "model\n")
	h.write("sys/block/"+dev+"/device/serial", serial+"\n")
}

func (h *host) prepare(names ...string) {
	h.t.Helper()
	text := "apiVersion: holdfast.dev/v1alpha1\nkind: NodeDisks\ndisks:\n"
	for i, n := range names {
		text += fmt.Sprintf("- {id: loop-%s, group: data, role: static, media: virtual, partitions: [{uuid: 00000000-0000-0000-0000-%012d, filesystem: ext4, mountPoint: /mnt/%s, storageClass: local}]}\n", n, i+1, n)
	}
	h.write(nodedisks.Path, text)
}

// say writes one record of the kernel.
func (h *host) say(format string, args ...any) {
	h.t.Helper()
	h.seq++
	if _, err := fmt.Fprintf(h.kmsg, "3,%d,%d,-;%s\n", h.seq, h.seq*1000, fmt.Sprintf(format, args...)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) ioError(dev string) {
	h.t.Helper()
	h.say("I/O error, dev %s, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2", dev)
}

func (h *host) options(node string) Options {
	return Options{NodeName: node, HostRoot: h.dir, MetricsAddress: "127.0.0.1:0", ScanInterval: 100 * time.Millisecond, Settle: 200 * time.Millisecond, LogLevel: slog.LevelDebug}
}

// memory is an API server in memory, with one ComputeNode.
type memory struct {
	mu      sync.Mutex
	obj     *v1alpha1.ComputeNode
	version int
	writes  int
	changed chan struct{} // closed and replaced at each change
	volumes []report.Volume
	flavor  *v1alpha1.NodeFlavor
	down    bool
}

func newMemory() *memory {
	return &memory{changed: make(chan struct{}), obj: &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", ResourceVersion: "0"}}}
}

// edit changes the object as anybody else would.
func (m *memory) edit(f func(*v1alpha1.ComputeNode)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.obj)
	m.bump()
}

func (m *memory) object() *v1alpha1.ComputeNode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.obj.DeepCopy()
}

func (m *memory) bump() {
	m.version++
	m.obj.ResourceVersion = fmt.Sprint(m.version)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) GetNode(context.Context) (*v1alpha1.ComputeNode, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.down:
		return nil, errors.New("connection refused")
	case m.obj == nil:
		return nil, apierrors.NewNotFound(schema.GroupResource{}, "n")
	}
	return m.obj.DeepCopy(), nil
}

func (m *memory) UpdateStatus(_ context.Context, n *v1alpha1.ComputeNode) (*v1alpha1.ComputeNode, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.ResourceVersion != m.obj.ResourceVersion {
		return nil, apierrors.NewConflict(schema.GroupResource{}, "n", errors.New("changed"))
	}
	// Through JSON, as a real server: times lose what is below a second.
	m.obj.Status = *n.Status.DeepCopy()
	for i := range m.obj.Status.Disks {
		for j := range m.obj.Status.Disks[i].Faults {
			f := &m.obj.Status.Disks[i].Faults[j]
			f.FirstSeen, f.LastSeen = f.FirstSeen.Rfc3339Copy(), f.LastSeen.Rfc3339Copy()
		}
	}
	m.writes++
	m.bump()
	return m.obj.DeepCopy(), nil
}

func (m *memory) GetFlavor(context.Context, string) (*v1alpha1.NodeFlavor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flavor, nil
}

func (m *memory) WatchNode(ctx context.Context, _ *slog.Logger, changed func(*v1alpha1.ComputeNode)) {
	for {
		m.mu.Lock()
		obj, next := m.obj.DeepCopy(), m.changed
		m.mu.Unlock()
		changed(obj)
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
	}
}

func (m *memory) WatchVolumes(ctx context.Context, _ *slog.Logger, changed func([]report.Volume)) {
	changed(m.volumes)
	<-ctx.Done()
}

// await waits until the object is as wanted.
func (m *memory) await(t *testing.T, what string, ok func(*v1alpha1.ComputeNode) bool) *v1alpha1.ComputeNode {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		m.mu.Lock()
		obj, next := m.obj.DeepCopy(), m.changed
		m.mu.Unlock()
		if ok(obj) {
			return obj
		}
		select {
		case <-next:
		case <-deadline:
			t.Fatalf("not seen: %s; status %+v", what, obj.Status)
		}
	}
}

// watch runs a monitor of h; stop ends it and waits.
func watch(t *testing.T, h *host, api API, o Options) (m *Monitor, stop func()) {
	t.Helper()
	return watchWith(t, h, api, o, func(*Monitor) {})
}

// watchWith is watch, with a change to the monitor before it runs.
func watchWith(t *testing.T, h *host, api API, o Options, change func(*Monitor)) (m *Monitor, stop func()) {
	t.Helper()
	fs, err := hostfs.Open(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err = New(o, fs, api, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	m.pace.Burst = 1000 // tests have more news in a minute than nodes
	change(m)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			_ = fs.Close()
		})
	}
	t.Cleanup(stop)
	return m, stop
}

// diskState is the state of a disk and its faults with their counts.
func diskState(n *v1alpha1.ComputeNode, id string) string {
	for _, d := range n.Status.Disks {
		if d.ID == id {
			s := string(d.State)
			for _, f := range d.Faults {
				s += fmt.Sprintf(" %s*%d", f.Class, f.Count)
			}
			return s
		}
	}
	return "not listed"
}

func is(id, want string) func(*v1alpha1.ComputeNode) bool {
	return func(n *v1alpha1.ComputeNode) bool { return diskState(n, id) == want }
}

func within(t *testing.T, ok func() bool) {
	t.Helper()
	wait.For(t, time.Minute, "what the test waits for", ok)
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}
