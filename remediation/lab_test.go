package remediation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/remediation/computenode"
	"holdfast.dev/remediation/index"
	"holdfast.dev/remediation/marks"
	"holdfast.dev/remediation/planner"
	"holdfast.dev/remediation/quarantine"
	"holdfast.dev/remediation/repair"
)

const (
	nodeName = "n1"
	badDisk  = "wwn-bad"
	newDisk  = "wwn-new"
)

var errKilled = errors.New("the process was killed")

// lab is an API server in memory, and everybody in the cluster but us: the
// monitor, the PV controller, the person who swaps disks, the claim's owner.
type lab struct {
	t   fataler
	api client.WithWatch // what is
	// effects are the changes of facts, in order: what really happened, as seen
	// from the API and not as the controllers tell it.
	effects []string
	facts   map[string]string
	writes  int
	uids    int
	clock   time.Time
	// replaceDisk is what the person does: false puts the same disk back, healed.
	replaceDisk bool
	idle        bool          // nobody swaps a disk
	cache       client.Client // what the process last saw; nil: to be filled
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// testScheme is made once: it is most of the cost of a fake client.
var testScheme = sync.OnceValues(Scheme)

func newFake(t fataler, funcs *interceptor.Funcs, objects ...client.Object) client.WithWatch {
	t.Helper()
	s, err := testScheme()
	if err != nil {
		t.Fatalf("%v", err)
	}
	b := fake.NewClientBuilder().WithScheme(s).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.ComputeNode{}, &v1alpha1.Remediation{}, &v1alpha1.RemediationPolicy{})
	for _, x := range index.All() {
		b = b.WithIndex(x.Object, x.Name, x.Extract)
	}
	if funcs != nil {
		b = b.WithInterceptorFuncs(*funcs)
	}
	return b.Build()
}

func newLab(t fataler, replaceDisk bool) *lab {
	l := &lab{t: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), replaceDisk: replaceDisk}
	l.api = newFake(t, &interceptor.Funcs{Create: l.create}, policyObject(), nodeObject(),
		volume("pv-free", badDisk, nil), volume("pv-bound", badDisk, claimRef("db-0")), volume("pv-other", "wwn-fine", nil))
	l.facts = l.observe()
	return l
}

// create fills in what an API server does.
func (l *lab) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	l.uids++
	o.SetUID(types.UID(fmt.Sprint("uid-", l.uids)))
	o.SetCreationTimestamp(metav1.NewTime(l.clock))
	return c.Create(ctx, o, opts...)
}

func policyObject() *v1alpha1.RemediationPolicy {
	bad := []v1alpha1.DiskState{v1alpha1.DiskFailed, v1alpha1.DiskMissing}
	return &v1alpha1.RemediationPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.DefaultPolicy},
		Spec: v1alpha1.RemediationPolicySpec{
			QuarantineStates: bad,
			Rules:            []v1alpha1.RemediationRule{{States: bad, Action: v1alpha1.ActionReplaceDisk}},
			Budgets:          []v1alpha1.Budget{{Scope: v1alpha1.ScopeCluster, Max: 1}, {Scope: v1alpha1.ScopeZone, Max: 1}},
		},
	}
}

func nodeObject() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "node-uid", Labels: map[string]string{
		v1alpha1.LabelFlavor: "db", corev1.LabelTopologyZone: "z1", corev1.LabelHostname: nodeName,
	}}}
}

func claimRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: name, UID: types.UID("claim-" + name)}
}

func volume(name, disk string, claim *corev1.ObjectReference) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("uid-" + name),
			Labels:      map[string]string{v1alpha1.LabelNode: nodeName, v1alpha1.LabelDisk: diskid.Label(disk)},
			Annotations: map[string]string{v1alpha1.AnnotationDisk: disk},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + name}},
			ClaimRef:                      claim,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if claim != nil {
		pv.Status.Phase = corev1.VolumeBound
	}
	return pv
}

