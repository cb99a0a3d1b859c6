package remediation

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/marks"
)

// edit changes an object behind the controllers' back.
func edit[T client.Object](l *lab, o T, name string, change func(T)) {
	l.t.Helper()
	ctx := context.Background()
	l.must(l.api.Get(ctx, types.NamespacedName{Name: name}, o))
	base := o.DeepCopyObject().(T)
	change(o)
	status := o.DeepCopyObject().(T)
	l.must(l.api.Patch(ctx, o, client.MergeFrom(base)))
	status.SetResourceVersion("")
	l.must(client.IgnoreNotFound(l.api.Status().Patch(ctx, status, client.MergeFrom(base))))
	l.facts = l.observe()
}

func read[T client.Object](l *lab, o T, name string) T {
	l.t.Helper()
	l.must(l.api.Get(context.Background(), types.NamespacedName{Name: name}, o))
	return o
}

// waiting is a lab whose plan waits for a person who does nothing.
func waiting(t *testing.T) (*lab, *process) {
	t.Helper()
	l := newLab(t, true)
	l.idle = true
	p := l.start(0, false)
	l.settle(p, always)
	if r := l.plan(t); r.Status.Step != v1alpha1.StepAwaitReplacement || r.Status.Phase != v1alpha1.PhaseRunning {
		t.Fatalf("the plan is at %s, %s: %s", r.Status.Phase, r.Status.Step, r.Status.Message)
	}
	return l, p
}

func slots(l *lab) []v1alpha1.Reservation {
	return read(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy).Status.Reservations
}

func spec(l *lab) v1alpha1.ComputeNodeSpec {
	return read(l, &v1alpha1.ComputeNode{}, nodeName).Spec
}

// ended checks that a plan ended early has given back what it took, and that
// the disk is still closed.
func ended(t *testing.T, l *lab, phase v1alpha1.Phase, message string) {
	t.Helper()
	p := l.plan(t)
	if p.Status.Phase != phase || p.Status.FinishedAt == nil || !strings.Contains(p.Status.Message, message) {
		t.Errorf("the plan is %s at %v: %s; want %s with %q", p.Status.Phase, p.Status.FinishedAt, p.Status.Message, phase, message)
	}
	if s := slots(l); len(s) > 0 {
		t.Errorf("slots still taken: %v", s)
	}
	if s := spec(l); len(s.Replacements) > 0 || len(s.Quarantine) != 1 {
		t.Errorf("replacements %v, quarantine %v; want none, and one", s.Replacements, s.Quarantine)
	}
	if pv := read(l, &corev1.PersistentVolume{}, "pv-free"); !marks.On(pv) {
		t.Error("the volume is no longer closed")
	}
	once(t, l, "ended early")
}

// TestCancelAtEveryStep: human wins, whenever; a cancelled plan gives the budget back.
func TestCancelAtEveryStep(t *testing.T) {
	ref, _ := waiting(t)
	for n := 1; n <= ref.writes; n++ {
		l := newLab(t, true)
		l.idle = true
		p := l.start(n, true)
		l.settle(p, always)
		var plans v1alpha1.RemediationList
		l.must(l.api.List(context.Background(), &plans))
		if len(plans.Items) == 0 {
			continue // killed before there was a plan
		}
		edit(l, &v1alpha1.Remediation{}, plans.Items[0].Name, func(r *v1alpha1.Remediation) { r.Spec.Cancel = true })
		l.settle(l.start(0, false), always)
		ended(t, l, v1alpha1.PhaseCancelled, "by a person")
		happened, audit := strings.Join(l.effects, "\n"), fmt.Sprint(l.plan(t).Status.Audit)
		for effect, words := range map[string]string{"+ slot": "took a slot", "- slot": "gave the slot", "+ request": "asked for a new disk", "- request": "withdrew the request"} {
			if strings.Contains(happened, effect) != strings.Contains(audit, words) {
				t.Errorf("killed at write %d: %q happened or not, the audit trail says %s", n, effect, audit)
			}
		}
	}
}

