package remediation

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/nodestatus"
)

// TestLiveNodeStatus: the Node says how its disks are, with the rights of the
// addon's own ServiceAccount, and whoever has these rights can say nothing else.
func TestLiveNodeStatus(t *testing.T) {
	l := newLive(t)
	l.apply("../salt/states/remediation-controller/files/admission-policy.yaml")
	l.policy(true)
	l.run(l.cfg)
	l.node("ns1", "wwn-ns-a", "wwn-ns-b")
	l.volume("ns-pv", "static", "ns1", "wwn-ns-b")
	l.claim("ns-claim", "static")
	l.bound("ns-claim", "ns-pv")
	overall := func(s v1alpha1.DiskState, summary string) {
		l.report("ns1", func(st *v1alpha1.ComputeNodeStatus) {
			st.State, st.Summary, st.ReportTime, st.DiskCount = s, summary, ptr.To(metav1.Now()), 2
			for i := range st.Disks {
				if d := &st.Disks[i]; d.ID == "wwn-ns-b" {
					d.State, d.Since = s, ptr.To(metav1.Now())
					d.Volumes = []v1alpha1.DiskVolume{{PersistentVolume: "ns-pv", Claim: l.ns + "/ns-claim"}}
				}
			}
		})
	}
	says := func(want corev1.ConditionStatus, reason string) {
		l.eventually("condition "+reason, func() string {
			var n corev1.Node
			if err := l.get(&n, "", "ns1"); err != nil {
				return err.Error()
			}
			ready := false
			for _, c := range n.Status.Conditions {
				ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
				if c.Type == nodestatus.ConditionType && c.Status == want && c.Reason == reason {
					return ""
				}
			}
			return fmt.Sprintf("ready %t, %+v", ready, n.Status.Conditions)
		})
	}
	overall(v1alpha1.DiskHealthy, "")
	says(corev1.ConditionTrue, "DisksHealthy")
	overall(v1alpha1.DiskDegraded, "wwn-ns-b (sdb) Degraded: Link")
	says(corev1.ConditionFalse, "DiskDegraded")
	for kind, name := range map[string]string{"Node": "ns1", "PersistentVolumeClaim": "ns-claim"} {
		l.eventually("Event on "+kind, func() string {
			if w := l.warnings(kind, name, "DiskDegraded: disk wwn-ns-b"); len(w) != 1 {
				return fmt.Sprintf("%q", w)
			}
			return ""
		})
	}
	overall(v1alpha1.DiskHealthy, "")
	says(corev1.ConditionTrue, "DisksHealthy")
	l.eventually("the good news", func() string {
		if w := l.warnings("Node", "ns1", "DisksHealthy"); len(w) != 1 {
			return fmt.Sprintf("%q", w)
		}
		return ""
	})
	overall(v1alpha1.DiskFailed, "wwn-ns-b (sdb) Failed: Medium")
	says(corev1.ConditionFalse, "DiskFailed")

	taken, err := client.New(l.cfg, client.Options{Scheme: l.api.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*corev1.Node){
		"readiness": func(n *corev1.Node) {
			for i := range n.Status.Conditions {
				if n.Status.Conditions[i].Type == corev1.NodeReady {
					n.Status.Conditions[i].Status = corev1.ConditionFalse
				}
			}
		},
		"capacity": func(n *corev1.Node) { n.Status.Capacity[corev1.ResourceCPU] = resource.MustParse("800") },
		"labels":   func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" },
	} {
		l.eventually("a change of "+what+" is refused", func() string {
			var n corev1.Node
			if err := l.get(&n, "", "ns1"); err != nil {
				return err.Error()
			}
			base := n.DeepCopy()
			change(&n)
			if err := taken.Status().Patch(context.Background(), &n, client.StrategicMergeFrom(base)); !apierrors.IsForbidden(err) {
				if rerr := l.api.Status().Patch(context.Background(), base, client.StrategicMergeFrom(&n)); rerr != nil {
					return rerr.Error()
				}
				return fmt.Sprintf("got %v", err)
			}
			return ""
		})
	}
}
