package remediation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/diskid"
)

func TestMain(m *testing.M) {
	// The libraries' own loggers would print to standard error.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	os.Exit(cluster.Main(m))
}

// live is a real API server with stock controllers and scheduler, and a
// configuration with the rights of the addon's own ServiceAccount.
type live struct {
	t   *testing.T
	api client.Client // administrator
	cfg *rest.Config  // the controller's
	ns  string
}

const systemNamespace = "holdfast-system"

func newLive(t *testing.T) *live {
	t.Helper()
	c := cluster.ForTest(t)
	s, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	if err := storagev1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(c.RESTConfig(), client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	path, err := c.UserKubeconfig("system:serviceaccount:"+systemNamespace+":remediation-controller", "system:serviceaccounts", "system:serviceaccounts:"+systemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, api: api, cfg: cfg, ns: "default"}
	l.apply("../salt/states/crds/files/holdfast.dev_*.yaml")
	l.eventually("the custom resources", func() string {
		crds := &unstructured.UnstructuredList{}
		crds.SetAPIVersion("apiextensions.k8s.io/v1")
		crds.SetKind("CustomResourceDefinitionList")
		if err := api.List(context.Background(), crds); err != nil {
			return err.Error()
		}
		for _, crd := range crds.Items {
			conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
			if !strings.Contains(fmt.Sprint(conditions), "type:Established") || strings.Contains(fmt.Sprint(conditions), "status:False type:Established") {
				return crd.GetName() + fmt.Sprint(conditions)
			}
		}
		return ""
	})
	l.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}})
	l.apply("../salt/states/remediation-controller/files/rbac.yaml")
	if err := coordinationv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]storagev1.VolumeBindingMode{"static": storagev1.VolumeBindingImmediate, "static-late": storagev1.VolumeBindingWaitForFirstConsumer} {
		l.make(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: ptr.To(mode)})
	}
	return l
}

// apply creates the objects of manifest files.
func (l *live) apply(pattern string) {
	l.t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		l.t.Fatalf("no files match %s (%v)", pattern, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			l.t.Fatal(err)
		}
		dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(b), 4096)
		for {
			u := &unstructured.Unstructured{}
			if err := dec.Decode(&u.Object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				l.t.Fatalf("%s: %v", f, err)
			}
			if len(u.Object) > 0 {
				l.make(u)
			}
		}
	}
}

// make creates an object, unless it is there.
func (l *live) make(o client.Object) {
	l.t.Helper()
	if err := l.api.Create(context.Background(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		l.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

// eventually polls until is says "".
func (l *live) eventually(what string, is func() string) {
	l.t.Helper()
	if _, err := wait.Until(context.Background(), time.Minute, what, func() (bool, error) {
		if why := is(); why != "" {
			return false, errors.New(why)
		}
		return true, nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *live) get(o client.Object, namespace, name string) error {
	return l.api.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: name}, o)
}

// settings are DefaultOptions on a free port.
func settings() Options {
	o := DefaultOptions()
	o.MetricsAddress = "127.0.0.1:0"
	o.LeaderElectionNamespace = systemNamespace
	return o
}

// running is one controller process.
type running struct {
	stop context.CancelFunc
	done chan error
}

func (l *live) run(cfg *rest.Config) *running { return l.runWith(cfg, settings()) }

func (l *live) runWith(cfg *rest.Config, o Options) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- Run(ctx, cfg, o, slog.New(slog.DiscardHandler)) }()
	l.t.Cleanup(func() { cancel() })
	return r
}

func (l *live) end(r *running) {
	l.t.Helper()
	r.stop()
	if err := <-r.done; err != nil && !strings.Contains(err.Error(), "leader election lost") {
		l.t.Errorf("controller ended with: %v", err)
	}
}

// node makes a Node that pods can be scheduled to, and reports disks as healthy.
func (l *live) node(name string, disks ...string) {
	l.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: "zone-" + name, v1alpha1.LabelFlavor: "db",
	}}}
	l.make(n)
	base := n.DeepCopy()
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test", LastHeartbeatTime: metav1.Now()}}
	if err := l.api.Status().Patch(context.Background(), n, client.MergeFrom(base)); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = l.api.Delete(context.Background(), n) })
	l.eventually("ComputeNode of "+name, func() string {
		var cn v1alpha1.ComputeNode
		if err := l.get(&cn, "", name); err != nil {
			return err.Error()
		}
		if cn.Spec.NodeUID != n.UID || cn.Spec.Flavor != "db" {
			return "spec is " + cn.Spec.Flavor + " " + string(cn.Spec.NodeUID)
		}
		return ""
	})
	l.report(name, func(s *v1alpha1.ComputeNodeStatus) {
		for i, d := range disks {
			s.Disks = append(s.Disks, v1alpha1.Disk{ID: d, Device: "sd" + string(rune('a'+i)), Slot: string(rune('0' + i)), State: v1alpha1.DiskHealthy, Since: ptr.To(metav1.Now())})
		}
	})
}

