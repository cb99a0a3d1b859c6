package repair

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/remediation/marks"
	"holdfast.dev/remediation/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// setup is an API server with a node that has a quarantined, missing disk, and the plan for it.
func setup(t *testing.T, since time.Time, by string, volumes ...client.Object) (*API, *Plan) {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	cn := &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	cn.Spec.NodeUID = "u"
	cn.Spec.Quarantine = []v1alpha1.Quarantine{{Disk: "d", Reason: "Missing", By: by, Since: metav1.NewTime(since)}}
	cn.Status.Disks = []v1alpha1.Disk{{ID: "d", State: v1alpha1.DiskMissing}}
	r := policy.NewPlan(cn, &cn.Status.Disks[0], v1alpha1.ActionReplaceDisk, t0)
	r.Annotations[v1alpha1.AnnotationReplacedBy] = "new"
	c := fake.NewClientBuilder().WithScheme(s).WithStatusSubresource(&r, cn).WithObjects(append(volumes, cn, &r)...).Build()
	api := &API{Client: c, Live: c, Now: func() time.Time { return t0 }}
	p := &Plan{Remediation: &v1alpha1.Remediation{}, Node: &v1alpha1.ComputeNode{}}
	for o, name := range map[client.Object]string{p.Remediation: r.Name, p.Node: "n"} {
		if err := c.Get(context.Background(), types.NamespacedName{Name: name}, o); err != nil {
			t.Fatal(err)
		}
	}
	return api, p
}

// TestLiftOnlyItsOwn: a controller that slept through a lease, a lift and a new
// fault must not lift the later quarantine.
func TestLiftOnlyItsOwn(t *testing.T) {
	cases := map[string]struct {
		reason string
		since  time.Time
		by     string
		left   int
	}{
		"Own":     {reason: "the quarantine that the plan was made for", since: t0, by: v1alpha1.QuarantinedByController},
		"Later":   {reason: "a later quarantine of the same disk", since: t0.Add(time.Hour), by: v1alpha1.QuarantinedByController, left: 1},
		"Foreign": {reason: "a person's quarantine", since: t0, by: "alice", left: 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api, p := setup(t, c.since, c.by)
			o, err := (&liftQuarantine{api}).Run(context.Background(), p)
			if err != nil || !o.Done {
				t.Fatalf("Run = %+v, %v", o, err)
			}
			n, err := api.node(context.Background(), "n")
			if err != nil || len(n.Spec.Quarantine) != c.left {
				t.Errorf("%s: quarantine is now %v (%v), want %d", c.reason, n.Spec.Quarantine, err, c.left)
			}
			if c.by == "alice" && o.Message == "" {
				t.Errorf("%s: nothing says that it stays", c.reason)
			}
		})
	}
}

func TestRetireVolumes(t *testing.T) {
	pv := func(change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{
			Name: "pv", UID: "pv-uid",
			Labels:      map[string]string{v1alpha1.LabelNode: "n", v1alpha1.LabelDisk: diskid.Label("d")},
			Annotations: map[string]string{v1alpha1.AnnotationDisk: "d"},
		}}
		marks.Put(v, &v1alpha1.Quarantine{Disk: "d", Reason: "Missing", Since: metav1.NewTime(t0)})
		change(v)
		return v
	}
	claim := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "b", UID: "c"}
	}
	cases := map[string]struct {
		reason string
		pv     *corev1.PersistentVolume
		plan   func(*Plan)
		gone   bool
	}{
		"Sentinel":     {reason: "no claim has it", pv: pv(func(*corev1.PersistentVolume) {}), gone: true},
		"Released":     {reason: "its claim is gone", pv: pv(func(v *corev1.PersistentVolume) { claim(v); v.Status.Phase = corev1.VolumeReleased }), gone: true},
		"Bound":        {reason: "a claim has it", pv: pv(func(v *corev1.PersistentVolume) { claim(v); v.Status.Phase = corev1.VolumeBound })},
		"Prebound":     {reason: "a claim is to have it", pv: pv(func(v *corev1.PersistentVolume) { claim(v); v.Spec.ClaimRef.UID = "" })},
		"Unmarked":     {reason: "it is not in quarantine: a claim may be about to bind it", pv: pv(func(v *corev1.PersistentVolume) { marks.Lift(v) })},
		"OtherDisk":    {reason: "it is on another disk whose label is cut to the same", pv: pv(func(v *corev1.PersistentVolume) { v.Annotations[v1alpha1.AnnotationDisk] = "e" })},
		"OtherNode":    {reason: "it is on another node", pv: pv(func(v *corev1.PersistentVolume) { v.Labels[v1alpha1.LabelNode] = "m" })},
		"DiskIsBack":   {reason: "the old disk is there again", pv: pv(func(*corev1.PersistentVolume) {}), plan: func(p *Plan) { p.Node.Status.Disks[0].Device = "sda" }},
		"NotReplaced":  {reason: "nothing says that it was replaced", pv: pv(func(*corev1.PersistentVolume) {}), plan: func(p *Plan) { delete(p.Annotations, v1alpha1.AnnotationReplacedBy) }},
		"BadIntention": {reason: "what was to be deleted cannot be read", pv: pv(func(*corev1.PersistentVolume) {}), plan: func(p *Plan) { p.Annotations[v1alpha1.AnnotationRetiring] = "{" }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api, p := setup(t, t0, v1alpha1.QuarantinedByController, c.pv)
			if c.plan != nil {
				c.plan(p)
			}
			o, err := (&retireVolumes{api}).Run(context.Background(), p)
			if err != nil && name != "BadIntention" {
				t.Fatal(err)
			}
			gone := api.Live.Get(context.Background(), types.NamespacedName{Name: "pv"}, &corev1.PersistentVolume{}) != nil
			if gone != c.gone || len(o.Effects) > 0 != c.gone {
				t.Errorf("%s: gone = %v with effects %q, want %v", c.reason, gone, o.Effects, c.gone)
			}
		})
	}
}
