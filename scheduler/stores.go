package scheduler

import (
	"encoding/json"
	"slices"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// The indexes. Each key is made of parts joined by sep, which is in no name.
const (
	sep = "\x00"

	openIndex     = "holdfast.dev/open"     // volumes: host, class; open to a new claim
	claimIndex    = "holdfast.dev/claim"    // volumes: the claim that their claimRef names
	diskIndex     = "holdfast.dev/disk"     // volumes with a claim, by disk
	groupIndex    = "holdfast.dev/group"    // claims: namespace/group of either label
	selectedIndex = "holdfast.dev/selected" // claims: being provisioned; one key
	classIndex    = "holdfast.dev/class"    // capacities: class, topology
	poolIndex     = "holdfast.dev/pool"     // capacities: topology, volume group
	quarIndex     = "holdfast.dev/disk"     // compute nodes: quarantined disks

	provisioning = "provisioning" // the key of selectedIndex
)

// stores are the informers' stores with the indexes on them.
type stores struct {
	volumes, claims, capacities cache.Indexer
	class                       func(name string) (*storagev1.StorageClass, error)
	quarantine                  quarantine
	topology                    *topologyKeys
}

func volumeIndexers() cache.Indexers {
	return cache.Indexers{
		openIndex: on(func(pv *corev1.PersistentVolume) []string {
			if pv.Spec.ClaimRef != nil || pv.DeletionTimestamp != nil || pv.Status.Phase != corev1.VolumeAvailable || marked(pv) {
				return nil
			}
			host, _ := pinned(pv)
			return []string{host + sep + volume.GetPersistentVolumeClass(pv)}
		}),
		claimIndex: on(func(pv *corev1.PersistentVolume) []string {
			if ref := claimOf(pv); ref != nil {
				return []string{ref.Namespace + "/" + ref.Name}
			}
			return nil
		}),
		diskIndex: on(func(pv *corev1.PersistentVolume) []string {
			if disk := diskOf(pv); disk != "" && claimOf(pv) != nil {
				return []string{disk}
			}
			return nil
		}),
	}
}

func claimIndexers() cache.Indexers {
	return cache.Indexers{
		groupIndex: on(func(pvc *corev1.PersistentVolumeClaim) []string {
			var keys []string
			for _, label := range []string{v1alpha1.LabelAntiAffinity, v1alpha1.LabelAntiAffinityPreferred} {
				if group := pvc.Labels[label]; group != "" {
					keys = append(keys, pvc.Namespace+"/"+group)
				}
			}
			return slices.Compact(keys)
		}),
		selectedIndex: on(func(pvc *corev1.PersistentVolumeClaim) []string {
			if pvc.Annotations[volume.AnnSelectedNode] != "" && pvc.Spec.VolumeName == "" {
				return []string{provisioning}
			}
			return nil
		}),
	}
}

func capacityIndexers(t *topologyKeys) cache.Indexers {
	return cache.Indexers{
		classIndex: on(func(c *storagev1.CSIStorageCapacity) []string {
			if where := t.of(c); where != "" {
				return []string{c.StorageClassName + sep + where}
			}
			return nil
		}),
		poolIndex: on(func(c *storagev1.CSIStorageCapacity) []string {
			if where := t.of(c); where != "" {
				return []string{where + sep + c.Labels[v1alpha1.LabelVolumeGroup]}
			}
			return nil
		}),
	}
}

// on makes an index function of one for a type; other objects have no keys.
func on[T any](keys func(T) []string) cache.IndexFunc {
	return func(obj any) ([]string, error) {
		if o, ok := obj.(T); ok {
			return keys(o), nil
		}
		return nil, nil
	}
}

// byIndex lists what an index has at a key. An index that is not there is a
// mistake in this package, and its objects' types are the informer's.
func byIndex[T any](store cache.Indexer, index, key string) []T {
	objs, err := store.ByIndex(index, key)
	if err != nil {
		return nil
	}
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

func byKey[T any](store cache.Indexer, key string) (T, bool) {
	var zero T
	obj, ok, err := store.GetByKey(key)
	if err != nil || !ok {
		return zero, false
	}
	t, ok := obj.(T)
	return t, ok
}

// open lists the volumes of a class that are open to a new claim and can be
// used on the node, by their own marks.
func (s *stores) open(class string, node *corev1.Node) []*corev1.PersistentVolume {
	list := byIndex[*corev1.PersistentVolume](s.volumes, openIndex, sep+class)
	if host := node.Labels[corev1.LabelHostname]; host != "" {
		list = append(list, byIndex[*corev1.PersistentVolume](s.volumes, openIndex, host+sep+class)...)
	}
	return slices.DeleteFunc(list, func(pv *corev1.PersistentVolume) bool {
		if _, exact := pinned(pv); exact {
			return false // the key said it
		}
		return volume.CheckNodeAffinity(pv, node.Labels) != nil
	})
}

// prebound is the volume that a claim which is not bound yet will get, since
// the volume's claimRef names it.
func (s *stores) prebound(pvc *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	for _, pv := range byIndex[*corev1.PersistentVolume](s.volumes, claimIndex, pvc.Namespace+"/"+pvc.Name) {
		if volume.IsVolumeBoundToClaim(pv, pvc) && pv.DeletionTimestamp == nil {
			return pv
		}
	}
	return nil
}

// inUse counts the volumes with a claim on a disk.
func (s *stores) inUse(disk string) int64 {
	keys, err := s.volumes.IndexKeys(diskIndex, disk)
	if err != nil || disk == "" {
		return 0
	}
	return int64(len(keys))
}

// groups lists the capacities of a class on a node that name their volume group.
func (s *stores) groups(class string, node *corev1.Node) []*storagev1.CSIStorageCapacity {
	var list []*storagev1.CSIStorageCapacity
	for _, key := range s.topology.seen() {
		if value, ok := node.Labels[key]; ok {
			list = append(list, byIndex[*storagev1.CSIStorageCapacity](s.capacities, classIndex, class+sep+key+"="+value)...)
		}
	}
	return list
}

// pool lists the capacities of all classes that share the volume group of c.
func (s *stores) pool(c *storagev1.CSIStorageCapacity) []*storagev1.CSIStorageCapacity {
	return byIndex[*storagev1.CSIStorageCapacity](s.capacities, poolIndex, s.topology.of(c)+sep+c.Labels[v1alpha1.LabelVolumeGroup])
}

// claimOf is the claim of a volume; the sentinel of a quarantine is none.
func claimOf(pv *corev1.PersistentVolume) *corev1.ObjectReference {
	ref := pv.Spec.ClaimRef
	if ref == nil || (ref.Namespace == v1alpha1.SentinelClaimNamespace && ref.Name == v1alpha1.SentinelClaimName) {
		return nil
	}
	return ref
}

// marked says whether the volume's own marks close it to new claims. A taint
// that cannot be read closes it too.
func marked(pv *corev1.PersistentVolume) bool {
	if pv.Labels[v1alpha1.LabelQuarantined] == "true" {
		return true
	}
	text, ok := pv.Annotations[v1alpha1.AnnotationTaints]
	if !ok || text == "" {
		return false
	}
	var taints []v1alpha1.VolumeTaint
	if err := json.Unmarshal([]byte(text), &taints); err != nil {
		return true
	}
	return slices.ContainsFunc(taints, func(t v1alpha1.VolumeTaint) bool { return t.Effect == v1alpha1.EffectNoBind })
}

// pinned is the hostname that a volume's node affinity asks for, and whether
// it asks for nothing else. Empty when several hosts may do.
func pinned(pv *corev1.PersistentVolume) (host string, exact bool) {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil || len(a.Required.NodeSelectorTerms) != 1 {
		return "", false
	}
	term := a.Required.NodeSelectorTerms[0]
	for _, e := range term.MatchExpressions {
		if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
			return e.Values[0], len(term.MatchExpressions)+len(term.MatchFields) == 1
		}
	}
	return "", false
}

// diskOf is what tells the volume's disk from all others; empty when its label
// does not say.
func diskOf(pv *corev1.PersistentVolume) string {
	node := pv.Labels[v1alpha1.LabelNode]
	if node == "" {
		node, _ = pinned(pv)
	}
	return diskid.Key(node, pv.Labels[v1alpha1.LabelDisk])
}

// topologyKeys are the label keys that capacities name their node with. It only
// grows; there is one in a cluster with one LVM driver.
type topologyKeys struct{ keys atomic.Pointer[[]string] }

func (t *topologyKeys) seen() []string {
	if p := t.keys.Load(); p != nil {
		return *p
	}
	return nil
}

// of is where a capacity is, as key=value, when it names a volume group and a
// single label of its node, which is what lvm.holdfast.dev publishes. Empty for others.
func (t *topologyKeys) of(c *storagev1.CSIStorageCapacity) string {
	top := c.NodeTopology
	if c.Labels[v1alpha1.LabelVolumeGroup] == "" || top == nil || len(top.MatchLabels)+len(top.MatchExpressions) != 1 {
		return ""
	}
	var key, value string
	for key, value = range top.MatchLabels {
	}
	for _, e := range top.MatchExpressions {
		if e.Operator != metav1.LabelSelectorOpIn || len(e.Values) != 1 {
			return ""
		}
		key, value = e.Key, e.Values[0]
	}
	for {
		p := t.keys.Load()
		if p != nil && slices.Contains(*p, key) {
			return key + "=" + value
		}
		var grown []string
		if p != nil {
			grown = slices.Clone(*p)
		}
		grown = append(grown, key)
		t.keys.CompareAndSwap(p, &grown)
	}
}

// nameOf is namespace/name of an object.
func nameOf(obj metav1.Object) string {
	if ns := obj.GetNamespace(); ns != "" {
		return ns + "/" + obj.GetName()
	}
	return obj.GetName()
}

// objectOf is the object of an informer's event, also when its deletion was missed.
func objectOf(obj any) (metav1.Object, bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	m, err := meta.Accessor(obj)
	return m, err == nil
}

// everything selects anything.
func everything(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}
