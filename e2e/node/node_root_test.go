//go:build root

package node_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/node/disk"
	"holdfast.dev/internal/hostexec"
)

// leftovers are loop devices and mounts below root that this test's own mount
// namespace can see, which is that of the machine.
func leftovers(t *testing.T, root string) string {
	t.Helper()
	loops, err := disk.LoopsBelow(root)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(table), root) {
		return fmt.Sprintf("loops %v, and mounts on the machine:\n%s", loops, table)
	}
	if len(loops) > 0 {
		return fmt.Sprintf("loops %v", loops)
	}
	return ""
}

func hostPod(name string, n *testNode) *corev1.Pod {
	pod := probePod(name, n)
	pod.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host", ReadOnly: true}}
	pod.Spec.Containers[0].Args = append(pod.Spec.Containers[0].Args, "--host-root=/host")
	return pod
}

// TestLoopFault is the fault of the demonstration: the kernel itself logs it,
// and a pod finds the disk where the node convention says.
func TestLoopFault(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--disks=2")
	client := clientOf(t, c)
	if n.ready.Mode != disk.ModeLoop || len(n.ready.Disks) != 2 {
		t.Fatalf("node %+v", n.ready)
	}
	got := waitPod(t, client, create(t, client, hostPod("host", n)).Name, "the pod to be ready", isReady)
	read := func(path string) string {
		return get(t, got, "/read?path="+url.QueryEscape(filepath.Join(infoOf(t, got).HostRoot, path)))
	}
	d := n.ready.Disks[0]
	if file := strings.TrimSpace(read("sys/block/" + d.Device + "/loop/backing_file")); file != d.Image {
		t.Errorf("the pod sees backing file %q, want %q", file, d.Image)
	}
	if table := read("proc/1/mountinfo"); !strings.Contains(table, " "+d.MountPoint+" ") || strings.Contains(table, n.root+"/mnt") {
		t.Errorf("the pod's mount table has no %s:\n%s", d.MountPoint, table)
	}
	if !strings.Contains(read("etc/holdfast/disks.yaml"), "id: "+d.ID+"\n") {
		t.Errorf("disks.yaml has no disk %s", d.ID)
	}
	if up := strings.Fields(read("proc/uptime")); len(up) != 2 {
		t.Errorf("uptime %q", up)
	}
	log := openLog(t)
	start := time.Now()
	f, err := n.Fail(t.Context(), d.Name)
	if err != nil {
		t.Fatal(err)
	}
	line := log.await(t, "I/O error, dev "+d.Device+", sector ", time.Second)
	t.Logf("logged %s after the request, %d reads: %s", time.Since(start), f.Reads, line)
	if f.Time.Before(start) || f.ID != d.ID || !strings.Contains(line, f.Record) {
		t.Errorf("fault %+v, line %q", f, line)
	}
	if back, err := n.Restore(t.Context(), d.Name); err != nil || back.ID != d.ID || back.State != disk.StatePresent {
		t.Errorf("restored %+v, %v", back, err)
	}
	if gone, err := n.Remove(t.Context(), d.Name); err != nil || gone.State != disk.StateRemoved {
		t.Errorf("removed %+v, %v", gone, err)
	}
	if table := read("proc/1/mountinfo"); strings.Contains(table, d.MountPoint) {
		t.Errorf("the pulled disk is still mounted:\n%s", table)
	}
	fresh, err := n.Replace(t.Context(), d.Name)
	if err != nil || fresh.ID == d.ID || fresh.PartitionUUID == d.PartitionUUID || fresh.Slot != d.Slot {
		t.Errorf("replaced by %+v, %v", fresh, err)
	}
	if file := read("etc/holdfast/disks.yaml"); strings.Contains(file, d.PartitionUUID) || !strings.Contains(file, "id: "+fresh.ID+"\n") {
		t.Errorf("disks.yaml after the replacement:\n%s", file)
	}
	if _, err := n.Remove(t.Context(), "disk7"); err == nil || !strings.Contains(err.Error(), "disk1 to disk2") {
		t.Errorf("removing a disk that the node does not have: %v", err)
	}
	n.stop(t, 20*time.Second)
	if err := n.process.Err(); err != nil {
		t.Errorf("holdfast-node ended with %v", err)
	}
	if left := leftovers(t, n.root); left != "" {
		t.Error(left)
	}
}

