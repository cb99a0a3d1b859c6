package local

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
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

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/nodedisks"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

const system = "holdfast-system"

// env is a real cluster with the addon's access rules and a node without kubelet.
type env struct {
	cluster *cluster.Cluster
	admin   client.Client
	node    string
	dir     string
	w       *world
}

// newEnv makes the node number n with a world of its own.
func newEnv(t *testing.T, n int) *env {
	t.Helper()
	e := &env{cluster: cluster.ForTest(t), node: fmt.Sprintf("node-%d", n), w: goodWorld().numbered(n)}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if e.admin, err = client.New(e.cluster.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	e.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}})
	for name, data := range manifests(t) {
		obj := map[string]any{}
		if err := yaml.Unmarshal(data, &obj); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e.create(t, &unstructured.Unstructured{Object: obj})
	}
	e.create(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: e.node, Labels: map[string]string{corev1.LabelHostname: e.node}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("10"),
		}},
	})
	within10s(t, func() bool {
		return e.admin.List(t.Context(), &v1alpha1.ComputeNodeList{}) == nil // the CRD is served
	})
	_, e.dir = e.w.host(t)
	data, err := yaml.Marshal(e.w.file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(e.dir, nodedisks.Path), string(data))
	return e
}

// numbered gives the disks and partitions ids of their own.
func (w *world) numbered(n int) *world {
	id := func(s string) string { return s[:len(s)-3] + fmt.Sprintf("%02d", n) + s[len(s)-1:] }
	links := map[string]string{}
	for uuid, dev := range w.links {
		links[id(uuid)] = dev
	}
	w.links = links
	for i := range w.disks {
		w.disks[i].wwid = id(w.disks[i].wwid)
	}
	certified := map[string]int64{}
	for uuid, n := range w.certified {
		certified[id(uuid)] = n
	}
	w.certified = certified
	for i := range w.parts {
		w.parts[i].kernelUUID = id(w.parts[i].kernelUUID)
	}
	for i := range w.file.Disks {
		d := &w.file.Disks[i]
		d.ID = id(d.ID)
		for j := range d.Partitions {
			d.Partitions[j].UUID = id(d.Partitions[j].UUID)
		}
	}
	return w
}

// create creates an object; that an earlier test made it is well.
func (e *env) create(t *testing.T, obj client.Object) {
	t.Helper()
	if err := e.admin.Create(t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// manifests are what the addon renders for a cluster whose pillar cleans the volumes of two classes.
func manifests(t *testing.T) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if _, err := render.Init(dir, render.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	pillar := filepath.Join(dir, "salt/pillar/common.sls")
	data, err := os.ReadFile(filepath.Clean(pillar))
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, "local-volume-provisioner:\n  storageClasses: [{name: local-ssd, reclaimPolicy: Delete}, {name: local-raw, reclaimPolicy: Delete, clean: zero}, {name: local-hdd}]\n"...)
	if err := os.WriteFile(pillar, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := render.TreeFromFS(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	res, err := render.Fleet(t.Context(), tree, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, data := range res.Bundles["canary"].Files {
		if strings.HasPrefix(name, component+"/") && !strings.Contains(name, "daemonset") || strings.Contains(name, "computenodes") {
			files[name] = data
		}
	}
	return files
}

// config is the access of a pod of the account on node: a token that is bound to
// the pod, as the kubelet would request it.
func (e *env) config(t *testing.T, account, node string) *rest.Config {
	t.Helper()
	cfg := rest.AnonymousClientConfig(e.cluster.RESTConfig())
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: system}}
	tr := &authenticationv1.TokenRequest{}
	if node != "" {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: account + "-", Namespace: system},
			Spec: corev1.PodSpec{
				NodeName: node, ServiceAccountName: account, Tolerations: []corev1.Toleration{{Operator: "Exists"}},
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

// run starts the daemon and waits for its first pass; stop ends it and waits.
func (e *env) run(t *testing.T) (stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cfg, log := e.config(t, component, e.node), slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() {
		done <- Run(ctx, Options{NodeName: e.node, HostRoot: e.dir, MetricsAddress: addr}, cfg, log)
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("daemon: %v", err)
		}
	}
	t.Cleanup(stop)
	within10s(t, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return stop
}

// volumes are the UIDs of the node's volumes by mount point.
func (e *env) volumes(t *testing.T) map[string]string {
	t.Helper()
	var list corev1.PersistentVolumeList
	if err := e.admin.List(t.Context(), &list, client.MatchingLabels{v1alpha1.LabelNode: e.node}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, pv := range list.Items {
		got[localPath(&pv)] = string(pv.UID)
	}
	return got
}

func (e *env) await(t *testing.T, n int) map[string]string {
	t.Helper()
	start := time.Now()
	var got map[string]string
	within10s(t, func() bool {
		got = e.volumes(t)
		return len(got) == n
	})
	t.Logf("%d volumes after %s", n, time.Since(start).Round(time.Millisecond))
	return got
}

func TestVolumesBindAndSurviveRestarts(t *testing.T) {
	e := newEnv(t, 11)
	stop := e.run(t)
	first := e.await(t, 3)

	class := "local-ssd"
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "default"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("100Mi")}},
		},
	}
	e.create(t, claim)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "user", Namespace: "default"},
		Spec: corev1.PodSpec{
			Tolerations: []corev1.Toleration{{Operator: "Exists"}},
			Containers:  []corev1.Container{{Name: "c", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
			}}},
		},
	}
	e.create(t, pod)
	within10s(t, func() bool {
		return e.admin.Get(t.Context(), client.ObjectKeyFromObject(claim), claim) == nil && claim.Status.Phase == corev1.ClaimBound &&
			e.admin.Get(t.Context(), client.ObjectKeyFromObject(pod), pod) == nil && pod.Spec.NodeName == e.node
	})
	want := VolumeName(e.w.file.Disks[1].ID, e.w.file.Disks[1].Partitions[0].UUID) // only disk B is large enough
	if claim.Spec.VolumeName != want {
		t.Errorf("the claim is bound to %s, not to %s", claim.Spec.VolumeName, want)
	}

	for range 3 {
		stop()
		stop = e.run(t)
	}
	put(t, filepath.Join(e.dir, mountTable), "") // everything unmounted: nothing is deleted
	stop()
	if diff := cmp.Diff(first, e.volumes(t)); diff != "" {
		t.Errorf("restarts changed the volumes: -before +after:\n%s", diff)
	}
}

