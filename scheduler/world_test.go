package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

const (
	staticClass = "local"
	thickClass  = "lvm"
	mirrorClass = "lvm-mirror" // gets half of the room
	topologyKey = v1alpha1.DriverLVM + "/node"
	namespace   = "ns"
)

// world is a cluster in memory: an API server with versions and
// compare-and-swap, stores that lag behind it, a PV controller, a provisioner
// that knows the true room of each volume group, and the core and binder under test.
type world struct {
	t    testing.TB
	r    *rand.Rand
	seed uint64

	version int
	objects map[string]metav1.Object // kind/name
	lists   map[string]any           // sorted, by type, until one changes
	pending []event                  // what the stores have not seen
	nodes   []*corev1.Node
	groups  map[string]*group // node/name
	clock   time.Time
	uid     int

	core   *core
	binder *binder
	pods   map[types.UID]*attempt
	faults bool // the API server fails now and then

	placed, refused, exact, restarts, lost int
}

type group struct {
	node, name, disk string
	size             int64
	seqno            int // of changes
}

type event struct {
	kind, name string
	obj        metav1.Object // nil when it was deleted
}

// attempt is a pod, and what is reserved for it while it is being bound.
type attempt struct {
	pod     *corev1.Pod
	binding bool // reserved
	written bool
	plan    plan
	choices []choice // that are not written
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 7)), objects: map[string]metav1.Object{}, lists: map[string]any{}, groups: map[string]*group{},
		pods: map[types.UID]*attempt{}, clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), faults: seed%3 > 0}
	for n := range 1 + w.r.IntN(3) {
		name := fmt.Sprint("n", n)
		w.nodes = append(w.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels: map[string]string{corev1.LabelHostname: name, topologyKey: name}}})
		w.put("computenode", &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}}})
		for d := range 1 + w.r.IntN(3) {
			disk := fmt.Sprintf("wwn-%d-%d", n, d)
			if w.r.IntN(6) == 0 {
				disk = fmt.Sprint("path-", d) // the same name on each node
			}
			for v := range w.r.IntN(5) {
				w.put("pv", localVolume(fmt.Sprintf("pv-%d-%d-%d", n, d, v), name, disk, int64(1+w.r.IntN(8))))
			}
			if w.r.IntN(3) > 0 {
				g := &group{node: name, name: fmt.Sprint("vg", d), disk: disk, size: int64(2 * (4 + w.r.IntN(14)))}
				w.groups[name+"/"+g.name] = g
			}
		}
	}
	w.core = &core{ledger: newLedger(), now: func() time.Time { return w.clock }}
	w.core.topology = &topologyKeys{}
	w.core.class = func(name string) (*storagev1.StorageClass, error) {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: v1alpha1.DriverLVM,
			VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
		if name == staticClass {
			c.Provisioner = volume.NotSupportedProvisioner
		}
		return c, nil
	}
	key := func(obj any) (string, error) { return cache.MetaNamespaceKeyFunc(obj) }
	w.core.volumes = cache.NewIndexer(key, volumeIndexers())
	w.core.claims = cache.NewIndexer(key, claimIndexers())
	w.core.capacities = cache.NewIndexer(key, capacityIndexers(w.core.topology))
	w.core.quarantine = quarantine{nodes: cache.NewIndexer(key, quarantineIndexers()), known: func() bool { return true }}
	m, err := newMetrics(prometheus.NewRegistry(), w.core)
	if err != nil {
		t.Fatal(err)
	}
	client := &fake.Clientset{}
	client.AddReactor("*", "*", w.serve)
	w.binder = &binder{client: client, core: w.core, metrics: m}
	w.publish()
	w.deliver(len(w.pending))
	return w
}

func localVolume(name, node, disk string, size int64) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelNode: node, v1alpha1.LabelDisk: disk}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: staticClass, Capacity: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
}