func TestHeldBack(t *testing.T) {
	cases := map[string]struct {
		reason string
		hold   func(l *lab, on bool)
	}{
		"Paused": {reason: "is paused", hold: func(l *lab, on bool) {
			edit(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy, func(p *v1alpha1.RemediationPolicy) { p.Spec.Paused = on })
		}},
		"Maintenance": {reason: "the node is in maintenance", hold: func(l *lab, on bool) {
			edit(l, &v1alpha1.ComputeNode{}, nodeName, func(n *v1alpha1.ComputeNode) { n.Spec.Maintenance = on })
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, p := waiting(t)
			c.hold(l, true)
			l.idle = false
			l.settle(p, always)
			if r := l.plan(t); r.Status.Step != v1alpha1.StepAwaitReplacement || !strings.Contains(r.Status.Message, c.reason) {
				t.Errorf("%s: the plan went on to %s: %s", c.reason, r.Status.Step, r.Status.Message)
			}
			c.hold(l, false)
			l.settle(p, always)
			if r := l.plan(t); r.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Errorf("afterwards the plan is %s: %s", r.Status.Phase, r.Status.Message)
			}
			once(t, l, name)
		})
	}
}

func TestPausedStillQuarantines(t *testing.T) {
	l := newLab(t, true)
	edit(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy, func(p *v1alpha1.RemediationPolicy) { p.Spec.Paused = true })
	l.settle(l.start(0, false), always)
	if !marks.On(read(l, &corev1.PersistentVolume{}, "pv-free")) {
		t.Error("the volume is open")
	}
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	if len(plans.Items) > 0 {
		t.Errorf("there is a plan: %+v", plans.Items)
	}
}

func TestTimeout(t *testing.T) {
	l, p := waiting(t)
	l.clock = l.clock.Add(8 * 24 * time.Hour)
	l.settle(p, always)
	ended(t, l, v1alpha1.PhaseEscalated, "not done after 168h0m0s, at step AwaitReplacement")
}

// TestDeletedPlan: deletion is a cancellation; the same quarantine then gets a new plan.
func TestDeletedPlan(t *testing.T) {
	l, p := waiting(t)
	old := l.plan(t)
	l.must(l.api.Delete(context.Background(), old.DeepCopy()))
	for range 10 {
		l.settle(p, always)
	}
	r := l.plan(t)
	if r.UID == old.UID || r.Name != old.Name || r.Status.Step != v1alpha1.StepAwaitReplacement {
		t.Errorf("the plan is now %s (was %s), at %s", r.UID, old.UID, r.Status.Step)
	}
	if s := slots(l); len(s) != 1 || s[0].UID != r.UID {
		t.Errorf("slots: %v, want one of plan %s", s, r.UID)
	}
}

// TestBudgetFull: the second disk's plan waits until the first has ended.
func TestBudgetFull(t *testing.T) {
	l, p := waiting(t)
	l.report(func(s *v1alpha1.ComputeNodeStatus) { s.Disks[1].State = v1alpha1.DiskFailed })
	l.settle(p, always)
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	running := 0
	for _, r := range plans.Items {
		switch {
		case r.Status.Phase == v1alpha1.PhaseRunning:
			running++
		case r.Status.Phase != v1alpha1.PhasePending || !strings.Contains(r.Status.Message, "waits for room: the Cluster budget of 1"):
			t.Errorf("plan for %s is %s: %s", r.Spec.Disk, r.Status.Phase, r.Status.Message)
		}
	}
	if len(plans.Items) != 2 || running != 1 {
		t.Errorf("%d plans, %d running; want 2, 1", len(plans.Items), running)
	}
	l.idle = false
	l.settle(p, always)
	l.must(l.api.List(context.Background(), &plans))
	for _, r := range plans.Items {
		if want := map[string]v1alpha1.Phase{badDisk: v1alpha1.PhaseSucceeded, "wwn-fine": v1alpha1.PhaseRunning}[r.Spec.Disk]; r.Status.Phase != want {
			t.Errorf("plan for %s is %s, want %s: %s", r.Spec.Disk, r.Status.Phase, want, r.Status.Message)
		}
	}
}

