//go:build lab

// Package lab_test is the suite that proves Holdfast on real kubelets, kernels
// and failing disks. docs/lab.md says how to run a part of it and how to add to it.
package lab_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/e2e/wait"
)

const (
	binDir = "../../../bin"
	// patience is for one step in the cluster; the nodes are emulated.
	patience = 3 * time.Minute
)

var (
	began = time.Now()
	l     *lab.Lab
	logs  string // directory
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	if suites[suite()] == "" {
		fmt.Fprintln(os.Stderr, "lab: give -run TestLab, -run TestVolumes or -run TestExternal: each needs a lab of its own")
		return 2
	}
	if err := start(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	code := m.Run()
	if err := l.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "lab: end:", err)
		code = 1
	}
	if name := flag.Lookup("test.run").Value.String(); code == 0 && suites[name] != "" {
		bench(suites[name], time.Since(began).Seconds(), "s")
	}
	return code
}

// suites are the tests that have a lab of their own, and the names of their figures.
var suites = map[string]string{"TestLab": "lab_suite_seconds", "TestVolumes": "lab_volumes_suite_seconds", "TestExternal": "lab_external_suite_seconds"}

// start makes the lab: two nodes like those of lab-up, and in the first one a
// spare disk on each bus for faults that nothing else is to see.
func start(ctx context.Context) (err error) {
	logs = os.Getenv("HOLDFAST_LAB_LOGS")
	if logs == "" {
		logs = filepath.Join(binDir, "lab-logs", began.UTC().Format("20060102-150405"))
	}
	if logs, err = filepath.Abs(logs); err != nil {
		return err
	}
	nodes := []lab.NodeOptions{lab.ExampleNode(1), lab.ExampleNode(2)}
	for i, bus := range buses {
		d := machine.Disk{Name: "spare" + string(bus), Bus: bus, Serial: "SPARE" + strings.ToUpper(string(bus)), Size: 64 << 20}
		if bus != machine.NVMe {
			d.WWN = 0x5000c500a1bf0000 + uint64(i)
		}
		nodes[0].Disks = append(nodes[0].Disks, lab.Disk{Disk: d})
	}
	o := lab.Options{BinDir: binDir, LogDir: logs, Nodes: nodes, Log: os.Stdout}
	switch suite() {
	case "TestVolumes":
		addVolumeDisks(&o)
	case "TestExternal":
		addExternal(&o)
	}
	l, err = lab.Start(ctx, o)
	return err
}

// suite is the test that is to be run.
func suite() string {
	name, _, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	return strings.Trim(name, "^$")
}

var buses = []machine.Bus{machine.ATA, machine.SCSI, machine.NVMe}

func bench(name string, value float64, unit string) {
	fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.1f unit=%s\n", name, value, unit)
}

// TestLab runs the parts in this order in one lab: each finds it healthy and
// leaves it healthy. One that fails leaves it in nobody knows what state, so
// that is the end.
func TestLab(t *testing.T) {
	stage(t, "Nodes", testNodes)
	stage(t, "DiskFaults", testDiskFaults)
	stage(t, "NodeFaults", testNodeFaults)
	stage(t, "Push", testPush)
	stage(t, "Health", testHealth)
	stage(t, "BadSectors", testBadSectors)
	stage(t, "BadSectorAndPowerCut", testBadSectorAndPowerCut)
	stage(t, "PulledDisk", testPulledDisk)
	stage(t, "AgentKilled", testAgentKilled)
	stage(t, "Reboots", testReboots)
}

// TestVolumes runs what else there is to volumes, in the same way.
func TestVolumes(t *testing.T) {
	stage(t, "Nodes", testNodes)
	stage(t, "NodePrepare", testNodePrepare)
	stage(t, "LVM", testLVM)
	stage(t, "Docker", testDocker)
	stage(t, "Push", testPushVolumes)
	stage(t, "Claims", testClaims)
	stage(t, "Scheduler", testScheduler)
	stage(t, "Stacks", testStacks)
}

// keepTime is left of the test's time when it is declared stuck, for the logs.
const keepTime = 6 * time.Minute

// stage runs one part. When it fails, or when the test's time is over,
// everything that explains it is kept and named.
func stage(t *testing.T, name string, f func(t *testing.T)) {
	ok := t.Run(name, func(t *testing.T) {
		start := time.Now()
		defer func() {
			if !t.Failed() {
				t.Logf("took %.0f s", time.Since(start).Seconds())
				return
			}
			t.Log(keepLogs(name))
		}()
		if end, ok := t.Deadline(); ok {
			// go test's own end of time leaves no deferred function a chance.
			stuck := time.AfterFunc(time.Until(end)-keepTime, func() {
				fmt.Fprintf(os.Stdout, "stage %s is stuck: the time of the test is over\n%s\n", name, keepLogs(name))
			})
			defer stuck.Stop()
		}
		f(t)
	})
	if !ok {
		t.FailNow()
	}
}

// keepLogs keeps what explains the failure of a stage, and says where.
func keepLogs(stage string) string {
	dir := filepath.Join(logs, stage)
	// The test's context has ended, maybe.
	ctx, cancel := context.WithTimeout(context.Background(), keepTime-time.Minute)
	defer cancel()
	if err := l.CollectLogs(ctx, dir); err != nil {
		return fmt.Sprintf("collect logs: %v", err)
	}
	return "everything that explains this failure is in " + dir
}

// eventually waits until f is true; what names it in the failure.
func eventually(t *testing.T, timeout time.Duration, what string, f func() (bool, error)) time.Duration {
	t.Helper()
	took, err := wait.Until(t.Context(), timeout, what, f)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// have returns v, or ends the test.
func have[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}
