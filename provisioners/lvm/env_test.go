package lvm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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
	"holdfast.dev/e2e/wait"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

const (
	addonFiles = "../../salt/states/lvm-csi-driver/files/"
	system     = "holdfast-system"
	component  = "lvm-csi-driver"
	waitFor    = 60 * time.Second
)

// env is a real cluster with the addon's access rules and a node without kubelet.
type env struct {
	t     testing.TB
	admin client.Client
	cfg   *rest.Config // the administrator's
	node  string
	host  *lvmfake.Host
	infos []lvm.GroupInfo
	with  func(*lvm.Options) // changes the driver's options; may be nil
	stop  func()
	// socket is where the driver that was started last listens.
	socket string
}

func newEnv(t testing.TB, node string) *env { return newEnvOf(t, node, nil) }

// newEnvOf is one whose driver has other options.
func newEnvOf(t testing.TB, node string, with func(*lvm.Options)) *env {
	e := &env{t: t, cfg: cluster.ForTest(t).RESTConfig(), node: node, with: with}
	for i, g := range groups() {
		g.Name, g.UUID = node+"-"+g.Name, fmt.Sprintf("%s-0000-0000-0000-0000-0000-00000%d", (node + "xxxxxx")[:6], i)
		g.UUID = strings.ReplaceAll(g.UUID[:6], "-", "x") + g.UUID[6:]
		for j := range g.Disks {
			g.Disks[j] = node + "-" + g.Disks[j]
		}
		e.infos = append(e.infos, g)
	}
	e.host = lvmfake.New(100*gib, e.infos...)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if e.admin, err = client.New(e.cfg, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	e.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}})
	e.apply("../../salt/states/crds/files/holdfast.dev_computenodes.yaml")
	for _, f := range []string{"rbac", "admission-policy", "csi-driver"} {
		e.apply(addonFiles + f + ".yaml.jinja")
	}
	wait, grow := storagev1.VolumeBindingWaitForFirstConsumer, true
	for name, params := range map[string]map[string]string{
		"lvm-thin": {"pool": "db", "type": "thin"}, "lvm-thick": {"pool": "db", "csi.storage.k8s.io/fstype": "ext4"}, "lvm-bad": {"pool": "db", "colour": "green"},
	} {
		e.create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: lvm.DriverName, Parameters: params, VolumeBindingMode: &wait, AllowVolumeExpansion: &grow})
	}
	e.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{corev1.LabelHostname: node, lvm.TopologyKey: node}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("200")}}})
	e.create(&storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
		{Name: lvm.DriverName, NodeID: node, TopologyKeys: []string{lvm.TopologyKey}}}}})
	e.until("the CRD is served", func() bool { return e.admin.List(t.Context(), &v1alpha1.ComputeNodeList{}) == nil })
	e.start()
	return e
}

func (e *env) until(what string, ok func() bool) {
	e.t.Helper()
	wait.For(e.t, waitFor, what, ok)
}

// create creates an object; that an earlier test made it is well.
func (e *env) create(obj client.Object) {
	e.t.Helper()
	if err := e.admin.Create(e.t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
		e.t.Fatal(err)
	}
}

var expression = regexp.MustCompile(`\{\{.*?\}\}`)

// apply creates the objects of a manifest without expressions.
func (e *env) apply(file string) {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		e.t.Fatal(err)
	}
	if expression.Match(data) {
		e.t.Fatalf("%s has an expression", file)
	}
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		obj := map[string]any{}
		if err := yaml.Unmarshal([]byte(doc), &obj); err != nil {
			e.t.Fatalf("%s: %v", file, err)
		}
		e.create(&unstructured.Unstructured{Object: obj})
	}
}

// config is the access of a driver's pod on a node: a token of its service account
// that is bound to the pod, as the kubelet would request it; of no pod without a node.
func (e *env) config(node string) *rest.Config {
	e.t.Helper()
	cfg := rest.AnonymousClientConfig(e.cfg)
	tr := &authenticationv1.TokenRequest{}
	if node != "" {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: component + "-", Namespace: system}, Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: component, Tolerations: []corev1.Toleration{{Operator: "Exists"}}, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		e.create(pod)
		tr.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: component, Namespace: system}}
	if err := e.admin.SubResource("token").Create(e.t.Context(), sa, tr); err != nil {
		e.t.Fatal(err)
	}
	cfg.BearerToken, cfg.QPS, cfg.Burst = tr.Status.Token, 200, 400
	return cfg
}

