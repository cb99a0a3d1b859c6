package fleet

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/trust"
)

// simulated are clusters of which only the agents' half of the protocol is there:
// they fetch each bundle, take a while, and report.
type simulated struct {
	hubURL string
	apply  time.Duration // how long applying takes at most

	mu      sync.Mutex
	sick    func(cluster, digest string) bool // who cannot run what
	silent  map[string]bool                   // who does not ask now
	landed  map[string]map[string]time.Time   // by digest and cluster: when it was reported healthy
	taken   map[string]map[string]time.Time   // by digest and cluster: when it was first fetched
	changed chan struct{}                     // closed and replaced when silent changes
	again   int                               // requests that were not answered, or not whole, and made again
	failure error
}

// joined gives each of the clusters a certificate for the fleet's hub.
func joined(f *Fleet, names []string) (map[string]*http.Client, error) {
	store, err := trust.Open(f.hubDir(), time.Now)
	if err != nil {
		return nil, err
	}
	roots, err := store.Roots()
	if err != nil {
		return nil, err
	}
	clients := map[string]*http.Client{}
	for _, name := range names {
		cred, err := store.Credential(trust.Identity{Kind: trust.Cluster, Name: name}, roots)
		if err != nil {
			return nil, err
		}
		cfg, err := cred.Config()
		if err != nil {
			return nil, err
		}
		clients[name] = &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	}
	return clients, nil
}

// simulate runs the clusters until ctx ends; clients are those that joined gave them.
func simulate(ctx context.Context, hubURL string, apply time.Duration, clients map[string]*http.Client) *simulated {
	s := &simulated{hubURL: hubURL, apply: apply, silent: map[string]bool{}, landed: map[string]map[string]time.Time{}, taken: map[string]map[string]time.Time{}, changed: make(chan struct{})}
	for name, c := range clients {
		go s.run(ctx, name, c)
	}
	return s
}

// set changes what the clusters do, under the lock.
func (s *simulated) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// times are when clusters were healthy at a digest, or had fetched it.
func (s *simulated) times(of map[string]map[string]time.Time, digest string) map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]time.Time{}
	for name, at := range of[digest] {
		out[name] = at
	}
	return out
}

// err is the first thing that a hub must never do: a bundle that is not whole, or a
// refusal of what it wants.
func (s *simulated) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

func (s *simulated) run(ctx context.Context, name string, c *http.Client) {
	after := ""
	for ctx.Err() == nil {
		s.mu.Lock()
		silent, changed := s.silent[name], s.changed
		s.mu.Unlock()
		if silent {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		next, err := s.once(ctx, name, c, after)
		after = next
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errAgain):
			// As an agent does. A thousand of them in one process are no reason to give
			// one up when it was slow.
			s.mu.Lock()
			s.again++
			s.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		default:
			s.mu.Lock()
			s.failure = errors.Join(s.failure, fmt.Errorf("%s: %w", name, err))
			s.mu.Unlock()
			return
		}
	}
}

// once waits for a bundle, takes it and reports; it returns the revision that it has
// then. Whether its API server would take a bundle it answers with yes.
func (s *simulated) once(ctx context.Context, name string, c *http.Client, after string) (string, error) {
	base := s.hubURL + "/v1/clusters/" + name
	body, err := do(ctx, c, http.MethodGet, base+"/desired?after="+after, nil)
	if err != nil {
		return after, err
	}
	var d protocol.Desired
	if err := json.Unmarshal(body, &d); err != nil {
		return after, err
	}
	if d.PlanChanged {
		if _, err := do(ctx, c, http.MethodGet, base+"/plans/"+d.Plan, nil); errors.Is(err, errNotWanted) {
			return after, nil // there is another question already
		} else if err != nil {
			return after, err
		}
		_, err := do(ctx, c, http.MethodPost, base+"/plans/"+d.Plan, []byte("{}"))
		return after, err
	}
	if d.Revision == "" || d.Revision == after && !d.Unheard {
		return after, nil
	}
	body, err = do(ctx, c, http.MethodGet, base+"/bundles/"+d.Revision, nil)
	if errors.Is(err, errNotWanted) {
		return after, nil // there is a newer one already
	}
	if err != nil {
		return after, err
	}
	files, err := untar(body)
	if err != nil {
		return after, err
	}
	b, err := render.ParseBundle(files)
	if err != nil {
		return after, err
	}
	digest := b.Index.Digest
	s.mu.Lock()
	noteTime(s.taken, digest, name)
	sick := s.sick != nil && s.sick(name, digest)
	s.mu.Unlock()
	if s.apply > 0 {
		select {
		case <-ctx.Done():
			return after, ctx.Err()
		case <-time.After(rand.N(s.apply)):
		}
	}
	rep := protocol.Report{Revision: d.Revision, Digest: digest}
	for _, a := range b.Index.Addons {
		ar := protocol.AddonReport{Name: a.Name, Version: a.Version, DesiredDigest: a.Digest, AppliedDigest: a.Digest, Health: v1alpha1.HealthHealthy}
		if sick {
			ar.Health, ar.Message = v1alpha1.HealthDegraded, "cannot run this"
		}
		rep.Addons = append(rep.Addons, ar)
	}
	data, err := json.Marshal(rep)
	if err != nil {
		return after, err
	}
	if _, err := do(ctx, c, http.MethodPost, base+"/report", data); err != nil {
		return after, err
	}
	if !sick {
		s.mu.Lock()
		noteTime(s.landed, digest, name)
		s.mu.Unlock()
	}
	return d.Revision, nil
}

func noteTime(of map[string]map[string]time.Time, digest, name string) {
	if of[digest] == nil {
		of[digest] = map[string]time.Time{}
	}
	of[digest][name] = time.Now()
}

var (
	errNotWanted = errors.New("not what is wanted now")
	errAgain     = errors.New("no answer")
)

func do(ctx context.Context, c *http.Client, method, url string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, protocol.MaxWait+time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, errors.Join(errAgain, err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || resp.StatusCode == http.StatusServiceUnavailable:
		return nil, errors.Join(errAgain, err)
	case resp.StatusCode == http.StatusNotFound && (strings.Contains(string(data), "ask for the desired one again") || strings.Contains(string(data), "nobody asks this any more")):
		return nil, errNotWanted
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, data)
	}
	return data, nil
}

func untar(data []byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}
