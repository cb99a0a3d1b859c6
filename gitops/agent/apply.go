package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/utils"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/fleet"
)

// fieldOwner is the agent's name in managedFields.
const fieldOwner = "holdfast-agent"

// atOnce is how many objects of a unit are tried, or applied, at the same time.
const atOnce = 8

// heldKinds are pruned only when a person approved it by name and UID: deleting
// one deletes data or much else with it (invariant 8). Else they stay in the
// inventory and are named in the status.
var heldKinds = fleet.DataKinds

// unit is one addon of a bundle.
type unit struct {
	name, version, digest string
	healthTimeout         time.Duration
	requires              []string
	objects               []*unstructured.Unstructured
}

// applied identifies an object as it was right after it was applied.
type applied struct {
	uid             types.UID
	generation      int64
	resourceVersion string
}

// applier applies and prunes one unit at a time.
type applier struct {
	rec     *recorder
	manager *ssa.ResourceManager
}

func newApplier(c client.Client) *applier {
	rec := &recorder{Client: c, seen: map[object.ObjMetadata]applied{}}
	poller := polling.NewStatusPoller(rec, c.RESTMapper(), polling.Options{})
	return &applier{rec: rec, manager: ssa.NewResourceManager(rec, poller, ssa.Owner{Field: fieldOwner, Group: "holdfast.dev"})}
}

// apply applies the unit. The server's dry run comes first: when it refuses one
// object of a stage (definitions, classes, the rest), nothing of that stage is
// applied.
func (a *applier) apply(ctx context.Context, u unit) (map[object.ObjMetadata]applied, error) {
	a.rec.reset()
	for i, objects := range stagesOf(u) {
		if err := a.applyStage(ctx, objects); err != nil {
			return a.rec.taken(), err
		}
		if i == 2 {
			break
		}
		if err := a.awaitStage(ctx, objects); err != nil {
			return a.rec.taken(), err
		}
	}
	return a.rec.taken(), nil
}

// prune deletes what the inventory owns and the unit no longer has. It returns
// the entries that must stay in the inventory: held kinds, and failures.
// approved are the deletions of held kinds that people approved.
func (a *applier) prune(ctx context.Context, addon string, stale []v1alpha1.InventoryEntry, approved []fleet.Deletion) (kept []v1alpha1.InventoryEntry, held []string, err error) {
	for _, e := range stale {
		meta, perr := object.ParseObjMetadata(e.ID)
		if perr != nil {
			kept = append(kept, e)
			err = errors.Join(err, fmt.Errorf("prune %q: %w", e.ID, perr))
			continue
		}
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(meta.GroupKind.WithVersion(e.Version))
		o.SetNamespace(meta.Namespace)
		o.SetName(meta.Name)
		if slices.Contains(heldKinds, meta.GroupKind.Kind) {
			why, derr := a.deleteApproved(ctx, addon, o, approved)
			if derr != nil || why != "" {
				kept = append(kept, e)
			}
			if why != "" {
				held = append(held, meta.GroupKind.Kind+"/"+meta.Name+why)
			}
			err = errors.Join(err, derr)
			continue
		}
		if derr := a.deleteOwn(ctx, addon, o); derr != nil && !a.notServed(derr, meta.GroupKind) {
			kept = append(kept, e)
			err = errors.Join(err, fmt.Errorf("prune %s: %w", utils.FmtUnstructured(o), derr))
		}
	}
	return kept, held, err
}

// deleteOwn deletes an object if it is the addon's, and not a foreign one of the same name,
// or handed over to people.
func (a *applier) deleteOwn(ctx context.Context, addon string, o *unstructured.Unstructured) error {
	if err := a.rec.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return client.IgnoreNotFound(err)
	}
	if o.GetLabels()[v1alpha1.LabelAddon] != addon || ensured(o) {
		return nil
	}
	return a.rec.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))
}

// notServed tells whether an error is that the API server has no such kind, in any
// version: then there is no object of it, for those of a definition go before it does
// (apiextensions, finalizer customresourcecleanup). That a server behind the API server
// does not answer is another error.
func (a *applier) notServed(err error, gk schema.GroupKind) bool {
	if !apimeta.IsNoMatchError(err) {
		return false
	}
	_, err = a.rec.Client.RESTMapper().RESTMapping(gk)
	return apimeta.IsNoMatchError(err)
}

// notApproved is why a held object stays when nobody approved its deletion.
const notApproved = " (nobody approved it in approvals.yaml)"

