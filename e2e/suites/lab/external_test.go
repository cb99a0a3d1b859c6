//go:build lab

package lab_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/internal/build/images"
	"holdfast.dev/internal/hostexec"
)

// externalPillar is the class that driver.yaml names.
const externalPillar = `lvm-csi-driver:
  storageClasses:
  - {name: lvm-external, parameters: {pool: db, type: thin}}
`

// notRun are the specs that are left out, and why. What the driver says of itself in
// driver.yaml leaves out more, with a reason in the suite's own report.
var notRun = []struct{ specs, why string }{
	{`\[Disruptive\]`, "they stop kubelets over the ssh of a cloud provider; the suites TestLab and TestVolumes do worse"},
	{`\[Feature:Windows\]`, "nodes are Linux"},
	{`\(immediate.binding\)`, "a volume is made on the node of its pod: the driver's classes wait for their consumer (ShouldProvision)"},
	{`any volume data source`, "it pulls two images of populators, which no registry brings here"},
}

// addExternal leaves one node, since an emulated one takes a processor, with a large disk
// for volumes, a file with holes, and the images of the suite.
func addExternal(o *lab.Options) {
	o.Nodes = o.Nodes[:1]
	for i := range o.Nodes {
		o.Nodes[i].Disks = append(o.Nodes[i].Disks, lab.Disk{Pool: pool, Disk: machine.Disk{
			Name: "lvm", Bus: machine.SCSI, Size: 24 * gib, Serial: fmt.Sprint("LVM", i+1), WWN: 0x5000c500a1d00000 + uint64(i)}})
	}
	o.Addons = append(o.Addons, "lvm-csi-driver")
	o.Images = filepath.Join(binDir, "external-images")
}

// TestExternal runs Kubernetes' own storage suite against the LVM driver, in a lab of its
// own. HOLDFAST_EXTERNAL_FOCUS is a regular expression of what is run of it; default is all.
func TestExternal(t *testing.T) {
	stage(t, "Rollout", func(t *testing.T) {
		must(t, l.Fleet.Edit("salt/states/top.sls", "    - disk-monitor\n", "    - disk-monitor\n    - lvm-csi-driver\n"))
		must(t, l.Fleet.AddFile("salt/pillar/common.sls", externalPillar))
		must(t, l.Rollout(t.Context()))
	})
	stage(t, "External", testExternal)
}

func testExternal(t *testing.T) {
	program := have[string](t)(filepath.Abs(filepath.Join(binDir, "external-storage.test")))
	checkStandIns(t, program)
	must(t, l.Client.Create(t.Context(), &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "external"},
		DriverName: v1alpha1.DriverLVM, Parameters: map[string]string{"readIOPS": "5000"}}))
	dir := filepath.Join(logs, "external")
	must(t, os.MkdirAll(dir, 0o755))
	report, log := filepath.Join(dir, "report.json"), filepath.Join(dir, "suite.log")
	out := have[*os.File](t)(os.Create(log))
	defer func() { _ = out.Close() }() // it is read by people only

	end, ok := t.Deadline()
	if !ok {
		end = time.Now().Add(3 * time.Hour)
	}
	left := time.Until(end) - keepTime - time.Minute
	kubectl := have[string](t)(filepath.Abs(filepath.Join(binDir, "kubectl"))) // some specs run it
	args := []string{"-kubeconfig", l.Cluster.Kubeconfig(), "-kubectl-path", kubectl, "-storage.testdriver", have[string](t)(filepath.Abs("../../external/driver.yaml")),
		"-test.timeout=0", "-ginkgo.timeout", left.String(), "-ginkgo.json-report", report, "-ginkgo.no-color", "-ginkgo.v", "-e2e-output-dir", dir,
		"-ginkgo.focus", cmp.Or(os.Getenv("HOLDFAST_EXTERNAL_FOCUS"), "External.Storage")}
	for _, s := range notRun {
		args = append(args, "-ginkgo.skip", s.specs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), left+time.Minute)
	defer cancel()
	_, err := hostexec.Run(ctx, left+time.Minute, hostexec.Command{Path: program, Args: args, Stdout: out, Stderr: out})
	r, e := readReport(report)
	if e != nil {
		t.Fatalf("%v; the suite ended with %v, its log is %s", e, err, log)
	}
	t.Logf("%d passed, %d failed, %d skipped by the suite, %d not selected, in %.0f s", len(r.passed), len(r.failed), len(r.skipped), r.notSelected, r.seconds)
	for _, s := range r.passed {
		t.Logf("passed %s", s)
	}
	reasons := map[string]int{}
	for _, why := range r.skipped {
		reasons[why]++
	}
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("skipped %d: %s", reasons[why], why)
	}
	bench("external_storage_specs_passed", float64(len(r.passed)), "specs")
	for _, name := range slices.Sorted(maps.Keys(r.failed)) {
		t.Errorf("%s: %s", name, r.failed[name])
	}
	if err != nil || len(r.passed) == 0 {
		t.Errorf("the suite ended with %v after %d specs; its log is %s", err, len(r.passed), log)
	}
}

// checkStandIns fails when the suite wants other images than the nodes have.
func checkStandIns(t *testing.T, program string) {
	t.Helper()
	out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: program, Args: []string{"-list-images"}})
	must(t, err)
	for _, i := range images.StandIns() {
		if !slices.Contains(strings.Fields(string(out)), i.Reference) {
			t.Errorf("the suite does not know the image %s (package internal/build/images, StandIns); it has\n%s", i.Reference, out)
		}
	}
}

// results are what Ginkgo's report tells.
type results struct {
	passed          []string
	failed, skipped map[string]string // why, by spec
	notSelected     int
	seconds         float64
}

// readReport reads a report of Ginkgo, whose types are in github.com/onsi/ginkgo/v2/types.
func readReport(path string) (*results, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report of the suite: %w", err)
	}
	var reports []struct {
		RunTime     time.Duration
		SpecReports []struct {
			ContainerHierarchyTexts           []string
			LeafNodeType, LeafNodeText, State string
			RunTime                           time.Duration
			Failure                           struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &reports); err != nil {
		return nil, fmt.Errorf("read report of the suite: %w", err)
	}
	if len(reports) != 1 {
		return nil, errors.New("read report of the suite: it is not one report")
	}
	r := &results{failed: map[string]string{}, skipped: map[string]string{}, seconds: reports[0].RunTime.Seconds()}
	for _, s := range reports[0].SpecReports {
		name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
		switch {
		case s.State == "passed" && s.LeafNodeType == "It":
			r.passed = append(r.passed, fmt.Sprintf("%s (%.0f s)", name, s.RunTime.Seconds()))
		case s.State == "passed":
		case s.State == "skipped" && s.Failure.Message == "":
			r.notSelected++
		case s.State == "skipped":
			r.skipped[name] = s.Failure.Message
		default:
			r.failed[name] = s.State + ": " + s.Failure.Message
		}
	}
	return r, nil
}
