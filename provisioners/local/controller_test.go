package local

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/nodedisks"
)

// rig is a controller over a world and a fake API server.
type rig struct {
	*Controller
	w   *world
	dir string
	api client.WithWatch
	reg *prometheus.Registry
}

func testNodeObject() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode, Labels: map[string]string{corev1.LabelHostname: testNode}}}
}

func newRig(t *testing.T, w *world, funcs interceptor.Funcs, objects ...client.Object) *rig {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, eventsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(funcs).Build()
	h, dir := w.host(t)
	r := &rig{w: w, dir: dir, api: api, reg: prometheus.NewRegistry()}
	r.writeDisks(t)
	r.Controller = NewController(Options{NodeName: testNode, Pod: "holdfast-system/p1"}, h, api, api, NewMetrics(r.reg), slog.New(slog.NewTextHandler(io.Discard, nil)))
	return r
}

func (r *rig) writeDisks(t *testing.T) {
	t.Helper()
	data, err := yaml.Marshal(r.w.file)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, nodedisks.Path, string(data))
}

// put replaces a file by a rename, as node preparation does.
func (r *rig) put(t *testing.T, name, data string) {
	t.Helper()
	put(t, filepath.Join(r.dir, name), data)
}

func put(t *testing.T, p, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p+".new", []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".new", p); err != nil {
		t.Fatal(err)
	}
}

// volumes are the short names of the volumes that the API server has.
func (r *rig) volumes(t *testing.T) map[string]bool {
	t.Helper()
	var list corev1.PersistentVolumeList
	if err := r.api.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, pv := range list.Items {
		got[names[pv.Name]] = true
	}
	return got
}

func (r *rig) expect(t *testing.T, metrics string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(metrics), names...); err != nil {
		t.Error(err)
	}
}

func get(kind client.Object, err error) interceptor.Funcs {
	return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
		if _, ok := obj.(*v1alpha1.ComputeNode); ok == isComputeNode(kind) && (ok || isNode(obj) == isNode(kind)) {
			return err
		}
		return c.Get(ctx, key, obj, opts...)
	}}
}

func isComputeNode(o client.Object) bool { _, ok := o.(*v1alpha1.ComputeNode); return ok }
func isNode(o client.Object) bool        { _, ok := o.(*corev1.Node); return ok }

func TestPass(t *testing.T) {
	all := map[string]bool{"a": true, "raw": true, "b": true}
	noAPI := apierrors.NewGenericServerResponse(http.StatusNotFound, "GET", schema.GroupResource{Group: "holdfast.dev", Resource: "computenodes"}, testNode, "404 page not found", 0, true)
	cases := map[string]struct {
		reason  string
		objects []client.Object
		funcs   interceptor.Funcs
		want    map[string]bool
		err     bool
	}{
		"NoComputeNode": {"a new node has no ComputeNode yet and no quarantine", []client.Object{testNodeObject()}, interceptor.Funcs{}, all, false},
		"Quarantined": {"the ComputeNode is asked before a create", []client.Object{testNodeObject(), &v1alpha1.ComputeNode{
			ObjectMeta: metav1.ObjectMeta{Name: testNode},
			Spec:       v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: diskA, Reason: "Failed", By: "x"}}},
		}}, interceptor.Funcs{}, map[string]bool{"b": true}, false},
		"OtherQuarantine": {"another node's quarantine is not ours", []client.Object{testNodeObject(), &v1alpha1.ComputeNode{
			ObjectMeta: metav1.ObjectMeta{Name: "node-2"},
			Spec:       v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: diskA, Reason: "Failed", By: "x"}}},
		}}, interceptor.Funcs{}, all, false},
		"Unanswered": {"no answer about quarantine: nothing is offered", []client.Object{testNodeObject()}, get(&v1alpha1.ComputeNode{}, context.DeadlineExceeded), nil, true},
		"NoCRD":      {"the API with the record of quarantine is gone: absence is never evidence", []client.Object{testNodeObject()}, get(&v1alpha1.ComputeNode{}, noAPI), nil, true},
		"NoNode":     {"without a Node nothing can be tied to it", nil, interceptor.Funcs{}, nil, true},
		"Hostname": {"a hostname label that is another node's name would tie the volumes to that node", []client.Object{
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode, Labels: map[string]string{corev1.LabelHostname: "node-2"}}},
		}, interceptor.Funcs{}, nil, true},
		"Refused": {"a refusal is an error and stops no other disk", []client.Object{testNodeObject()}, interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if names[obj.GetName()] == "a" {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumes"}, obj.GetName(), errors.New("policy"))
				}
				return c.Create(ctx, obj, opts...)
			},
		}, map[string]bool{"raw": true, "b": true}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, goodWorld(), tc.funcs, tc.objects...)
			if err := r.pass(t.Context(), true); (err != nil) != tc.err {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(tc.want, r.volumes(t), cmpEmpty()); diff != "" {
				t.Errorf("-want +got:\n%s\nreason: %s", diff, tc.reason)
			}
		})
	}
}

