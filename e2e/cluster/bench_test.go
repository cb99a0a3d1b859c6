package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"holdfast.dev/e2e/cluster"
)

// BenchmarkReady starts five clusters one after the other, and three at once,
// from the start of the program to a cluster that admits pods.
func BenchmarkReady(b *testing.B) {
	binary, err := cluster.Build(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var seconds, mib []float64
		for range 5 {
			s, m := startAtOnce(b, binary, 1)
			seconds, mib = append(seconds, s...), append(mib, m...)
		}
		slices.Sort(seconds)
		report("cluster_ready_seconds", seconds[2], "s")
		report("cluster_ready_seconds_max", seconds[4], "s")
		report("cluster_rss_mib_max", slices.Max(mib), "MiB")
		seconds, _ = startAtOnce(b, binary, 3)
		report("cluster_ready_seconds_max_of_three_at_once", slices.Max(seconds), "s")
	}
}

// startAtOnce starts n clusters, and returns how long each took in seconds and
// how large it was in MiB.
func startAtOnce(b *testing.B, binary string, n int) (seconds, mib []float64) {
	b.Helper()
	type result struct {
		c   *cluster.Cluster
		err error
	}
	results := make(chan result)
	for i := range n {
		go func() {
			c, err := cluster.Start(b.Context(), cluster.Options{Name: "bench-" + strconv.Itoa(i), Binary: binary, Parent: b.TempDir()})
			results <- result{c, err}
		}()
	}
	for range n {
		r := <-results
		if r.err != nil {
			b.Fatal(r.err)
		}
		seconds = append(seconds, r.c.ReadySeconds())
		mib = append(mib, resident(b, r.c.PID()))
		if err := r.c.Stop(context.Background()); err != nil {
			b.Error(err)
		}
	}
	return seconds, mib
}

// resident is the resident size of a process in MiB (VmRSS, proc(5)).
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	kib, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}

func report(name string, value float64, unit string) {
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.2f unit=%s\n", name, value, unit)
}
