// Package agent is the addon manager of one cluster: it fetches the bundle that
// the hub wants, applies each addon by server-side apply, prunes by inventory,
// watches health and reports. It asks the API server for nothing while nothing
// changes.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fluxcd/cli-utils/pkg/object"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/protocol"
)

const (
	settle     = 100 * time.Millisecond // changes that come together are dealt with together
	retryAfter = 2 * time.Second        // doubled after each failure of the same unit
	retryMax   = time.Minute
	driftPause = 2 * time.Second // between two corrections of one unit
	idle       = 5 * time.Minute // between two looks while nothing happens
	unitLimit  = 2 * time.Minute // for everything that is done to one unit in one look
	stuckAfter = 30 * time.Minute
)

// Agent runs one cluster's addons. All its state belongs to Run's goroutine.
type Agent struct {
	opts  Options
	log   *slog.Logger
	hub   *hubClient
	apply *applier
	watch *watcher
	store *statusStore
	plans *planner

	changed  chan string // names of addons whose objects changed
	fetched  chan fetched
	search   *searcher
	searched chan finding
	inv      inventories

	grown bool // a bundle was applied since memory was given back

	revision, digest string
	refused          string // revision
	fetchError       string
	units            map[string]*unitState
	order            []string
	deletions        []fleet.Deletion // that people approved
	removed          map[string]bool  // addons that the bundle no longer has, not wholly pruned yet
	lastReport       *protocol.Report

	passed atomic.Int64 // when Run last looked at everything, in Unix seconds
}

// Alive is an error when the agent has not looked at everything for so long that
// it must be stuck.
func (a *Agent) Alive() error {
	if since := time.Since(time.Unix(a.passed.Load(), 0)); since > stuckAfter {
		return fmt.Errorf("stuck for %s", since.Round(time.Second))
	}
	return nil
}

// unitState is what Run knows of one addon.
type unitState struct {
	unit
	applied   bool // at this digest, by this process
	done      map[object.ObjMetadata]applied
	appliedAt time.Time // first, at this digest
	lastApply time.Time
	progress  time.Time // when what is waited for last changed
	waiting   string
	checkAt   time.Time // when to look again; zero for never
	pruneAt   time.Time // when to prune what another may have left; zero for never
	failures  int
	problem   string // why the last attempt failed
	held      []string
}

