package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// schedule is one scheduling cycle of a pod that waits. When the stores are up
// to date, the answer for each node is compared with that of brute force.
func (w *world) schedule(exact bool) {
	a := w.some(false)
	if a == nil {
		return
	}
	p, why, _ := w.core.look(a.pod)
	if why != "" {
		if exact {
			w.fatal("pod %s is refused on every node although nothing is unknown: %s", a.pod.Name, why)
		}
		w.refused++
		return
	}
	if !p.own() {
		delete(w.pods, a.pod.UID) // all its claims are bound
		return
	}
	var fits []*corev1.Node
	for _, node := range w.nodes {
		f := w.core.ask(p, node)
		if exact {
			w.exact++
			if possible := w.possible(p, node.Name); possible != (f.refused == "") {
				w.fatal("pod %s on node %s: refused %q, brute force says %v; claims %s", a.pod.Name, node.Name, f.refused, possible, describe(p))
			}
		}
		if f.refused == "" {
			fits = append(fits, node)
		}
	}
	if len(fits) == 0 {
		w.refused++
		return
	}
	node := fits[w.r.IntN(len(fits))]
	claims, f := w.core.reserve(a.pod, node)
	if f.refused != "" {
		w.fatal("pod %s fitted node %s and does not any more: %s", a.pod.Name, node.Name, f.refused)
	}
	a.binding, a.plan, a.choices = true, newPlan(node.Name, claims, f), f.choices
	w.placed += len(f.choices)
}

func describe(p *podClaims) (s string) {
	for _, c := range p.free {
		s += fmt.Sprintf("%s(%s %d %s/%s) ", c.Name, c.class.Name, c.size, c.required, c.preferred)
	}
	return s
}

// slot is a place for a claim as brute force sees it.
type slot struct {
	id, disk string
	static   bool
	room     int64 // for the thick class; a mirrored byte takes two
}

// possible tries every assignment of the pod's free claims on a node, from the
// API server's objects, the true room and the choices of pods that are being bound.
func (w *world) possible(p *podClaims, node string) bool {
	used := map[string]bool{} // group and disk, of claims that require it
	taken := map[string]bool{}
	promised := map[string]int64{}
	for _, a := range w.pods {
		for _, ch := range a.choices {
			if !a.binding || w.made(ch.claim.Name) {
				continue
			}
			disk := ""
			if ch.volume != nil {
				disk = diskOf(ch.volume)
				taken[ch.volume.Name] = true
			} else {
				g := w.groups[a.plan.node+"/"+ch.group.Labels[v1alpha1.LabelVolumeGroup]]
				disk = diskid.Key(g.node, g.disk)
				promised[g.node+"/"+g.name] += ch.claim.size * factor(ch.claim.class.Name)
			}
			if ch.claim.required != "" {
				used[ch.claim.required+" "+disk] = true
			}
		}
	}
	for _, pvc := range all[*corev1.PersistentVolumeClaim](w) {
		if slices.ContainsFunc(p.free, func(c claim) bool { return c.UID == pvc.UID }) {
			continue
		}
		g := pvc.Labels[v1alpha1.LabelAntiAffinity]
		for _, disk := range w.disks(pvc) {
			if g != "" {
				used[namespace+"/"+g+" "+disk] = true
			}
		}
		if n := pvc.Annotations[volume.AnnSelectedNode]; n != "" && pvc.Spec.VolumeName == "" && !w.bindingClaim(pvc.Name) {
			promised[n+"/"+pvc.Annotations[v1alpha1.LabelVolumeGroup]] += sizeOf(pvc) * factor(*pvc.Spec.StorageClassName)
		}
	}
	if p.node != "" && p.node != node {
		return false
	}
	for _, v := range p.volumes {
		if v.pv.Labels[v1alpha1.LabelNode] != node {
			return false
		}
	}
	var slots []slot
	for _, pv := range all[*corev1.PersistentVolume](w) {
		disk := diskOf(pv)
		if pv.Spec.StorageClassName == staticClass && pv.Labels[v1alpha1.LabelNode] == node && pv.Spec.ClaimRef == nil && !taken[pv.Name] &&
			pv.Labels[v1alpha1.LabelQuarantined] == "" && !w.quarantined(node, disk) {
			q := pv.Spec.Capacity[corev1.ResourceStorage]
			slots = append(slots, slot{pv.Name, disk, true, q.Value()})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.groups)) {
		if g := w.groups[key]; g.node == node && !w.quarantined(node, diskid.Key(node, g.disk)) {
			slots = append(slots, slot{key, diskid.Key(node, g.disk), false, w.free(g) - promised[key]})
		}
	}
	return assign(p.free, slots, used)
}

