package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func TestRewrite(t *testing.T) {
	r := newRewriter([]mount{{"/host", "/n1"}, {"/host/sys", "/n1/sysfs"}, {"/var/run/secrets/kubernetes.io/serviceaccount", "/n1/token"}})
	cases := map[string]struct{ reason, in, want string }{
		"Equal":    {"a mount itself", "/host", "/n1"},
		"Below":    {"a path below a mount", "/host/dev/kmsg", "/n1/dev/kmsg"},
		"Deepest":  {"the deeper mount hides the other", "/host/sys/block", "/n1/sysfs/block"},
		"Flag":     {"a flag's value", "--host-root=/host", "--host-root=/n1"},
		"Short":    {"a flag with one dash", "-root=/host/etc", "-root=/n1/etc"},
		"Prefix":   {"a name that only starts alike", "/hostile", "/hostile"},
		"Inside":   {"a path that holds a mount's name further on", "/srv/host", "/srv/host"},
		"Equation": {"no flag", "a=/host", "a=/host"},
		"Climb":    {"what climbs out is of no mount", "/host/../etc", "/host/../etc"},
		"Across":   {"a path that ends in another mount than it begins with", "/host/sys/../dev", "/n1/dev"},
		"Second":   {"only the value after the first =", "--set=x=/host", "--set=x=/host"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := r.arg(tc.in); got != tc.want {
				t.Errorf("%s became %s, want %s: %s", tc.in, got, tc.want, tc.reason)
			}
		})
	}
}

// TestRewriteStaysBelow: a path in a mount leads below its volume, any other is
// left alone. "/host/.." once led to the parent of the node's root.
func TestRewriteStaysBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRewriter([]mount{{"/host", "/volumes/n1"}})
		in := "/host/" + rapid.StringMatching(`[a-z./]{0,20}`).Draw(t, "path")
		out := r.value(in)
		if clean := filepath.Clean(in); clean != "/host" && !strings.HasPrefix(clean, "/host/") {
			if out != in {
				t.Fatalf("%s, which is of no mount, became %s", in, out)
			}
			return
		}
		if out != "/volumes/n1" && !strings.HasPrefix(out, "/volumes/n1/") {
			t.Fatalf("%s became %s, outside of the mount", in, out)
		}
	})
}

type fakeObjects map[string]map[string]string

func (f fakeObjects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if f[name] == nil {
		return nil, fmt.Errorf("ConfigMap %s is broken", name)
	}
	return &corev1.ConfigMap{Data: f[name]}, nil
}

func (f fakeObjects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	s := &corev1.Secret{Data: map[string][]byte{}}
	for k, v := range f[name] {
		s.Data[k] = []byte(v)
	}
	return s, nil
}