// report is the monitor writing its status.
func (l *lab) report(change func(*v1alpha1.ComputeNodeStatus)) {
	l.t.Helper()
	var n v1alpha1.ComputeNode
	l.must(l.api.Get(context.Background(), types.NamespacedName{Name: nodeName}, &n))
	base := n.DeepCopy()
	change(&n.Status)
	l.must(l.api.Status().Patch(context.Background(), &n, client.MergeFrom(base)))
}

// TestComputeNodeDeleted: that the record is gone is no reason to open a volume.
func TestComputeNodeDeleted(t *testing.T) {
	l, p := waiting(t)
	before := spec(l).Quarantine
	l.must(l.api.Delete(context.Background(), read(l, &v1alpha1.ComputeNode{}, nodeName)))
	l.facts = l.observe()
	l.effects = nil
	p.reconciles = append(p.reconciles[1:], p.reconciles[0]) // the others look first
	l.cache = nil
	for _, r := range p.reconciles {
		l.must(r(context.Background()))
	}
	after := spec(l).Quarantine
	if len(after) != 1 || after[0].Disk != badDisk || !after[0].Since.Equal(&before[0].Since) {
		t.Errorf("quarantine was %v, is %v", before, after)
	}
	for _, e := range l.effects {
		if strings.HasPrefix(e, "- marks") || strings.HasPrefix(e, "- sentinel") {
			t.Errorf("a volume was opened: %v", l.effects)
		}
	}
}

// TestNodeMadeAnew: quarantine stays with the name, a plan does not.
func TestNodeMadeAnew(t *testing.T) {
	l, p := waiting(t)
	old := l.plan(t)
	l.must(l.api.Delete(context.Background(), read(l, &corev1.Node{}, nodeName)))
	l.settle(p, always)
	if r := l.plan(t); r.Status.FinishedAt != nil {
		t.Errorf("the plan ended because its Node was not there: %s", r.Status.Message)
	}
	n := nodeObject()
	n.UID = ""
	l.must(l.api.Create(context.Background(), n))
	l.settle(p, always)
	if s := spec(l); s.NodeUID == "node-uid" || len(s.Quarantine) != 1 {
		t.Errorf("ComputeNode has UID %s and quarantine %v", s.NodeUID, s.Quarantine)
	}
	if r := read(l, &v1alpha1.Remediation{}, old.Name); r.Status.Phase != v1alpha1.PhaseCancelled || !strings.Contains(r.Status.Message, "made anew") {
		t.Errorf("the old plan is %s: %s", r.Status.Phase, r.Status.Message)
	}
	if s := slots(l); len(s) != 1 || s[0].Remediation == old.Name {
		t.Errorf("slots: %v, want one of the new plan", s)
	}
}

// TestBoundInBetween: a claim takes the volume just before the marks are written.
func TestBoundInBetween(t *testing.T) {
	l := newLab(t, true)
	p := l.start(0, false)
	done := false
	p.before = func(verb string, o client.Object) {
		if o.GetName() != "pv-free" || verb != "patch" || done {
			return
		}
		done = true
		edit(l, &corev1.PersistentVolume{}, "pv-free", func(pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef = claimRef("fast")
			pv.Status.Phase = corev1.VolumeBound
		})
	}
	l.idle = true
	l.settle(p, always)
	pv := read(l, &corev1.PersistentVolume{}, "pv-free")
	if !done || pv.Spec.ClaimRef.Name != "fast" || !marks.On(pv) {
		t.Errorf("claimRef %v, labels %v", pv.Spec.ClaimRef, pv.Labels)
	}
	if got := strings.Join(l.effects, "\n"); strings.Count(got, "+ event DiskQuarantined on fast") != 1 {
		t.Errorf("the claim's owner was not told once:\n%s", got)
	}
}