// The resync is a minute and the test waits ten seconds: each volume comes by an event.
func TestVolumesFollowEvents(t *testing.T) {
	e := newEnv(t, 12)
	cn := &v1alpha1.ComputeNode{
		ObjectMeta: metav1.ObjectMeta{Name: e.node},
		Spec:       v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: e.w.file.Disks[0].ID, Reason: "Failed", By: "test", Since: metav1.Now()}}},
	}
	e.create(t, cn)
	e.w.mounts = e.w.mounts[:1] // disk B is not mounted yet
	put(t, filepath.Join(e.dir, mountTable), e.w.table())
	e.run(t)
	var events corev1.EventList
	within10s(t, func() bool { // disk A is closed, disk B is not mounted: both are told
		err := e.admin.List(t.Context(), &events, client.InNamespace("default"), client.MatchingFields{"involvedObject.name": e.node, "reason": eventWithheld})
		return err == nil && len(events.Items) == 3
	})
	if got := e.volumes(t); len(got) != 0 {
		t.Fatalf("volumes %v of a quarantined disk and of an unmounted one", got)
	}

	e.w.mounts = goodWorld().mounts
	e.w.writeContents(t, e.dir)
	put(t, filepath.Join(e.dir, mountTable), e.w.table())
	if got := e.await(t, 1); got["/mnt/holdfast/b"] == "" {
		t.Errorf("volumes %v after the mount", got)
	}
	cn.Spec.Quarantine = nil
	if err := e.admin.Update(t.Context(), cn); err != nil {
		t.Fatal(err)
	}
	all := e.await(t, 3)

	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: VolumeName(e.w.file.Disks[0].ID, e.w.file.Disks[0].Partitions[0].UUID)}}
	if err := e.admin.Delete(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	within10s(t, func() bool {
		uid := e.volumes(t)["/mnt/holdfast/a"]
		return uid != "" && uid != all["/mnt/holdfast/a"]
	})
}