func TestEnvironment(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Annotations: map[string]string{"a": "note"}},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa"},
		Status:     corev1.PodStatus{PodIP: "127.9.9.9", HostIP: "127.9.0.1"},
	}
	c := &corev1.Container{
		Name: "c",
		EnvFrom: []corev1.EnvFromSource{
			{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		},
		Env: []corev1.EnvVar{
			{Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "SA", ValueFrom: field("spec.serviceAccountName")},
			{Name: "NOTE", ValueFrom: field("metadata.annotations['a']")},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"}}},
			{Name: "A", Value: "own $(S_x) $(LATER)"},
			{Name: "LATER", Value: "$$(IP)"},
			{Name: "GONE", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "absent", Optional: new(true)}}},
		},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}},
	}
	objs := fakeObjects{"cm": {"A": "from config", "B": "b"}, "s": {"x": "secret"}}
	got, err := environment(t.Context(), pod, c, objs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"S_x": "secret", "A": "own secret $(LATER)", "B": "b", "IP": "127.9.9.9", "SA": "sa", "NOTE": "note", "MEM": "67108864", "LATER": "$(IP)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "absent"}}}}
	if _, err := environment(t.Context(), pod, c, objs); err == nil || err.Error() != "environment variable X: ConfigMap cm has no key absent" {
		t.Errorf("a missing key: %v", err)
	}
}

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func TestPhase(t *testing.T) {
	running := containerState{state: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	idle := containerState{state: waiting("ContainerCreating", "")}
	ended := func(code int32) containerState {
		return containerState{state: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
	}
	paused := containerState{state: waiting("CrashLoopBackOff", ""), last: ended(1).state}
	list := func(c ...containerState) []containerState { return c }
	cases := map[string]struct {
		reason     string
		policy     corev1.RestartPolicy
		terminal   bool
		init, main []containerState
		want       corev1.PodPhase
	}{
		"Creating":     {"nothing runs yet", corev1.RestartPolicyAlways, false, nil, list(idle), corev1.PodPending},
		"Initializing": {"init containers come first", corev1.RestartPolicyAlways, false, list(running), list(idle), corev1.PodPending},
		"InitFailed":   {"no second try for an init container", corev1.RestartPolicyNever, false, list(ended(1)), list(idle), corev1.PodFailed},
		"InitRetried":  {"an init container is tried again", corev1.RestartPolicyAlways, false, list(ended(1)), list(idle), corev1.PodPending},
		"Running":      {"one of two has started", corev1.RestartPolicyAlways, false, list(ended(0)), list(running, paused), corev1.PodRunning},
		"HalfStarted":  {"one has never started", corev1.RestartPolicyAlways, false, nil, list(running, idle), corev1.PodPending},
		"CrashLoop":    {"between two starts it counts as running", corev1.RestartPolicyAlways, false, nil, list(paused), corev1.PodRunning},
		"BetweenStart": {"ended, and to be started again", corev1.RestartPolicyAlways, false, nil, list(ended(0)), corev1.PodRunning},
		"Succeeded":    {"all ended well", corev1.RestartPolicyOnFailure, true, nil, list(ended(0), ended(0)), corev1.PodSucceeded},
		"Failed":       {"one of all ended badly", corev1.RestartPolicyNever, true, nil, list(ended(0), ended(2)), corev1.PodFailed},
		"Deleted":      {"ended by its deletion before it ran", corev1.RestartPolicyAlways, true, nil, list(idle), corev1.PodFailed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := podState{pod: &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tc.policy}}, terminal: tc.terminal, init: tc.init, main: tc.main}
			if got := s.status().Phase; got != tc.want {
				t.Errorf("phase %s, want %s: %s", got, tc.want, tc.reason)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	old := metav1.NewTime(time.Unix(1000, 0))
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "gate"}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: old},
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: old},
		}},
	}
	s := podState{pod: pod, prepared: true, now: time.Unix(2000, 0), main: []containerState{{name: "a", ready: true}, {name: "b"}}}
	find := func(kind corev1.PodConditionType) corev1.PodCondition {
		for _, c := range s.status().Conditions {
			if c.Type == kind {
				return c
			}
		}
		return corev1.PodCondition{}
	}
	if c := find(corev1.PodScheduled); !c.LastTransitionTime.Equal(&old) {
		t.Error("the time of an unchanged condition changed")
	}
	if c := find(corev1.DisruptionTarget); c.Status != corev1.ConditionTrue {
		t.Error("a condition of somebody else is lost")
	}
	if c := find(corev1.PodReady); c.Status != corev1.ConditionFalse || c.Message != "containers with unready status: [b]" {
		t.Errorf("condition %+v", c)
	}
	s.main[1].ready = true
	if c := find(corev1.ContainersReady); c.Status != corev1.ConditionTrue {
		t.Errorf("condition %+v", c)
	}
	if c := find(corev1.PodReady); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" {
		t.Errorf("a readiness gate is passed over: %+v", c)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for range 8 {
		got = append(got, b.after(time.Second))
	}
	got = append(got, b.after(time.Minute), b.after(0))
	s := time.Second
	if diff := cmp.Diff([]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, s, 2 * s}, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
}