// New makes an agent that works on the cluster of cfg.
func New(cfg *rest.Config, o Options, log *slog.Logger) (*Agent, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = 30 * time.Second
	// The server's own priority and fairness keeps one client from hurting others;
	// a limit here would only make 1,000 objects take a minute.
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	hub := newHubClient(o, c, log)
	plans, err := newPlanner(o, c, hub)
	if err != nil {
		return nil, err
	}
	search, err := newSearcher(cfg)
	if err != nil {
		return nil, err
	}
	if o.PruneGrace == 0 {
		o.PruneGrace = pruneGrace
	}
	a := &Agent{
		opts: o, log: log, hub: hub,
		apply:    newApplier(c),
		plans:    plans,
		store:    &statusStore{client: c, known: map[string]v1alpha1.AddonStatus{}},
		changed:  make(chan string, 1024),
		fetched:  make(chan fetched),
		search:   search,
		searched: make(chan finding),
		inv:      inventories{found: map[string][]v1alpha1.InventoryEntry{}},
		units:    map[string]*unitState{},
		removed:  map[string]bool{},
	}
	a.passed.Store(time.Now().Unix())
	watchCfg := rest.CopyConfig(cfg)
	watchCfg.Timeout = 0 // a watch has no deadline of its own; the server ends it
	a.watch, err = newWatcher(watchCfg, c.RESTMapper(), func(addon string) {
		select {
		case a.changed <- addon:
		default: // full: the next periodic look finds it
		}
	})
	return a, err
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	err := a.store.load(ctx)
	search := false
	if err == nil {
		search, err = a.beginSearch(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if search {
		go a.searchLoop(ctx)
	}
	go func() { _ = a.watch.cache.Start(ctx) }() // ends with ctx, without an error
	go a.fetchLoop(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	dirty := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-a.fetched:
			a.accept(f)
		case f := <-a.searched:
			a.takeIn(f)
		case name := <-a.changed:
			if len(dirty) == 0 { // later ones must not put it off
				timer.Reset(settle)
			}
			dirty[name] = true
			continue
		case <-timer.C:
		}
		a.pass(ctx, dirty)
		if a.grown { // what it took to apply a bundle is of no use until the next one, which may be days away
			a.grown = false
			debug.FreeOSMemory()
		}
		a.passed.Store(time.Now().Unix())
		clear(dirty)
		timer.Reset(a.nextCheck(time.Now()))
	}
}

// pass brings every addon as far as it will go now. One that fails delays no
// other, but for those that require it.
func (a *Agent) pass(ctx context.Context, dirty map[string]bool) {
	a.bringBack(ctx)
	if a.revision != "" {
		for _, name := range a.order {
			limited, cancel := context.WithTimeout(ctx, unitLimit)
			a.reconcile(limited, a.units[name], dirty[name])
			cancel()
		}
		for _, name := range slices.Sorted(maps.Keys(a.removed)) {
			if a.removed[name] && a.remove(ctx, name) {
				delete(a.removed, name)
			}
		}
	}
	a.sendReport(ctx)
}

func (a *Agent) reconcile(ctx context.Context, u *unitState, dirty bool) {
	now := time.Now()
	due := !u.checkAt.IsZero() && !now.Before(u.checkAt)
	if !u.pruneAt.IsZero() && !now.Before(u.pruneAt) {
		u.applied = false
	}
	if u.applied && !dirty && !due {
		return
	}
	if !u.applied {
		if u.failures > 0 && !due {
			return
		}
		a.applyUnit(ctx, u)
	}
	if u.applied {
		a.assessUnit(ctx, u)
	}
}

func (a *Agent) applyUnit(ctx context.Context, u *unitState) {
	if missing := a.unmet(u); missing != "" {
		u.problem = "waits for addon " + missing
		u.checkAt = time.Now().Add(retryAfter)
		a.save(ctx, u, verdict{health: v1alpha1.HealthProgressing})
		return
	}
	err := a.tryApply(ctx, u)
	if w := (*waitError)(nil); errors.As(err, &w) {
		u.failures, u.problem, u.checkAt = 0, w.what, time.Now().Add(lookAgain)
		a.save(ctx, u, verdict{health: v1alpha1.HealthProgressing})
		return
	}
	if err != nil {
		u.failures++
		u.problem = oneLine(err)
		u.checkAt = time.Now().Add(min(retryMax, retryAfter<<min(u.failures-1, 5)))
		a.log.Info("addon not applied", "addon", u.name, "digest", u.digest, "error", u.problem)
		a.save(ctx, u, verdict{health: v1alpha1.HealthDegraded})
		return
	}
	u.lastApply = time.Now()
	if u.appliedAt.IsZero() {
		u.appliedAt, u.progress = u.lastApply, u.lastApply
	}
	u.applied, u.failures, u.problem = true, 0, ""
	a.grown = true
	a.log.Info("addon applied", "addon", u.name, "version", u.version, "digest", u.digest)
}

// unmet names an addon that u requires and that is not applied.
func (a *Agent) unmet(u *unitState) string {
	for _, name := range u.requires {
		if r := a.units[name]; r == nil || !r.applied {
			return name
		}
	}
	return ""
}

// tryApply writes the inventory before anything else, so that a crash at any
// point leaves no object that nobody will prune.
func (a *Agent) tryApply(ctx context.Context, u *unitState) error {
	if a.opts.Apply == ApplyOther || a.opts.Apply == ApplyFiles {
		return a.leave(ctx, u)
	}
	current, old := inventoryOf(u.unit), a.store.get(u.name).Status.Inventory
	if len(current) > 0 { // else it would be missed at every start
		if err := a.noteAddon(ctx, u.name); err != nil {
			return err
		}
	}
	if err := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) {
		s.DesiredDigest = u.digest
		s.Inventory = union(old, current)
		if s.AppliedDigest != u.digest {
			s.Health, s.HealthySince, s.Message = v1alpha1.HealthProgressing, nil, "being applied"
		}
	}); err != nil {
		return err
	}
	done, err := a.apply.apply(ctx, u.unit)
	if err != nil {
		return err
	}
	kept, held, err := a.apply.prune(ctx, u.name, stale(u.unit, old), a.deletions)
	u.done, u.held = done, held
	if uerr := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) {
		s.Inventory = union(kept, current)
	}); uerr != nil {
		return errors.Join(err, uerr)
	}
	if err != nil {
		return err
	}
	if len(kept)+len(current) == 0 {
		a.dropAddon(ctx, u.name)
	}
	return a.watch.watch(ctx, u.unit)
}

