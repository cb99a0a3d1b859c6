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
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
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
	return &planner{cluster: o.Cluster, looksOnly: o.Apply == ApplyOther, builtin: known, client: c, hub: hub,
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

// try asks the API server about one object; nil when it would stay as it is.
func (p *planner) try(ctx context.Context, o *unstructured.Unstructured, brings brought) *protocol.PlanChange {
	c := &protocol.PlanChange{Object: objectName(object.UnstructuredToObjMetadata(o))}
	opts := ssa.DefaultDiffOptions()
	opts.IfNotPresentSelector = map[string]string{v1alpha1.LabelAddonMode: "EnsureExists"}
	entry, existing, after, err := p.manager.Diff(ctx, o.DeepCopy(), opts)
	if err != nil && strings.Contains(err.Error(), "to last applied version") {
		existing, after, err = p.moved(ctx, o)
		entry = &ssa.ChangeSetEntry{Action: ssa.ConfiguredAction}
	}
	if err != nil && p.looksOnly && mayNot(err) {
		return p.compare(ctx, o, brings)
	}
	if err != nil && !brings.comesFirst(err, o) {
		c.Action, c.Message = protocol.PlanRefused, oneLine(err)
		return c
	}
	if err == nil && entry.Action == ssa.SkippedAction {
		return nil
	}
	if why := p.fits(ctx, o, after, err, brings); why != nil {
		c.Action, c.Message = protocol.PlanRefused, oneLine(why)
		return c
	}
	switch {
	case err != nil && brings.definition(o) != nil:
		c.Action, c.Message = protocol.PlanUnsure, "fits the definition that the same change brings, and can be tried only when that is there"
	case err != nil:
		c.Action, c.Message = protocol.PlanUnsure, "can be tried only when the namespace that the same change brings is there"
	case entry.Action == ssa.CreatedAction:
		c.Action = protocol.PlanCreate
	case entry.Action == ssa.ConfiguredAction:
		c.Action, c.Fields = protocol.PlanChanged, changedFields(existing.Object, after.Object)
	default:
		return nil
	}
	return c
}

// moved tries an object that comes to another version of its kind, with fields that
// the version before does not have. The API server merges in the version that the
// object was last applied in, and so refuses every dry run of an apply; the agent's
// apply moves the object's managed fields first.
func (p *planner) moved(ctx context.Context, o *unstructured.Unstructured) (existing, after *unstructured.Unstructured, err error) {
	existing, after = &unstructured.Unstructured{}, o.DeepCopy()
	existing.SetGroupVersionKind(o.GroupVersionKind())
	if err := p.client.Get(ctx, client.ObjectKeyFromObject(o), existing); err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, nil, err
	}
	return existing, after, p.client.Patch(ctx, after, client.RawPatch(types.MergePatchType, data), client.DryRunAll, client.FieldOwner(fieldOwner), client.FieldValidation(metav1.FieldValidationStrict))
}

// fits asks the definition that the bundle brings, if any, which the API server
// does not have yet. after is the dry run's outcome, nil when nothing changed; err
// is its refusal.
func (p *planner) fits(ctx context.Context, o, after *unstructured.Unstructured, err error, brings brought) error {
	if brings.definition(o) == nil {
		return nil
	}
	live, whole := &unstructured.Unstructured{}, o
	live.SetGroupVersionKind(o.GroupVersionKind())
	if p.client.Get(ctx, client.ObjectKeyFromObject(o), live) != nil {
		live = nil // there is none, or none of this version
	}
	switch {
	case after != nil:
		whole = after
	case err == nil && live != nil:
		whole = live
	}
	return brings.fits(ctx, o, live, whole)
}

// serverFields are the server's own and say nothing about a change.
var serverFields = []string{"status", "metadata.managedFields", "metadata.resourceVersion", "metadata.generation", "metadata.creationTimestamp", "metadata.uid"}

// changedFields names the deepest fields that differ.
func changedFields(before, after map[string]any) []string {
	var out []string
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		if slices.Contains(serverFields, path) || reflect.DeepEqual(a, b) {
			return
		}
		x, isX := a.(map[string]any)
		y, isY := b.(map[string]any)
		if !isX || !isY {
			out = append(out, path)
			return
		}
		for _, key := range keysOf(x, y) {
			next := key
			if path != "" {
				next = path + "." + key
			}
			walk(next, x[key], y[key])
		}
	}
	walk("", before, after)
	return someOf(out)
}

// someOf bounds how many fields are named.
func someOf(fields []string) []string {
	for i := range fields {
		fields[i] = clip(fields[i], maxPath)
	}
	if len(fields) > maxFields {
		fields = append(fields[:maxFields], fmt.Sprintf("and %d more", len(fields)-maxFields))
	}
	return fields
}

func keysOf(maps ...map[string]any) []string {
	var keys []string
	for _, m := range maps {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