// put writes an object to the API server; its stores hear of it later.
func (w *world) put(kind string, obj metav1.Object) {
	w.version++
	obj.SetResourceVersion(strconv.Itoa(w.version))
	if obj.GetUID() == "" {
		w.uid++
		obj.SetUID(types.UID(strconv.Itoa(w.uid)))
	}
	w.objects[kind+"/"+nameOf(obj)] = obj
	delete(w.lists, fmt.Sprintf("%T", obj))
	w.pending = append(w.pending, event{kind, nameOf(obj), obj})
}

func (w *world) remove(kind, name string) {
	delete(w.lists, fmt.Sprintf("%T", w.objects[kind+"/"+name]))
	delete(w.objects, kind+"/"+name)
	w.pending = append(w.pending, event{kind: kind, name: name})
}

func get[T metav1.Object](w *world, kind, name string) (T, bool) {
	o, ok := w.objects[kind+"/"+name].(T)
	return o, ok
}

// all lists the objects of a type in the order of their names.
func all[T metav1.Object](w *world) []T {
	var kind T
	key := fmt.Sprintf("%T", kind)
	if list, ok := w.lists[key].([]T); ok {
		return list
	}
	var list []T
	for _, o := range w.objects {
		if t, ok := o.(T); ok {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
	w.lists[key] = list
	return list
}

// deliver brings n events to the stores. The order within a kind is kept; kinds
// overtake each other.
func (w *world) deliver(n int) {
	for ; n > 0 && len(w.pending) > 0; n-- {
		kind := w.pending[w.r.IntN(len(w.pending))].kind
		i := slices.IndexFunc(w.pending, func(e event) bool { return e.kind == kind })
		e := w.pending[i]
		w.pending = slices.Delete(w.pending, i, i+1)
		store := map[string]cache.Indexer{"pv": w.core.volumes, "pvc": w.core.claims, "capacity": w.core.capacities, "computenode": w.core.quarantine.nodes}[kind]
		var err error
		if e.obj != nil {
			err = store.Update(e.obj)
		} else if old, ok, _ := store.GetByKey(e.name); ok {
			err = store.Delete(old)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// serve is the API server as the binder sees it.
func (w *world) serve(action clienttesting.Action) (bool, runtime.Object, error) {
	kind := map[string]string{"persistentvolumes": "pv", "persistentvolumeclaims": "pvc"}[action.GetResource().Resource]
	gr := schema.GroupResource{Resource: action.GetResource().Resource}
	switch a := action.(type) {
	case clienttesting.UpdateAction:
		obj := a.GetObject().(metav1.Object)
		old, ok := w.objects[kind+"/"+nameOf(obj)]
		if !ok {
			return true, nil, apierrors.NewNotFound(gr, obj.GetName())
		}
		fault := w.r.IntN(20)
		switch {
		case w.faults && fault == 0:
			return true, nil, errors.New("connection reset before the request arrived")
		case old.GetResourceVersion() != obj.GetResourceVersion():
			return true, nil, apierrors.NewConflict(gr, obj.GetName(), errors.New("changed"))
		}
		w.checkWrite(obj)
		w.put(kind, obj)
		w.check()
		if w.faults && fault == 1 {
			w.lost++
			return true, nil, errors.New("connection reset before the answer arrived")
		}
		return true, obj.(runtime.Object), nil
	case clienttesting.GetAction:
		name := a.GetName()
		if kind == "pvc" {
			name = a.GetNamespace() + "/" + name
		}
		if obj, ok := w.objects[kind+"/"+name]; ok {
			return true, obj.(runtime.Object), nil
		}
		return true, nil, apierrors.NewNotFound(gr, name)
	}
	return true, nil, fmt.Errorf("unexpected %s", action.GetVerb())
}

// checkWrite: nothing is given that lies on a disk whose quarantine the store
// tells of, or that carries its marks in the API server.
func (w *world) checkWrite(obj metav1.Object) {
	disk := ""
	switch o := obj.(type) {
	case *corev1.PersistentVolume:
		old, _ := get[*corev1.PersistentVolume](w, "pv", o.Name)
		if old.Spec.ClaimRef != nil && !volume.IsVolumeBoundToClaim(old, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Name: o.Spec.ClaimRef.Name, Namespace: o.Spec.ClaimRef.Namespace, UID: o.Spec.ClaimRef.UID}}) {
			w.fatal("volume %s was taken from claim %v", o.Name, old.Spec.ClaimRef)
		}
		if marked(old) {
			w.fatal("volume %s in quarantine was given to a claim", o.Name)
		}
		disk = diskOf(old)
	case *corev1.PersistentVolumeClaim:
		disk = diskid.Key(o.Annotations[volume.AnnSelectedNode], o.Annotations[v1alpha1.LabelDisk])
	}
	if w.core.quarantine.closed(disk) {
		w.fatal("a claim was given room on disk %s, which is in quarantine", disk)
	}
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, after %d placed: %s", w.seed, w.placed, fmt.Sprintf(format, args...))
}

// disks are the disks that a claim is on, or will be, in the API server.
func (w *world) disks(pvc *corev1.PersistentVolumeClaim) (disks []string) {
	if pvc.Spec.VolumeName != "" {
		if pv, ok := get[*corev1.PersistentVolume](w, "pv", pvc.Spec.VolumeName); ok {
			return []string{diskOf(pv)}
		}
	}
	for _, pv := range all[*corev1.PersistentVolume](w) {
		if ref := claimOf(pv); ref != nil && ref.UID == pvc.UID {
			disks = append(disks, diskOf(pv))
		}
	}
	if node := pvc.Annotations[volume.AnnSelectedNode]; node != "" {
		disks = append(disks, diskid.Key(node, pvc.Annotations[v1alpha1.LabelDisk]))
	}
	return disks
}

// check: no two claims that require one group are on one disk.
func (w *world) check() {
	seen := map[string]string{}
	for _, pvc := range all[*corev1.PersistentVolumeClaim](w) {
		group := pvc.Labels[v1alpha1.LabelAntiAffinity]
		if group == "" {
			continue
		}
		for _, disk := range w.disks(pvc) {
			if other := seen[group+" "+disk]; other != "" && other != pvc.Name {
				w.fatal("claims %s and %s of group %s are both on disk %s", other, pvc.Name, group, disk)
			}
			seen[group+" "+disk] = pvc.Name
		}
	}
}

// newPod makes a pod with one to three claims.
func (w *world) newPod() {
	w.uid++
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod-", w.uid), Namespace: namespace, UID: types.UID(fmt.Sprint("pod-", w.uid))}}
	for i := range 1 + w.r.IntN(3) {
		pvc := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", pod.Name, i), Namespace: namespace, Labels: map[string]string{}},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: ptr.To([]string{staticClass, staticClass, thickClass, mirrorClass}[w.r.IntN(4)]),
				AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(2+2*w.r.IntN(3)), resource.BinarySI)}},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
		}
		group := []string{"a", "b"}[w.r.IntN(2)]
		switch w.r.IntN(4) {
		case 0, 1:
			pvc.Labels[v1alpha1.LabelAntiAffinity] = group
		case 2:
			pvc.Labels[v1alpha1.LabelAntiAffinityPreferred] = group
		}
		w.put("pvc", pvc)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: pvc.Name,
			VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pvc.Name}}})
	}
	w.pods[pod.UID] = &attempt{pod: pod}
}

// some is a pod that is, or is not, being bound; nil when there is none.
func (w *world) some(binding bool) *attempt {
	var list []*attempt
	for _, a := range w.pods {
		if a.binding == binding {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b *attempt) int { return strings.Compare(a.pod.Name, b.pod.Name) })
	return list[w.r.IntN(len(list))]
}