// start starts the driver; stop ends it and waits.
func (e *env) start() {
	e.t.Helper()
	dir, err := os.MkdirTemp("", "hf") // a socket's path must be short
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(e.t.Context())
	log := slog.New(slog.NewTextHandler(e.t.Output(), nil))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu io memory\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	o := lvm.Options{NodeName: e.node, Namespace: system, Socket: filepath.Join(dir, "csi.sock"), Registration: dir, Provision: true, Refresh: 30 * time.Second, CgroupRoot: dir, Transfer: "127.0.0.1:0"}
	if e.with != nil {
		e.with(&o)
	}
	e.socket = o.Socket
	d, err := lvm.NewDriver(ctx, o, e.config(e.node), "test", e.infos, e.host, e.host, log)
	if err != nil {
		e.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stopped := false
	e.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("driver: %v", err)
		}
	}
	e.t.Cleanup(e.stop)
}

// claim creates a claim that the scheduler has given to the node.
func (e *env) claim(name, class string, size string, labels map[string]string) *corev1.PersistentVolumeClaim {
	e.t.Helper()
	return e.claimIn("", name, class, size, labels)
}

// claimIn is a claim for which storage-scheduler has chosen a volume group as well.
func (e *env) claimIn(group, name, class, size string, labels map[string]string) *corev1.PersistentVolumeClaim {
	e.t.Helper()
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels, Annotations: map[string]string{"volume.kubernetes.io/selected-node": e.node}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}},
	}
	if group != "" {
		c.Annotations[v1alpha1.LabelVolumeGroup], c.Annotations[v1alpha1.VolumeGroupNode] = group, e.node
	}
	if err := e.admin.Create(e.t.Context(), c); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func (e *env) bound(name string) *corev1.PersistentVolume {
	e.t.Helper()
	var pv corev1.PersistentVolume
	e.until("claim "+name+" is bound", func() bool {
		var c corev1.PersistentVolumeClaim
		return e.admin.Get(e.t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &c) == nil && c.Status.Phase == corev1.ClaimBound &&
			e.admin.Get(e.t.Context(), client.ObjectKey{Name: c.Spec.VolumeName}, &pv) == nil
	})
	return &pv
}

// counted are the changes up to which the capacities of a group count.
func (e *env) counted(group string) (upTo []int) {
	var list storagev1.CSIStorageCapacityList
	if err := e.admin.List(e.t.Context(), &list, client.InNamespace(system), client.MatchingLabels{v1alpha1.LabelVolumeGroup: group}); err != nil {
		e.t.Fatal(err)
	}
	for _, c := range list.Items {
		n, err := strconv.Atoi(c.Annotations[v1alpha1.VolumeGroupSeqno])
		if err != nil {
			e.t.Fatal(err)
		}
		upTo = append(upTo, n)
	}
	return upTo
}

func (e *env) capacities() map[string]int64 {
	var list storagev1.CSIStorageCapacityList
	if err := e.admin.List(e.t.Context(), &list, client.InNamespace(system), client.MatchingLabels{v1alpha1.LabelNode: e.node}); err != nil {
		e.t.Fatal(err)
	}
	all := map[string]int64{}
	for _, c := range list.Items {
		all[c.StorageClassName+" "+c.Labels[v1alpha1.LabelVolumeGroup]] = c.Capacity.Value()
	}
	return all
}

// failed waits for a Warning about an object that says so.
func (e *env) failed(kind, name, says string) {
	e.t.Helper()
	e.until(kind+" "+name+" is told: "+says, func() bool {
		var list corev1.EventList
		if err := e.admin.List(e.t.Context(), &list); err != nil {
			return false
		}
		return slices.ContainsFunc(list.Items, func(ev corev1.Event) bool {
			return ev.InvolvedObject.Kind == kind && ev.InvolvedObject.Name == name && ev.Type == corev1.EventTypeWarning && strings.Contains(ev.Message, says)
		})
	})
}

func groupOf(t *testing.T, e *env, pv *corev1.PersistentVolume) string {
	for _, g := range e.infos {
		if strings.HasPrefix(pv.Spec.CSI.VolumeHandle, g.UUID+"/") {
			return g.Name
		}
	}
	t.Fatalf("handle %s is of no group", pv.Spec.CSI.VolumeHandle)
	return ""
}
