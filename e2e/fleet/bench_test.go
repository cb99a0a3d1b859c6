//go:build bench

package fleet

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// These are no tests: "make bench-gitops" prints what they measure.

// short says whether only a few samples are wanted, to see that everything runs.
func short() bool { return os.Getenv("HOLDFAST_BENCH_SHORT") != "" }

// samples is how many samples are taken.
func samples(whole, few int) int {
	if short() {
		return few
	}
	return whole
}

// bench prints one figure.
func bench(name string, value float64, unit string) {
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.3f unit=%s\n", name, value, unit)
}

// note prints what one must know to read the figures.
func note(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, "# "+format+"\n", args...)
}

// benchPercentile prints a percentile of samples, and how many there were.
func benchPercentile(name string, p int, all []float64, unit string) {
	sorted := slices.Sorted(slices.Values(all))
	note("%s: %d samples, smallest %.3f, median %.3f, largest %.3f", name, len(sorted), sorted[0], percentile(sorted, 50), sorted[len(sorted)-1])
	bench(name, percentile(sorted, p), unit)
}

// percentile is the smallest of the sorted samples that p of a hundred do not exceed.
func percentile(sorted []float64, p int) float64 {
	return sorted[(len(sorted)*p+99)/100-1]
}

// noteLoad prints what else the machine does.
func noteLoad(t *testing.T, when string) {
	t.Helper()
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	note("%s: load averages and runnable tasks of the whole machine: %s", when, strings.TrimSpace(string(load)))
}

// memoryMiB is a line of /proc/meminfo (proc(5)) in MiB.
func memoryMiB(t *testing.T, key string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib / 1024
}
