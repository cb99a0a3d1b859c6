package monitoring_test

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"holdfast.dev/addons"
	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/monitor"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/cleaner"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
	"holdfast.dev/remediation/metrics"
	"holdfast.dev/scheduler"
)

// addonsDir is the catalogue as it lies in the source tree, with what is not shipped.
const addonsDir = "../../../addons"

// rules is a rule file, strictly.
type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []struct {
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

// shipped are the rule files of the catalogue, by path.
func shipped(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := fs.Glob(addons.Catalogue, "*/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = fs.ReadFile(addons.Catalogue, name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestEveryAddonWithMetricsHasRules(t *testing.T) {
	want := []string{"disk-monitor/alerts.yaml", "local-volume-provisioner/alerts.yaml", "lvm-csi-driver/alerts.yaml",
		"remediation-controller/alerts.yaml", "storage-scheduler/alerts.yaml"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(shipped(t)))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// described collects the descriptions of all metrics that a component registers.
type described map[string][]string // names of labels, by name of metric

// descRE reads what Desc.String writes; there is no other way to a Desc's name.
var descRE = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", .*variableLabels: \{([^}]*)\}\}$`)

func (d described) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() { defer close(ch); c.Describe(ch) }()
	for desc := range ch {
		m := descRE.FindStringSubmatch(desc.String())
		if m == nil {
			return &os.PathError{Op: "parse description", Path: desc.String(), Err: fs.ErrInvalid}
		}
		d[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	return nil
}

func (d described) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := d.Register(c); err != nil {
			panic(err)
		}
	}
}

func (d described) Unregister(prometheus.Collector) bool { return false }

// registered are the metrics of every component that an addon runs.
func registered(t *testing.T) described {
	t.Helper()
	d := described{}
	local.NewMetrics(d)
	lvm.NewMetrics(d)
	cleaner.NewMetrics(d)
	if err := scheduler.RegisterMetrics(d); err != nil {
		t.Fatal(err)
	}
	d.MustRegister(metrics.New(nil))

	root := t.TempDir()
	bootID := filepath.Join(root, "proc/sys/kernel/random/boot_id")
	if err := os.MkdirAll(filepath.Dir(bootID), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bootID, []byte("a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	host, err := hostfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	m, err := monitor.New(monitor.Options{}, host, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.MustRegister(m.Collector())
	return d
}

var (
	metricRE   = regexp.MustCompile(`holdfast_[a-z_]+`)
	selectorRE = regexp.MustCompile(`(holdfast_[a-z_]+)\{([^}]*)\}`)
	matcherRE  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	seriesRE   = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// values are those that the components give to a metric's label.
func values() map[string]map[string][]string {
	var reasons []string
	for _, r := range local.Reasons() {
		reasons = append(reasons, string(r))
	}
	var waits []string
	for _, r := range cleaner.Reasons() {
		waits = append(waits, string(r))
	}
	return map[string]map[string][]string{
		"holdfast_local_volume_cleaner_waiting": {"reason": waits},
		"holdfast_disk_monitor_disk_state": {
			"state": {string(v1alpha1.DiskHealthy), string(v1alpha1.DiskUnknown), string(v1alpha1.DiskDegraded), string(v1alpha1.DiskFailed), string(v1alpha1.DiskMissing)},
		},
		"holdfast_disk_monitor_condition": {
			"type":   {v1alpha1.ConditionInventoryRead, v1alpha1.ConditionKernelLogRead, v1alpha1.ConditionFlavorSatisfied, v1alpha1.ConditionHealthRead},
			"status": {"true", "false", "unknown"},
		},
		"holdfast_remediation_plans":                   {"phase": {string(v1alpha1.PhasePending), string(v1alpha1.PhaseEscalated)}},
		"holdfast_local_volume_provisioner_withheld":   {"reason": reasons},
		"holdfast_lvm_csi_driver_thin_pool_used_ratio": {"part": {"data", "metadata"}},
		"holdfast_lvm_csi_driver_volumes":              {"phase": {vg.Creating, vg.Ready, vg.Deleting}},
		"holdfast_local_volume_provisioner_volumes":    {"state": {string(local.StateVerified), string(local.StateReleased), string(local.StateUnverified), string(local.StateOrphaned)}},
	}
}

// A rule about a metric, a label or a value that no component has never fires,
// and nobody notices.
func TestRulesSpeakOfWhatIsThere(t *testing.T) {
	known, values := registered(t), values()
	for file, data := range shipped(t) {
		if !metricRE.Match(data) {
			t.Errorf("%s speaks of no metric", file)
		}
		for _, name := range metricRE.FindAllString(string(data), -1) {
			_, metric := known[name]
			_, histogram := known[seriesRE.ReplaceAllString(name, "")]
			if !metric && !histogram {
				t.Errorf("%s: no component has the metric %s", file, name)
			}
		}
		for _, selector := range selectorRE.FindAllStringSubmatch(string(data), -1) {
			for _, m := range matcherRE.FindAllStringSubmatch(selector[2], -1) {
				metric, label := selector[1], m[1]
				if !slices.Contains(known[metric], label) {
					t.Errorf("%s: %s has no label %s", file, metric, label)
				}
				for v := range strings.SplitSeq(m[2], "|") {
					if !slices.Contains(values[metric][label], v) {
						t.Errorf("%s: %s{%s} is never %q", file, metric, label, v)
					}
				}
			}
		}
	}
}

// Each alert says how urgent it is and what it is, selects only its own addon's
// job, and has a unit test in which it fires.
func TestAlertsAreComplete(t *testing.T) {
	for file, data := range shipped(t) {
		addon := filepath.Dir(file)
		var f rules
		if err := strictyaml.Decode(file, data, &f); err != nil {
			t.Error(err)
			continue
		}
		fires := firingInTests(t, addon)
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				if s := r.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, s) {
					t.Errorf("%s: %s has the severity %q", file, r.Alert, s)
				}
				if r.Annotations["summary"] == "" {
					t.Errorf("%s: %s has no summary", file, r.Alert)
				}
				if _, err := model.ParseDuration(r.For); r.For != "" && err != nil {
					t.Errorf("%s: %s: %v", file, r.Alert, err)
				}
				for _, m := range matcherRE.FindAllStringSubmatch(r.Expr, -1) {
					if m[1] == model.JobLabel && m[2] != addon && !slices.Contains(besides[addon], m[2]) {
						t.Errorf("%s: %s selects the job %q", file, r.Alert, m[2])
					}
				}
				if !slices.Contains(fires, r.Alert) {
					t.Errorf("%s: no test in alerts_test.yaml makes %s fire", file, r.Alert)
				}
			}
		}
	}
}

// besides are the jobs of an addon that runs more than one daemon.
var besides = map[string][]string{"local-volume-provisioner": {"local-volume-cleaner"}}

// firingInTests are the alerts that an addon's unit tests make fire.
func firingInTests(t *testing.T, addon string) []string {
	t.Helper()
	name := filepath.Join(addonsDir, addon, "alerts_test.yaml")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name           string              `yaml:"name"`
			Interval       string              `yaml:"interval"`
			InputSeries    []map[string]string `yaml:"input_series"`
			AlertRuleTests []struct {
				EvalTime  string           `yaml:"eval_time"`
				Alertname string           `yaml:"alertname"`
				ExpAlerts []map[string]any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := strictyaml.Decode(name, data, &f); err != nil {
		t.Fatal(err)
	}
	var fires []string
	for _, test := range f.Tests {
		for _, a := range test.AlertRuleTests {
			if len(a.ExpAlerts) > 0 {
				fires = append(fires, a.Alertname)
			}
		}
	}
	return fires
}