func cmpEmpty() cmp.Option {
	return cmp.FilterValues(func(a, b map[string]bool) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
}

func TestSecondPassRepeatsNothing(t *testing.T) {
	creates := 0
	r := newRig(t, goodWorld(), interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
		creates++
		return c.Create(ctx, obj, opts...)
	}}, testNodeObject())
	for range 3 {
		if err := r.pass(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if creates != 3 {
		t.Errorf("%d creates for 3 volumes", creates)
	}
	r.expect(t, `
		# HELP holdfast_local_volume_provisioner_creates_total Persistent volumes created.
		# TYPE holdfast_local_volume_provisioner_creates_total counter
		holdfast_local_volume_provisioner_creates_total 3
		# HELP holdfast_local_volume_provisioner_volumes Persistent volumes of this node by state: verified, released (to be cleaned), unverified (partition not confirmed now), orphaned (not in disks.yaml).
		# TYPE holdfast_local_volume_provisioner_volumes gauge
		holdfast_local_volume_provisioner_volumes{state="orphaned"} 0
		holdfast_local_volume_provisioner_volumes{state="released"} 0
		holdfast_local_volume_provisioner_volumes{state="unverified"} 0
		holdfast_local_volume_provisioner_volumes{state="verified"} 3
	`, namespace+"_creates_total", namespace+"_volumes")
}

// Quarantine that begins while a pass creates volumes stops the rest of them.
func TestQuarantineIsAskedBeforeEachCreate(t *testing.T) {
	cn := &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: testNode}}
	r := newRig(t, goodWorld(), interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
		if err := c.Create(ctx, obj, opts...); err != nil || names[obj.GetName()] != "a" {
			return err
		}
		cn.Spec.Quarantine = []v1alpha1.Quarantine{{Disk: diskA, Reason: "Failed", By: "x"}}
		return c.Update(ctx, cn)
	}}, testNodeObject(), cn)
	if err := r.pass(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"a": true, "b": true}, r.volumes(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A volume that this node's cache does not show: of this node (the cache is
// late) it counts as created, of another it is left alone.
func TestVolumeOutsideCache(t *testing.T) {
	for _, owner := range []string{testNode, "node-0"} {
		t.Run(owner, func(t *testing.T) {
			w := goodWorld()
			d := w.file.Disks[0]
			have := volume(owner, d, d.Partitions[0], 64*mib, false)
			r := newRig(t, w, interceptor.Funcs{List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
				return nil // a cache that is empty
			}}, testNodeObject(), have)
			err := r.pass(t.Context(), true)
			if (err != nil) != (owner != testNode) {
				t.Errorf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), `its node label is "node-0", not "node-1"`) {
				t.Errorf("error %v does not say whose volume it is", err)
			}
			var got corev1.PersistentVolume
			if err := r.api.Get(t.Context(), client.ObjectKeyFromObject(have), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(have.Labels, got.Labels); diff != "" {
				t.Errorf("the volume was touched: -before +after:\n%s", diff)
			}
		})
	}
}

func TestDisksFile(t *testing.T) {
	r := newRig(t, goodWorld(), interceptor.Funcs{}, testNodeObject())
	if err := os.Remove(filepath.Join(r.dir, nodedisks.Path)); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t.Context(), true); err != nil {
		t.Errorf("a node that is not prepared is no error: %v", err)
	}
	r.put(t, nodedisks.Path, "disks: [")
	if err := r.pass(t.Context(), true); err == nil || !strings.Contains(err.Error(), nodedisks.Path) {
		t.Errorf("error %v does not name the file", err)
	}
	if got := r.volumes(t); len(got) != 0 {
		t.Errorf("created %v", got)
	}
	r.writeDisks(t)
	if err := r.pass(t.Context(), true); err != nil || len(r.volumes(t)) != 3 {
		t.Errorf("repaired file: %v, volumes %v", err, r.volumes(t))
	}
	r.put(t, nodedisks.Path, "disks: [")
	_ = r.pass(t.Context(), true)
	if len(r.volumes(t)) != 3 {
		t.Error("a broken file cost a volume")
	}
	if got := testutil.ToFloat64(r.metrics.volumes.WithLabelValues("unverified")); got != 3 {
		t.Errorf("%v volumes unverified, want 3", got)
	}
}

