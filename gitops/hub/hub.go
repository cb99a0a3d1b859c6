// Package hub watches a fleet's bare git repository, renders each accepted
// commit and publishes it ring by ring as one branch a cluster, rendered/<cluster>.
// What it must not forget lies in the repository: the accepted commit
// (refs/holdfast/accepted), the branches and the rollout's state. Which commits of
// the branches are its own lies beside its keys. It may be killed at any moment.
package hub

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/semaphore"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/rollout"
	"holdfast.dev/gitops/signature"
	"holdfast.dev/gitops/trust"
)

// AcceptedRef names the newest commit that passed every check.
const AcceptedRef = "refs/holdfast/accepted"

// BranchPrefix is what the published branches begin with.
const BranchPrefix = "rendered/"

// Options are the hub's settings.
type Options struct {
	Repo    string // bare repository
	Branch  string // the fleet's branch
	DataDir string // trust store and render cache
	Listen  string
	// TLS is a certificate that is given; by default it is of the hub's own authority.
	TLS trust.Given
	// Signers, when set, is a file with the keys of which every commit of the fleet's branch, approval and retry must carry a signature.
	Signers string
	Hook    bool // install the pre-receive hook
}

// BindFlags binds the options to flags.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Repo, "repo", "", "the fleet's bare git repository")
	fs.StringVar(&o.Branch, "branch", "main", "branch that people push")
	fs.StringVar(&o.DataDir, "data-dir", "", "directory for the certificate authority, the identities and the render cache")
	fs.StringVar(&o.Listen, "listen", "127.0.0.1:9812", "address of the API for agents and people")
	fs.StringVar(&o.TLS.Cert, "tls-cert", "", "PEM certificate of the API, instead of one of the hub's own authority")
	fs.StringVar(&o.TLS.Key, "tls-key", "", "PEM key of --tls-cert")
	fs.StringVar(&o.TLS.CA, "tls-ca", "", "PEM certificates of the authorities of --tls-cert, which agents are to trust")
	fs.StringVar(&o.Signers, "allowed-signers", "", "file with the SSH keys of which one must have signed each commit, approval and retry that is pushed (ssh-keygen(1), ALLOWED SIGNERS); empty for taking them unsigned")
	fs.BoolVar(&o.Hook, "install-hook", true, "install a pre-receive hook that refuses bad pushes")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if o.Repo == "" || o.DataDir == "" {
		return errors.New("--repo and --data-dir must be given")
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return fmt.Errorf("--listen %q is not host:port", o.Listen)
	}
	if given := o.TLS; given != (trust.Given{}) && (given.Cert == "" || given.Key == "" || given.CA == "") {
		return errors.New("--tls-cert, --tls-key and --tls-ca go together")
	}
	return nil
}

// Hub is one fleet's hub.
type Hub struct {
	opts  Options
	log   *slog.Logger
	repo  *gitrepo.Repo
	cache render.Cache
	trust *trust.Store
	tls   *trust.Server
	own   *signature.Signers // the hub itself
	now   func() time.Time
	since time.Time // when it began to listen
	wake  chan struct{}
	lock  *os.File // one hub a repository

	unheeded map[string]bool // tags of people that Run has told are not signed

	mirrors mirrors
	git     *semaphore.Weighted // git programs that work for clusters
	busy    busy                // what goes on for each cluster
	stateMu sync.Mutex          // held while the rollout's state is written; taken before mu

	mu       sync.Mutex // guards everything below
	accepted *revision
	rejected string
	errs     []string
	heads    map[string]head // by cluster
	reports  map[string]heard
	contacts map[string]time.Time // when each agent last asked or said anything
	arrived  map[string]time.Time // when it came, or came back after a silence
	acts     []rollout.Act        // of people
	actsOf   *revision            // that they are about
	state    *stored              // nil until it is read
	takers   []string             // clusters that wait until it is noted that they take their bundles
	decision rollout.Decision
	turns    map[string]error  // by cluster: what came of publishing to it last
	plans    map[string]*plan  // of people, by id
	trials   map[string]*trial // the hub's own, by cluster
	changed  chan struct{}     // closed and replaced when heads change or a plan is asked for
}