func TestAddresses(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("127.5.130.0/29"))
	var got []string
	for range 3 {
		ip, err := a.take("")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ip)
	}
	a.release(got[0])
	again, err := a.take(got[0])
	if err != nil || again != got[0] {
		t.Errorf("a pod that comes back got %s, %v; want %s", again, err, got[0])
	}
	for range 3 {
		if _, err := a.take("10.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	if ip, err := a.take(""); err == nil {
		t.Errorf("a full range gave %s", ip)
	}
	if diff := cmp.Diff([]string{"127.5.130.1", "127.5.130.2", "127.5.130.3"}, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestWriteVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	for _, content := range []string{"one", "two"} {
		if err := writeVolume(dir, map[string]file{"token": {data: []byte(content), mode: 0o640, uid: -1}, "sub/deep": {data: []byte(content), mode: 0o600, uid: -1}}, -1); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"token", "sub/deep"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != content {
				t.Errorf("%s holds %q, %v; want %q", name, data, err, content)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // two names, ..data, and one directory
		t.Errorf("%d entries, %v: an old content is left", len(entries), err)
	}
	if info, err := os.Stat(filepath.Join(dir, "token")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestImages(t *testing.T) {
	bin, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "monitor"), []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := newImages(bin, root)
	img, err := s.pull("registry.holdfast.dev/monitor:v1@sha256:abc")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(img.path); err != nil || info.Mode().Perm() != 0o755 || img.binary != "/monitor" {
		t.Errorf("image %+v, mode %v, %v", img, info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(bin, "monitor"), []byte("newer"), 0o700); err != nil {
		t.Fatal(err)
	}
	if again, err := s.pull("registry.holdfast.dev/monitor:v1@sha256:abc"); err != nil || again != img {
		t.Errorf("the same tag became %+v, %v", again, err)
	}
	if newer, err := s.pull("registry.holdfast.dev/monitor:v2"); err != nil || newer.path == img.path {
		t.Errorf("another tag is still %+v, %v", newer, err)
	}
	for ref, reason := range map[string]string{
		"registry.holdfast.dev/absent:v1":     "no such binary",
		"registry.holdfast.dev/../monitor:v1": "a path that climbs",
		"registry.holdfast.dev/:v1":           "no name",
		"monitor:v1":                          "no registry",
	} {
		if img, err := s.pull(ref); err == nil {
			t.Errorf("%s gave %+v, want an error: %s", ref, img, reason)
		}
	}
}

func TestHostPath(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	v := &volumes{root: root}
	kind := func(k corev1.HostPathType) *corev1.HostPathType { return &k }
	cases := map[string]struct {
		reason, path string
		kind         *corev1.HostPathType
		want, err    string
	}{
		"Root":      {"all of the host", "/", nil, root, ""},
		"Unset":     {"no check without a type", "/not/there", nil, root + "/not/there", ""},
		"Directory": {"is there", "/etc", kind(corev1.HostPathDirectory), root + "/etc", ""},
		"Created":   {"is made", "/var/lib/x", kind(corev1.HostPathDirectoryOrCreate), root + "/var/lib/x", ""},
		"File":      {"is made", "/etc/flag", kind(corev1.HostPathFileOrCreate), root + "/etc/flag", ""},
		"Missing":   {"is not there", "/nowhere", kind(corev1.HostPathDirectory), "", "no such file"},
		"WrongType": {"a directory is no file", "/etc", kind(corev1.HostPathFile), "", "is not a File"},
		"Climb":     {"cannot leave the root", "/../../etc", kind(corev1.HostPathDirectory), root + "/etc", ""},
		"Link":      {"a link out of the root is refused", "/out", kind(corev1.HostPathDirectory), "", "escapes"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := v.hostPath(&corev1.HostPathVolumeSource{Path: tc.path, Type: tc.kind})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q: %s", err, tc.err, tc.reason)
				}
				return
			}
			if err != nil || got.path != tc.want {
				t.Errorf("got %s, %v; want %s: %s", got.path, err, tc.want, tc.reason)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	good := []string{"--name=n1", "--kubeconfig=k", "--root=r", "--address=127.10.1.2"}
	cases := map[string]struct {
		reason string
		args   []string
		err    string
	}{
		"Good":    {"the least that is needed", nil, ""},
		"Name":    {"a name that no Node can have", []string{"--name=N_1"}, "--name"},
		"Address": {"not an address", []string{"--address=localhost"}, "--address"},
		"Range":   {"pods would take the node's address", []string{"--pod-cidr=127.10.1.0/24"}, "--pod-cidr"},
		"Labels":  {"no label", []string{"--labels=a"}, "--labels"},
		"Value":   {"no label value", []string{"--labels=a=b c"}, "--labels"},
		"Size":    {"no size", []string{"--disk-size=many"}, "--disk-size"},
		"Socket":  {"longer than a socket's address", []string{"--socket=/" + strings.Repeat("x", 120)}, "--socket"},
		"Missing": {"no credentials", []string{"--kubeconfig="}, "--kubeconfig is missing"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var o Options
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			o.BindFlags(fs)
			if err := fs.Parse(append(good, tc.args...)); err != nil {
				t.Fatal(err)
			}
			err := o.Validate()
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q: %s", err, tc.err, tc.reason)
			}
			if tc.err == "" && o.PodCIDR != "127.10.138.0/24" {
				t.Errorf("pod range %s", o.PodCIDR)
			}
		})
	}
}

func TestKubeconfigHoldsNoSecret(t *testing.T) {
	data, err := apiServer{url: "https://127.0.0.1:1"}.kubeconfig("/v/access", "ns")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tokenFile: /v/access/token", "certificate-authority: /v/access/ca.crt", "namespace: ns", "server: https://127.0.0.1:1"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in:\n%s", want, data)
		}
	}
}

func TestPrepareErrorUnwraps(t *testing.T) {
	inner := errors.New("why")
	if err := error(&prepareError{reason: "ErrImagePull", err: inner}); !errors.Is(err, inner) || err.Error() != "why" {
		t.Errorf("got %v", err)
	}
}
