package scheduler

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// driver plays the LVM driver of all nodes with its provisioner: it makes a
// volume of every claim that has a selected node, if the volume group has room,
// and takes the selected node off again if it has not. It tells of the room only
// once every publishEvery, as drivers do. No device is touched.
type driver struct {
	l  *live
	mu sync.Mutex
	// free is the true room of each volume group, node/name.
	free    map[string]int64
	disk    map[string]string
	changed map[string]bool
	seqno   map[string]int
	seen    map[types.UID]bool
	refused int // volumes that did not fit
}

const publishEvery = 200 * time.Millisecond

func newDriver(l *live) *driver {
	return &driver{l: l, free: map[string]int64{}, disk: map[string]string{}, changed: map[string]bool{}, seqno: map[string]int{}, seen: map[types.UID]bool{}}
}

func (d *driver) add(node, group, disk string, size int64) {
	key := node + "/" + group
	d.free[key], d.disk[key] = size, disk
	d.publish(key)
}

// publish tells of a volume group's room.
func (d *driver) publish(key string) {
	d.l.t.Helper()
	d.mu.Lock()
	free, seqno := d.free[key], strconv.Itoa(d.seqno[key])
	d.mu.Unlock()
	node, group := split(key)
	c := &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-" + group, Namespace: systemNamespace,
			Labels:      map[string]string{v1alpha1.LabelVolumeGroup: group, v1alpha1.LabelDisk: d.disk[key]},
			Annotations: map[string]string{v1alpha1.VolumeGroupSeqno: seqno}},
		StorageClassName: thickClass, NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{topologyKey: node}},
		Capacity: resource.NewQuantity(free, resource.BinarySI), MaximumVolumeSize: resource.NewQuantity(free, resource.BinarySI),
	}
	err := d.l.api.Create(context.Background(), c)
	if apierrors.IsAlreadyExists(err) {
		err = d.l.api.Patch(context.Background(), c, client.Merge)
	}
	if err != nil {
		d.l.t.Errorf("publish the room of %s: %v", key, err)
	}
}

func split(key string) (node, group string) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:]
		}
	}
	return key, ""
}