// deleteApproved deletes an object of a held kind if it is exactly the one that
// a person approved. It says why, if the object stays.
func (a *applier) deleteApproved(ctx context.Context, addon string, o *unstructured.Unstructured, approved []fleet.Deletion) (why string, err error) {
	i := slices.IndexFunc(approved, func(d fleet.Deletion) bool {
		return d.Kind == o.GetKind() && d.Namespace == o.GetNamespace() && d.Name == o.GetName()
	})
	if i < 0 {
		return notApproved, nil
	}
	live := o.DeepCopy()
	if err := a.rec.Client.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return "", client.IgnoreNotFound(err) // gone: what was approved is done
	}
	uid := types.UID(approved[i].UID)
	switch {
	case live.GetUID() != uid:
		return fmt.Sprintf(" (approved was the one with the UID %s, this one has %s)", uid, live.GetUID()), nil
	case live.GetLabels()[v1alpha1.LabelAddon] != addon:
		return " (it no longer carries the addon's label)", nil
	}
	err = a.rec.Delete(ctx, live, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err := client.IgnoreNotFound(err); err != nil {
		return "", fmt.Errorf("delete %s %s, which was approved: %w", o.GetKind(), o.GetName(), err)
	}
	return "", nil
}

// inventoryOf lists the unit's objects that may be pruned one day. Objects of
// mode EnsureExists are left to whoever has them.
func inventoryOf(u unit) []v1alpha1.InventoryEntry {
	return entriesOf(u, func(o metav1.Object) bool { return !ensured(o) })
}

// ensured tells whether an object is only made, and then left to whoever has it. A bundle
// says so by the label, exactly. The annotation and other letters, which earlier bundles
// may have and people may write, are taken for it: to leave too much alone loses nothing.
func ensured(o metav1.Object) bool {
	says := func(m map[string]string) bool {
		return strings.EqualFold(m[v1alpha1.LabelAddonMode], v1alpha1.ModeEnsureExists)
	}
	return says(o.GetLabels()) || says(o.GetAnnotations())
}

// stale is what of an inventory the unit no longer has. What has come to mode
// EnsureExists is nobody's to prune, and still the unit's.
func stale(u unit, inv []v1alpha1.InventoryEntry) []v1alpha1.InventoryEntry {
	return without(inv, entriesOf(u, func(metav1.Object) bool { return true }))
}

func entriesOf(u unit, which func(metav1.Object) bool) []v1alpha1.InventoryEntry {
	var inv []v1alpha1.InventoryEntry
	for _, o := range u.objects {
		if which(o) {
			inv = append(inv, v1alpha1.InventoryEntry{ID: object.UnstructuredToObjMetadata(o).String(), Version: o.GroupVersionKind().Version})
		}
	}
	sortInventory(inv)
	return inv
}

// union adds to old what is new; the newer API version wins.
func union(old, added []v1alpha1.InventoryEntry) []v1alpha1.InventoryEntry {
	out := slices.Clone(added)
	for _, e := range old {
		if !hasID(added, e.ID) {
			out = append(out, e)
		}
	}
	sortInventory(out)
	return out
}

// without is old less every id in current.
func without(old, current []v1alpha1.InventoryEntry) []v1alpha1.InventoryEntry {
	var out []v1alpha1.InventoryEntry
	for _, e := range old {
		if !hasID(current, e.ID) {
			out = append(out, e)
		}
	}
	return out
}

func hasID(list []v1alpha1.InventoryEntry, id string) bool {
	return slices.ContainsFunc(list, func(e v1alpha1.InventoryEntry) bool { return e.ID == id })
}

func sortInventory(inv []v1alpha1.InventoryEntry) {
	sort.Slice(inv, func(i, j int) bool { return inv[i].ID < inv[j].ID })
}

// recorder remembers what the API server answered to each apply: UID and
// generation pin health to exactly what was applied.
type recorder struct {
	client.Client
	mu   sync.Mutex
	seen map[object.ObjMetadata]applied
}

func (r *recorder) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	if err := r.Client.Patch(ctx, obj, patch, opts...); err != nil {
		return err
	}
	r.note(obj)
	return nil
}

func (r *recorder) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if err := r.Client.Get(ctx, key, obj, opts...); err != nil {
		return err
	}
	r.note(obj) // an EnsureExists object that is there already is only read
	return nil
}

// Delete deletes the very object that was looked at: its UID is a precondition, so that
// one that somebody made anew under the same name meanwhile stays.
func (r *recorder) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	uid := obj.GetUID()
	return r.Client.Delete(ctx, obj, append(opts, client.Preconditions{UID: &uid})...)
}

func (r *recorder) note(obj client.Object) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[object.UnstructuredToObjMetadata(u)] = applied{uid: u.GetUID(), generation: u.GetGeneration(), resourceVersion: u.GetResourceVersion()}
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = map[object.ObjMetadata]applied{}
}

func (r *recorder) taken() map[object.ObjMetadata]applied {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// maxText bounds what is said of one object or addon, in bytes.
const maxText = 1024

// oneLine makes an error fit into a status message: one line, bounded.
func oneLine(err error) string {
	return clip(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " "), maxText)
}

// clip cuts a text to a number of bytes, and says in it how many it cut.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const room = len("… (1000000000 bytes more)")
	end := limit - room
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes more)", s[:end], len(s)-end)
}