// revision is an accepted commit with what it renders to.
type revision struct {
	commit string
	result *render.Result
	rings  []rollout.Ring
	effort effort
}

// head is a rendered branch. tip is its newest commit, whoever wrote it; commit is
// that same commit if it is this hub's, digest what it has. Else both are empty, and
// nothing of it is served. unread says why that is not known yet.
type head struct {
	tip, commit, digest string
	at                  time.Time
	unread              string
}

// New opens the repository.
func New(ctx context.Context, o Options, log *slog.Logger) (*Hub, error) {
	repo, err := gitrepo.Open(ctx, o.Repo, os.Environ(), false)
	if err != nil {
		return nil, err
	}
	switch bare, err := repo.Bare(ctx); {
	case err != nil:
		return nil, err
	case !bare:
		return nil, fmt.Errorf("open git repository %s: it has a work tree; the hub needs a bare one (git init --bare)", o.Repo)
	}
	dataDir, err := filepath.Abs(o.DataDir) // git works elsewhere
	if err != nil {
		return nil, err
	}
	store, err := trust.Open(o.DataDir, time.Now)
	if err != nil {
		return nil, err
	}
	own, err := signWith(repo, store)
	if err != nil {
		return nil, err
	}
	lock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	h := &Hub{
		lock: lock,
		opts: o, log: log, repo: repo, now: time.Now,
		cache:    newCache(o),
		trust:    store,
		own:      own,
		tls:      store.Server(o.TLS),
		wake:     make(chan struct{}, 1),
		heads:    map[string]head{},
		reports:  map[string]heard{},
		contacts: map[string]time.Time{},
		arrived:  map[string]time.Time{},
		plans:    map[string]*plan{},
		unheeded: map[string]bool{},
		trials:   map[string]*trial{},
		since:    time.Now(),
		changed:  make(chan struct{}),
		git:      semaphore.NewWeighted(maxGit),
	}
	h.mirrors = mirrors{dir: filepath.Join(dataDir, "git"), bring: h.mirror}
	return h, nil
}

// lockRepo keeps a second hub away: both would publish, each by its own memory.
// The kernel gives the lock back however its holder ends.
func lockRepo(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "holdfast-hub.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock repository: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock repository %s: another hub works on it: %w", dir, err), f.Close())
	}
	return f, nil
}

// Run works until ctx ends; then another hub may take over.
func (h *Hub) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch repository: %w", err)
	}
	defer func() { _ = errors.Join(w.Close(), h.lock.Close()) }() // nothing is lost
	// A push renames main.lock to main, or packs it away.
	branch := filepath.Join(h.repo.Dir(), "refs", "heads", filepath.FromSlash(h.opts.Branch))
	if err := os.MkdirAll(filepath.Dir(branch), 0o755); err != nil {
		return fmt.Errorf("watch repository: %w", err)
	}
	tags := filepath.Join(h.repo.Dir(), "refs", "tags") // where people's approvals arrive
	if err := os.MkdirAll(tags, 0o755); err != nil {
		return fmt.Errorf("watch repository: %w", err)
	}
	for _, dir := range []string{h.repo.Dir(), filepath.Dir(branch), tags} {
		if err := w.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	const floor = 30 * time.Second // should a notice be lost
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-w.Events:
			if base := filepath.Base(ev.Name); base != filepath.Base(h.opts.Branch) && base != "packed-refs" && (filepath.Dir(ev.Name) != tags || strings.HasSuffix(base, ".lock")) {
				continue
			}
		case err := <-w.Errors:
			h.log.Info("repository watch failed; looking at once", "error", err.Error())
		case <-h.wake:
		case <-timer.C:
		}
		if err := h.step(ctx); err != nil && ctx.Err() == nil {
			h.log.Info("hub step failed; trying again", "error", err.Error())
			h.unlock()
			timer.Reset(time.Second)
			continue
		}
		h.log.Debug("hub step done")
		next := floor
		h.mu.Lock()
		if at := h.decision.Recheck; !at.IsZero() {
			next = min(next, max(0, at.Sub(h.now())))
		}
		if at := h.nextTrial(); !at.IsZero() {
			next = min(next, max(0, at.Sub(h.now())))
		}
		h.mu.Unlock()
		timer.Reset(next)
	}
}

