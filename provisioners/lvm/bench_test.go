//go:build bench

package lvm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

func figure(t *testing.T, name string, value float64, unit string) {
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.4g unit=%s\n", name, value, unit)
	t.Logf("%s %.4g %s", name, value, unit)
}

// timed is the fake machine, which counts the time that is spent in programs.
type timed struct {
	*lvmfake.Host
	spent time.Duration
}

func (h *timed) Run(ctx context.Context, d time.Duration, program string, args ...string) ([]byte, error) {
	start := time.Now()
	defer func() { h.spent += time.Since(start) }()
	return h.Host.Run(ctx, d, program, args...)
}

func p99(all []time.Duration) float64 {
	slices.Sort(all)
	return all[len(all)*99/100].Seconds()
}

const density = 300

// TestBench measures the driver's own share: programs are the fake's, and their time
// is taken off.
func TestBench(t *testing.T) {
	w := newWorld(t)
	h := &timed{Host: w.host}
	w.engine = lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: w.infos, Host: h, Mounts: h, Deadlines: lvm.DefaultDeadlines(), Log: slog.New(slog.DiscardHandler),
		Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	commands := func() (n int) {
		for _, c := range w.host.Calls() {
			if c.Program == "lvm" {
				n++
			}
		}
		return n
	}
	commands()
	own := func(f func() error) time.Duration {
		h.spent = 0
		start := time.Now()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return time.Since(start) - h.spent
	}
	var create, publish []time.Duration
	var handles []lvm.Handle
	for i := range density {
		r := w.request(fmt.Sprint("v", i), thin, lvm.XFS, gib)
		create = append(create, own(func() error {
			v, err := w.engine.Create(t.Context(), r)
			handles = append(handles, v.Handle)
			return err
		}))
	}
	mutations := density
	dir := t.TempDir()
	for _, hd := range handles {
		publish = append(publish, own(func() error {
			return w.engine.Publish(t.Context(), lvm.PublishRequest{Handle: hd, Target: filepath.Join(dir, hd.LV)})
		}))
	}
	for i := range 50 {
		if _, err := w.engine.Expand(t.Context(), handles[i], 2*gib, 0); err != nil {
			t.Fatal(err)
		}
		snap, err := w.engine.Snapshot(t.Context(), handles[i], lvm.CreateRequest{Name: fmt.Sprint("s", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.engine.Delete(t.Context(), snap.Handle); err != nil {
			t.Fatal(err)
		}
		mutations += 3
	}
	figure(t, "lvm_create_overhead_seconds_p99", p99(create), "s")
	figure(t, "publish_overhead_seconds_p99", p99(publish), "s")
	figure(t, "volumes_on_node", float64(len(handles)), "volumes")
	figure(t, "lvm_commands_per_mutation", float64(commands())/float64(mutations), "commands")
	for range 2 { // a minute at the default of --refresh
		if err := w.engine.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	figure(t, "lvm_idle_commands_per_minute", float64(commands()), "commands")
}

// TestBenchMemory measures how much the daemon's heap grows with claims of other nodes.
// HOLDFAST_BENCH_CLAIMS is their number, 50000 by default; the control plane is
// another process.
func TestBenchMemory(t *testing.T) {
	many := 50000
	if v := os.Getenv("HOLDFAST_BENCH_CLAIMS"); v != "" {
		var err error
		if many, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	e := newEnv(t, "bench")
	e.until("capacity is published", func() bool { return len(e.capacities()) == 4 })
	e.others(0, 1000)
	few := heap()
	e.others(1000, many)
	e.stop()
	e.start() // its first list has them all
	e.until("the driver works", func() bool { return len(e.capacities()) == 4 })
	e.claim("last", "lvm-thin", "1Gi", nil)
	e.bound("last")
	figure(t, "daemon_heap_growth_percent", (float64(heap())/float64(few)-1)*100, "percent_from_1000_to_"+strconv.Itoa(many))
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// others makes claims that were given to other nodes.
func (e *env) others(from, to int) {
	e.t.Helper()
	cfg := e.cfg
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: e.admin.Scheme()})
	if err != nil {
		e.t.Fatal(err)
	}
	class := "nobody"
	next := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range next {
				pvc := &corev1.PersistentVolumeClaim{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("other-", i), Namespace: "default", Annotations: map[string]string{"volume.kubernetes.io/selected-node": fmt.Sprint("n", i%1000)}},
					Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
						Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
				}
				if err := c.Create(e.t.Context(), pvc); err != nil {
					e.t.Error(err)
					return
				}
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
}