// TestClaimedBeforeDeletion: a volume that gets a claim just before it would be retired stays.
func TestClaimedBeforeDeletion(t *testing.T) {
	l := newLab(t, true)
	p := l.start(0, false)
	done := false
	p.before = func(verb string, o client.Object) {
		if o.GetName() == "pv-free" && verb == "delete" && !done {
			done = true
			edit(l, &corev1.PersistentVolume{}, "pv-free", func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = claimRef("fast") })
		}
	}
	l.settle(p, always)
	if pv := read(l, &corev1.PersistentVolume{}, "pv-free"); !done || pv.Spec.ClaimRef.Name != "fast" {
		t.Errorf("claimRef is %v", pv.Spec.ClaimRef)
	}
	r := l.plan(t)
	if r.Status.Step != v1alpha1.StepRetireVolumes || !strings.Contains(r.Status.Message, "owner of claim default/fast") {
		t.Errorf("the plan is at %s: %s", r.Status.Step, r.Status.Message)
	}
	for _, a := range r.Status.Audit {
		if strings.Contains(a.Effect, "pv-free") {
			t.Errorf("the audit trail says %q", a.Effect)
		}
	}
}

// TestEventOutlived: the API server forgets Events after an hour; the owner is not told again.
func TestEventOutlived(t *testing.T) {
	l, _ := waiting(t)
	var events corev1.EventList
	l.must(l.api.List(context.Background(), &events))
	if len(events.Items) != 1 {
		t.Fatalf("%d events, want 1", len(events.Items))
	}
	l.must(l.api.Delete(context.Background(), &events.Items[0]))
	l.facts = l.observe()
	l.settle(l.start(0, false), always)
	l.must(l.api.List(context.Background(), &events))
	if len(events.Items) > 0 {
		t.Errorf("told again: %+v", events.Items)
	}
}

// TestForeignQuarantine: marks follow the list whoever wrote it; the plan and
// the controller lift only their own.
func TestForeignQuarantine(t *testing.T) {
	l := newLab(t, true)
	l.idle = true
	p := l.start(0, false)
	l.settle(p, always)
	edit(l, &v1alpha1.ComputeNode{}, nodeName, func(n *v1alpha1.ComputeNode) {
		n.Spec.Quarantine = append(n.Spec.Quarantine, v1alpha1.Quarantine{Disk: "wwn-fine", Reason: "Recall", By: "alice", Since: metav1.NewTime(l.clock)})
	})
	l.settle(p, always)
	if !marks.On(read(l, &corev1.PersistentVolume{}, "pv-other")) {
		t.Error("the volume of a disk that a person quarantined is open")
	}
	if s := spec(l); len(s.Quarantine) != 2 {
		t.Errorf("quarantine is %v though the disk is healthy and the entry alice's", s.Quarantine)
	}
	edit(l, &v1alpha1.ComputeNode{}, nodeName, func(n *v1alpha1.ComputeNode) { n.Spec.Quarantine = n.Spec.Quarantine[:1] })
	l.settle(p, always)
	if pv := read(l, &corev1.PersistentVolume{}, "pv-other"); marks.Sentinel(pv) || pv.Labels[v1alpha1.LabelQuarantined] != "" {
		t.Errorf("after alice took it back the volume has %v, %v", pv.Labels, pv.Spec.ClaimRef)
	}
}

// TestStaleListLiftsNothing: marks come off only after the list was read live.
func TestStaleListLiftsNothing(t *testing.T) {
	l, p := waiting(t)
	// The cache is of a time before the quarantine, the volumes of now.
	stale := newFake(t, nil, read(l, &corev1.PersistentVolume{}, "pv-free"), &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: nodeName}})
	l.cache = stale
	writes := l.writes
	l.must(p.reconciles[1](context.Background()))
	if l.writes != writes {
		t.Errorf("acted on a stale list: %v", l.effects)
	}
}

// TestOneDiskTwoPlans: two disks of one group with no known slot, one new disk:
// it ends one plan, not both.
func TestOneDiskTwoPlans(t *testing.T) {
	l := newLab(t, true)
	l.idle = true
	edit(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy, func(p *v1alpha1.RemediationPolicy) {
		p.Spec.Budgets = []v1alpha1.Budget{{Scope: v1alpha1.ScopeCluster, Max: 9}}
	})
	p := l.start(0, false)
	l.settle(p, always)
	l.must(l.api.Delete(context.Background(), l.plan(t))) // it was made with a slot
	l.report(func(s *v1alpha1.ComputeNodeStatus) {
		for i := range s.Disks {
			s.Disks[i].Slot, s.Disks[i].State = "", v1alpha1.DiskFailed
		}
	})
	for range 5 {
		l.settle(p, always)
	}
	l.report(func(s *v1alpha1.ComputeNodeStatus) {
		for i := range s.Disks {
			s.Disks[i].State, s.Disks[i].Device = v1alpha1.DiskMissing, ""
		}
		s.Disks = append(s.Disks, v1alpha1.Disk{ID: newDisk, Device: "sdx", Group: "data", State: v1alpha1.DiskHealthy})
	})
	l.settle(p, always)
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	past := 0
	for _, r := range plans.Items {
		if r.Status.Step != v1alpha1.StepAwaitReplacement {
			past++
		}
	}
	if len(plans.Items) != 2 || past != 1 {
		t.Errorf("%d of %d plans took the one new disk, want 1 of 2: %v", past, len(plans.Items), summary(plans.Items))
	}
}

