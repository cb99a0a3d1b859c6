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
	"net"
	"os"
	"path/filepath"
	"slices"
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

	mirrors    mirrors
	git        *semaphore.Weighted // git programs that work for clusters
	busy       busy                // what goes on for each cluster
	uploadTime time.Duration       // maxUploadTime but in tests
	stateMu    sync.Mutex          // held while the rollout's state is written; taken before mu

	mu       sync.Mutex // guards everything below
	accepted *revision
	rejected string
	errs     []string
	trouble  []string        // of the hub itself, in its last step
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

	noWayBack map[string]*noWayBackError // by cluster: where it could not go back to
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

		noWayBack:  map[string]*noWayBackError{},
		uploadTime: maxUploadTime,
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
		err := h.step(ctx)
		if err != nil && ctx.Err() == nil {
			level := slog.LevelDebug // once is enough
			if h.tell(err) {
				level = slog.LevelInfo
			}
			h.log.Log(ctx, level, "hub step failed; trying again", "error", err.Error())
			h.unlock()
			timer.Reset(time.Second)
			continue
		}
		h.tell(nil)
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

// tell lets people see what keeps the hub from going on, if anything does; true when
// that is something else than before.
func (h *Hub) tell(err error) bool {
	var lines []string
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	other := !slices.Equal(h.trouble, lines)
	h.trouble = lines
	return other
}

// Trouble is what keeps the hub itself from going on; empty when nothing does.
func (h *Hub) Trouble() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.trouble)
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
