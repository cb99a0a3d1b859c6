package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/node"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostexec"
)

func TestMain(m *testing.M) {
	code := cluster.Main(m)
	if err := os.RemoveAll(programDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var programDir = filepath.Join(os.TempDir(), fmt.Sprintf("hfn-bin-%d", os.Getpid()))

// programs builds holdfast-node and the image once for all tests.
var programs = sync.OnceValues(func() (string, error) {
	dir := programDir
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"holdfast-node": "holdfast.dev/cmd/holdfast-node", "probe": "./testdata/probe"} {
		_, err := hostexec.Run(context.Background(), 5*time.Minute, hostexec.Command{Path: "go", Args: []string{"build", "-o", filepath.Join(dir, name), pkg}})
		if err != nil {
			return "", err
		}
	}
	return dir, nil
})

// testNode is a holdfast-node process.
type testNode struct {
	*node.Client
	name    string
	root    string
	address string
	args    []string
	process *hostexec.Process
	ready   node.State
	bin     string
}

// testRoot is a directory that other users can reach.
func testRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfn-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startNode(t *testing.T, c *cluster.Cluster, args ...string) *testNode {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{name: strings.ToLower(fmt.Sprintf("node-%x", rand.Uint32())), root: testRoot(t), bin: bin}
	n.address = fmt.Sprintf("127.%d.%d.%d", 100+rand.IntN(100), rand.IntN(127), 1+rand.IntN(100))
	kubeconfig, err := c.NodeKubeconfig(n.name)
	if err != nil {
		t.Fatal(err)
	}
	n.args = append([]string{
		"--name=" + n.name, "--kubeconfig=" + kubeconfig, "--root=" + n.root, "--address=" + n.address, "--bin-dir=" + bin,
		"--labels=topology.kubernetes.io/zone=z1,test=" + n.name, "--flavor=small", "--log-level=debug",
	}, args...)
	n.start(t)
	t.Cleanup(func() { n.stop(t, 20*time.Second) })
	return n
}

func (n *testNode) start(t *testing.T) {
	t.Helper()
	out, in := io.Pipe()
	var log safeBuffer
	p, err := hostexec.Start(hostexec.Command{Path: filepath.Join(n.bin, "holdfast-node"), Args: n.args, Stdout: in, Stderr: &log})
	if err != nil {
		t.Fatal(err)
	}
	n.process = p
	go func() { <-p.Done(); _ = in.Close() }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.name, log.tail(12000))
		}
	})
	if err := json.NewDecoder(out).Decode(&n.ready); err != nil {
		t.Fatalf("node did not become ready: %v\n%s", err, log.tail(3000))
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	n.Client = node.NewClient(filepath.Join(n.root, "node.sock"))
}

func (n *testNode) stop(t *testing.T, grace time.Duration) {
	t.Helper()
	n.Close()
	n.process.Stop(grace)
}

type safeBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	return len(p), nil
}

func (b *safeBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf[max(0, len(b.buf)-n):])
}

func clientOf(t *testing.T, c *cluster.Cluster) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// probePod is a pod that serves on port 8080 of its own address.
func probePod(name string, n *testNode) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Namespace: "default"},
		Spec: corev1.PodSpec{
			NodeName: n.name,
			Containers: []corev1.Container{{
				Name: "probe", Image: "registry.holdfast.dev/probe:v1", Command: []string{"/probe"},
				Args: []string{"--listen=$(POD_IP):8080"},
				Env:  []corev1.EnvVar{{Name: "POD_IP", ValueFrom: field("status.podIP")}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
					Path: "/readyz", Port: intstr.FromInt32(8080),
				}}},
			}},
		},
	}
}

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func create(t *testing.T, client kubernetes.Interface, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	// The service account controller makes the account a moment after the namespace.
	var out *corev1.Pod
	eventually(t, 20*time.Second, "pod "+pod.GenerateName+" to be admitted", func() (bool, string) {
		var err error
		out, err = client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		return err == nil, fmt.Sprint(err)
	})
	return out
}

// eventually polls until ok; what says what it waited for, and the last text why not.
func eventually(t *testing.T, within time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	if _, err := wait.Until(t.Context(), within, what, func() (bool, error) {
		done, why := ok()
		if done {
			return true, nil
		}
		return false, errors.New(why)
	}); err != nil {
		t.Fatal(err)
	}
}

