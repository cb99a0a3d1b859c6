package remediation

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// scene is one disk of one node, from fault to replacement.
type scene struct {
	*live
	name  string // of the node; everything else is named after it
	trail *trail
}

func (s *scene) bad() string { return "wwn-" + s.name + "-bad" }
func (s *scene) new() string { return "wwn-" + s.name + "-new" }

// plan is the node's plan, or nil.
func (s *scene) plan() *v1alpha1.Remediation {
	s.t.Helper()
	var plans v1alpha1.RemediationList
	if err := s.api.List(context.Background(), &plans, client.MatchingLabels{v1alpha1.LabelNode: s.name}); err != nil {
		s.t.Fatal(err)
	}
	switch len(plans.Items) {
	case 0:
		return nil
	case 1:
		return &plans.Items[0]
	}
	s.t.Fatalf("there are %d plans for one disk", len(plans.Items))
	return nil
}

// others does what people and the monitor do next. It says whether the plan ended.
func (s *scene) others() bool {
	s.t.Helper()
	var cn v1alpha1.ComputeNode
	if err := s.get(&cn, "", s.name); err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(cn.Status.Disks, func(d v1alpha1.Disk) bool { return d.ID == s.bad() })
	switch {
	case i >= 0 && len(cn.Spec.Replacements) > 0 && cn.Status.Disks[i].State == v1alpha1.DiskFailed:
		s.report(s.name, func(st *v1alpha1.ComputeNodeStatus) { // a person swaps the disk
			st.Disks[i].State, st.Disks[i].Device, st.Disks[i].Since = v1alpha1.DiskMissing, "", ptr.To(metav1.Now())
			st.Disks = append(st.Disks, v1alpha1.Disk{ID: s.new(), Device: "sdz", Slot: st.Disks[i].Slot, State: v1alpha1.DiskHealthy, Since: ptr.To(metav1.Now())})
		})
	case i >= 0 && cn.Status.Disks[i].State == v1alpha1.DiskMissing && len(cn.Spec.Quarantine)+len(cn.Spec.Replacements) == 0:
		s.report(s.name, func(st *v1alpha1.ComputeNodeStatus) { st.Disks = slices.Delete(st.Disks, i, i+1) })
	}
	p := s.plan()
	if p == nil {
		return false
	}
	if strings.Contains(p.Status.Message, "owner of claim "+s.ns+"/"+s.name+"-claim") {
		err := s.api.Delete(context.Background(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: s.name + "-claim"}})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
	return p.Status.FinishedAt != nil && i < 0
}

// lives runs controllers until the plan has ended: each is killed as mortality
// says, and the next one starts. It returns how many there were.
func (s *scene) lives(mortality func(life int) (limit int, after bool)) int {
	s.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for life := 1; ; life++ {
		m := &mortal{dead: make(chan struct{}), trail: s.trail}
		m.limit, m.after = mortality(life)
		cfg := rest.CopyConfig(s.cfg)
		cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { m.next = rt; return m })
		r := s.run(cfg)
		ended := false
		for dead := false; !dead && !ended; {
			if time.Now().After(deadline) {
				s.t.Fatalf("the plan does not end after %d lives; status %+v; writes:\n%s", life, s.plan().Status, strings.Join(s.trail.writes, "\n"))
			}
			select {
			case <-m.dead:
				dead = true
			case <-time.After(10 * time.Millisecond):
				ended = s.others()
			}
		}
		r.stop()
		if err := <-r.done; err != nil && !strings.Contains(err.Error(), "leader election lost") {
			s.t.Errorf("life %d ended with: %v", life, err)
		}
		if ended {
			return life
		}
		// The dead one's Lease would run out after 15 s.
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: LeaseName}}
		if err := s.api.Delete(context.Background(), lease); err != nil && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
}

// effects are the writes that were carried out, sorted, without the plan's own
// notes of what it waits for and how far it is, with the node's name taken out.
func (s *scene) effects() []string {
	s.trail.Lock()
	defer s.trail.Unlock()
	var out []string
	for _, w := range s.trail.writes {
		if !strings.Contains(w, "/remediations/") && strings.Contains(w, s.name) || strings.Contains(w, "events") || strings.Contains(w, "polic") || strings.HasPrefix(w, "POST") {
			out = append(out, strings.ReplaceAll(w, s.name, "NODE"))
		}
	}
	slices.Sort(out)
	return out
}

func (s *scene) audit() []string {
	var out []string
	for _, a := range s.plan().Status.Audit {
		e, _, _ := strings.Cut(a.Effect, " (UID")
		out = append(out, string(a.Step)+": "+strings.ReplaceAll(e, s.name, "NODE"))
	}
	return out
}

// TestLivePlanCrash carries a plan out on a real API server, undisturbed; then
// with a controller that is killed after each single write; then with one that
// is killed before each second write. What was written is the same each time.
func TestLivePlanCrash(t *testing.T) {
	l := newLive(t)
	l.policy(false)
	var effects, audit []string
	for i, c := range []struct {
		name      string
		mortality func(life int) (int, bool)
	}{
		{"immortal", func(int) (int, bool) { return 0, false }},
		{"after-each-write", func(int) (int, bool) { return 1, true }},
		{"before-each-second-write", func(int) (int, bool) { return 2, false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := *l
			l.t = t
			s := &scene{live: &l, name: fmt.Sprint("plan", i), trail: &trail{}}
			s.set()
			n := s.lives(c.mortality)
			p := s.plan()
			if p.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Errorf("the plan ended %s: %s", p.Status.Phase, p.Status.Message)
			}
			if i == 0 {
				effects, audit = s.effects(), s.audit()
				t.Logf("effects:\n%s\naudit:\n%s", strings.Join(effects, "\n"), strings.Join(audit, "\n"))
				return
			}
			t.Logf("%d lives", n)
			if d := cmp.Diff(effects, s.effects()); d != "" {
				t.Errorf("writes carried out (-undisturbed +got):\n%s", d)
			}
			slices.Sort(audit)
			got := s.audit()
			slices.Sort(got)
			if d := cmp.Diff(audit, got); d != "" {
				t.Errorf("audit trail (-undisturbed +got):\n%s", d)
			}
			var pol v1alpha1.RemediationPolicy
			if err := l.get(&pol, "", v1alpha1.DefaultPolicy); err != nil || len(pol.Status.Reservations) > 0 {
				t.Errorf("slots of the budget at the end: %v, %v", pol.Status.Reservations, err)
			}
		})
	}
}

// set makes the node and its volumes, with a controller that is left in peace,
// and lets the disk fail when none is there.
func (s *scene) set() {
	s.t.Helper()
	r := s.run(s.cfg)
	s.node(s.name, s.bad())
	s.volume(s.name+"-bound", "class-"+s.name, s.name, s.bad())
	s.claim(s.name+"-claim", "class-"+s.name)
	s.bound(s.name+"-claim", s.name+"-bound")
	s.volume(s.name+"-free", "class-"+s.name, s.name, s.bad())
	s.end(r)
	s.state(s.name, s.bad(), v1alpha1.DiskFailed)
}
