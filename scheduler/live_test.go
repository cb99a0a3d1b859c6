package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
)

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	os.Exit(cluster.Main(m))
}

const (
	systemNamespace = "holdfast-system"
	schedulerName   = "storage-scheduler"
)

// live is a real API server with the stock controllers and the stock scheduler.
type live struct {
	t          testing.TB
	api        client.WithWatch // administrator
	kubeconfig string           // of the addon's own ServiceAccount
	ns         string
}

func newLive(t testing.TB, ns string) *live {
	t.Helper()
	c := cluster.ForTest(t)
	return newLiveOn(t, c, ns)
}

func newLiveOn(t testing.TB, c *cluster.Cluster, ns string) *live {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	api, err := client.NewWithWatch(c.RESTConfig(), client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	sa := "system:serviceaccount:" + systemNamespace + ":storage-scheduler"
	kubeconfig, err := c.UserKubeconfig(sa, "system:serviceaccounts", "system:serviceaccounts:"+systemNamespace, "system:authenticated")
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, api: api, kubeconfig: kubeconfig, ns: ns}
	l.apply("../salt/states/crds/files/holdfast.dev_*.yaml")
	l.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}})
	l.make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	l.make(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: ns}})
	l.apply("../salt/states/storage-scheduler/files/rbac.yaml")
	for name, provisioner := range map[string]string{staticClass: "kubernetes.io/no-provisioner", thickClass: v1alpha1.DriverLVM, "network": "cinder.example.com"} {
		l.make(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner,
			VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimRetain)})
	}
	l.eventually("the ComputeNode API", func() string {
		if err := api.List(context.Background(), &v1alpha1.ComputeNodeList{}); err != nil {
			return err.Error()
		}
		return ""
	})
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
	if _, err := wait.Until(context.Background(), 2*time.Minute, what, func() (bool, error) {
		if why := is(); why != "" {
			return false, errors.New(why)
		}
		return true, nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// run starts kube-scheduler's own code with the plugin, as kube-scheduler's
// command does but without its process: its configuration is registered once a
// process, and its end is the process's end. The returned function ends it
// without any farewell, and returns when nothing of it runs any more.
func (l *live) run(plugins string) (kill func()) {
	l.t.Helper()
	return l.runWith(plugins, func() {})
}

// runWith is run, and calls began when everything is known and scheduling begins.
func (l *live) runWith(plugins string, began func()) (kill func()) {
	l.t.Helper()
	config := filepath.Join(l.t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(`
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %s, qps: 2000, burst: 4000}
profiles:
- schedulerName: %s
%s`, l.kubeconfig, schedulerName, plugins)), 0o600); err != nil {
		l.t.Fatal(err)
	}
	o := options.NewOptions()
	fs := pflag.NewFlagSet("storage-scheduler", pflag.ContinueOnError)
	for _, set := range o.Flags.FlagSets {
		fs.AddFlagSet(set)
	}
	if err := fs.Parse([]string{"--config=" + config, "--secure-port=0"}); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cc, sched, err := app.Setup(ctx, o, app.WithPlugin(Name, NewFactory(prometheus.NewRegistry())))
	if err != nil {
		cancel()
		l.t.Fatalf("set up the scheduler: %v", err)
	}
	cc.EventBroadcaster.StartRecordingToSink(ctx.Done())
	cc.InformerFactory.Start(ctx.Done())
	cc.DynInformerFactory.Start(ctx.Done())
	cc.InformerFactory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	began()
	go func() { defer close(done); sched.Run(ctx) }()
	kill = sync.OnceFunc(func() { cancel(); <-done; cc.EventBroadcaster.Shutdown() })
	l.t.Cleanup(kill)
	return kill
}

// ours is the profile as the addon's ConfigMap has it.
const ours = `
  plugins:
    preFilter:
      enabled:
      - name: HoldfastVolumes
    multiPoint:
      enabled:
      - name: HoldfastVolumes
      disabled:
      - name: VolumeBinding
  pluginConfig:
  - name: HoldfastVolumes
    args:
      bindTimeoutSeconds: 60
`

// node makes a Node that says it is ready, and keeps it so: nothing else runs there.
func (l *live) node(name string) {
	l.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, topologyKey: name}}}
	l.make(n)
	base := n.DeepCopy()
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("500"), corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if err := l.api.Status().Patch(context.Background(), n, client.MergeFrom(base)); err != nil {
		l.t.Fatal(err)
	}
	l.make(&v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: name}})
	l.t.Cleanup(func() { _ = l.api.Delete(context.Background(), n) })
	l.eventually("node "+name, func() string {
		var now corev1.Node
		if err := l.api.Get(context.Background(), types.NamespacedName{Name: name}, &now); err != nil {
			return err.Error()
		}
		if len(now.Spec.Taints) > 0 {
			return fmt.Sprint("taints ", now.Spec.Taints)
		}
		return ""
	})
}

