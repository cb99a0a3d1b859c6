package secretscan_test

import (
	"testing"

	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/secretscan"
)

// BenchmarkScan scans a new fleet repository, as it is when it is pushed.
func BenchmarkScan(b *testing.B) {
	t, err := render.InitialTree(render.InitOptions{})
	if err != nil {
		b.Fatal(err)
	}
	size := 0
	files := map[string][]byte{}
	for _, dir := range []string{"addons", "salt", "kustomize"} {
		for _, p := range t.Under(dir) {
			files[p], _ = t.File(p)
			size += len(files[p])
		}
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		for p, data := range files {
			if errs := secretscan.Scan(p, data); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	}
}
