//go:build lab

package monitoring_test

import (
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
)

// The rules are what Prometheus takes, and fire when they should.
func TestPromtool(t *testing.T) {
	for file := range shipped(t) {
		addon := filepath.Dir(file)
		t.Run(addon, func(t *testing.T) {
			dir := filepath.Join(addonsDir, addon)
			for _, args := range [][]string{
				{"check", "rules", "--lint-fatal", "alerts.yaml"},
				{"test", "rules", "alerts_test.yaml"},
			} {
				out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "promtool", Args: args, Dir: dir})
				if err != nil {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
			}
		})
	}
}
