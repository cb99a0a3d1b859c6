package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"holdfast.dev/api/v1alpha1"
)

func TestCollector(t *testing.T) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	c := New(fake.NewClientBuilder().WithScheme(s).WithObjects(
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{v1alpha1.LabelQuarantined: "true"}}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
		&v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: "d"}}}},
		&v1alpha1.Remediation{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "u"}, Status: v1alpha1.RemediationStatus{Phase: v1alpha1.PhaseRunning}},
		&v1alpha1.Remediation{ObjectMeta: metav1.ObjectMeta{Name: "new"}},
		&v1alpha1.RemediationPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.DefaultPolicy}, Status: v1alpha1.RemediationPolicyStatus{
			Reservations: []v1alpha1.Reservation{{Remediation: "r", UID: "u"}, {Remediation: "gone", UID: "v"}},
		}},
	).Build())
	c.Decided("quarantine")
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP holdfast_remediation_blocked 1 while the policy lets no plan go on: it is paused, has no budgets, or is not there.
# TYPE holdfast_remediation_blocked gauge
holdfast_remediation_blocked 1
# HELP holdfast_remediation_budget_slots_orphaned Budget slots whose plan is not there: only a person may free them.
# TYPE holdfast_remediation_budget_slots_orphaned gauge
holdfast_remediation_budget_slots_orphaned 1
# HELP holdfast_remediation_budget_slots_used Budget slots that plans hold.
# TYPE holdfast_remediation_budget_slots_used gauge
holdfast_remediation_budget_slots_used 2
# HELP holdfast_remediation_decisions_total Decisions that were carried out, by kind.
# TYPE holdfast_remediation_decisions_total counter
holdfast_remediation_decisions_total{decision="finish"} 0
holdfast_remediation_decisions_total{decision="lift"} 0
holdfast_remediation_decisions_total{decision="mark"} 0
holdfast_remediation_decisions_total{decision="notify"} 0
holdfast_remediation_decisions_total{decision="plan"} 0
holdfast_remediation_decisions_total{decision="quarantine"} 1
holdfast_remediation_decisions_total{decision="step"} 0
holdfast_remediation_decisions_total{decision="unmark"} 0
# HELP holdfast_remediation_plans Plans, by phase.
# TYPE holdfast_remediation_plans gauge
holdfast_remediation_plans{phase="Cancelled"} 0
holdfast_remediation_plans{phase="Escalated"} 0
holdfast_remediation_plans{phase="Pending"} 1
holdfast_remediation_plans{phase="Running"} 1
holdfast_remediation_plans{phase="Succeeded"} 0
# HELP holdfast_remediation_quarantined_disks Disks in quarantine.
# TYPE holdfast_remediation_quarantined_disks gauge
holdfast_remediation_quarantined_disks 1
# HELP holdfast_remediation_quarantined_volumes PersistentVolumes that no new claim may bind.
# TYPE holdfast_remediation_quarantined_volumes gauge
holdfast_remediation_quarantined_volumes 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	// The linter itself works.
	if p, err := promlint.New(strings.NewReader("# TYPE bad_total gauge\nbad_total 1\n")).Lint(); err != nil || len(p) == 0 {
		t.Errorf("promlint found nothing wrong with a bad metric: %v, %v", p, err)
	}
}