func waitPod(t *testing.T, client kubernetes.Interface, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	eventually(t, 30*time.Second, what, func() (bool, string) {
		var err error
		pod, err = client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		status, _ := json.Marshal(pod.Status)
		return ok(pod), string(status)
	})
	return pod
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func get(t *testing.T, pod *corev1.Pod, path string) string {
	t.Helper()
	var resp *http.Response
	// A container without a readiness probe is ready before it listens.
	eventually(t, 10*time.Second, "an answer to "+path, func() (bool, string) {
		var err error
		if resp, err = http.Get("http://" + pod.Status.PodIP + ":8080" + path); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v: %s", path, resp.StatusCode, err, body)
	}
	return string(body)
}

type info struct {
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	UID      int      `json:"uid"`
	GID      int      `json:"gid"`
	HostRoot string   `json:"hostRoot"`
	PID      int      `json:"pid"`
}

func (i info) env(name string) string {
	for _, e := range i.Env {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

func infoOf(t *testing.T, pod *corev1.Pod) info {
	t.Helper()
	var i info
	if err := json.Unmarshal([]byte(get(t, pod, "/info")), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestNodeObject(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	o, err := client.CoreV1().Nodes().Get(t.Context(), n.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if o.Spec.ProviderID != "holdfast://"+n.name || o.Labels["holdfast.dev/flavor"] != "small" || o.Labels["topology.kubernetes.io/zone"] != "z1" {
		t.Errorf("provider id %q, labels %v", o.Spec.ProviderID, o.Labels)
	}
	if a := o.Status.Addresses[0]; a.Type != corev1.NodeInternalIP || a.Address != n.address {
		t.Errorf("address %+v, want %s", a, n.address)
	}
	eventually(t, 20*time.Second, "the node to be ready and without taints", func() (bool, string) {
		o, err := client.CoreV1().Nodes().Get(t.Context(), n.name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return len(o.Spec.Taints) == 0, fmt.Sprint(o.Spec.Taints)
	})
	eventually(t, 20*time.Second, "the node's lease", func() (bool, string) {
		_, err := client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), n.name, metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
}

func TestPodSeesItsWorld(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate", "--disks=2")
	client := clientOf(t, c)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "world-" + n.name, Namespace: "default"}, Data: map[string]string{"greeting": "hello", "file.txt": "content"}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := probePod("world", n)
	pod.Labels = map[string]string{"app": "world"}
	spec := &pod.Spec.Containers[0]
	spec.Args = append(spec.Args, "--host-root=/host", "--ignore-term=false")
	spec.Env = append(spec.Env,
		corev1.EnvVar{Name: "NODE_NAME", ValueFrom: field("spec.nodeName")},
		corev1.EnvVar{Name: "APP", ValueFrom: field("metadata.labels['app']")},
		corev1.EnvVar{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: cm.Name}, Key: "greeting"}}},
		corev1.EnvVar{Name: "BOTH", Value: "$(GREETING) $(NODE_NAME) $$(NODE_NAME) $(NOBODY)"},
		corev1.EnvVar{Name: "SYS", Value: "/host/sys"},
		corev1.EnvVar{Name: "ELSEWHERE", Value: "/hostile/sys"},
		corev1.EnvVar{Name: "ETC", Value: "/conf/file.txt"},
	)
	directory := corev1.HostPathDirectory
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/", Type: &directory}}},
		{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: cm.Name}}}},
	}
	spec.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host", ReadOnly: true}, {Name: "conf", MountPath: "/conf"}}
	got := create(t, client, pod)
	got = waitPod(t, client, got.Name, "the pod to be ready", isReady)
	if got.Status.HostIP != n.address || got.Status.Phase != corev1.PodRunning || got.Status.ContainerStatuses[0].State.Running == nil || got.Status.StartTime == nil {
		t.Errorf("status %+v", got.Status)
	}
	i := infoOf(t, got)
	for name, want := range map[string]string{
		"NODE_NAME": n.name, "APP": "world", "GREETING": "hello", "BOTH": "hello " + n.name + " $(NODE_NAME) $(NOBODY)",
		"SYS": n.root + "/sys", "ELSEWHERE": "/hostile/sys", "POD_IP": got.Status.PodIP, "HOSTNAME": got.Name,
		"KUBERNETES_SERVICE_HOST": "",
	} {
		if v := i.env(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if i.HostRoot != n.root {
		t.Errorf("--host-root is %q, want %q", i.HostRoot, n.root)
	}
	if !strings.HasPrefix(i.Dir, n.root) {
		t.Errorf("working directory %q is not below the node's root", i.Dir)
	}
	if text := get(t, got, "/read?path="+url.QueryEscape(i.env("ETC"))); text != "content" {
		t.Errorf("file of the ConfigMap is %q", text)
	}
	var who struct {
		Username string              `json:"username"`
		Extra    map[string][]string `json:"extra"`
	}
	if err := json.Unmarshal([]byte(get(t, got, "/whoami")), &who); err != nil {
		t.Fatal(err)
	}
	if who.Username != "system:serviceaccount:default:default" {
		t.Errorf("the pod is %q to the API server", who.Username)
	}
	if x := who.Extra["authentication.kubernetes.io/node-name"]; len(x) != 1 || x[0] != n.name {
		t.Errorf("its token says node %v, want %s", x, n.name)
	}
	state, err := n.State(t.Context())
	if err != nil || len(state.Pods) != 1 || len(state.Disks) != 2 || state.Mode != "simulated" {
		t.Fatalf("state %+v, %v", state, err)
	}
	if s := state.Pods[0]; s.Containers[0].PID != i.PID || !s.Ready || s.IP != got.Status.PodIP {
		t.Errorf("state of the pod is %+v, its process is %d", s, i.PID)
	}
	log, err := os.ReadFile(state.Pods[0].Containers[0].Log)
	if err != nil || !strings.Contains(string(log), "probe started") {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestReadiness(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	pod := probePod("readiness", n)
	pod.Spec.Containers[0].ReadinessProbe.PeriodSeconds = 1
	pod.Spec.Containers[0].ReadinessProbe.FailureThreshold = 1
	got := waitPod(t, client, create(t, client, pod).Name, "the pod to be ready", isReady)
	get(t, got, "/unready")
	unready := waitPod(t, client, got.Name, "the pod to be unready", func(p *corev1.Pod) bool { return !isReady(p) })
	if r := unready.Status.ContainerStatuses[0].RestartCount; r != 0 {
		t.Errorf("an unready container was restarted %d times", r)
	}
	get(t, got, "/ready")
	waitPod(t, client, got.Name, "the pod to be ready again", isReady)
}

func TestLiveness(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	pod := probePod("liveness", n)
	live := pod.Spec.Containers[0].ReadinessProbe.DeepCopy()
	live.PeriodSeconds, live.FailureThreshold = 1, 2
	pod.Spec.Containers[0].LivenessProbe, pod.Spec.Containers[0].ReadinessProbe = live, nil
	got := waitPod(t, client, create(t, client, pod).Name, "the pod to be ready", isReady)
	before := infoOf(t, got).PID
	get(t, got, "/unready")
	got = waitPod(t, client, got.Name, "the container to be restarted", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p)
	})
	eventually(t, 10*time.Second, "the new process", func() (bool, string) {
		return infoOf(t, got).PID != before, "the old one answers"
	})
}

func TestCrash(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	got := waitPod(t, client, create(t, client, probePod("crash", n)).Name, "the pod to be ready", isReady)
	pids, err := n.KillPod(t.Context(), "default", got.Name)
	if err != nil || len(pids) != 1 {
		t.Fatalf("killed %v, %v", pids, err)
	}
	again := waitPod(t, client, got.Name, "the container to run again", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p)
	})
	s := again.Status.ContainerStatuses[0]
	if last := s.LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Reason != "Error" {
		t.Errorf("last state %+v, want exit code 137", last)
	}
	if again.Status.PodIP != got.Status.PodIP {
		t.Errorf("address %s became %s", got.Status.PodIP, again.Status.PodIP)
	}
	if _, err := n.KillPod(t.Context(), "default", "nobody"); err == nil || !strings.Contains(err.Error(), "no such pod") {
		t.Errorf("killing a pod that is not there: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	cases := map[string]struct {
		reason string
		policy corev1.RestartPolicy
		exit   int
		ok     func(*corev1.Pod) bool
	}{
		"Succeeded": {"a job that ends well is done", corev1.RestartPolicyNever, 0, func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodSucceeded && p.Status.ContainerStatuses[0].State.Terminated.Reason == "Completed"
		}},
		"Failed": {"a job that must not be repeated fails, and says with what", corev1.RestartPolicyNever, 3, func(p *corev1.Pod) bool {
			t := p.Status.ContainerStatuses
			return p.Status.Phase == corev1.PodFailed && t[0].State.Terminated.ExitCode == 3 && strings.Contains(t[0].State.Terminated.Message, "ends with code 3")
		}},
		"CrashLoop": {"what ends although it must run is started again, later each time", corev1.RestartPolicyAlways, 1, func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].RestartCount >= 2 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff" && p.Status.Phase == corev1.PodRunning
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := probePod("exit", n)
			pod.Spec.RestartPolicy = tc.policy
			pod.Spec.Containers[0].ReadinessProbe = nil
			pod.Spec.Containers[0].Args = []string{fmt.Sprintf("--exit=%d", tc.exit)}
			waitPod(t, client, create(t, client, pod).Name, tc.reason, tc.ok)
		})
	}
}

