package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/protocol"
)

const (
	sendLimit  = 10 * time.Second // to send an answer
	maxFields  = 20               // that are named of one object
	maxPath    = 200              // bytes of one of them
	maxChanges = 200              // of one action that an answer names
	maxAnswer  = 4 << 20          // bytes that the hub takes
)

// planLimit is how long an answer may take, so that it arrives while it is waited
// for: a person waits for less long than the hub, which asks for what changes only.
func planLimit(files int, onlyChanged bool) time.Duration {
	if onlyChanged {
		return protocol.TrialWait(files) - sendLimit
	}
	return protocol.PlanWait - sendLimit
}

// planner answers what a bundle would change, by the API server's own dry run.
// It shares nothing with Run and changes nothing.
type planner struct {
	cluster   string
	looksOnly bool // another applies: a dry run that is not allowed is no fault
	handsOver bool // the agent applies by itself
	builtin   *runtime.Scheme
	client    client.Client
	manager   *ssa.ResourceManager
	hub       asked
	last      *question // that was taken; take's alone
}

// asked is the hub that questions come from.
type asked interface {
	do(ctx context.Context, timeout time.Duration, method, path string, body []byte) ([]byte, error)
}

// question is one that the hub has put.
type question struct {
	id    string
	stop  context.CancelCauseFunc
	tried chan struct{} // closed when the API server is asked no more
	said  chan struct{} // closed when the hub has the answer, or waits for it no longer
}

var (
	errBusy       = errors.New("the agent is at work on another question; ask again in a minute")
	errSuperseded = errors.New("the hub has asked something else meanwhile; ask again in a minute")
)

func newPlanner(o Options, c client.Client, hub asked) (*planner, error) {
	known, err := builtin()
	return &planner{cluster: o.Cluster, looksOnly: o.Apply == ApplyOther, handsOver: o.Apply != ApplyOther && o.Apply != ApplyFiles, builtin: known, client: c, hub: hub,
		manager: ssa.NewResourceManager(c, polling.NewStatusPoller(c, c.RESTMapper(), polling.Options{}), ssa.Owner{Field: fieldOwner, Group: "holdfast.dev"})}, err
}

// take fetches a question; it is answered beside the agent's work. With onlyChanged,
// the question is the hub's own, and addons that are applied at their digest are not
// tried. One question at a time is in memory and loads the API server: the hub's own
// takes the place of any other, and a person is told to come again. One call at a time.
func (p *planner) take(ctx context.Context, id string, onlyChanged bool, log *slog.Logger) error {
	path := "/plans/" + url.PathEscape(id)
	if q := p.last; q != nil && !over(q.said) {
		switch {
		case q.id == id:
			return nil // the hub cannot know that it did not get lost
		case over(q.tried):
		case !onlyChanged:
			once, cancel := context.WithTimeout(ctx, sendLimit)
			defer cancel()
			return p.send(once, path, protocol.PlanReport{Cluster: p.cluster, Error: oneLine(errBusy)})
		default:
			q.stop(errSuperseded)
			<-q.tried
		}
	}
	since := time.Now()
	body, err := p.hub.do(ctx, time.Minute, http.MethodGet, path, nil)
	if err != nil && !errors.Is(err, errTooLarge) { // so it is when it is asked again
		return fmt.Errorf("fetch plan: %w", err)
	}
	look, stop := context.WithCancelCause(ctx)
	q := &question{id: id, stop: stop, tried: make(chan struct{}), said: make(chan struct{})}
	p.last = q
	go func() {
		defer close(q.said)
		rep, limit := protocol.PlanReport{Cluster: p.cluster}, planLimit(0, onlyChanged)
		if err != nil {
			rep.Error = oneLine(err)
		} else {
			rep, limit = p.answer(look, body, onlyChanged)
		}
		close(q.tried)
		stop(nil)
		waited, cancel := context.WithDeadline(ctx, since.Add(limit+sendLimit))
		defer cancel()
		if err := p.send(waited, path, rep); err != nil {
			log.Info("plan not answered", "error", err.Error())
		}
	}()
	return nil
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// answer is the answer to a question, and how long it may take.
func (p *planner) answer(ctx context.Context, body []byte, onlyChanged bool) (protocol.PlanReport, time.Duration) {
	var files protocol.PlanFiles
	rep := protocol.PlanReport{Cluster: p.cluster}
	if err := json.Unmarshal(body, &files); err != nil {
		rep.Error = "the question is not valid JSON"
		return rep, planLimit(0, onlyChanged)
	}
	limit := planLimit(len(files), onlyChanged)
	idx, units, err := parseBundle(p.cluster, files)
	if err == nil {
		look, cancel := context.WithTimeout(ctx, limit)
		err = p.plan(look, units, idx.Deletions, onlyChanged, &rep)
		cancel()
	}
	if err != nil {
		rep.Error = oneLine(cmp.Or(context.Cause(ctx), err)) // the reason, when it was stopped
	}
	return rep, limit
}

// send sends an answer, again and again until the hub has it or ctx ends.
func (p *planner) send(ctx context.Context, path string, rep protocol.PlanReport) error {
	bound(&rep)
	data, err := json.Marshal(rep)
	if err == nil && len(data) > maxAnswer {
		data, err = json.Marshal(protocol.PlanReport{Cluster: p.cluster, Error: fmt.Sprintf("the answer has %d bytes, and the hub takes %d; make the change in smaller steps", len(data), maxAnswer)})
	}
	if err != nil {
		return err
	}
	for pause := retryAfter; ; pause = min(2*pause, retryMax) {
		if _, err = p.hub.do(ctx, sendLimit, http.MethodPost, path, data); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("report plan: %w", err)
		case <-time.After(pause):
		}
	}
}