// process is one life of the controller. It dies at its limit-th write, before
// or after that write reached the API server, and can do nothing from then on.
type process struct {
	sync.Mutex // volumes are written side by side
	lab        *lab
	limit      int // 0: lives
	after      bool
	count      int
	dead       bool
	reconciles []func(context.Context) error
	// before is called before each write and may get in its way.
	before func(verb string, o client.Object)
}

func (l *lab) start(limit int, after bool) *process {
	p := &process{lab: l, limit: limit, after: after}
	l.cache = nil
	c := &cachedClient{WithWatch: interceptor.NewClient(l.api, p.funcs()), lab: l, process: p}
	live := interceptor.NewClient(l.api, p.funcs())
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	now := func() time.Time { return l.clock }
	decided := func(string) {}
	nodes := &computenode.Controller{Client: c, Live: live, Log: log}
	quarantines := &quarantine.Controller{Client: c, Live: live, Log: log, Now: now, Decided: decided}
	plans := &planner.Controller{Client: c, Live: live, Log: log, Now: now, Decided: decided}
	repairs := &repair.Controller{API: repair.API{Client: c, Live: live, Now: now}, Log: log, Decided: decided}
	request := ctrl.Request{NamespacedName: types.NamespacedName{Name: nodeName}}
	for _, r := range []interface {
		Reconcile(context.Context, ctrl.Request) (ctrl.Result, error)
	}{nodes, quarantines, plans} {
		p.reconciles = append(p.reconciles, func(ctx context.Context) error { _, err := r.Reconcile(ctx, request); return err })
	}
	p.reconciles = append(p.reconciles, func(ctx context.Context) error {
		var all v1alpha1.RemediationList
		if err := l.api.List(ctx, &all); err != nil {
			return err
		}
		for i := range all.Items {
			if _, err := repairs.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])}); err != nil {
				return err
			}
		}
		return nil
	})
	return p
}

// write lets one write through, or kills the process.
func (p *process) write(verb string, o client.Object, do func() error) error {
	p.Lock()
	defer p.Unlock()
	if p.before != nil {
		p.before(verb, o)
	}
	if p.dead {
		return errKilled
	}
	p.count++
	if p.limit > 0 && p.count == p.limit {
		p.dead = true
		if !p.after {
			return errKilled
		}
	}
	err := do()
	if err == nil {
		p.lab.writes++
		p.lab.note()
	}
	if p.dead {
		return errKilled
	}
	return err
}

func (p *process) isDead() bool {
	p.Lock()
	defer p.Unlock()
	return p.dead
}