func (d *driver) run(ctx context.Context) {
	claims := make(chan *corev1.PersistentVolumeClaim, 10000)
	go func() {
		for ctx.Err() == nil { // the API server ends the watch of who does not keep up; a new one begins with all claims
			w, err := d.l.api.Watch(ctx, &corev1.PersistentVolumeClaimList{}, client.InNamespace(d.l.ns))
			if err != nil {
				if ctx.Err() == nil {
					d.l.t.Errorf("watch claims: %v", err)
				}
				return
			}
			for e := range w.ResultChan() {
				if pvc, ok := e.Object.(*corev1.PersistentVolumeClaim); ok && e.Type != watch.Deleted {
					claims <- pvc
				}
			}
		}
	}()
	for range 10 {
		go func() {
			for {
				select {
				case pvc := <-claims:
					d.make(ctx, pvc)
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	go func() {
		for {
			select {
			case <-time.After(publishEvery):
			case <-ctx.Done():
				return
			}
			d.mu.Lock()
			changed := d.changed
			d.changed = map[string]bool{}
			d.mu.Unlock()
			for key := range changed {
				if ctx.Err() == nil {
					d.publish(key)
				}
			}
		}
	}()
}

func (d *driver) make(ctx context.Context, pvc *corev1.PersistentVolumeClaim) {
	node, group := pvc.Annotations[volume.AnnSelectedNode], pvc.Annotations[v1alpha1.LabelVolumeGroup]
	if node == "" || pvc.Spec.VolumeName != "" {
		return
	}
	d.mu.Lock()
	if group == "" {
		group = d.roomiest(node)
	}
	key, size := node+"/"+group, sizeOf(pvc)
	if d.seen[pvc.UID] {
		d.mu.Unlock()
		return
	}
	seqno := strconv.Itoa(d.seqno[key] + 1)
	fits := d.free[key] >= size
	if fits {
		d.seen[pvc.UID] = true
		d.free[key] -= size
		d.changed[key] = true
		d.seqno[key]++
	} else {
		d.refused++
	}
	d.mu.Unlock()
	if !fits {
		base := pvc.DeepCopy()
		delete(pvc.Annotations, volume.AnnSelectedNode)
		if err := d.l.api.Patch(ctx, pvc, client.MergeFrom(base)); err != nil && ctx.Err() == nil {
			d.l.t.Errorf("give claim %s back: %v", pvc.Name, err)
		}
		return
	}
	pv := localVolume("pvc-"+string(pvc.UID), node, d.disk[key], size)
	pv.Labels[v1alpha1.LabelVolumeGroup] = group
	pv.Spec.StorageClassName = thickClass
	pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: pvc.Namespace, Name: pvc.Name, UID: pvc.UID}
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: v1alpha1.DriverLVM, VolumeHandle: pv.Name,
		VolumeAttributes: map[string]string{v1alpha1.VolumeGroupSeqno: seqno}}}
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	pv.Annotations = map[string]string{volume.AnnDynamicallyProvisioned: v1alpha1.DriverLVM}
	if err := d.l.api.Create(ctx, pv); err != nil && ctx.Err() == nil {
		d.l.t.Errorf("create volume of claim %s: %v", pvc.Name, err)
	}
}

// roomiest is where a claim goes for which the scheduler chose no volume group.
func (d *driver) roomiest(node string) (group string) {
	for key, free := range d.free {
		if n, g := split(key); n == node && (group == "" || free > d.free[node+"/"+group]) {
			group = g
		}
	}
	return group
}

// attempts counts the scheduler's attempts by result since the process began.
func attemptsMade(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "scheduler_schedule_attempts_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					n[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// burst is what a burst of one-volume pods came to.
type burst struct {
	took    time.Duration // from the first pod's creation to the last pod's node
	failed  float64       // attempts that placed no pod
	refused int           // volumes that did not fit their group
}

const gib = 1 << 30

// burstOf makes pods with one volume of 1 GiB each, all at once, on nodes with
// two volume groups of room for so many each. kill, when set, is called in the middle.
func (l *live) burstOf(nodes, pods int, room int64, kill func()) burst {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := newDriver(l)
	for n := range nodes {
		name := fmt.Sprintf("%s-%d", l.ns, n)
		l.node(name)
		for g := range 2 {
			d.add(name, fmt.Sprint("vg", g), fmt.Sprintf("wwn-%s-%d-%d", l.ns, n, g), room*gib)
		}
	}
	d.run(ctx)
	before := attemptsMade(l.t)
	// Watched and not listed again and again: on a small machine that is most of the load.
	placed, err := l.api.Watch(ctx, &corev1.PodList{}, client.InNamespace(l.ns))
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { placed.Stop() }()
	start := time.Now()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < pods; i += 8 {
				l.pod(fmt.Sprint("p", i), schedulerName, ask{"data", thickClass, "1Gi", "", ""})
			}
		}()
	}
	bound, last := map[types.UID]bool{}, time.Now()
	for deadline := time.After(5 * time.Minute); len(bound) < pods; {
		select {
		case <-deadline:
			l.t.Fatalf("only %d of %d pods have a node after %s; refused %d", len(bound), pods, time.Since(start), d.refused)
		case e, ok := <-placed.ResultChan():
			if !ok { // the API server ends the watch of who does not keep up; a new one begins with all pods
				placed.Stop()
				if placed, err = l.api.Watch(ctx, &corev1.PodList{}, client.InNamespace(l.ns)); err != nil {
					l.t.Fatal(err)
				}
				continue
			}
			if p, is := e.Object.(*corev1.Pod); is && p.Spec.NodeName != "" && !bound[p.UID] {
				bound[p.UID], last = true, time.Now()
			}
		}
		if kill != nil && len(bound) >= pods/3 {
			kill()
			kill = nil
		}
	}
	wg.Wait()
	after := attemptsMade(l.t)
	var events corev1.EventList
	if err := l.api.List(ctx, &events, client.InNamespace(l.ns)); err != nil {
		l.t.Fatal(err)
	}
	told := map[string]bool{}
	for _, e := range events.Items {
		if e.Reason == "FailedScheduling" && !told[e.Message] && len(told) < 5 {
			told[e.Message] = true
			l.t.Logf("an attempt failed: %s", e.Message)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return burst{took: last.Sub(start), failed: after["unschedulable"] + after["error"] - before["unschedulable"] - before["error"], refused: d.refused}
}

// TestBurstAcrossRestart: the scheduler dies in the middle of a burst that needs
// the last byte of every volume group, and no volume group is promised twice.
func TestBurstAcrossRestart(t *testing.T) {
	l := newLive(t, "restart")
	kill := l.run(ours)
	b := l.burstOf(4, 160, 20, func() { kill(); l.run(ours) })
	t.Logf("160 pods in %s, %v failed attempts (those of the killed scheduler included), %d volumes that did not fit", b.took, b.failed, b.refused)
	if b.refused > 0 {
		t.Errorf("%d volumes did not fit the volume group that was chosen for them", b.refused)
	}
}

// TestBurst is the scenario that hostpath publishes: 10 nodes, 100 pods of one
// volume each, a tenth of the room to spare (https://github.com/kubernetes-csi/csi-driver-host-path,
// docs/storage-capacity-tracking.md: 27 failed attempts).
func TestBurst(t *testing.T) {
	l := newLive(t, "burst")
	l.run(ours)
	b := l.burstOf(10, 1000, 55, nil)
	t.Logf("1,000 pods in %s, %v failed attempts, %d volumes that did not fit", b.took, b.failed, b.refused)
	if b.failed > 0 || b.refused > 0 {
		t.Errorf("%v attempts failed and %d volumes did not fit: want none", b.failed, b.refused)
	}
}
