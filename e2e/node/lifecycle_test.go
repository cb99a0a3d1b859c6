package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/internal/hostexec"
)

// below lists the processes whose working directory lies below dir.
func below(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err == nil && strings.HasPrefix(cwd, dir) {
			pid, _ := strconv.Atoi(e.Name())
			out = append(out, pid)
		}
	}
	return out
}

func TestKillNode(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate", "--disks=1")
	client := clientOf(t, c)
	got := waitPod(t, client, create(t, client, probePod("survivor", n)).Name, "the pod to be ready", isReady)
	before := infoOf(t, got).PID
	if pids := below(t, n.root); len(pids) != 1 || pids[0] != before {
		t.Fatalf("processes %v, want the pod's %d", pids, before)
	}
	disks := n.ready.Disks
	if err := syscall.Kill(n.process.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.process.Done()
	eventually(t, 5*time.Second, "all processes of the node to be gone", func() (bool, string) {
		pids := below(t, n.root)
		return len(pids) == 0, fmt.Sprint(pids)
	})
	n.start(t)
	if len(n.ready.Disks) != 1 || n.ready.Disks[0] != disks[0] {
		t.Errorf("disks after the restart %+v, want %+v", n.ready.Disks, disks)
	}
	again := waitPod(t, client, got.Name, "the pod to run again", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p)
	})
	if again.UID != got.UID || again.Status.PodIP != got.Status.PodIP {
		t.Errorf("pod %s at %s became %s at %s", got.UID, got.Status.PodIP, again.UID, again.Status.PodIP)
	}
	if last := again.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("last state %+v, want exit code 137", last)
	}
	if infoOf(t, again).PID == before {
		t.Error("the old process answers")
	}
}

func TestStopNode(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	got := waitPod(t, client, create(t, client, probePod("stop", n)).Name, "the pod to be ready", isReady)
	n.stop(t, 20*time.Second)
	if err := n.process.Err(); err != nil {
		t.Errorf("holdfast-node ended with %v", err)
	}
	if pids := below(t, n.root); len(pids) != 0 {
		t.Errorf("processes %v are left", pids)
	}
	pod, err := client.CoreV1().Pods("default").Get(t.Context(), got.Name, metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		t.Errorf("a node that goes down must leave its pods to the cluster: %v, %v", pod.Status.Phase, err)
	}
}

func TestOneRunnerPerRoot(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	_, err := hostexec.Run(t.Context(), 30*time.Second, hostexec.Command{Path: filepath.Join(n.bin, "holdfast-node"), Args: n.args})
	if err == nil || !strings.Contains(err.Error(), "is in use by another holdfast-node") {
		t.Errorf("a second runner of the same root: %v", err)
	}
}

// TestDaemonSetRollingUpdate is what an addon's upgrade does on two nodes.
func TestDaemonSetRollingUpdate(t *testing.T) {
	c := cluster.ForTest(t)
	client := clientOf(t, c)
	nodes := []*testNode{startNode(t, c, "--simulate"), startNode(t, c, "--simulate")}
	for _, n := range nodes {
		patch := []byte(`{"metadata":{"labels":{"set":"rolling"}}}`)
		if _, err := client.CoreV1().Nodes().Patch(t.Context(), n.name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	spec := probePod("daemon", nodes[0]).Spec
	spec.NodeName, spec.HostNetwork = "", true
	spec.NodeSelector = map[string]string{"set": "rolling"}
	labels := map[string]string{"app": "daemon"}
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "daemon", Namespace: "default"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
	ds, err := client.AppsV1().DaemonSets("default").Create(t.Context(), ds, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.AppsV1().DaemonSets("default").Delete(context.Background(), "daemon", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	rolledOut(t, client, ds.Generation)
	for _, n := range nodes {
		pods := podsOn(t, client, n)
		if len(pods) != 1 || pods[0].Status.PodIP != n.address {
			t.Errorf("pods on %s: %d, want one with hostNetwork at %s", n.name, len(pods), n.address)
		}
	}
	start := time.Now()
	ds, err = client.AppsV1().DaemonSets("default").Patch(t.Context(), "daemon", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"probe","image":"registry.holdfast.dev/probe:v2"}]}}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rolledOut(t, client, ds.Generation)
	t.Logf("rolled out on 2 nodes in %s", time.Since(start))
	for _, n := range nodes {
		pods := podsOn(t, client, n)
		if len(pods) != 1 || pods[0].Spec.Containers[0].Image != "registry.holdfast.dev/probe:v2" {
			t.Errorf("%d pods on %s after the update, want one of v2", len(pods), n.name)
		}
	}
}

func rolledOut(t *testing.T, client kubernetes.Interface, generation int64) {
	t.Helper()
	eventually(t, 40*time.Second, "the DaemonSet to be rolled out", func() (bool, string) {
		ds, err := client.AppsV1().DaemonSets("default").Get(t.Context(), "daemon", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		s := ds.Status
		return s.ObservedGeneration >= generation && s.DesiredNumberScheduled == 2 && s.UpdatedNumberScheduled == 2 && s.NumberAvailable == 2, fmt.Sprintf("%+v", s)
	})
}

func podsOn(t *testing.T, client kubernetes.Interface, n *testNode) []corev1.Pod {
	t.Helper()
	list, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.name})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}
