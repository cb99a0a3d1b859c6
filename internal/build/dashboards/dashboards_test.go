package dashboards_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/build/dashboards"
)

// The addon has what this package writes: update it with make generate.
func TestFilesAreGenerated(t *testing.T) {
	const dir = "../../../addons/disk-monitor/dashboards"
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := dashboards.Disks()
	if len(files) != len(all) {
		t.Errorf("%d files of %d dashboards", len(files), len(all))
	}
	for _, d := range all {
		want, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, d.UID+".json"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v): run make generate", d.UID, err)
		}
	}
}

// Grafana shows panels that overlap, or lie outside, in a heap.
func TestPanelsHaveRoom(t *testing.T) {
	for _, d := range dashboards.Disks() {
		data, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Panels []struct {
				Title   string
				GridPos struct{ X, Y, W, H int }
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(data, &board); err != nil {
			t.Fatal(err)
		}
		taken := map[[2]int]string{}
		for _, p := range board.Panels {
			g := p.GridPos
			if g.X+g.W > 24 || g.W <= 0 || len(p.Targets) == 0 {
				t.Errorf("%s, %s: place %+v, %d queries", d.UID, p.Title, g, len(p.Targets))
			}
			for x := g.X; x < g.X+g.W; x++ {
				if other, ok := taken[[2]int{x, g.Y}]; ok {
					t.Errorf("%s: %s lies on %s", d.UID, p.Title, other)
				}
				taken[[2]int{x, g.Y}] = p.Title
			}
		}
	}
}
