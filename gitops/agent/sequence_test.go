package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/env"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/agent"
	"holdfast.dev/gitops/render"
)

const (
	// sequences is how many random sequences of edits are run unless
	// HOLDFAST_SEQUENCES says otherwise.
	sequences = 40
	// perSeed is how many of them follow each other in one world.
	perSeed = 10
	// lanes is how many worlds there are at once: most of a sequence is waiting.
	lanes = 8
	// sequenceTimeout is how long one sequence may take to be well again: the agent's
	// longest pause between two tries of one addon, and a busy machine.
	sequenceTimeout = 5 * time.Minute
)

func nothing() string { return "" }

// startThrough starts an agent whose requests meet the faults, and another one when
// it ends by itself, as a kubelet does.
func (r *rig) startThrough(f *faults) {
	r.t.Helper()
	cfg := cluster.ForTest(r.t).RESTConfig()
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.set(func() { f.next = &lane{r.name, next} })
		return f
	})
	f.set(func() { f.left = -1 })
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			a, err := agent.New(cfg, r.options(), slog.New(slog.DiscardHandler))
			if err == nil {
				err = a.Run(ctx)
			}
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// awaitDeath waits until the process is dead, or sends nothing more.
func (r *rig) awaitDeath(f *faults) {
	r.t.Helper()
	const quiet = 300 * time.Millisecond
	was, since := -1, time.Now()
	r.untilWithin(sequenceTimeout, "the death of the agent", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.left != was {
			was, since = f.left, time.Now()
		}
		return f.left == 0 || time.Since(since) > quiet
	}, nothing)
}

// TestRandomSequences pushes random bundles, several at once, through API errors
// (half of them after the server did what was asked), forbidden deletions, kinds that
// go away, people who take an object's name, and processes that are killed in the
// middle of any request. While the agent is dead, its AddonStatuses are deleted. When all is well again, exactly the last bundle's objects are
// there, and nobody else's were touched.
func TestRandomSequences(t *testing.T) {
	n, first := env.Number(t, "HOLDFAST_SEQUENCES", sequences), env.Number(t, "HOLDFAST_SEED", 1)
	c := connect(t)
	did := &tally{counts: map[string]int{}, start: time.Now()}
	var next atomic.Uint64
	var wg sync.WaitGroup
	for i := range min(lanes, (n+perSeed-1)/perSeed) {
		name := fmt.Sprintf("lane%d", i)
		openLane(t, c, name)
		wg.Go(func() {
			for !t.Failed() {
				done := (next.Add(1) - 1) * perSeed
				if done >= n {
					return
				}
				seed := first + done/perSeed
				t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { play(t, c, name, seed, int(min(perSeed, n-done)), did) })
			}
		})
	}
	wg.Wait()
	t.Log(did)
}

// openLane makes a lane's namespace, and at the end of the test removes it.
func openLane(t *testing.T, c client.Client, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	wait.For(t, sequenceTimeout, "the namespace "+name, func() bool { // one of a run before may be on its way out
		return c.Create(t.Context(), ns.DeepCopy()) == nil
	})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = c.Delete(ctx, (&sequenceWorld{lane: name}).widgetCRD())
		_ = c.Delete(ctx, ns)
	})
}

// tally is what happened in all lanes.
type tally struct {
	mu     sync.Mutex
	start  time.Time
	done   int
	counts map[string]int
}

func (y *tally) add(what string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.counts[what]++
}

// sequence counts one, and tells whether it is time to say so.
func (y *tally) sequence() bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.done++
	return y.done%100 == 0
}

func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return fmt.Sprintf("%d sequences in %.0f s, with %v", y.done, time.Since(y.start).Seconds(), y.counts)
}