func (a *Agent) assessUnit(ctx context.Context, u *unitState) {
	now := time.Now()
	v := a.watch.assess(ctx, u.unit, u.done, u.progress, u.lastApply, now)
	if v.health == v1alpha1.HealthProgressing && v.message != u.waiting {
		u.progress, u.waiting = now, v.message // a large DaemonSet takes its time, and says so
	}
	u.checkAt = time.Time{}
	switch {
	case v.drifted:
		// Somebody changed or deleted an object: apply again, after a pause,
		// so that two writers do not fight at full speed.
		u.applied, u.failures = false, 1
		u.checkAt = now.Add(driftPause)
	case v.unseen:
		u.checkAt = u.lastApply.Add(watchLag)
	case v.health == v1alpha1.HealthProgressing && u.healthTimeout > 0:
		u.checkAt = u.progress.Add(u.healthTimeout)
	}
	a.save(ctx, u, v)
}

// save writes the unit's AddonStatus; a failure is tried again at the next look.
func (a *Agent) save(ctx context.Context, u *unitState, v verdict) {
	message := v.message
	if u.problem != "" {
		message = u.problem
	}
	for _, h := range u.held {
		if message != "" {
			message += "; "
		}
		message += "not pruned: " + h
	}
	message = clip(message, maxText)
	now := nowMicro()
	err := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) {
		s.DesiredDigest, s.Health, s.Message = u.digest, v.health, message
		if u.problem == "" {
			s.Version, s.ObjectCount = u.version, int32(len(u.objects))
			if s.AppliedDigest != u.digest {
				s.AppliedDigest, s.AppliedAt, s.HealthySince = u.digest, now, nil
			}
		}
		if v.health != v1alpha1.HealthHealthy {
			s.HealthySince = nil
		} else if s.HealthySince == nil {
			s.HealthySince = now
		}
	})
	if err != nil {
		a.log.Info("addon status not written", "addon", u.name, "error", err.Error())
		u.checkAt = time.Now().Add(retryAfter)
	}
}

// remove prunes an addon that the bundle no longer has; true when it is gone.
func (a *Agent) remove(ctx context.Context, name string) bool {
	st := a.store.get(name)
	switch a.opts.Apply {
	case ApplyOther: // its objects are another's
		return a.store.remove(ctx, name) == nil
	case ApplyFiles:
		if since, err := a.leaveFiles(ctx, name, nil); err != nil || time.Since(since) < a.opts.PruneGrace {
			return false
		}
	}
	kept, held, err := a.apply.prune(ctx, name, st.Status.Inventory, a.deletions)
	if len(kept) == 0 && err == nil {
		if err = a.store.remove(ctx, name); err == nil {
			a.log.Info("addon removed", "addon", name)
			a.dropAddon(ctx, name)
			return true
		}
	}
	message := "removed from the fleet"
	for _, h := range held {
		message += "; not pruned: " + h
	}
	if err != nil {
		message += "; " + oneLine(err)
	}
	if uerr := a.store.update(ctx, name, func(s *v1alpha1.AddonStatusStatus) {
		s.Inventory, s.Message = kept, clip(message, maxText)
	}); uerr != nil {
		a.log.Info("addon status not written", "addon", name, "error", uerr.Error())
	}
	// Held objects wait for a person: nothing to try again until the next bundle.
	return len(held) == len(kept) && err == nil
}

// nextCheck is how long nothing needs to be looked at.
func (a *Agent) nextCheck(now time.Time) time.Duration {
	next := idle
	for _, u := range a.units {
		if !u.checkAt.IsZero() {
			next = min(next, max(settle, u.checkAt.Sub(now)))
		}
		if !u.pruneAt.IsZero() {
			next = min(next, max(settle, u.pruneAt.Sub(now)))
		}
	}
	for _, pending := range a.removed {
		if pending {
			next = min(next, retryAfter)
		}
	}
	if a.lastReport == nil || a.inv.pending() {
		next = min(next, retryAfter)
	}
	return next
}