// localVolume offers a local volume.
func (l *live) localVolume(name, node, disk, size string) {
	l.t.Helper()
	q := resource.MustParse(size)
	pv := localVolume(name, node, disk, q.Value())
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + name}}
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	l.make(pv)
	l.t.Cleanup(func() { _ = l.api.Delete(context.Background(), pv) })
	l.eventually("volume "+name, func() string {
		var now corev1.PersistentVolume
		if err := l.api.Get(context.Background(), types.NamespacedName{Name: name}, &now); err != nil {
			return err.Error()
		}
		if now.Status.Phase != corev1.VolumeAvailable {
			return "phase " + string(now.Status.Phase)
		}
		return ""
	})
}

// ask is one claim of a pod.
type ask struct{ name, class, size, label, group string }

// pod makes a pod and its claims.
func (l *live) pod(name, scheduler string, asks ...ask) {
	l.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.ns}, Spec: corev1.PodSpec{
		SchedulerName: scheduler, TerminationGracePeriodSeconds: ptr.To(int64(0)),
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, // nobody sends the nodes' heartbeats
		Containers:  []corev1.Container{{Name: "c", Image: "none"}},
	}}
	for _, a := range asks {
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + a.name, Namespace: l.ns}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(a.class), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(a.size)}},
		}}
		if a.label != "" {
			pvc.Labels = map[string]string{a.label: a.group}
		}
		l.make(pvc)
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: a.name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pvc.Name}}})
	}
	l.make(p)
}

// where waits until a pod has a node and returns the disks of its claims, in order.
func (l *live) where(pod string) (disks []string) {
	l.t.Helper()
	l.eventually("pod "+pod, func() string {
		var p corev1.Pod
		if err := l.api.Get(context.Background(), types.NamespacedName{Namespace: l.ns, Name: pod}, &p); err != nil {
			return err.Error()
		}
		if p.Spec.NodeName == "" {
			return l.why(&p)
		}
		disks = nil
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim == nil {
				continue
			}
			var pvc corev1.PersistentVolumeClaim
			var pv corev1.PersistentVolume
			if err := l.api.Get(context.Background(), types.NamespacedName{Namespace: l.ns, Name: v.PersistentVolumeClaim.ClaimName}, &pvc); err != nil {
				return err.Error()
			}
			if err := l.api.Get(context.Background(), types.NamespacedName{Name: pvc.Spec.VolumeName}, &pv); err != nil {
				return err.Error()
			}
			disks = append(disks, pv.Labels[v1alpha1.LabelDisk])
		}
		return ""
	})
	return disks
}

// why is the scheduler's reason for a pod that waits.
func (l *live) why(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return "nobody looked at it"
}

// waits waits until the scheduler says why a pod waits.
func (l *live) waits(pod, why string) {
	l.t.Helper()
	l.eventually("pod "+pod+" waits because "+why, func() string {
		var p corev1.Pod
		if err := l.api.Get(context.Background(), types.NamespacedName{Namespace: l.ns, Name: pod}, &p); err != nil {
			return err.Error()
		}
		if got := l.why(&p); p.Spec.NodeName != "" || !strings.Contains(got, why) {
			return "it is on node " + p.Spec.NodeName + " and says " + got
		}
		return ""
	})
}

func (l *live) quarantine(node string, disks ...string) {
	l.t.Helper()
	var cn v1alpha1.ComputeNode
	if err := l.api.Get(context.Background(), types.NamespacedName{Name: node}, &cn); err != nil {
		l.t.Fatal(err)
	}
	base := cn.DeepCopy()
	cn.Spec.Quarantine = nil
	for _, d := range disks {
		cn.Spec.Quarantine = append(cn.Spec.Quarantine, v1alpha1.Quarantine{Disk: d, Reason: "Test", By: "test", Since: metav1.Now()})
	}
	if err := l.api.Patch(context.Background(), &cn, client.MergeFrom(base)); err != nil {
		l.t.Fatal(err)
	}
}