// unlock removes what a power cut left on the refs that are the hub's alone.
func (h *Hub) unlock() {
	locks, err := h.repo.RemoveLocks("heads/"+BranchPrefix, "holdfast")
	if err != nil {
		h.log.Info("locks not looked at", "error", err.Error())
	}
	for _, lock := range locks {
		h.log.Info("lock of a git that was killed removed", "lock", lock)
	}
}

// step takes in a new commit if there is one, then publishes what may be published. A
// commit or an approval that cannot be looked at keeps no sick cluster from going back.
func (h *Hub) step(ctx context.Context) error {
	taken := h.takeCommit(ctx)
	return errors.Join(taken, h.goOn(ctx))
}

func (h *Hub) goOn(ctx context.Context) error {
	if err := h.readHeads(ctx); err != nil {
		return err
	}
	if err := h.mendHeads(ctx); err != nil {
		return err
	}
	if err := h.readState(ctx); err != nil {
		return err
	}
	read := h.readActs(ctx)
	return errors.Join(read, h.publish(ctx))
}

func (h *Hub) takeCommit(ctx context.Context) error {
	commit, err := h.repo.Head(ctx, "refs/heads/"+h.opts.Branch)
	if errors.Is(err, gitrepo.ErrNoRef) {
		return nil
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	known := h.rejected == commit || (h.rejected == "" && h.accepted != nil && h.accepted.commit == commit)
	h.mu.Unlock()
	if known {
		return nil
	}
	base, err := h.repo.Head(ctx, AcceptedRef)
	if err != nil && !errors.Is(err, gitrepo.ErrNoRef) {
		return err
	}
	rev, err := h.renderCommit(ctx, base, commit)
	if err != nil {
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return err // the hub's own trouble, not the commit's
		}
		h.mu.Lock()
		h.rejected, h.errs = commit, refused.Lines()
		h.mu.Unlock()
		h.log.Info("commit refused; the fleet stays at the one before", "commit", commit, "error", err.Error())
		if base == "" || base == commit {
			return nil
		}
		return h.resume(ctx, base)
	}
	if base != commit {
		if err := h.repo.SetRef(ctx, AcceptedRef, commit, base); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.accepted, h.rejected, h.errs = rev, "", nil
	h.mu.Unlock()
	h.log.Info("commit accepted", "commit", commit, "rendered", rev.effort.Rendered, "cached", rev.effort.Cached, "seconds", rev.effort.Seconds)
	return nil
}

// resume goes on with the accepted commit after a restart onto a refused one.
func (h *Hub) resume(ctx context.Context, base string) error {
	h.mu.Lock()
	have := h.accepted != nil
	h.mu.Unlock()
	if have {
		return nil
	}
	rev, err := h.renderCommit(ctx, base, base)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.accepted = rev
	h.mu.Unlock()
	return nil
}

func (h *Hub) renderCommit(ctx context.Context, base, commit string) (*revision, error) {
	start := time.Now()
	if err := checkSigned(ctx, h.repo, h.opts.Signers, base, commit); err != nil {
		return nil, err
	}
	res, err := Verify(ctx, h.repo, base, commit, h.cache)
	if err != nil {
		return nil, err
	}
	rev := &revision{commit: commit, result: res, effort: effortOf(res, start)}
	if res.CacheError != nil {
		h.log.Info("render cache of no use; every unit is rendered anew", "error", res.CacheError.Error())
	}
	if hook, ok := takeEffort(h.opts.DataDir, commit); ok {
		rev.effort = hook
	}
	for _, r := range res.Fleet.Rings {
		rev.rings = append(rev.rings, rollout.Ring{Name: r.Name, Clusters: r.Clusters, Soak: r.Soak, MaxUnavailable: r.MaxUnavailable, Timeout: r.Timeout,
			Windows: r.Windows, Freezes: r.Freezes, Approval: r.Approval, Rollback: r.Rollback, RollbackAfter: r.RollbackAfter})
	}
	return rev, nil
}

func (h *Hub) readHeads(ctx context.Context) error {
	branches, err := h.repo.Branches(ctx, BranchPrefix)
	if err != nil {
		return err
	}
	heads := map[string]head{}
	for _, b := range branches {
		cluster := strings.TrimPrefix(b.Name, BranchPrefix)
		h.mu.Lock()
		known := h.heads[cluster]
		h.mu.Unlock()
		if known.tip == b.Commit && known.unread == "" {
			heads[cluster] = known
			continue
		}
		hd, err := h.readHead(ctx, cluster, b.Commit)
		var foreign *foreignError
		switch { // one bad branch stops no other
		case errors.As(err, &foreign):
			h.log.Info("rendered branch is no bundle of this hub", "cluster", cluster, "commit", b.Commit, "error", err.Error())
		case err != nil: // that may pass
			if hd.unread = err.Error(); hd.unread != known.unread {
				h.log.Info("rendered branch not read; looking again", "cluster", cluster, "commit", b.Commit, "error", hd.unread)
			}
		default:
			if err := h.remember(cluster, b.Commit); err != nil {
				return err
			}
			hd.commit = b.Commit
		}
		heads[cluster] = hd
	}
	h.setHeads(heads)
	return nil
}

// readHead reads what a branch ends with. Its error is a [foreignError] when that was
// read and is not this hub's, or is not what it published last.
func (h *Hub) readHead(ctx context.Context, cluster, tip string) (head, error) {
	at, err := h.published(ctx, tip)
	hd := head{tip: tip, at: at}
	if err != nil {
		return hd, err
	}
	digest, err := h.digestOf(ctx, cluster, tip)
	if err != nil {
		return hd, err
	}
	last, err := h.remembered(cluster)
	if err != nil {
		return hd, err
	}
	if last != "" { // an old commit of the hub's carries its signature for ever
		follows, err := h.repo.Follows(ctx, tip, last)
		if err != nil {
			return hd, err
		}
		if !follows {
			return hd, &foreignError{fmt.Errorf("it does not come after %.12s, which was published last", last)}
		}
	}
	hd.digest = digest
	return hd, nil
}

// digestOf is the digest of the bundle that a commit has for the cluster.
func (h *Hub) digestOf(ctx context.Context, cluster, commit string) (string, error) {
	data, err := h.repo.ReadPath(ctx, commit, render.BundleFile)
	if err != nil {
		return "", err
	}
	idx, err := render.ParseIndex(fmt.Sprintf("%.12s:%s", commit, render.BundleFile), data)
	if err != nil {
		return "", &foreignError{err}
	}
	if idx.Cluster != cluster {
		return "", &foreignError{fmt.Errorf("the bundle of %.12s is for cluster %q", commit, idx.Cluster)}
	}
	return idx.Digest, nil
}

func (h *Hub) setHeads(heads map[string]head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !maps.Equal(h.heads, heads) {
		h.heads = heads
		h.announce()
	}
}

// announce lets the agents that wait for a revision look again; the caller holds h.mu.
func (h *Hub) announce() {
	close(h.changed)
	h.changed = make(chan struct{})
}
