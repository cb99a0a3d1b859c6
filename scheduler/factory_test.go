package scheduler

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestArgs(t *testing.T) {
	cases := map[string]struct {
		reason, text string
		want         int64
		err          string
	}{
		"none":    {"no arguments are the defaults", "", 600, ""},
		"given":   {"what is given counts", `{"bindTimeoutSeconds": 5}`, 5, ""},
		"unknown": {"a misspelt argument is not silently ignored", `{"bindTimeoutSecond": 5}`, 0, `unknown field "bindTimeoutSecond"`},
		"zero":    {"a timeout of nothing binds nothing", `{"bindTimeoutSeconds": 0}`, 0, "must be above zero"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseArgs(&runtime.Unknown{Raw: []byte(tc.text)})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%s: error %v, want %q", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil || *got.BindTimeoutSeconds != tc.want {
				t.Fatalf("%s: %v, %v", tc.reason, got, err)
			}
		})
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	reg := prometheus.NewRegistry()
	if err := RegisterMetrics(reg); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