// play runs sequences in one world; what is done to it depends on the seed alone.
func play(t *testing.T, c client.Client, name string, seed uint64, n int, did *tally) {
	r := newRigOf(t, c, name)
	r.identity = name + "/identity-" + strconv.FormatUint(seed, 10) // its certificate is of this rig's hub
	w := &sequenceWorld{lane: name, rng: rand.New(rand.NewPCG(seed, 1)), addons: map[string]map[string]string{}, foreign: map[string]types.UID{}}
	f := &faults{rng: rand.New(rand.NewPCG(seed, 2)), left: -1}
	t.Cleanup(func() {
		if err := w.clean(r); err != nil {
			t.Error(err)
		}
	})
	w.serveWidgets(r, true)
	w.makeForeign(r)
	r.startThrough(f)
	t.Cleanup(func() { r.stop() })
	for i := range n {
		w.sequence(r, f, fmt.Sprintf("sequence %d of seed %d (again: HOLDFAST_SEED=%d HOLDFAST_SEQUENCES=%d)", i+1, seed, seed, n), did)
		if did.sequence() {
			t.Log(did)
		}
	}
}

// sequence is some pushes with what goes wrong meanwhile, and then the end of the trouble.
func (w *sequenceWorld) sequence(r *rig, f *faults, name string, did *tally) {
	r.t.Helper()
	var story []string
	fault := func(what string) { story = append(story, what); did.add(what) }
	if w.rng.IntN(25) == 0 {
		fault("kind gone or back")
		w.serveWidgets(r, !w.widgets)
	}
	if w.rng.IntN(6) == 0 {
		w.giveBack(r)
	}
	if w.rng.IntN(3) == 0 {
		fault("API errors")
		n := 1 + w.rng.IntN(30)
		f.set(func() { f.errors = n })
	}
	if w.rng.IntN(3) == 0 {
		fault("forbidden deletions")
		f.set(func() { f.deny = true })
	}
	for range 1 + w.rng.IntN(3) {
		w.edit()
		if w.rng.IntN(2) > 0 {
			r.hub.want(w.bundle(r.t))
			continue
		}
		fault("killed")
		taken := ""
		if w.rng.IntN(4) == 0 {
			taken = w.drop()
		}
		f.set(func() { f.left = 1 + f.rng.IntN(60) })
		r.hub.want(w.bundle(r.t))
		r.awaitDeath(f)
		r.stop()
		if taken != "" {
			fault("name taken")
			w.replace(r, taken)
		}
		if w.rng.IntN(4) == 0 && w.forget(r) {
			fault("AddonStatus deleted")
		}
		r.startThrough(f)
	}
	f.set(func() { f.errors, f.deny = 0, false })
	if w.rng.IntN(8) > 0 {
		w.edit() // what failed has a reason to be tried at once
	}
	last := w.bundle(r.t)
	r.hub.want(last)
	idx, err := render.ParseIndex(render.BundleFile, last[render.BundleFile])
	if err != nil {
		r.t.Fatal(err)
	}
	var got map[string]map[string]string
	name += " (" + strings.Join(story, ", ") + ")"
	r.untilWithin(sequenceTimeout, fmt.Sprintf("%s: wanted %v", name, w.addons), func() bool {
		if !r.settledAt(idx) {
			return false
		}
		got, err = w.live(r, name)
		return err == nil && maps.EqualFunc(got, w.addons, maps.Equal)
	}, func() string { return fmt.Sprintf("there is %v; %v", got, err) })
	w.checkInventories(r, name)
}

// checkInventories compares the inventories with what is wanted: what is missing in
// one would never be pruned.
func (w *sequenceWorld) checkInventories(r *rig, name string) {
	r.t.Helper()
	var said string
	r.untilWithin(sequenceTimeout, name+": the inventories", func() bool {
		list, err := w.statuses(r.t.Context(), r.c)
		said = fmt.Sprintf("there are %d statuses, %d addons; %v", len(list), len(w.addons), err)
		for _, st := range list {
			if len(st.Status.Inventory) != len(w.addons[st.Name]) {
				said = fmt.Sprintf("%s has the inventory %v, wanted are %v", st.Name, st.Status.Inventory, w.addons[st.Name])
				return false
			}
		}
		return err == nil && len(list) == len(w.addons)
	}, func() string { return said })
}