func TestAdmissionPolicy(t *testing.T) {
	e := newEnv(t, 13)
	mine := func() *corev1.PersistentVolume {
		d := e.w.file.Disks[0]
		return volume(e.node, d, d.Partitions[0], 64*mib, false)
	}
	as := func(account, node string) client.Client {
		c, err := client.New(e.config(t, account, node), client.Options{Scheme: e.admin.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	pod, unbound := as(component, e.node), as(component, "")
	within10s(t, func() bool { // the API server takes a moment to compile the policy
		err := unbound.Create(t.Context(), mine(), client.DryRunAll)
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "the token names no node")
	})
	cases := map[string]struct {
		reason string
		change func(*corev1.PersistentVolume)
		want   string // part of the refusal; empty when it is taken
	}{
		"Own":      {"what the provisioner makes is taken", func(*corev1.PersistentVolume) {}, ""},
		"Raw":      {"a raw volume too", func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = byPartUUID + "/" + uuidRaw }, ""},
		"Label":    {"a volume in another node's name", func(pv *corev1.PersistentVolume) { pv.Labels[v1alpha1.LabelNode] = "node-x" }, "label holdfast.dev/node"},
		"NoLabel":  {"a volume in nobody's name", func(pv *corev1.PersistentVolume) { pv.Labels = nil }, "label holdfast.dev/node"},
		"Affinity": {"a volume that draws pods to another node", func(pv *corev1.PersistentVolume) { terms(pv)[0].MatchExpressions[0].Values[0] = "node-x" }, "node affinity"},
		"TwoNodes": {"or to that as well", func(pv *corev1.PersistentVolume) {
			terms(pv)[0].MatchExpressions[0].Values = []string{e.node, "node-x"}
		}, "node affinity"},
		"TwoTerms": {"terms are alternatives", func(pv *corev1.PersistentVolume) {
			na := pv.Spec.NodeAffinity.Required
			na.NodeSelectorTerms = append(na.NodeSelectorTerms, corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Exists"}}})
		}, "node affinity"},
		"NotIn": {"every node but this", func(pv *corev1.PersistentVolume) { terms(pv)[0].MatchExpressions[0].Operator = "NotIn" }, "node affinity"},
		"Path":  {"a directory of the host's own", func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = "/etc" }, "not a local volume below"},
		"Near":  {"a directory that only looks like it", func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = "/mntx/a" }, "not a local volume below"},
		"Root":  {"all volumes at once", func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = "/mnt/" }, "not a local volume below"},
		"HostPath": {"a hostPath is not local", func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt/a"}}
		}, "not a local volume below"},
		"Claim": {"a volume that takes somebody's claim", func(pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "x"}
		}, "has a claim"},
		"Delete": {"a class that is cleaned", func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeReclaimPolicy = "Delete" }, ""},
		"DeleteOther": {"nobody cleans that class, so nobody deletes", func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeReclaimPolicy, pv.Spec.StorageClassName = "Delete", "local-hdd"
		}, "not one that is cleaned"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pv := mine()
			tc.change(pv)
			err := pod.Create(t.Context(), pv, client.DryRunAll)
			if tc.want == "" && err != nil || tc.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
	if err := e.admin.Create(t.Context(), mine(), client.DryRunAll); err != nil {
		t.Errorf("the policy is of one service account, and refused another: %v", err)
	}
	e.create(t, mine())
	if err := pod.Delete(t.Context(), mine()); !apierrors.IsForbidden(err) {
		t.Errorf("the provisioner may delete a volume: %v", err)
	}
}

func terms(pv *corev1.PersistentVolume) []corev1.NodeSelectorTerm {
	return pv.Spec.NodeAffinity.Required.NodeSelectorTerms
}

// The cleaner may delete released volumes of its own node and no others, and may
// create and change none.
func TestCleanerMayDelete(t *testing.T) {
	e := newEnv(t, 14)
	cleaner := func(node string) client.Client {
		c, err := client.New(e.config(t, "local-volume-cleaner", node), client.Options{Scheme: e.admin.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	pod, unbound := cleaner(e.node), cleaner("")
	n := 0
	made := func(change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
		d := e.w.file.Disks[0]
		pv := volume(e.node, d, d.Partitions[0], 64*mib, true)
		n++
		pv.Name = fmt.Sprintf("deletable-%d", n)
		pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "gone", UID: "00000000-0000-4000-8000-000000000000"}
		change(pv)
		e.create(t, pv)
		if pv.Spec.ClaimRef != nil { // the stock PV controller finds that the claim is gone, and leaves the volume alone
			within10s(t, func() bool {
				return e.admin.Get(t.Context(), client.ObjectKeyFromObject(pv), pv) == nil && pv.Status.Phase == corev1.VolumeReleased
			})
		}
		return pv
	}
	first := made(func(*corev1.PersistentVolume) {})
	within10s(t, func() bool { // the API server takes a moment to compile the policy
		err := unbound.Delete(t.Context(), first, client.DryRunAll)
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "not one of the node of the token")
	})
	cases := map[string]struct {
		reason string
		change func(*corev1.PersistentVolume)
		ok     bool
	}{
		"Released":  {"what is cleaned", func(*corev1.PersistentVolume) {}, true},
		"OtherNode": {"a node that was broken into must not lose another's volumes", func(pv *corev1.PersistentVolume) { pv.Labels[v1alpha1.LabelNode] = "node-x" }, false},
		"Available": {"a volume that nobody had", func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = nil }, false},
		"Retain":    {"a person decides", func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeReclaimPolicy = "Retain" }, false},
		"NotOurs":   {"another provisioner's", func(pv *corev1.PersistentVolume) { pv.Annotations[AnnotationProvisioner] = "example.com/x" }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := pod.Delete(t.Context(), made(tc.change), client.DryRunAll)
			if tc.ok && err != nil || !tc.ok && !apierrors.IsForbidden(err) {
				t.Errorf("got %v; reason: %s", err, tc.reason)
			}
		})
	}
	first.Spec.PersistentVolumeReclaimPolicy = "Retain"
	if err := pod.Update(t.Context(), first, client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Errorf("the cleaner may change a volume: %v", err)
	}
	if err := pod.Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Errorf("the cleaner may create a volume: %v", err)
	}
}
