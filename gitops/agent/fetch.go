package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
)

const (
	refusedAgain    = time.Minute // doubled after each further refusal of the same revision
	refusedAgainMax = 30 * time.Minute

	// What an agent takes, which has 256 MiB of memory and keeps its inventory in
	// objects of at most 1.5 MiB.
	maxBundle  = 32 << 20 // bytes of all files
	maxObjects = 10_000
)

// fetched is a new bundle, or the hub's wish to hear a report.
type fetched struct {
	report           bool
	revision, digest string
	signers          string // hash of the keys by which it was judged
	units            []unit
	deletions        []fleet.Deletion
	err              error
}

// refusal is that of the newest revision. A revision is a commit: the same bundle
// under another signature is another one, and is looked at when the hub says so. The
// same one is looked at again when the trusted keys are others, and now and then.
type refusal struct {
	revision, signers string
	times             int
	again             time.Time
}

func (r refusal) next(f fetched, now time.Time) refusal {
	if f.err == nil {
		return refusal{}
	}
	n := refusal{revision: f.revision, signers: f.signers}
	if r.revision == f.revision {
		n.times = r.times + 1
	}
	n.again = now.Add(min(refusedAgainMax, refusedAgain<<min(n.times, 5)))
	return n
}

func (r refusal) due(signers string, now time.Time) bool {
	return r.revision != "" && (signers != r.signers || !now.Before(r.again))
}

// signers names the trusted keys by their hash.
func (a *Agent) signers() string {
	if a.opts.SignersFile == "" {
		return ""
	}
	data, err := os.ReadFile(a.opts.SignersFile)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fetchLoop brings each new revision to Run.
func (a *Agent) fetchLoop(ctx context.Context) {
	after, pause := "", retryAfter
	var refused refusal
	for ctx.Err() == nil {
		f, err := a.fetch(ctx, after, refused)
		if err != nil {
			a.log.Info("hub does not answer; the cluster stays as it is", "error", err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, retryMax)
			continue
		}
		pause = retryAfter
		if f == nil {
			continue
		}
		select {
		case a.fetched <- *f:
			if !f.report {
				after, refused = f.revision, refused.next(*f, time.Now())
				continue
			}
			select { // a report that does not arrive must not be asked for at full speed
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		case <-ctx.Done():
		}
	}
}

// fetch returns nil when there is nothing new. A bundle that cannot be
// verified is a result too: it is reported, and not asked for again until that is due.
func (a *Agent) fetch(ctx context.Context, after string, refused refusal) (*fetched, error) {
	d, err := a.hub.desired(ctx, after)
	if err == nil && d.Plan != "" {
		err = a.plans.take(ctx, d.Plan, d.PlanChanged, a.log)
	}
	signers := a.signers() // before they are used: a change meanwhile is another one
	switch {
	case err != nil:
		return nil, err
	case d.Revision != "" && (d.Revision != after || refused.due(signers, time.Now())):
	case d.Unheard:
		return &fetched{report: true}, nil
	default:
		return nil, nil
	}
	f := &fetched{revision: d.Revision, signers: signers}
	files, err := a.hub.bundle(ctx, d.Revision)
	if errors.Is(err, errTooLarge) {
		f.err = err
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	var idx render.Index
	idx, f.units, f.err = parseBundle(a.opts.Cluster, files)
	f.digest, f.deletions = idx.Digest, idx.Deletions
	if f.err == nil && a.opts.SignersFile != "" {
		return f, a.verify(ctx, f, files)
	}
	return f, nil
}

// verify makes an error of f.err when the bundle is not signed as it must be. Only
// what may be otherwise at the next try is returned.
func (a *Agent) verify(ctx context.Context, f *fetched, files map[string][]byte) error {
	raw, err := a.hub.commit(ctx, f.revision)
	if err != nil {
		return err
	}
	at, err := checkSigned(a.opts.SignersFile, a.opts.Cluster, f.revision, f.digest, raw, files)
	if err != nil {
		f.err = err
		return nil
	}
	err = a.hub.identity.advance(ctx, f.revision, at)
	if errors.Is(err, errOlder) {
		f.err = err
		return nil
	}
	return err
}

func (a *Agent) accept(f fetched) {
	a.lastReport = nil // say something about every revision
	if f.report {
		return
	}
	if f.err != nil {
		a.log.Info("bundle refused; the cluster stays as it is", "revision", f.revision, "error", f.err.Error())
		a.refused, a.fetchError = f.revision, fmt.Sprintf("revision %.12s: %s", f.revision, oneLine(f.err))
		return
	}
	a.log.Info("bundle accepted", "revision", f.revision, "digest", f.digest)
	a.revision, a.digest, a.refused, a.fetchError = f.revision, f.digest, "", ""
	old := a.units
	a.units, a.order = map[string]*unitState{}, nil
	for _, u := range f.units {
		a.order = append(a.order, u.name)
		if was, ok := old[u.name]; ok && was.digest == u.digest {
			was.unit = u
			if len(was.held) > 0 && !slices.Equal(a.deletions, f.deletions) {
				was.applied, was.failures = false, 0 // what is held may go now
			}
			a.units[u.name] = was
			continue
		}
		a.units[u.name] = &unitState{unit: u}
	}
	a.deletions = f.deletions
	for name := range a.store.known {
		a.removed[name] = a.units[name] == nil
	}
}

// parseBundle verifies a bundle and takes it apart. A bundle of another
// cluster, one without addons and one that is not whole are refused: what it
// does not name would be pruned.
func parseBundle(cluster string, files map[string][]byte) (idx render.Index, units []unit, err error) {
	size := 0
	for _, data := range files {
		size += len(data)
	}
	if size > maxBundle || len(files)-1 > maxObjects {
		return render.Index{}, nil, fmt.Errorf("the bundle has %d objects of %d bytes, and an agent takes %d of %d; give the cluster fewer or smaller ones", len(files)-1, size, maxObjects, maxBundle)
	}
	b, err := render.ParseBundle(files)
	if err != nil {
		return render.Index{}, nil, err
	}
	if b.Index.Cluster != cluster {
		return render.Index{}, nil, fmt.Errorf("the bundle is for cluster %q, this is %q", b.Index.Cluster, cluster)
	}
	if len(b.Index.Addons) == 0 {
		return render.Index{}, nil, errors.New("the bundle has no addon at all; it would remove everything")
	}
	for _, a := range b.Index.Addons {
		u := unit{name: a.Name, version: a.Version, digest: a.Digest, requires: a.Requires, healthTimeout: a.HealthTimeout}
		for _, o := range b.Objects(a.Name) {
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(o.Data, obj); err != nil { // whole numbers as integers, as the API server reads them
				return render.Index{}, nil, fmt.Errorf("read %s: %w", o.Path, err)
			}
			u.objects = append(u.objects, obj)
		}
		units = append(units, u)
	}
	return b.Index, units, nil
}
