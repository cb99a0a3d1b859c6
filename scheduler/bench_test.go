//go:build bench

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"holdfast.dev/e2e/cluster"
)

// TestBenchBurst is hostpath's published scenario (see TestBurst), and the same with the
// stock profile, where the driver chooses the volume group and has room for all in each:
// the stock profile promises it several times over.
func TestBenchBurst(t *testing.T) {
	rate := map[string]float64{}
	room := map[string]int64{stock: 1000, ours: 55}
	for _, profile := range []string{stock, ours} {
		l := newLive(t, "burst"+map[string]string{stock: "-stock"}[profile])
		kill := l.run(profile)
		b := l.burstOf(10, 1000, room[profile], nil)
		kill()
		rate[profile] = 1000 / b.took.Seconds()
		if profile == ours {
			fmt.Fprintf(os.Stdout, "BENCH name=provision1000_failed_attempts value=%.0f unit=attempts peer=csi-driver-host-path-published peer_value=27\n", b.failed+float64(b.refused))
		}
	}
	fmt.Fprintf(os.Stdout, "BENCH name=provision1000_volumes_per_second value=%.1f unit=volumes/s peer=kube-scheduler-v1.36.3 peer_value=%.1f ratio=%.3f\n", rate[ours], rate[stock], rate[ours]/rate[stock])
}

const (
	benchNodes   = 5000
	benchVolumes = 50000
	benchPods    = 1000
	benchSpace   = "bench-pods"
	stock        = "" // the profile as upstream has it
)

// TestBenchPodsPerSecond measures scheduling with 5,000 nodes and 50,000 volumes
// on a real API server, stock and with the plugin in turn, each twice, the better counts.
// Beside it run the API server and the controllers that have nothing to do with
// nodes and volumes; no kubelets.
func TestBenchPodsPerSecond(t *testing.T) {
	c := cluster.FreshWith(t, cluster.Options{Name: "bench", ReadyTimeout: 3 * time.Minute, Args: []string{
		"--controller-manager-arg=--controllers=*,-persistentvolume-binder-controller,-persistentvolume-attach-detach-controller,-persistentvolume-expander-controller," +
			"-persistentvolume-protection-controller,-persistentvolumeclaim-protection-controller,-node-lifecycle-controller,-node-ipam-controller,-taint-eviction-controller,-ttl-controller", "--apiserver-arg=--max-requests-inflight=2000", "--apiserver-arg=--max-mutating-requests-inflight=2000",
	}})
	l := newLiveOn(t, c, benchSpace)
	w := newCrowd(t, c)
	start := time.Now()
	w.each(benchNodes, w.node)
	t.Logf("%d nodes after %s", benchNodes, time.Since(start).Round(time.Second))
	w.each(benchVolumes, w.volume)
	t.Logf("%d volumes after %s", benchVolumes, time.Since(start).Round(time.Second))

	for _, s := range []struct {
		name   string
		pods   [2]int // stock, ours
		rounds int
		claim  func(i int) error
	}{
		{"scheduler_pods_per_second", [2]int{benchPods, benchPods}, 2, nil},
		{"scheduler_bound_pods_per_second", [2]int{benchPods, benchPods}, 2, w.bound},
		{"scheduler_unbound_pods_per_second", [2]int{1, 200}, 1, w.unbound},
	} {
		var best [2]float64
		for range s.rounds {
			for i, profile := range []string{stock, ours} {
				best[i] = max(best[i], w.measure(l, profile, s.pods[i], s.claim))
			}
		}
		fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.1f unit=pods/s peer=kube-scheduler-v1.36.3 peer_value=%.1f ratio=%.3f\n", s.name, best[1], best[0], best[1]/best[0])
	}
}

// crowd fills a cluster.
type crowd struct {
	t      *testing.T
	client kubernetes.Interface
	next   atomic.Int64
}

func newCrowd(t *testing.T, c *cluster.Cluster) *crowd {
	cfg := c.RESTConfig()
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &crowd{t: t, client: client}
}

// each calls do for 0 to n-1, some at once.
func (w *crowd) each(n int, do func(i int) error) {
	w.t.Helper()
	var next atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	for range 48 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil && !apierrors.IsAlreadyExists(err) {
					failed.Store(err)
				}
			}
		}()
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		w.t.Fatal(err)
	}
}

func (w *crowd) node(i int) error {
	name := fmt.Sprintf("node-%05d", i)
	n, err := w.client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
		Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3)}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test"}}
	_, err = w.client.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{})
	return err
}