func summary(plans []v1alpha1.Remediation) (out []string) {
	for _, r := range plans {
		out = append(out, fmt.Sprintf("%s %s %s %s", r.Spec.Disk, r.Status.Phase, r.Status.Step, r.Status.Message))
	}
	return out
}

// TestReplacedAndBack: a disk that was replaced and comes back is judged afresh.
func TestReplacedAndBack(t *testing.T) {
	l := newLab(t, true)
	p := l.start(0, false)
	l.settle(p, always)
	l.report(func(s *v1alpha1.ComputeNodeStatus) {
		s.Disks = append(s.Disks, v1alpha1.Disk{ID: badDisk, Device: "sdq", Slot: "9", Group: "data", State: v1alpha1.DiskFailed, Since: &metav1.Time{Time: l.clock}})
	})
	l.idle = true
	l.settle(p, always)
	if s := spec(l); len(s.Quarantine) != 1 {
		t.Errorf("quarantine is %v", s.Quarantine)
	}
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	if len(plans.Items) != 2 {
		t.Errorf("plans: %v, want a second one", summary(plans.Items))
	}
}

// TestNoPolicy: bad disks are closed, and nothing else happens.
func TestNoPolicy(t *testing.T) {
	l := newLab(t, true)
	l.must(l.api.Delete(context.Background(), read(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy)))
	l.settle(l.start(0, false), always)
	if !marks.On(read(l, &corev1.PersistentVolume{}, "pv-free")) {
		t.Error("the volume is open")
	}
	var r v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &r))
	if len(r.Items) > 0 {
		t.Errorf("plans without a policy: %v", summary(r.Items))
	}
}

// TestPolicyMadeAnew: the slots are lost with the object, the running plan still counts.
func TestPolicyMadeAnew(t *testing.T) {
	l, p := waiting(t)
	l.must(l.api.Delete(context.Background(), read(l, &v1alpha1.RemediationPolicy{}, v1alpha1.DefaultPolicy)))
	l.must(l.api.Create(context.Background(), policyObject()))
	l.report(func(s *v1alpha1.ComputeNodeStatus) { s.Disks[1].State = v1alpha1.DiskFailed })
	l.settle(p, always)
	var plans v1alpha1.RemediationList
	l.must(l.api.List(context.Background(), &plans))
	running := 0
	for _, r := range plans.Items {
		if r.Status.Phase == v1alpha1.PhaseRunning {
			running++
		}
	}
	if len(plans.Items) != 2 || running != 1 {
		t.Errorf("%d of %d plans run, the budget is 1: %v", running, len(plans.Items), summary(plans.Items))
	}
}

// TestDeletedVolumeMadeAgain: the marks are back.
func TestDeletedVolumeMadeAgain(t *testing.T) {
	l, p := waiting(t)
	l.must(l.api.Delete(context.Background(), read(l, &corev1.PersistentVolume{}, "pv-free")))
	l.facts, l.effects = l.observe(), nil
	l.settle(p, always)
	l.must(l.api.Create(context.Background(), volume("pv-free", badDisk, nil)))
	l.settle(p, always)
	if pv := read(l, &corev1.PersistentVolume{}, "pv-free"); !marks.Sentinel(pv) || !marks.On(pv) {
		t.Errorf("the volume made again has %v, %v", pv.Labels, pv.Spec.ClaimRef)
	}
}