func (p *process) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if p.isDead() {
				return errKilled
			}
			return c.Get(ctx, k, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
			if p.isDead() {
				return errKilled
			}
			return c.List(ctx, o, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return p.write("create", o, func() error { return c.Create(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return p.write("delete", o, func() error { return c.Delete(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return p.write("patch", o, func() error { return c.Patch(ctx, o, patch, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return p.write("status", o, func() error { return c.SubResource(sub).Patch(ctx, o, patch, opts...) })
		},
	}
}

// cachedClient reads what the process saw when its cache was last filled.
type cachedClient struct {
	client.WithWatch
	lab     *lab
	process *process
}

func (c *cachedClient) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if c.process.isDead() {
		return errKilled
	}
	return c.lab.cached().Get(ctx, k, o, opts...)
}

func (c *cachedClient) List(ctx context.Context, o client.ObjectList, opts ...client.ListOption) error {
	if c.process.isDead() {
		return errKilled
	}
	return c.lab.cached().List(ctx, o, opts...)
}

// cached is the cache, filled now if it is empty.
func (l *lab) cached() client.Client {
	if l.cache != nil {
		return l.cache
	}
	var objects []client.Object
	for _, list := range []client.ObjectList{&corev1.NodeList{}, &corev1.PersistentVolumeList{}, &v1alpha1.ComputeNodeList{}, &v1alpha1.RemediationPolicyList{}, &v1alpha1.RemediationList{}} {
		l.must(l.api.List(context.Background(), list))
		objects = append(objects, items(list)...)
	}
	l.cache = newFake(l.t, nil, objects...)
	return l.cache
}

func items(list client.ObjectList) []client.Object {
	var out []client.Object
	switch list := list.(type) {
	case *corev1.NodeList:
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	case *corev1.PersistentVolumeList:
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	case *v1alpha1.ComputeNodeList:
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	case *v1alpha1.RemediationPolicyList:
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	case *v1alpha1.RemediationList:
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	}
	return out
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%v", err)
	}
}

// note records which facts came, went and changed with the last write.
func (l *lab) note() {
	now := l.observe()
	var changed []string
	for f, v := range now {
		if old, was := l.facts[f]; !was {
			changed = append(changed, "+ "+f)
		} else if old != v {
			changed = append(changed, "~ "+f)
		}
	}
	for f := range l.facts {
		if _, is := now[f]; !is {
			changed = append(changed, "- "+f)
		}
	}
	slices.Sort(changed)
	l.effects = append(l.effects, changed...)
	l.facts = now
}

// observe lists the facts that our controllers are there to change. A fact's
// value tells when it is made again without having gone.
func (l *lab) observe() map[string]string {
	ctx := context.Background()
	facts := map[string]string{}
	var nodes v1alpha1.ComputeNodeList
	l.must(l.api.List(ctx, &nodes))
	for _, n := range nodes.Items {
		facts["ComputeNode "+n.Name] = string(n.UID)
		for _, e := range n.Spec.Quarantine {
			facts["quarantine "+n.Name+"/"+e.Disk] = e.Since.String()
		}
		for _, r := range n.Spec.Replacements {
			facts["request "+n.Name+"/"+r.Disk] = r.Since.String()
		}
	}
	var pol v1alpha1.RemediationPolicyList
	l.must(l.api.List(ctx, &pol))
	for _, p := range pol.Items {
		for _, r := range p.Status.Reservations {
			facts["slot on "+r.Node+" in "+r.Zone] = r.Since.String()
		}
	}
	var volumes corev1.PersistentVolumeList
	l.must(l.api.List(ctx, &volumes))
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		facts["volume "+pv.Name] = string(pv.UID)
		if marks.On(pv) {
			facts["marks of "+pv.Name] = pv.Annotations[v1alpha1.AnnotationTaints]
		}
		if marks.Sentinel(pv) {
			facts["sentinel of "+pv.Name] = ""
		}
	}
	var events corev1.EventList
	l.must(l.api.List(ctx, &events))
	for _, e := range events.Items {
		facts["event "+e.Reason+" on "+e.InvolvedObject.Name+" named "+e.Name] = string(e.UID)
	}
	var plans v1alpha1.RemediationList
	l.must(l.api.List(ctx, &plans))
	for _, p := range plans.Items {
		facts["plan for "+p.Spec.Disk] = string(p.UID)
		for i, a := range p.Status.Audit {
			facts[fmt.Sprintf("audit entry %d, of %s: %s", i+1, a.Step, a.Effect)] = ""
		}
	}
	return facts
}

// others does what everybody else in the cluster does in one round. It returns
// whether anything changed.
func (l *lab) others() bool {
	ctx := context.Background()
	var cn v1alpha1.ComputeNode
	if client.IgnoreNotFound(l.api.Get(ctx, types.NamespacedName{Name: nodeName}, &cn)) != nil || cn.Name == "" {
		return false
	}
	base := cn.DeepCopy()
	since := func() *metav1.Time { t := metav1.NewTime(l.clock); return &t }
	named := slices.ContainsFunc(cn.Spec.Quarantine, func(e v1alpha1.Quarantine) bool { return e.Disk == badDisk }) || len(cn.Spec.Replacements) > 0
	at := func(id string) int {
		return slices.IndexFunc(cn.Status.Disks, func(d v1alpha1.Disk) bool { return d.ID == id })
	}
	switch i := at(badDisk); {
	case len(cn.Status.Disks) == 0:
		cn.Status.Disks = []v1alpha1.Disk{
			{ID: badDisk, Device: "sda", Slot: "3", Group: "data", State: v1alpha1.DiskFailed, Since: since(), Faults: []v1alpha1.Fault{{
				Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical, FirstSeen: *since(), LastSeen: *since(), Count: 1,
				Evidence: "critical medium error, dev sda, sector 7",
			}}},
			{ID: "wwn-fine", Device: "sdb", Slot: "4", Group: "data", State: v1alpha1.DiskHealthy, Since: since()},
		}
	case l.idle:
		return false
	case len(cn.Spec.Replacements) > 0 && i >= 0 && cn.Status.Disks[i].State == v1alpha1.DiskFailed && l.replaceDisk:
		cn.Status.Disks[i].State, cn.Status.Disks[i].Device, cn.Status.Disks[i].Since = v1alpha1.DiskMissing, "", since()
		cn.Status.Disks = append(cn.Status.Disks, v1alpha1.Disk{ID: newDisk, Device: "sdc", Slot: "3", Group: "data", State: v1alpha1.DiskHealthy, Since: since()})
	case len(cn.Spec.Replacements) > 0 && i >= 0 && cn.Status.Disks[i].State == v1alpha1.DiskFailed:
		cn.Status.Disks[i].State, cn.Status.Disks[i].Faults, cn.Status.Disks[i].Since = v1alpha1.DiskHealthy, nil, since()
	case i >= 0 && cn.Status.Disks[i].State == v1alpha1.DiskMissing && !named:
		cn.Status.Disks = slices.Delete(cn.Status.Disks, i, i+1)
	default:
		return l.owner()
	}
	l.must(l.api.Status().Patch(ctx, &cn, client.MergeFrom(base)))
	return true
}

// owner deletes the claim of a volume whose disk was replaced; the PV
// controller then says Released.
func (l *lab) owner() bool {
	ctx := context.Background()
	var pv corev1.PersistentVolume
	if l.api.Get(ctx, types.NamespacedName{Name: "pv-bound"}, &pv) != nil || pv.Status.Phase != corev1.VolumeBound || !l.replaceDisk {
		return false
	}
	var plans v1alpha1.RemediationList
	l.must(l.api.List(ctx, &plans))
	if len(plans.Items) == 0 || !strings.Contains(plans.Items[0].Status.Message, "owner of claim default/db-0") {
		return false
	}
	base := pv.DeepCopy()
	pv.Status.Phase = corev1.VolumeReleased
	l.must(l.api.Status().Patch(ctx, &pv, client.MergeFrom(base)))
	return true
}

// settle runs a process until nothing changes or it dies. Fresh says, for each
// round, whether the cache has caught up.
func (l *lab) settle(p *process, fresh func() bool) {
	l.t.Helper()
	quiet := 0
	for range 400 {
		l.clock = l.clock.Add(3 * time.Second)
		before := l.writes
		caughtUp := fresh()
		if caughtUp {
			l.cache = nil
		}
		for _, r := range p.reconciles {
			if err := r(context.Background()); err != nil && !p.dead && !isConflict(err) {
				l.t.Fatalf("reconcile: %v", err)
			}
		}
		if p.dead {
			return
		}
		switch changed := l.others(); {
		case changed || l.writes != before:
			quiet = 0
		case caughtUp:
			quiet++
		}
		if quiet == 2 {
			return
		}
	}
	l.t.Fatalf("does not settle; effects so far:\n%s", strings.Join(l.effects, "\n"))
}

// plan is the one plan.
func (l *lab) plan(t *testing.T) *v1alpha1.Remediation {
	t.Helper()
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	if len(plans.Items) != 1 {
		t.Fatalf("there are %d plans, want 1", len(plans.Items))
	}
	return &plans.Items[0]
}
