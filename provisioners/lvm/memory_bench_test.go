//go:build bench

package lvm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/inventory"
)

const (
	fewVolumes   = 1000
	benchVolumes = 50000 // HOLDFAST_BENCH_VOLUMES makes it less, to try the benchmark itself
)

// TestBenchMemory measures what the daemon holds resident: the program itself, on the node of one
// in a thousand of a real API server's claims and volumes, of which there are 1,000 and then 50,000.
func TestBenchMemory(t *testing.T) {
	many := benchVolumes
	if s := os.Getenv("HOLDFAST_BENCH_VOLUMES"); s != "" {
		var err error
		if many, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := filepath.Abs("../../bin/lvm-csi-driver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v (make build makes it)", err)
	}
	// The controllers of volumes would write to each of them.
	c := cluster.FreshWith(t, cluster.Options{Name: "lvm-memory", ReadyTimeout: 5 * time.Minute, Args: []string{
		"--controller-manager-arg=--controllers=*,-persistentvolume-binder-controller,-persistentvolume-attach-detach-controller,-persistentvolume-expander-controller," +
			"-persistentvolume-protection-controller,-persistentvolumeclaim-protection-controller"}})
	cfg := c.RESTConfig()
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{system, "crowd"} {
		if _, err := api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-7"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	crowd(t, api, 0, fewVolumes)
	few := resident(t, binary, c.Kubeconfig())
	crowd(t, api, fewVolumes, many)
	grown := resident(t, binary, c.Kubeconfig())
	t.Logf("%.1f MB with %d claims, %.1f MB with %d", few/1e6, fewVolumes, grown/1e6, many)
	figure(t, "daemon_rss_growth_percent", (grown/few-1)*100, "%")
}

// crowd makes the claims and volumes from one number to another, bound to each other.
func crowd(t *testing.T, api kubernetes.Interface, from, to int) {
	t.Helper()
	var next atomic.Int64
	next.Store(int64(from))
	var failed atomic.Value
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < to && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := pair(t.Context(), api, i); err != nil && !apierrors.IsAlreadyExists(err) {
					failed.Store(err)
				}
			}
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		t.Fatal(err)
	}
}

func pair(ctx context.Context, api kubernetes.Interface, i int) error {
	class, node, name := "lvm-thin", fmt.Sprint("node-", i%1000), fmt.Sprint("pvc-", i)
	claim, err := api.CoreV1().PersistentVolumeClaims("crowd").Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("claim-", i), Labels: map[string]string{"app": fmt.Sprint("app-", i)}, Annotations: map[string]string{
			"volume.kubernetes.io/selected-node": node, "volume.kubernetes.io/storage-provisioner": lvm.DriverName}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: name, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pv := inventory.PersistentVolume(name, node, []string{"disk-" + node}, v1alpha1.MediaSSD, "aaaaaa-0000-0000-0000-0000-0000-000001/hfv-"+name, gib)
	pv.Spec.AccessModes, pv.Spec.StorageClassName, pv.Spec.PersistentVolumeReclaimPolicy = claim.Spec.AccessModes, class, corev1.PersistentVolumeReclaimRetain
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
	_, err = api.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	return err
}

// resident starts the daemon, waits until it holds the same for ten seconds, and returns its
// resident set (proc(5), VmRSS).
func resident(t *testing.T, binary, kubeconfig string) float64 {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := hostexec.Start(hostexec.Command{Path: binary, Env: []string{"KUBECONFIG=" + kubeconfig}, Args: []string{
		"--node-name=node-7", "--host-root=" + dir, "--socket=" + filepath.Join(dir, "csi.sock"), "--registration-dir=", "--cgroup-root=", "--metrics-address="}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(10 * time.Second)
	var lowest, highest float64
	steady := 0
	for deadline := time.Now().Add(5 * time.Minute); steady < 40; time.Sleep(250 * time.Millisecond) {
		select {
		case <-p.Done():
			t.Fatalf("the daemon ended: %v", p.Err())
		default:
		}
		now := statusBytes(t, p.PID(), "VmRSS")
		if steady++; now < lowest || now > highest || lowest == 0 {
			lowest, highest, steady = now*.99, now*1.01, 0
		}
		if time.Now().After(deadline) {
			t.Fatalf("what the daemon holds changes on and on: %.0f bytes", now)
		}
	}
	t.Logf("at most %.1f MB", statusBytes(t, p.PID(), "VmHWM")/1e6)
	return statusBytes(t, p.PID(), "VmRSS")
}

func statusBytes(t *testing.T, pid int, key string) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return n * 1024
		}
	}
	t.Fatalf("the kernel does not tell %s", key)
	return 0
}