// assign tries all slots for the first claim, and so on.
func assign(claims []claim, slots []slot, used map[string]bool) bool {
	if len(claims) == 0 {
		return true
	}
	c := claims[0]
	for i, s := range slots {
		need, static := c.size*factor(c.class.Name), c.class.Name == staticClass
		if static {
			need = c.size
		}
		key := c.required + " " + s.disk
		if s.static != static || s.room < need || (c.required != "" && used[key]) {
			continue
		}
		rest := slices.Clone(slots)
		if static {
			rest = slices.Delete(rest, i, i+1)
		} else {
			rest[i].room -= need
		}
		next := maps.Clone(used)
		if c.required != "" {
			next[key] = true
		}
		if assign(claims[1:], rest, next) {
			return true
		}
	}
	return false
}

func factor(class string) int64 {
	if class == mirrorClass {
		return 2
	}
	return 1
}

// made says whether a claim's choice is in the API server already, and is counted there.
func (w *world) made(name string) bool {
	pvc, ok := get[*corev1.PersistentVolumeClaim](w, "pvc", namespace+"/"+name)
	return !ok || pvc.Spec.VolumeName != ""
}

func (w *world) bindingClaim(name string) bool {
	for _, a := range w.pods {
		if a.binding && slices.ContainsFunc(a.choices, func(c choice) bool { return c.claim.Name == name }) {
			return true
		}
	}
	return false
}

// free is the true room of a volume group.
func (w *world) free(g *group) int64 {
	free := g.size
	for _, pv := range all[*corev1.PersistentVolume](w) {
		if pv.Labels[v1alpha1.LabelVolumeGroup] == g.name && pv.Labels[v1alpha1.LabelNode] == g.node {
			q := pv.Spec.Capacity[corev1.ResourceStorage]
			free -= q.Value() * factor(pv.Spec.StorageClassName)
		}
	}
	return free
}

func (w *world) quarantined(node, disk string) bool {
	for _, cn := range all[*unstructured.Unstructured](w) {
		if slices.Contains(quarantined(cn), disk) {
			return true
		}
	}
	return false
}

// publish is the driver telling its room, for both classes.
func (w *world) publish() {
	for _, key := range slices.Sorted(maps.Keys(w.groups)) {
		g := w.groups[key]
		free := w.free(g)
		for _, class := range []string{thickClass, mirrorClass} {
			w.put("capacity", &storagev1.CSIStorageCapacity{
				ObjectMeta: metav1.ObjectMeta{Name: g.node + "-" + g.name + "-" + class, Namespace: "system",
					Labels:      map[string]string{v1alpha1.LabelVolumeGroup: g.name, v1alpha1.LabelDisk: g.disk},
					Annotations: map[string]string{v1alpha1.VolumeGroupSeqno: strconv.Itoa(g.seqno)}},
				StorageClassName: class, NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{topologyKey: g.node}},
				Capacity: resource.NewQuantity(free*2/factor(class)/2, resource.BinarySI),
			})
		}
	}
}

// write is PreBind's first half.
func (w *world) write() {
	a := w.some(true)
	if a == nil {
		return
	}
	var err error
	if !a.written {
		err = w.binder.write(context.Background(), a.plan)
	}
	a.written, a.choices = true, nil
	for _, c := range a.plan.wait {
		if pvc, ok := byKey[*corev1.PersistentVolumeClaim](w.core.claims, c.name); ok && pvc.Spec.VolumeName == "" && err == nil {
			err = w.binder.alive(pvc, a.plan)
		}
	}
	if err != nil {
		w.core.release(a.pod)
		a.binding, a.written = false, false
	} else if w.bound(a.pod) {
		delete(w.pods, a.pod.UID)
	}
}

