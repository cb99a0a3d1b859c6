package monitor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
)

// everUnknown notes whether a status with an Unknown disk was ever written.
type everUnknown struct {
	*memory
	seen atomic.Bool
}

func (e *everUnknown) UpdateStatus(ctx context.Context, n *v1alpha1.ComputeNode) (*v1alpha1.ComputeNode, error) {
	if slices.ContainsFunc(n.Status.Disks, func(d v1alpha1.Disk) bool { return d.State == v1alpha1.DiskUnknown }) {
		e.seen.Store(true)
	}
	return e.memory.UpdateStatus(ctx, n)
}

// One look that fails may have come upon what was changing.
func TestOneFailedLookIsNotBelieved(t *testing.T) {
	h, api := newHost(t), &everUnknown{memory: newMemory()}
	h.plug("loop1", "a")
	h.prepare("a")
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	sys, away := filepath.Join(h.dir, "sys"), filepath.Join(h.dir, "away")
	for rounds, tries := 0, 0; rounds < 3; tries++ {
		if tries == 30 {
			t.Fatal("this machine is too slow to end a failure before the second look")
		}
		errs := testutil.ToFloat64(m.metrics.scanErrors)
		if err := os.Rename(sys, away); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		wait.For(t, 10*time.Second, "a failed look", func() bool { return testutil.ToFloat64(m.metrics.scanErrors) > errs })
		if err := os.Rename(away, sys); err != nil {
			t.Fatal(err)
		}
		slow := time.Since(start) > secondLook/2 // there may have been a second failure
		looks := testutil.ToFloat64(m.metrics.scans)
		wait.For(t, 10*time.Second, "the next looks", func() bool { return testutil.ToFloat64(m.metrics.scans) > looks+2 })
		if slow {
			api.seen.Store(false)
			continue
		}
		if rounds++; api.seen.Load() {
			t.Fatal("the disk was Unknown after one look that failed")
		}
	}
}