// volume makes a free volume, ten a node on two disks.
func (w *crowd) volume(i int) error {
	node := i % benchNodes
	pv := localVolume(fmt.Sprintf("pv-%05d", i), fmt.Sprintf("node-%05d", node), fmt.Sprintf("wwn-%d-%d", node, i/benchNodes%2), gib)
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + pv.Name}}
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	pv, err := w.client.CoreV1().PersistentVolumes().Create(context.Background(), pv, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pv.Status.Phase = corev1.VolumeAvailable
	_, err = w.client.CoreV1().PersistentVolumes().UpdateStatus(context.Background(), pv, metav1.UpdateOptions{})
	return err
}

func (w *crowd) pvc(i int, name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: benchSpace}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To(staticClass), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
}

// bound makes a claim that is bound to a volume, as the PV controller leaves them.
func (w *crowd) bound(i int) error {
	pvc := w.pvc(i, fmt.Sprint("c-", i))
	name := fmt.Sprint("bound-", i)
	pvc.Spec.VolumeName = name
	pvc.Annotations = map[string]string{volume.AnnBindCompleted: "yes"}
	made, err := w.client.CoreV1().PersistentVolumeClaims(benchSpace).Create(context.Background(), pvc, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node := i % benchNodes
	pv := localVolume(name, fmt.Sprintf("node-%05d", node), fmt.Sprintf("wwn-%d-0", node), gib)
	pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0] = corev1.NodeSelectorRequirement{
		Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{fmt.Sprint("zone-", i%3)}}
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "bench.example.com", VolumeHandle: name}}
	pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: benchSpace, Name: made.Name, UID: made.UID}
	_, err = w.client.CoreV1().PersistentVolumes().Create(context.Background(), pv, metav1.CreateOptions{})
	return err
}

// unbound makes a claim that the scheduler has to find a volume for.
func (w *crowd) unbound(i int) error {
	_, err := w.client.CoreV1().PersistentVolumeClaims(benchSpace).Create(context.Background(), w.pvc(i, fmt.Sprint("c-", i)), metav1.CreateOptions{})
	return err
}

// measure makes pods, then starts a scheduler, and returns the pods a second
// from the moment it begins until every pod has its decision: a node, or for
// unbound claims the choice of a volume.
func (w *crowd) measure(l *live, profile string, pods int, claim func(int) error) float64 {
	w.t.Helper()
	first := int(w.next.Add(int64(pods))) - pods
	w.each(pods, func(i int) error {
		id := first + i
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p-", id), Namespace: benchSpace}, Spec: corev1.PodSpec{
			SchedulerName: schedulerName, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}}}},
		}}
		if claim != nil {
			if err := claim(id); err != nil {
				return err
			}
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c-", id)}}}}
		}
		_, err := w.client.CoreV1().Pods(benchSpace).Create(context.Background(), p, metav1.CreateOptions{})
		return err
	})
	done := make(chan struct{})
	began := make(chan time.Time, 1)
	go w.controller(done)
	kill := l.runWith(profile, func() { began <- time.Now() })
	defer func() { close(done); kill(); w.clear() }()
	start := <-began
	for deadline := start.Add(15 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list, err := w.client.CoreV1().Pods(benchSpace).List(context.Background(), metav1.ListOptions{FieldSelector: "spec.nodeName=", Limit: 1})
		if err != nil {
			w.t.Fatal(err)
		}
		if len(list.Items) == 0 {
			rate := float64(pods) / time.Since(start).Seconds()
			w.t.Logf("%d pods, plugin %v: %.1f pods/s", pods, profile == ours, rate)
			return rate
		}
	}
	w.t.Fatal(errors.New("pods were not scheduled in time"))
	return 0
}

// controller plays the PV controller's part: it completes what was pre-bound.
func (w *crowd) controller(done <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	list, err := w.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return
	}
	watch, err := w.client.CoreV1().PersistentVolumes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return
	}
	for {
		select {
		case <-done:
			return
		case e, ok := <-watch.ResultChan():
			pv, isPV := e.Object.(*corev1.PersistentVolume)
			if !ok || !isPV {
				return
			}
			if pv.Spec.ClaimRef == nil || pv.Spec.StorageClassName != staticClass || pv.Spec.CSI != nil {
				continue
			}
			pvc, err := w.client.CoreV1().PersistentVolumeClaims(benchSpace).Get(ctx, pv.Spec.ClaimRef.Name, metav1.GetOptions{})
			if err != nil || pvc.Spec.VolumeName != "" {
				continue
			}
			pvc.Spec.VolumeName = pv.Name
			metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, volume.AnnBindCompleted, "yes")
			if _, err := w.client.CoreV1().PersistentVolumeClaims(benchSpace).Update(ctx, pvc, metav1.UpdateOptions{}); err != nil {
				w.t.Logf("bind claim %s: %v", pvc.Name, err)
			}
		}
	}
}

// clear removes the pods, so that each round finds the nodes as the first did.
func (w *crowd) clear() {
	if err := w.client.CoreV1().Pods(benchSpace).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}, metav1.ListOptions{}); err != nil {
		w.t.Fatal(err)
	}
}
