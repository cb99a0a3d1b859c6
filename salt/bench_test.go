package salt_test

import (
	"path/filepath"
	"testing"
)

// BenchmarkHighstate renders every tree of the fidelity cases: pillar, states and files.
func BenchmarkHighstate(b *testing.B) {
	paths, err := filepath.Glob(fidelity + "/trees/*.txt")
	if err != nil || len(paths) == 0 {
		b.Fatalf("there are no trees: %v", err)
	}
	for b.Loop() {
		trees := 0
		for _, p := range paths {
			names, members := archive(b, p)
			trees += len(treeCases(b, names, members))
		}
		b.ReportMetric(float64(trees), "trees/op")
	}
}
