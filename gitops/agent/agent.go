// Package agent is the addon manager of one cluster: it fetches the bundle that
// the hub wants, applies each addon by server-side apply, prunes by inventory,
// watches health and reports. It asks the API server for nothing while nothing
// changes.
package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
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

// Options are the agent's settings.
type Options struct {
	Cluster   string // name in fleet.yaml
	Hub       string // base URL
	HubCAFile string // PEM: the authorities to know the hub by when joining
	TokenFile string // of the join token
	// SignersFile, when set, has the keys of which every bundle must carry a signature (ssh-keygen(1), ALLOWED SIGNERS).
	SignersFile string
	Identity    string // namespace/name of the Secret with the credential that joining gave
	// Apply is how objects come into the cluster: ApplyAgent (also when empty),
	// ApplyOther or ApplyFiles, then below AddonsDir. PruneGrace is how long after a
	// change of the files nothing is pruned; zero means 3 minutes.
	Apply, AddonsDir string
	PruneGrace       time.Duration
}

// BindFlags binds the options to flags.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Cluster, "cluster", "", "name of this cluster in fleet.yaml")
	fs.StringVar(&o.Hub, "hub", "", "base URL of the hub")
	fs.StringVar(&o.HubCAFile, "hub-ca-file", "/var/run/secrets/holdfast/ca.crt", "PEM file with the hub's certificate authorities, from \"holdfast join\"")
	fs.StringVar(&o.TokenFile, "token-file", "/var/run/secrets/holdfast/token", "file with the token from \"holdfast join\", good for the first certificate")
	fs.StringVar(&o.SignersFile, "allowed-signers-file", "", "file with the SSH keys of which one must have signed a bundle (ssh-keygen(1), ALLOWED SIGNERS); empty for taking bundles unsigned")
	fs.StringVar(&o.Identity, "identity-secret", "holdfast-system/holdfast-agent-identity", "namespace/name of the Secret in which the agent keeps its certificate for the hub")
	fs.StringVar(&o.Apply, "apply", ApplyAgent, "who applies the bundle: agent; files (kube-addon-manager, from --addons-dir); other (Flux, Argo CD; the agent only looks)")
	fs.StringVar(&o.AddonsDir, "addons-dir", "/etc/kubernetes/addons", "directory of kube-addon-manager, for --apply=files")
	fs.DurationVar(&o.PruneGrace, "prune-grace", pruneGrace, "for --apply=files: longer than one pass of kube-addon-manager takes")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if o.Cluster == "" {
		return errors.New("--cluster is empty; give the cluster's name in fleet.yaml")
	}
	if !slices.Contains([]string{"", ApplyAgent, ApplyOther, ApplyFiles}, o.Apply) {
		return fmt.Errorf("--apply=%s is not known; give agent, files or other", o.Apply)
	}
	if u, err := url.Parse(o.Hub); err != nil || u.Host == "" || u.Scheme != "https" {
		return fmt.Errorf("--hub %q is not an https URL", o.Hub)
	}
	if namespace, name, ok := strings.Cut(o.Identity, "/"); !ok || namespace == "" || name == "" {
		return fmt.Errorf("--identity-secret %q is not namespace/name", o.Identity)
	}
	return nil
}

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

	changed chan string // names of addons whose objects changed
	fetched chan fetched

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
	if o.PruneGrace == 0 {
		o.PruneGrace = pruneGrace
	}
	a := &Agent{
		opts: o, log: log, hub: hub,
		apply:   newApplier(c),
		plans:   plans,
		store:   &statusStore{client: c, known: map[string]v1alpha1.AddonStatus{}},
		changed: make(chan string, 1024),
		fetched: make(chan fetched),
		units:   map[string]*unitState{},
		removed: map[string]bool{},
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
	if err := a.store.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
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
		case name := <-a.changed:
			if len(dirty) == 0 { // later ones must not put it off
				timer.Reset(settle)
			}
			dirty[name] = true
			continue
		case <-timer.C:
		}
		a.pass(ctx, dirty)
		a.passed.Store(time.Now().Unix())
		clear(dirty)
		timer.Reset(a.nextCheck(time.Now()))
	}
}

// pass brings every addon as far as it will go now. One that fails delays no
// other, but for those that require it.
func (a *Agent) pass(ctx context.Context, dirty map[string]bool) {
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
	current := inventoryOf(u.unit)
	st := a.store.get(u.name)
	old := st.Status.Inventory
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
	kept, held, err := a.apply.prune(ctx, u.name, without(old, current), a.deletions)
	u.done, u.held = done, held
	if uerr := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) {
		s.Inventory = union(kept, current)
	}); uerr != nil {
		return errors.Join(err, uerr)
	}
	if err != nil {
		return err
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
	if a.lastReport == nil {
		next = min(next, retryAfter)
	}
	return next
}
