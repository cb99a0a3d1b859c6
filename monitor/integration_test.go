package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
)

func TestMain(m *testing.M) {
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cluster.Main(m))
}

const (
	states    = "../salt/states/"
	component = "disk-monitor"
	system    = "holdfast-system"
)

// env is a real API server with the addon's access rules.
type env struct {
	cluster *cluster.Cluster
	admin   client.WithWatch
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{cluster: cluster.ForTest(t)}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if e.admin, err = client.NewWithWatch(e.cluster.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	e.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}})
	for _, f := range []string{"crds/files/holdfast.dev_computenodes.yaml", "crds/files/holdfast.dev_nodeflavors.yaml", component + "/files/rbac.yaml.jinja", component + "/files/admission-policy.yaml.jinja"} {
		e.apply(t, states+f)
	}
	for _, list := range []client.ObjectList{&v1alpha1.ComputeNodeList{}, &v1alpha1.NodeFlavorList{}} {
		within(t, func() bool { // the CRD is served
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := e.admin.List(ctx, list)
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
	}
	return e
}

// create creates an object; that an earlier test made it is well.
func (e *env) create(t *testing.T, obj client.Object) {
	t.Helper()
	if err := e.admin.Create(t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// apply creates the objects of a manifest without expressions.
func (e *env) apply(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		obj := map[string]any{}
		if err := yaml.Unmarshal([]byte(doc), &obj); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(obj) > 0 {
			e.create(t, &unstructured.Unstructured{Object: obj})
		}
	}
}

// config is the access of the monitor's pod on node: a token of its service
// account that is bound to the pod, as the kubelet would request it.
func (e *env) config(t *testing.T, node string) *rest.Config {
	t.Helper()
	cfg := rest.AnonymousClientConfig(e.cluster.RESTConfig())
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: component, Namespace: system}}
	tr := &authenticationv1.TokenRequest{}
	if node != "" {
		e.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: component + "-", Namespace: system},
			Spec: corev1.PodSpec{
				NodeName: node, ServiceAccountName: component, Tolerations: []corev1.Toleration{{Operator: "Exists"}},
				Containers: []corev1.Container{{Name: "c", Image: "i"}},
			},
		}
		e.create(t, pod)
		tr.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	if err := e.admin.SubResource("token").Create(t.Context(), sa, tr); err != nil {
		t.Fatal(err)
	}
	cfg.BearerToken = tr.Status.Token
	return cfg
}

