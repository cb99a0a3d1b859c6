package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

// daemonWith answers with a status as the daemon does, and returns its socket.
func daemonWith(t *testing.T, status *v1alpha1.ComputeNodeStatus) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if status == nil {
			http.Error(w, "the disks have not been looked at", http.StatusServiceUnavailable)
			return
		}
		if err := json.NewEncoder(w).Encode(status); err != nil {
			t.Error(err)
		}
	}))
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return socket
}

func TestCheck(t *testing.T) {
	disk := func(id, dev string, state v1alpha1.DiskState, class v1alpha1.FaultClass) v1alpha1.Disk {
		d := v1alpha1.Disk{ID: id, Device: dev, State: state}
		if class != "" {
			d.Faults = []v1alpha1.Fault{{Class: class}}
		}
		return d
	}
	conditions := func(kind string, status metav1.ConditionStatus, message string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: status, Message: message}}
	}
	good := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{disk("naa.1", "sda", v1alpha1.DiskHealthy, "")}, Conditions: conditions(v1alpha1.ConditionInventoryRead, metav1.ConditionTrue, "")}
	bad := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{
		disk("naa.1", "sda", v1alpha1.DiskFailed, v1alpha1.FaultMedium), disk("naa.2", "", v1alpha1.DiskMissing, v1alpha1.FaultMissing), disk("naa.3", "sdc", v1alpha1.DiskFailed, ""),
	}, Conditions: conditions(v1alpha1.ConditionFlavorSatisfied, metav1.ConditionFalse, "group data has 1 of 2 disks")}
	blind := &v1alpha1.ComputeNodeStatus{Conditions: conditions(v1alpha1.ConditionInventoryRead, metav1.ConditionFalse, "list disks: permission denied")}
	cases := map[string]struct {
		status *v1alpha1.ComputeNodeStatus
		args   string
		code   int
		line   string
	}{
		"Good":        {good, "failed", checkOK, "none of 1 disks is failed"},
		"Failed":      {bad, "failed", checkBad, "2 disks failed: sda Medium naa.1, sdc naa.3"},
		"Missing":     {bad, "missing", checkBad, "missing: naa.2"},
		"Blind":       {blind, "missing", checkUnknown, "list disks: permission denied"},
		"Unwatched":   {blind, "watched", checkBad, "list disks: permission denied"},
		"Watched":     {good, "watched", checkOK, "1 disks are watched"},
		"Flavor":      {bad, "flavor", checkBad, "group data has 1 of 2 disks"},
		"NoFlavor":    {good, "flavor", checkUnknown, "FlavorSatisfied is not known"},
		"Starting":    {nil, "failed", checkUnknown, "disk-monitor: the disks have not been looked at"},
		"Short":       {bad, "-max-length 12 failed", checkBad, "2 disks fail"},
		"NoSuchCheck": {good, "sound", checkUnknown, ""},
		"NoCheck":     {good, "", checkUnknown, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			code := runCheck(t.Context(), &out, append([]string{"-socket", daemonWith(t, tc.status)}, strings.Fields(tc.args)...))
			if got := strings.TrimSuffix(out.String(), "\n"); code != tc.code || got != tc.line {
				t.Errorf("exit code %d, line %q; want %d, %q", code, got, tc.code, tc.line)
			}
		})
	}
	var out bytes.Buffer
	if code := runCheck(t.Context(), &out, []string{"-socket", filepath.Join(t.TempDir(), "none"), "failed"}); code != checkUnknown || !strings.HasPrefix(out.String(), "no disk-monitor runs here: ") {
		t.Errorf("without a daemon: %d %q", code, out.String())
	}
}

// What a dead daemon leaves is a socket that nobody listens on. The cause must be
// within the 80 bytes that node-problem-detector shows.
func TestCheckDeadSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := runCheck(t.Context(), &out, []string{"-socket", socket, "failed"})
	if want := "disk-monitor does not answer: connection refused: "; code != checkUnknown || !strings.HasPrefix(out.String(), want) {
		t.Errorf("exit code %d, line %q; want %d, %q…", code, out.String(), checkUnknown, want)
	}
}

func TestShort(t *testing.T) {
	for _, tc := range []struct {
		line   string
		length int
		want   string
	}{{"a\n b", 80, "a b"}, {"°C", 1, ""}, {"x°C", 2, "x"}, {"", 0, ""}} {
		if got := short(tc.line, tc.length); got != tc.want {
			t.Errorf("short(%q, %d) = %q, want %q", tc.line, tc.length, got, tc.want)
		}
	}
}