// A FIFO without a writer hangs a reader as a dead disk does.
func TestHungDiskDelaysNoOther(t *testing.T) {
	w := goodWorld()
	r := newRig(t, w, interceptor.Funcs{}, testNodeObject())
	r.host.timeout = 200 * time.Millisecond
	size := filepath.Join(r.dir, "sys/devices/pci/sda/sda1/size")
	if err := os.Remove(size); err != nil {
		t.Fatal(err)
	}
	mkfifo(t, size)
	for range 3 {
		start := time.Now()
		if err := r.pass(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("the pass took %s", d)
		}
	}
	if diff := cmp.Diff(map[string]bool{"b": true}, r.volumes(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(r.host.busy) != 1 {
		t.Errorf("%d reads hang after three passes, want 1", len(r.host.busy))
	}
	out, err := os.OpenFile(size, os.O_WRONLY, 0) // the disk answers again
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("131072\n"); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, size, "131072\n")
	within10s(t, func() bool { return r.pass(t.Context(), true) == nil && len(r.volumes(t)) == 3 })
}

func within10s(t *testing.T, ok func() bool) {
	t.Helper()
	wait.For(t, 10*time.Second, "what the test waits for", ok)
}

func TestWithheldIsToldOnce(t *testing.T) {
	w := goodWorld()
	w.mounts = w.mounts[1:]
	r := newRig(t, w, interceptor.Funcs{}, testNodeObject())
	for range 3 {
		if err := r.pass(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	var list eventsv1.EventList
	if err := r.api.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d events, want 1", len(list.Items))
	}
	want := "NotMounted: disk " + diskA + ", partition " + uuidA + ": /mnt/holdfast/a is not a mount point"
	if ev := list.Items[0]; ev.Note != want || ev.Regarding.Name != testNode || ev.Type != "Warning" {
		t.Errorf("event %q on %s", ev.Note, ev.Regarding.Name)
	}
	r.expect(t, `
		# HELP holdfast_local_volume_provisioner_withheld Partitions that get no persistent volume now, by reason.
		# TYPE holdfast_local_volume_provisioner_withheld gauge
		holdfast_local_volume_provisioner_withheld{reason="Conflict"} 0
		holdfast_local_volume_provisioner_withheld{reason="Dirty"} 0
		holdfast_local_volume_provisioner_withheld{reason="DiskDiffers"} 0
		holdfast_local_volume_provisioner_withheld{reason="DiskMissing"} 0
		holdfast_local_volume_provisioner_withheld{reason="FilesystemDiffers"} 0
		holdfast_local_volume_provisioner_withheld{reason="InUse"} 0
		holdfast_local_volume_provisioner_withheld{reason="NotMounted"} 1
		holdfast_local_volume_provisioner_withheld{reason="OtherPartition"} 0
		holdfast_local_volume_provisioner_withheld{reason="OverNetwork"} 0
		holdfast_local_volume_provisioner_withheld{reason="PartitionMissing"} 0
		holdfast_local_volume_provisioner_withheld{reason="QuarantineUnknown"} 0
		holdfast_local_volume_provisioner_withheld{reason="Quarantined"} 0
		holdfast_local_volume_provisioner_withheld{reason="ReadOnly"} 0
		holdfast_local_volume_provisioner_withheld{reason="Refused"} 0
		holdfast_local_volume_provisioner_withheld{reason="Unreadable"} 0
	`, namespace+"_withheld")
}

func TestMetricsAndHealth(t *testing.T) {
	r := newRig(t, goodWorld(), interceptor.Funcs{}, testNodeObject())
	h := r.daemon("", r.reg, nil).Handler()
	status := func(path string) int {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return rec.Code
	}
	if status("/readyz") != http.StatusServiceUnavailable || status("/healthz") != http.StatusOK {
		t.Error("before the first pass it is alive and not ready")
	}
	if err := r.pass(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if status("/readyz") != http.StatusOK || status("/metrics") != http.StatusOK {
		t.Error("after the first pass it is ready")
	}
	r.now = func() time.Time { return time.Now().Add(stuckAfter + time.Minute) }
	if status("/healthz") != http.StatusServiceUnavailable {
		t.Error("without a pass for minutes it is not alive")
	}
	problems, err := testutil.GatherAndLint(r.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

func TestOptions(t *testing.T) {
	cases := map[string]struct {
		reason string
		o      Options
		ok     bool
	}{
		"Good":    {"all set", Options{NodeName: "n", MetricsAddress: "127.0.0.1:9809"}, true},
		"NoName":  {"volumes are tied to a node by its name", Options{MetricsAddress: "127.0.0.1:9809"}, false},
		"Name":    {"the name is a label value", Options{NodeName: strings.Repeat("n", 64), MetricsAddress: "127.0.0.1:9809"}, false},
		"Address": {"a port alone is no address", Options{NodeName: "n", MetricsAddress: "9809"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if err := tc.o.Validate(); (err == nil) != tc.ok {
				t.Errorf("error %v; reason: %s", err, tc.reason)
			}
		})
	}
}

func TestHungReadIsNotRepeated(t *testing.T) {
	h, started, answer := NewHost(nil, 20*time.Millisecond), 0, make(chan struct{})
	read := func() (int, error) {
		started++
		<-answer
		return 1, nil
	}
	for range 3 {
		if _, err := within(t.Context(), h, "disk", read); err == nil {
			t.Error("no error of a read that hangs")
		}
	}
	close(answer)
	within10s(t, func() bool { n, err := within(t.Context(), h, "disk", read); return err == nil && n == 1 })
	if started != 2 {
		t.Errorf("%d reads were started, want one that hung and one after it", started)
	}
}