func (w *world) bound(pod *corev1.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		pvc, ok := get[*corev1.PersistentVolumeClaim](w, "pvc", namespace+"/"+v.Name)
		if !ok || pvc.Spec.VolumeName == "" {
			return false
		}
	}
	return true
}

// give is a pod that fails between Reserve and PreBind.
func (w *world) give() {
	if a := w.some(true); a != nil {
		w.core.release(a.pod)
		a.binding, a.written, a.choices = false, false, nil
	}
}

// controllers bind what is pre-bound and make what is asked for. A volume that
// does not fit its group is the overcommitment that the ledger is there to prevent.
func (w *world) controllers() {
	for _, pv := range all[*corev1.PersistentVolume](w) {
		ref := claimOf(pv)
		if ref == nil || pv.Status.Phase == corev1.VolumeBound || w.r.IntN(3) == 0 {
			continue
		}
		pvc, ok := get[*corev1.PersistentVolumeClaim](w, "pvc", ref.Namespace+"/"+ref.Name)
		if !ok || pvc.UID != ref.UID || pvc.Spec.VolumeName != "" {
			continue
		}
		w.bind(pvc, pv.DeepCopy())
	}
	for _, pvc := range all[*corev1.PersistentVolumeClaim](w) {
		node := pvc.Annotations[volume.AnnSelectedNode]
		if node == "" || pvc.Spec.VolumeName != "" || w.r.IntN(3) == 0 {
			continue
		}
		if w.r.IntN(12) == 0 { // the provisioner gives up
			pvc = pvc.DeepCopy()
			delete(pvc.Annotations, volume.AnnSelectedNode)
			w.put("pvc", pvc)
			continue
		}
		g := w.groups[node+"/"+pvc.Annotations[v1alpha1.LabelVolumeGroup]]
		if size := sizeOf(pvc) * factor(*pvc.Spec.StorageClassName); size > w.free(g) {
			w.fatal("claim %s of %d does not fit volume group %s of %s, which has %d of %d left", pvc.Name, size, g.name, node, w.free(g), g.size)
		}
		w.version++
		pv := localVolume(fmt.Sprint("made-", w.version), node, g.disk, sizeOf(pvc))
		pv.Spec.StorageClassName = *pvc.Spec.StorageClassName
		pv.CreationTimestamp = metav1.NewTime(w.clock)
		pv.Labels[v1alpha1.LabelVolumeGroup] = g.name
		if g.seqno++; w.seed%2 == 0 {
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{VolumeAttributes: map[string]string{v1alpha1.VolumeGroupSeqno: strconv.Itoa(g.seqno)}}
		}
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: pvc.Name, UID: pvc.UID}
		w.bind(pvc, pv)
	}
}

func (w *world) bind(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
	pv.Status.Phase = corev1.VolumeBound
	w.put("pv", pv)
	pvc = pvc.DeepCopy()
	pvc.Spec.VolumeName, pvc.Status.Phase = pv.Name, corev1.ClaimBound
	metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, volume.AnnBindCompleted, "yes")
	w.put("pvc", pvc)
	w.check()
}

// forget deletes a claim that no pod waits for, or a pod that waits with its claims.
func (w *world) forget() {
	if a := w.some(false); a != nil && w.r.IntN(3) == 0 {
		for _, v := range a.pod.Spec.Volumes {
			w.removeClaim(namespace + "/" + v.Name)
		}
		delete(w.pods, a.pod.UID)
		return
	}
	for _, pvc := range all[*corev1.PersistentVolumeClaim](w) {
		if pvc.Spec.VolumeName != "" && w.r.IntN(3) == 0 && !w.wanted(pvc.Name) {
			w.removeClaim(nameOf(pvc))
		}
	}
}

func (w *world) wanted(name string) bool {
	for _, a := range w.pods {
		if slices.ContainsFunc(a.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name }) {
			return true
		}
	}
	return false
}

func (w *world) removeClaim(name string) {
	pvc, ok := get[*corev1.PersistentVolumeClaim](w, "pvc", name)
	if !ok {
		return
	}
	w.remove("pvc", name)
	for _, pv := range all[*corev1.PersistentVolume](w) {
		if ref := claimOf(pv); ref == nil || ref.UID != pvc.UID {
			continue
		}
		if pv.Spec.StorageClassName != staticClass {
			w.remove("pv", pv.Name)
			continue
		}
		pv = pv.DeepCopy() // a person has wiped it
		pv.Spec.ClaimRef, pv.Status.Phase = nil, corev1.VolumeAvailable
		w.put("pv", pv)
	}
}