func TestRefusedContainers(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	yes := true
	cases := map[string]struct {
		reason, waiting, message string
		change                   func(*corev1.Pod)
	}{
		"Image":    {"a binary that is not built", "ErrImagePull", n.bin + "/absent", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "registry.holdfast.dev/absent:v1" }},
		"Registry": {"another registry", "ErrImagePull", "registry.holdfast.dev/", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "docker.io/library/probe:v1" }},
		"Command":  {"a scratch image has no shell", "RunContainerError", "has no /bin/sh", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/bin/sh"} }},
		"NonRoot": {"the manifest forgot runAsUser", "CreateContainerConfigError", "runAsNonRoot", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
		}},
		"Env": {"a ConfigMap that is not there", "CreateContainerConfigError", "not found", func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}}}}
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := probePod("refused", n)
			tc.change(pod)
			waitPod(t, client, create(t, client, pod).Name, tc.reason, func(p *corev1.Pod) bool {
				if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
					return false
				}
				w := p.Status.ContainerStatuses[0].State.Waiting
				return w.Reason == tc.waiting && strings.Contains(w.Message, tc.message) && p.Status.Phase == corev1.PodPending
			})
		})
	}
}

func TestInitContainers(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	pod := probePod("init", n)
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mounts := []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	pod.Spec.InitContainers = []corev1.Container{{
		Name: "first", Image: pod.Spec.Containers[0].Image, Args: []string{"--write=/scratch/first", "--exit=0"}, VolumeMounts: mounts,
	}}
	pod.Spec.Containers[0].VolumeMounts = mounts
	pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: "FIRST", Value: "/scratch/first"})
	got := waitPod(t, client, create(t, client, pod).Name, "the pod to be ready", isReady)
	if s := got.Status.InitContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 0 {
		t.Errorf("init container %+v", got.Status.InitContainerStatuses[0])
	}
	if text := get(t, got, "/read?path="+url.QueryEscape(infoOf(t, got).env("FIRST"))); !strings.Contains(text, "--exit=0") {
		t.Errorf("the init container wrote %q", text)
	}
}