// report is the node's monitor writing its status.
func (l *live) report(node string, change func(*v1alpha1.ComputeNodeStatus)) {
	l.t.Helper()
	var cn v1alpha1.ComputeNode
	if err := l.get(&cn, "", node); err != nil {
		l.t.Fatal(err)
	}
	base := cn.DeepCopy()
	change(&cn.Status)
	if err := l.api.Status().Patch(context.Background(), &cn, client.MergeFrom(base)); err != nil {
		l.t.Fatal(err)
	}
}

// state is the monitor's new verdict on one disk.
func (l *live) state(node, disk string, s v1alpha1.DiskState) {
	l.t.Helper()
	l.report(node, func(st *v1alpha1.ComputeNodeStatus) {
		for i := range st.Disks {
			if d := &st.Disks[i]; d.ID == disk {
				d.State, d.Since, d.Faults = s, ptr.To(metav1.Now()), nil
				if s == v1alpha1.DiskFailed {
					d.Faults = []v1alpha1.Fault{{Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical, FirstSeen: metav1.Now(), LastSeen: metav1.Now(), Count: 1, Evidence: "I/O error, dev sda, sector 8"}}
				}
			}
		}
	})
}

// volume makes a PersistentVolume as the provisioner does.
func (l *live) volume(name, class, node, disk string) *corev1.PersistentVolume {
	l.t.Helper()
	pv := volume(name, disk, nil)
	pv.UID, pv.Status = "", corev1.PersistentVolumeStatus{}
	pv.Labels[v1alpha1.LabelNode] = node
	pv.Labels[v1alpha1.LabelDisk] = diskid.Label(disk)
	pv.Spec.StorageClassName = class
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	l.make(pv)
	l.t.Cleanup(func() { _ = l.api.Delete(context.Background(), pv) })
	return pv
}

func (l *live) claim(name, class string) {
	l.t.Helper()
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	l.make(c)
	l.t.Cleanup(func() { _ = l.api.Delete(context.Background(), c) })
}

// bound waits until a claim has a volume.
func (l *live) bound(claim, volume string) {
	l.t.Helper()
	l.eventually("claim "+claim, func() string {
		var c corev1.PersistentVolumeClaim
		if err := l.get(&c, l.ns, claim); err != nil {
			return err.Error()
		}
		if c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName != volume {
			return string(c.Status.Phase) + " " + c.Spec.VolumeName + ", want " + volume
		}
		return ""
	})
}

// policy puts the policy in force.
func (l *live) policy(paused bool) {
	l.t.Helper()
	p := policyObject()
	p.Spec.Paused = paused
	old := &v1alpha1.RemediationPolicy{}
	if err := l.get(old, "", p.Name); err == nil {
		p.ResourceVersion = old.ResourceVersion
		if err := l.api.Update(context.Background(), p); err != nil {
			l.t.Fatal(err)
		}
		return
	}
	l.make(p)
}

// mortal is a transport that dies at its limit-th write, before or after the
// write reached the API server. It logs every write that was carried out.
type mortal struct {
	sync.Mutex
	next  http.RoundTripper
	limit int
	after bool
	count int
	dead  chan struct{}
	trail *trail
}

type trail struct {
	sync.Mutex
	writes []string
}

var errDead = errors.New("the process was killed")

// RoundTrip implements http.RoundTripper.
func (m *mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	m.Lock()
	select {
	case <-m.dead:
		m.Unlock()
		return nil, errDead
	default:
	}
	counts := r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") && !strings.Contains(r.URL.Path, "/namespaces/"+systemNamespace+"/events")
	if !counts {
		m.Unlock()
		return m.next.RoundTrip(r)
	}
	defer m.Unlock() // writes go one after the other, so that the kill is exact
	if m.limit > 0 && !m.after && m.count == m.limit-1 {
		close(m.dead)
		return nil, errDead
	}
	resp, err := m.next.RoundTrip(r)
	if err != nil || resp.StatusCode >= 300 {
		return resp, err // nothing was written: a conflict, or it is there already
	}
	m.count++
	m.trail.Lock()
	m.trail.writes = append(m.trail.writes, r.Method+" "+hashes.ReplaceAllString(r.URL.Path, "-HASH"))
	m.trail.Unlock()
	if m.limit > 0 && m.count == m.limit {
		close(m.dead)
		return nil, errors.Join(errDead, resp.Body.Close())
	}
	return resp, nil
}

var hashes = regexp.MustCompile(`-[0-9a-f]{16}`)