// turn puts a disk in quarantine or opens it: the record first, the marks on
// free volumes some time later.
func (w *world) turn() {
	nodes := all[*unstructured.Unstructured](w)
	cn := nodes[w.r.IntN(len(nodes))].DeepCopy()
	if w.r.IntN(2) == 0 {
		unstructured.RemoveNestedField(cn.Object, "spec")
	} else if pvs := all[*corev1.PersistentVolume](w); len(pvs) > 0 {
		pv := pvs[w.r.IntN(len(pvs))]
		if pv.Labels[v1alpha1.LabelNode] != cn.GetName() {
			return
		}
		cn.Object["spec"] = map[string]any{"quarantine": []any{map[string]any{"disk": pv.Labels[v1alpha1.LabelDisk]}}}
	}
	w.put("computenode", cn)
}

// mark is the remediation controller following the record.
func (w *world) mark() {
	for _, pv := range all[*corev1.PersistentVolume](w) {
		closed := w.quarantined(pv.Labels[v1alpha1.LabelNode], diskOf(pv))
		if closed == marked(pv) {
			continue
		}
		pv = pv.DeepCopy()
		if closed {
			pv.Labels[v1alpha1.LabelQuarantined] = "true"
			if pv.Spec.ClaimRef == nil {
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: v1alpha1.SentinelClaimNamespace, Name: v1alpha1.SentinelClaimName}
			}
		} else {
			delete(pv.Labels, v1alpha1.LabelQuarantined)
			if pv.Spec.ClaimRef != nil && claimOf(pv) == nil {
				pv.Spec.ClaimRef = nil
			}
		}
		w.put("pv", pv)
	}
}

// restart is kill -9 and a new process, whose stores are listed anew.
func (w *world) restart() {
	w.restarts++
	w.deliver(len(w.pending))
	w.core.ledger = newLedger()
	for _, a := range w.pods {
		a.binding, a.written, a.choices = false, false, nil
	}
}

// settle lets everything that is under way arrive, and time pass.
func (w *world) settle() {
	w.mark()
	w.publish()
	w.deliver(len(w.pending))
	w.core.ledger.Lock()
	w.core.refreshLocked(w.clock)
	w.core.ledger.Unlock()
	w.clock = w.clock.Add(settleTime)
}

func (w *world) step() {
	switch w.r.IntN(18) {
	case 0, 1, 2:
		if len(w.pods) < 8 {
			w.newPod()
		}
	case 3, 4, 5:
		w.schedule(false)
	case 6:
		w.settle()
		w.schedule(true)
	case 7, 8:
		w.write()
	case 9, 10:
		w.controllers()
	case 11, 16, 17:
		w.forget()
	case 12:
		w.publish()
	case 13:
		switch w.r.IntN(6) {
		case 0:
			w.restart()
		case 1:
			w.give()
		default:
			w.turn()
		}
	case 14:
		w.mark()
	case 15:
		w.deliver(w.r.IntN(8))
	}
	w.deliver(w.r.IntN(3))
}

// TestRandomBindings binds claims in many small clusters whose stores lag, whose
// API server loses answers and whose scheduler dies, until 100,000 were placed.
func TestRandomBindings(t *testing.T) {
	var placed, refused, exact, restarts, lost int
	for seed := uint64(0); placed < bindings; seed++ {
		w := newWorld(t, seed)
		for range 1000 {
			w.step()
		}
		placed, refused, exact, restarts, lost = placed+w.placed, refused+w.refused, exact+w.exact, restarts+w.restarts, lost+w.lost
	}
	t.Logf("%d claims placed, %d pods refused, %d answers compared with brute force, %d restarts, %d answers lost", placed, refused, exact, restarts, lost)
	if exact < bindings/4 || restarts < bindings/1000 || lost < bindings/1000 {
		t.Error("the run is of little use: too few comparisons, restarts or lost answers")
	}
}

const bindings = 100_000