func TestDeletion(t *testing.T) {
	c := cluster.ForTest(t)
	n := startNode(t, c, "--simulate")
	client := clientOf(t, c)
	stubborn := probePod("stubborn", n)
	stubborn.Spec.Containers[0].Args = append(stubborn.Spec.Containers[0].Args, "--ignore-term")
	two := int64(2)
	stubborn.Spec.TerminationGracePeriodSeconds = &two
	cases := map[string]struct {
		reason string
		pod    *corev1.Pod
		atMost time.Duration
		least  time.Duration
	}{
		"Prompt":   {"the object goes with the process, not with the grace period of 30 s", probePod("prompt", n), 3 * time.Second, 0},
		"Stubborn": {"a process that does not end is killed after its grace period", stubborn, 6 * time.Second, 2 * time.Second},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := waitPod(t, client, create(t, client, tc.pod).Name, "the pod to be ready", isReady)
			pid := infoOf(t, got).PID
			start := time.Now()
			if err := client.CoreV1().Pods("default").Delete(t.Context(), got.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, tc.reason, func() (bool, string) {
				_, err := client.CoreV1().Pods("default").Get(t.Context(), got.Name, metav1.GetOptions{})
				return apierrors.IsNotFound(err), fmt.Sprint(err)
			})
			if took := time.Since(start); took > tc.atMost || took < tc.least {
				t.Errorf("deletion took %s, want %s to %s: %s", took, tc.least, tc.atMost, tc.reason)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("process %d is still there: %v", pid, err)
			}
			eventually(t, 5*time.Second, "the pod's directory to go", func() (bool, string) {
				_, err := os.Stat(filepath.Join(n.root, "var/lib/kubelet/pods", string(got.UID)))
				return errors.Is(err, os.ErrNotExist), fmt.Sprint(err)
			})
		})
	}
}
