package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast.dev/e2e/env"
	"holdfast.dev/gitops/rollout"
)

// schedules is how many random schedules are run unless HOLDFAST_SCHEDULES says
// otherwise; one takes 3 ms of a processor. HOLDFAST_SEED is that of the first.
const schedules = 5_000

// TestRandomSchedules runs large fleets through random pushes, failures,
// outages, freezes and kills, checks every decision against the rules, and asks
// at the end of each schedule whether the rollout still ends.
func TestRandomSchedules(t *testing.T) {
	n, first := env.Number(t, "HOLDFAST_SCHEDULES", schedules), env.Number(t, "HOLDFAST_SEED", 1)
	// A schedule holds little memory and makes much garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	var next, clusters atomic.Uint64
	var decisions, backs atomic.Int64
	var failed sync.Once
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				seed := first + i - 1
				w, err := schedule(seed)
				clusters.Add(uint64(len(w.members)))
				decisions.Add(int64(w.decisions))
				if w.wentBack {
					backs.Add(1)
				}
				if err != nil {
					failed.Do(func() { t.Errorf("%v (again: HOLDFAST_SEED=%d HOLDFAST_SCHEDULES=1)\n%.4000s", err, seed, w) })
					next.Store(n) // the others end
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d schedules, %d clusters, %d decisions, %d schedules with a rollback", n, clusters.Load(), decisions.Load(), backs.Load())
	if n >= schedules && (backs.Load() < int64(n/100) || backs.Load() > int64(n*99/100)) {
		t.Errorf("%d of %d schedules had a rollback: they no longer test what they should", backs.Load(), n)
	}
}

// randomFleet is mostly fifty clusters, sometimes hundreds, rarely a thousand.
func randomFleet(rng *rand.Rand) *fleetModel {
	size := 50
	switch p := rng.IntN(2000); {
	case p == 0:
		size = 1000
	case p < 20:
		size = 100 + rng.IntN(400)
	}
	var rings []rollout.Ring
	for n := 0; n < size; {
		count := min(size-n, 1+rng.IntN(max(2, size/3)))
		if n == 0 {
			count = min(count, 3)
		}
		r := rollout.Ring{Name: fmt.Sprint("r", len(rings)), Soak: tick * time.Duration(rng.IntN(3)), Timeout: tick * time.Duration(2+rng.IntN(4)),
			MaxUnavailable: 1 + rng.IntN(count), Rollback: rng.IntN(3) > 0, Approval: rng.IntN(6) == 0}
		if rng.IntN(6) == 0 {
			r.Windows = everyOtherHour()
		}
		if rng.IntN(2) == 0 {
			r.RollbackAfter = tick
		}
		for i := range count {
			r.Clusters = append(r.Clusters, fmt.Sprintf("c%d", n+i))
		}
		n += count
		rings = append(rings, r)
	}
	return newFleetModel(rings)
}

// schedule plays one; what happens depends on the seed alone.
func schedule(seed uint64) (*world, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	f := randomFleet(rng)
	w := newWorld(f, budget{})
	sickness, outages := rng.IntN(4), rng.IntN(3)
	refusals := rng.IntN(3)
	for range 8 + rng.IntN(20) {
		w.mute = rng.IntN(6) == 0
		switch p := rng.IntN(100); {
		case p < 12:
			w.push(1 + rng.IntN(6))
		case p < 15:
			w.frozen = !w.frozen
		case p < 20:
			w.approve(rng.IntN(len(f.rings)))
		case p < 28:
			w.restart()
		}
		for i := range w.members {
			m := &w.members[i]
			p := rng.IntN(200)
			switch {
			case p < outages:
				w.setUp(i, !m.up)
			case p >= 190 && p < 190+refusals:
				m.refuses = 1 << (1 + rng.IntN(6))
			case p == 195:
				m.refuses = 0
			case p == 196 && m.published != 0:
				w.lose(i)
			case p == 197 && m.published != 0 && m.history < maxHistories-1:
				w.forget(i)
			case p >= 180 && p < 190 && m.lost && !m.forgotten:
				w.signAgain(i)
			case !m.up && p < 50:
				w.setUp(i, true)
			case !m.up || p > 140:
			case m.cond == progressing && m.taken > 1 && p < 100+sickness && p >= 100:
				w.work(i, failing)
			case !m.current || !m.heardCurrent || m.cond == progressing || m.cond == failing && p < 20:
				w.work(i, well)
			}
		}
		kill := -1
		if rng.IntN(12) == 0 {
			kill = rng.IntN(10)
		}
		if _, err := w.hub(kill); err != nil {
			return w, err
		}
		if rng.IntN(2) == 0 {
			w.tick()
			if _, err := w.hub(-1); err != nil {
				return w, err
			}
		}
	}
	return w, w.finish(rng.IntN(2) == 0, nil)
}