func (e *env) run(t *testing.T, h *host, node string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	o, cfg, log := h.options(node), e.config(t, node), slog.New(slog.NewTextHandler(t.Output(), nil))
	go func() { done <- Run(ctx, o, cfg, log) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// await watches the ComputeNode until it is as wanted.
func (e *env) await(t *testing.T, node, what string, ok func(*v1alpha1.ComputeNode) bool) *v1alpha1.ComputeNode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := e.admin.Watch(ctx, &v1alpha1.ComputeNodeList{}, client.MatchingFields{"metadata.name": node})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last *v1alpha1.ComputeNode
	for ev := range w.ResultChan() {
		if n, is := ev.Object.(*v1alpha1.ComputeNode); is {
			if last = n; ok(n) {
				return n
			}
		}
	}
	t.Fatalf("not seen: %s; last %+v", what, last)
	return nil
}

func TestReportsToTheServer(t *testing.T) {
	const node, disks = "monitor-1", 20
	e, h := newEnv(t), newHost(t)
	var names []string
	for i := range disks {
		name := fmt.Sprintf("m%02d", i)
		names = append(names, name)
		h.plug(fmt.Sprint("loop", i+10), name)
	}
	h.prepare(names...)
	e.create(t, &v1alpha1.NodeFlavor{ObjectMeta: metav1.ObjectMeta{Name: "many"}, Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Role: v1alpha1.RoleStatic, Count: disks}}}})
	e.volume(t, node, "m-bound", 1, &corev1.ObjectReference{Namespace: "default", Name: "claim", UID: "1"})
	e.volume(t, node, "m-closed", 2, &corev1.ObjectReference{Namespace: v1alpha1.SentinelClaimNamespace, Name: v1alpha1.SentinelClaimName})
	e.volume(t, "other", "m-other", 3, nil)
	stop := e.run(t, h, node)
	e.create(t, &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: v1alpha1.ComputeNodeSpec{Flavor: "many"}}) // after the monitor's start
	// The kernel log is opened beside the first look at the disks.
	n := e.await(t, node, "a report with three conditions that are True", func(n *v1alpha1.ComputeNode) bool {
		return len(n.Status.Disks) == disks && n.Status.State == v1alpha1.DiskHealthy && n.Status.Disks[0].Volumes[0].PersistentVolume != "" &&
			len(n.Status.Conditions) == 3 && !slices.ContainsFunc(n.Status.Conditions, func(c metav1.Condition) bool { return c.Status != metav1.ConditionTrue })
	})
	for i, want := range []v1alpha1.DiskVolume{{PersistentVolume: "m-bound", Claim: "default/claim"}, {PersistentVolume: "m-closed"}, {}} {
		want.PartitionUUID = fmt.Sprintf("00000000-0000-0000-0000-%012d", i+1)
		if got := n.Status.Disks[i].Volumes[0]; got != want {
			t.Errorf("volume %+v, want %+v", got, want)
		}
	}

	var took []time.Duration
	for i := range disks {
		start := time.Now()
		h.ioError(fmt.Sprintf("loop%dp1", i+10))
		e.await(t, node, "failed", is(fmt.Sprintf("loop-m%02d", i), "Failed BlockIO*1"))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("line to ComputeNode, %d faults: median %s, worst %s", disks, took[disks/2].Round(time.Millisecond), took[disks-1].Round(time.Millisecond))

	before := e.await(t, node, "last", is("loop-m19", "Failed BlockIO*1"))
	stop()
	e.run(t, h, node)
	h.remove("sys/block/loop29")
	after := e.await(t, node, "missing", is("loop-m19", "Missing BlockIO*1 Missing*1"))
	if a, b := after.Status.Disks[0].Faults[0], before.Status.Disks[0].Faults[0]; a.Count != b.Count || !a.FirstSeen.Equal(&b.FirstSeen) {
		t.Errorf("the restart changed %+v into %+v", b, a)
	}
}

func (e *env) volume(t *testing.T, node, name string, part int, claim *corev1.ObjectReference) {
	t.Helper()
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelNode: node}, Annotations: map[string]string{
			v1alpha1.AnnotationDisk: fmt.Sprintf("loop-m%02d", part-1), v1alpha1.AnnotationPartition: fmt.Sprintf("00000000-0000-0000-0000-%012d", part)}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, StorageClassName: "none",
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/x"}}, ClaimRef: claim, PersistentVolumeReclaimPolicy: "Retain",
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: "In", Values: []string{node}}}}}}},
		},
	}
	e.create(t, pv)
}

// A node that was broken into must not speak for another one.
func TestAdmissionPolicy(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"policy-a", "policy-b"} {
		e.create(t, &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	cases := map[string]struct {
		reason, token, target string
		status, allowed       bool
	}{
		"Own":     {"its own status", "policy-a", "policy-a", true, true},
		"Other":   {"another node's status", "policy-a", "policy-b", true, false},
		"NoNode":  {"a token of no node", "", "policy-a", true, false},
		"OwnSpec": {"its own spec, where quarantine is", "policy-a", "policy-a", false, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := client.New(e.config(t, tc.token), client.Options{Scheme: e.admin.Scheme()})
			if err != nil {
				t.Fatal(err)
			}
			within(t, func() bool { // the policy takes a moment to be in force
				var n v1alpha1.ComputeNode
				if err := e.admin.Get(t.Context(), client.ObjectKey{Name: tc.target}, &n); err != nil {
					t.Fatal(err)
				}
				n.Status.Summary = time.Now().String()
				if tc.status {
					err = c.Status().Update(t.Context(), &n)
				} else {
					n.Spec.Maintenance = !n.Spec.Maintenance
					err = c.Update(t.Context(), &n)
				}
				if tc.allowed {
					return err == nil
				}
				return apierrors.IsForbidden(err)
			})
		})
	}
}