func TestKillLeavesNoLoopDevice(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--disks=3")
	client := clientOf(t, c)
	got := waitPod(t, client, create(t, client, hostPod("killed", n)).Name, "the pod to be ready", isReady)
	if left := leftovers(t, n.root); !strings.HasPrefix(left, "loops") || strings.Contains(left, "mounts") {
		t.Errorf("a running node must have loop devices, and mounts of its own only: %s", left)
	}
	if err := syscall.Kill(n.process.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.process.Done()
	start := time.Now()
	eventually(t, 10*time.Second, "loop devices to clear themselves", func() (bool, string) {
		left := leftovers(t, n.root)
		return left == "" && len(below(t, n.root)) == 0, left
	})
	t.Logf("loop devices gone %s after kill -9", time.Since(start))
	if out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: filepath.Join(n.bin, "holdfast-node"), Args: []string{"cleanup", "--root=" + n.root}}); err != nil || len(out) > 0 {
		t.Errorf("cleanup after the kernel's own: %q, %v", out, err)
	}
	n.start(t)
	if n.ready.Disks[2].ID != fmt.Sprintf("loop%s", strings.ReplaceAll(n.ready.Disks[2].Image, "/", "-")) {
		t.Errorf("disk id %s of %s", n.ready.Disks[2].ID, n.ready.Disks[2].Image)
	}
	waitPod(t, client, got.Name, "the pod to run again", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p)
	})
}

func TestUsers(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c)
	client := clientOf(t, c)
	pod := probePod("user", n)
	uid, gid, yes := int64(65532), int64(65532), true
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &uid, RunAsGroup: &gid}
	got := waitPod(t, client, create(t, client, pod).Name, "the pod to be ready", isReady)
	if i := infoOf(t, got); i.UID != 65532 || i.GID != 65532 {
		t.Errorf("runs as %d:%d", i.UID, i.GID)
	}
	if who := get(t, got, "/whoami"); !strings.Contains(who, "system:serviceaccount:default:default") {
		t.Errorf("its token gives %s", who)
	}
	tokens, err := filepath.Glob(filepath.Join(n.root, "var/lib/kubelet/pods", string(got.UID), "volumes/*/..data/token"))
	if err != nil || len(tokens) != 1 {
		t.Fatalf("tokens %v, %v", tokens, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(tokens[0], &st); err != nil || st.Uid != 65532 || st.Mode&0o777 != 0o600 {
		t.Errorf("token of mode %o belongs to %d, %v", st.Mode&0o777, st.Uid, err)
	}
	data, err := os.ReadFile(tokens[0])
	if err != nil || strings.Contains(get(t, got, "/info"), string(data)) {
		t.Errorf("the token is in the arguments or the environment, %v", err)
	}
	if err := os.Chmod(n.root, 0o700); err != nil {
		t.Fatal(err)
	}
	closed := probePod("closed", n)
	closed.Spec.SecurityContext = pod.Spec.SecurityContext
	waitPod(t, client, create(t, client, closed).Name, "an answer to a root that the user cannot reach", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && strings.Contains(s[0].State.Waiting.Message, "chmod o+x "+n.root)
	})
}

// TestSixNodes is the demonstration's machine: three clusters of two nodes.
func TestSixNodes(t *testing.T) {
	c := cluster.ForTest(t)
	nodes := make([]*testNode, 6)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() { nodes[i] = startNode(t, c, "--disks=3") })
	}
	wg.Wait()
	t.Logf("6 nodes with 18 disks ready in %s", time.Since(start))
	faults := make([]disk.Fault, len(nodes))
	for i, n := range nodes {
		wg.Go(func() {
			var err error
			if faults[i], err = n.Fail(t.Context(), "disk2"); err != nil {
				t.Errorf("fail disk of %s: %v", n.name, err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, n := range nodes {
		s, err := n.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if faults[i].Record == "" || s.Disks[1].State != disk.StateFailed || s.Disks[0].State != disk.StatePresent {
			t.Errorf("node %d: fault %+v, disks %+v", i, faults[i], s.Disks)
		}
		for _, d := range s.Disks {
			if seen[d.Device] {
				t.Errorf("device %s is of two nodes", d.Device)
			}
			seen[d.Device] = true
		}
	}
	for _, n := range nodes {
		wg.Go(func() { n.stop(t, 20*time.Second) })
	}
	wg.Wait()
	for _, n := range nodes {
		if left := leftovers(t, n.root); left != "" {
			t.Errorf("%s: %s", n.name, left)
		}
	}
}

// kernelLog reads /dev/kmsg from now on.
type kernelLog struct{ fd int }

func openLog(t *testing.T) *kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &kernelLog{fd: fd}
}

func (k *kernelLog) await(t *testing.T, text string, within time.Duration) (line string) {
	t.Helper()
	buf := make([]byte, 8<<10)
	eventually(t, within, "the kernel to log "+text, func() (bool, string) {
		for {
			n, err := unix.Read(k.fd, buf)
			if err != nil {
				return false, err.Error()
			}
			if line, _, _ = strings.Cut(string(buf[:n]), "\n"); strings.Contains(line, text) {
				return true, ""
			}
		}
	})
	return line
}
