//go:build bench

package render_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/hostexec"
)

// These are no tests: "make bench-gitops" prints what they measure.

func short() bool { return os.Getenv("HOLDFAST_BENCH_SHORT") != "" }

func note(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, "# "+format+"\n", args...) }

const figureUnits = 1200

// figureFleet is what is shipped, on as many clusters as make 1,200 units. Every
// cluster has an overlay of its own, so that no two share a rendering.
func figureFleet(t *testing.T) map[string][]byte {
	t.Helper()
	var clusters []fleet.Cluster
	for i := range figureUnits / 4 {
		clusters = append(clusters, fleet.Cluster{Name: fmt.Sprintf("cluster-%03d", i), AZ: fmt.Sprintf("az%d", i%5+1), Kubernetes: "1.36", Labels: map[string]string{"tier": "prod"}})
	}
	tr, err := render.InitialTree(render.InitOptions{Clusters: clusters})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, dir := range []string{"addons", "salt", "kustomize"} {
		for _, p := range tr.Under(dir) {
			files[p], _ = tr.File(p)
		}
	}
	files["fleet.yaml"], _ = tr.File("fleet.yaml")
	files["salt/states/top.sls"] = []byte("base:\n  '*': [crds, local-volume-provisioner, disk-monitor, remediation-controller]\n")
	top := bytes.NewBufferString("base:\n  '*': [common]\n")
	for i, c := range clusters {
		fmt.Fprintf(top, "  %s: [%s]\n", c.Name, c.Name)
		files["salt/pillar/"+c.Name+".sls"] = interval(i)
		files["kustomize/overlays/"+c.Name+"/kustomization.yaml"] = []byte("apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels:\n- pairs: {place: " + c.Name + "}\n")
	}
	files["salt/pillar/top.sls"] = top.Bytes()
	return files
}

func interval(i int) []byte { return fmt.Appendf(nil, "disk-monitor: {scanInterval: %ds}\n", i+5) }

func figureTree(t *testing.T, files map[string][]byte) render.Tree {
	t.Helper()
	tr, err := render.NewTree(maps.Clone(files))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestBenchRender(t *testing.T) {
	files := figureFleet(t)
	tr, cache := figureTree(t, files), newMemory()
	start, used := time.Now(), cpuTime(t)
	res := mustRender(t, tr, cache)
	cold := time.Since(start).Seconds()
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	note("render1200_cold_seconds: it took %.1f s of processor time; load averages of the whole machine: %s", (cpuTime(t) - used).Seconds(), bytes.TrimSpace(load))
	if res.Rendered != figureUnits {
		t.Fatalf("%d units were rendered, %d were meant", res.Rendered, figureUnits)
	}
	line := fmt.Sprintf("BENCH name=render1200_cold_seconds value=%.3f unit=s", cold)
	if each := peer(t, files, res); each > 0 {
		line += fmt.Sprintf(" peer=salt-call_and_kustomize_build_for_each_unit peer_value=%.0f ratio=%.1f", each*figureUnits, each*figureUnits/cold)
	}
	_, _ = fmt.Fprintln(os.Stdout, line)

	var one []float64
	for i := range 30 {
		if short() && i == 3 {
			break
		}
		files["salt/pillar/cluster-007.sls"] = interval(1000 + i)
		start := time.Now()
		tr := figureTree(t, files)
		res := mustRender(t, tr, cache)
		one = append(one, time.Since(start).Seconds())
		if res.Rendered != 1 {
			t.Fatalf("one value changed, and %v were rendered", res.RenderedUnits)
		}
	}
	slices.Sort(one)
	note("render_one_pillar_seconds: %d samples, smallest %.3f, median %.3f, largest %.3f; the bundles of all %d units are made, 1 is rendered", len(one), one[0], one[len(one)/2], one[len(one)-1], figureUnits)
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=render_one_pillar_seconds value=%.3f unit=s\n", one[len(one)/2])
}

// cpuTime is the processor time that this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peer is what a loop of salt-call and kustomize build takes for one unit, in
// seconds; 0 without Salt. kustomize runs inside this process, which spares it the
// start of a program; Salt renders the state alone, not its files.
func peer(t *testing.T, files map[string][]byte, res *render.Result) float64 {
	t.Helper()
	saltCall := os.Getenv("HOLDFAST_SALT_CALL")
	if saltCall == "" {
		note("there is no salt-call to compare with (make salt-fidelity installs one)")
		return 0
	}
	dir := t.TempDir()
	write := func(p string, data []byte) {
		full := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for p, data := range files {
		write(p, data)
	}
	count := 12
	if short() {
		count = 2
	}
	names := slices.Sorted(maps.Keys(res.Bundles))
	var took time.Duration
	for i := range count {
		b := res.Bundles[names[i*len(names)/count]]
		a := b.Index.Addons[i%len(b.Index.Addons)]
		conf := filepath.Join(dir, "conf", b.Index.Cluster)
		write("conf/"+b.Index.Cluster+"/minion", fmt.Appendf(nil, "id: %s\nroot_dir: %s\nfile_client: local\nenable_fqdns_grains: False\nfile_roots: {base: [%s]}\npillar_roots: {base: [%s]}\n",
			b.Index.Cluster, filepath.Join(dir, "root"), filepath.Join(dir, "salt/states"), filepath.Join(dir, "salt/pillar")))
		kustomization := "resources:\n"
		for p, data := range b.Files {
			if strings.HasPrefix(p, a.Name+"/") {
				write("unit/"+b.Index.Cluster+"/"+p, data)
				kustomization += "- " + p + "\n"
			}
		}
		write("unit/"+b.Index.Cluster+"/kustomization.yaml", []byte(kustomization))
		start := time.Now()
		if _, err := hostexec.Run(context.Background(), 5*time.Minute, hostexec.Command{Path: saltCall, Args: []string{"--local", "--config-dir", conf, "--log-level", "error", "--out", "json", "state.show_low_sls", a.Name}}); err != nil {
			t.Fatal(err)
		}
		if _, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, "unit", b.Index.Cluster)); err != nil {
			t.Fatal(err)
		}
		took += time.Since(start)
	}
	note("the loop of salt-call and kustomize build was run on %d of %d units; the rest is computed", count, figureUnits)
	return took.Seconds() / float64(count)
}

// TestBenchDigest renders the shipped fleet anew again and again; the digests must
// be one. That of another machine is compared by TestGolden, whose bundles are committed.
func TestBenchDigest(t *testing.T) {
	runs, limit := 1000, 15*time.Minute
	if short() {
		runs = 10
	}
	tr, err := render.InitialTree(render.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	digests := func() string {
		var out strings.Builder
		res := mustRender(t, tr, nil)
		for _, name := range slices.Sorted(maps.Keys(res.Bundles)) {
			fmt.Fprintln(&out, name, res.Bundles[name].Index.Digest)
		}
		return out.String()
	}
	want, start, same := digests(), time.Now(), 1
	for same < runs && time.Since(start) < limit {
		if got := digests(); got != want {
			t.Fatalf("run %d gave\n%sand the first one\n%s", same+1, got, want)
		}
		if same++; same%100 == 0 {
			note("%d runs, one digest", same)
		}
	}
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=digest_stable_runs value=%d unit=runs\n", same)
}