// plan compares the bundle with the cluster.
func (p *planner) plan(ctx context.Context, units []unit, approved []fleet.Deletion, onlyChanged bool, rep *protocol.PlanReport) error {
	var list v1alpha1.AddonStatusList
	if err := p.client.List(ctx, &list); err != nil {
		return fmt.Errorf("read addon statuses: %w", err)
	}
	stands := map[string]string{}
	for _, st := range list.Items {
		stands[st.Name] = st.Status.AppliedDigest
	}
	brings := bringsOf(units, stands, func(o *unstructured.Unstructured) error { return p.client.Get(ctx, client.ObjectKeyFromObject(o), o) })
	kept := map[string]map[string]bool{} // by addon, ids of the bundle
	var lock sync.Mutex                  // of rep
	var tries errgroup.Group
	tries.SetLimit(atOnce) // as when it is applied
	for _, u := range units {
		kept[u.name] = map[string]bool{}
		for _, o := range u.objects {
			kept[u.name][object.UnstructuredToObjMetadata(o).String()] = true
			tries.Go(func() error {
				var c *protocol.PlanChange
				// What is applied is tried, too, when its definition changes under it.
				if ctx.Err() == nil && (!onlyChanged || stands[u.name] != u.digest || brings.definition(o) != nil) {
					c = p.try(ctx, o, brings)
				}
				lock.Lock()
				defer lock.Unlock()
				if c == nil {
					rep.Unchanged++
					return nil
				}
				c.Addon = u.name
				rep.Changes = append(rep.Changes, *c)
				return nil
			})
		}
	}
	_ = tries.Wait() // the functions return no error
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("try every object: %w", err)
	}
	for _, st := range list.Items {
		for _, e := range st.Status.Inventory {
			if !kept[st.Name][e.ID] {
				rep.Changes = append(rep.Changes, p.pruned(ctx, st.Name, e, approved))
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("look at what would go: %w", err)
	}
	slices.SortFunc(rep.Changes, func(a, b protocol.PlanChange) int {
		return cmp.Or(strings.Compare(a.Addon, b.Addon), strings.Compare(string(a.Action), string(b.Action)), strings.Compare(a.Object, b.Object))
	})
	return nil
}

// bound names so many changes of each action, and counts the others. What is held
// stays: the hub judges each one.
func bound(rep *protocol.PlanReport) {
	named := map[protocol.PlanAction]int{}
	kept := rep.Changes[:0]
	for _, c := range rep.Changes {
		if named[c.Action]++; named[c.Action] > maxChanges && c.Action != protocol.PlanHeld {
			rep.Omitted++
			continue
		}
		kept = append(kept, c)
	}
	rep.Changes = kept
}

// pruned is what becomes of an inventory entry that the bundle no longer has.
func (p *planner) pruned(ctx context.Context, addon string, e v1alpha1.InventoryEntry, approved []fleet.Deletion) protocol.PlanChange {
	c := protocol.PlanChange{Addon: addon, Object: e.ID, Action: protocol.PlanPrune}
	m, err := object.ParseObjMetadata(e.ID)
	if err != nil {
		c.Action, c.Message = protocol.PlanHeld, "its inventory entry cannot be read"
		return c
	}
	c.Object = objectName(m)
	if !slices.Contains(heldKinds, m.GroupKind.Kind) {
		return c
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(m.GroupKind.WithVersion(e.Version))
	if err := p.client.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Name}, live); err != nil {
		c.Action, c.Message = protocol.PlanHeld, "cannot be read: "+oneLine(err)
		return c
	}
	want := fleet.Deletion{Kind: m.GroupKind.Kind, Namespace: m.Namespace, Name: m.Name, UID: string(live.GetUID())}
	if slices.Contains(approved, want) {
		c.Message = "DELETED WITH ITS DATA, as approvals.yaml says"
		return c
	}
	c.Action, c.Message = protocol.PlanHeld, fmt.Sprintf(protocol.HeldPrefix+"to delete it, name it in %s: {cluster: %s, kind: %s, namespace: %q, name: %s, uid: %s, reason: …}",
		fleet.ApprovalsFile, p.cluster, want.Kind, want.Namespace, want.Name, want.UID)
	return c
}

// objectName is kind.group namespace/name.
func objectName(m object.ObjMetadata) string {
	name := m.Name
	if m.Namespace != "" {
		name = m.Namespace + "/" + name
	}
	return m.GroupKind.String() + " " + name
}
