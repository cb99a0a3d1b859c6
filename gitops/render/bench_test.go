package render_test

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
)

// largeFleet is what is shipped, on 60 clusters in 5 zones, each with a value of
// its own so that no two clusters share a rendering of disk-monitor.
func largeFleet(b *testing.B, interval string) render.Tree {
	b.Helper()
	var clusters []fleet.Cluster
	for i := range 60 {
		clusters = append(clusters, fleet.Cluster{Name: fmt.Sprintf("cluster-%02d", i), AZ: fmt.Sprintf("az%d", i%5+1), Kubernetes: "1.36", Labels: map[string]string{"tier": "prod"}})
	}
	t, err := render.InitialTree(render.InitOptions{Clusters: clusters})
	if err != nil {
		b.Fatal(err)
	}
	files := map[string][]byte{}
	for _, dir := range []string{"addons", "salt", "kustomize"} {
		for _, p := range t.Under(dir) {
			files[p], _ = t.File(p)
		}
	}
	files["fleet.yaml"], _ = t.File("fleet.yaml")
	top := bytes.NewBufferString("base:\n  '*': [common]\n")
	for i, c := range clusters {
		fmt.Fprintf(top, "  %s: [%s]\n", c.Name, c.Name)
		files["salt/pillar/"+c.Name+".sls"] = fmt.Appendf(nil, "disk-monitor: {scanInterval: %ds}\n", i+5)
	}
	files["salt/pillar/top.sls"] = top.Bytes()
	files["salt/pillar/"+clusters[7].Name+".sls"] = []byte("disk-monitor: {scanInterval: " + interval + "}\n")
	t, err = render.NewTree(maps.Clone(files))
	if err != nil {
		b.Fatal(err)
	}
	return t
}

func BenchmarkCold(b *testing.B) {
	t := largeFleet(b, "5s")
	for b.Loop() {
		res := mustRender(b, t, nil)
		b.ReportMetric(float64(res.Rendered), "rendered")
		b.ReportMetric(float64(res.Rendered+res.Cached), "units")
	}
}

// One cluster's value changes.
func BenchmarkOneChange(b *testing.B) {
	cache := newMemory()
	mustRender(b, largeFleet(b, "5s"), cache)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		t := largeFleet(b, fmt.Sprintf("%dm", i+2))
		b.StartTimer()
		if res := mustRender(b, t, cache); res.Rendered != 1 {
			b.Fatalf("rendered %v", res.RenderedUnits)
		}
	}
}
