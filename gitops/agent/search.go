package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/object"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"holdfast.dev/api/v1alpha1"
)

// searchPage is how many objects the API server is asked for at once.
const searchPage = 500

// searcher finds in the cluster what the agent has applied, when the inventories that
// say so were lost with their AddonStatuses. What it does not find says nothing.
type searcher struct {
	discovery discovery.DiscoveryInterface
	objects   metadata.Interface
	listed    map[schema.GroupVersionResource]bool // to the end, in an earlier look
}

// finding is what one look found.
type finding struct {
	objects map[string][]v1alpha1.InventoryEntry // by addon
	whole   bool                                 // by now every kind that is served was listed
}

func newSearcher(cfg *rest.Config) (*searcher, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{} // of kinds that are listed, and used by nobody here
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	m, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return &searcher{discovery: d, objects: m, listed: map[schema.GroupVersionResource]bool{}}, nil
}

// look lists every kind that was not listed before. With an error, the finding has what
// could be listed all the same. One call at a time.
func (s *searcher) look(ctx context.Context) (finding, error) {
	served, err := s.discovery.ServerPreferredResources() // of those groups that answer
	type kind struct {
		schema.GroupVersionResource
		schema.GroupKind
	}
	var kinds []kind
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, served) {
		gv, perr := schema.ParseGroupVersion(list.GroupVersion)
		err = errors.Join(err, perr)
		for _, r := range list.APIResources {
			k := kind{gv.WithResource(r.Name), schema.GroupKind{Group: gv.Group, Kind: r.Kind}}
			// AddonStatuses are the agent's notes, and in no bundle.
			if k.GroupKind != v1alpha1.GroupVersion.WithKind("AddonStatus").GroupKind() && !s.listed[k.GroupVersionResource] {
				kinds = append(kinds, k)
			}
		}
	}
	found := make([]map[string][]v1alpha1.InventoryEntry, len(kinds))
	errs := make([]error, len(kinds))
	_ = manyAtOnce(ctx, 0, len(kinds), func(ctx context.Context, i int) error { // one that is not listed delays no other
		found[i], errs[i] = s.list(ctx, kinds[i].GroupVersionResource, kinds[i].GroupKind)
		return nil
	})
	f := finding{objects: map[string][]v1alpha1.InventoryEntry{}}
	for i, k := range kinds {
		if errs[i] == nil {
			s.listed[k.GroupVersionResource] = true
		}
		for addon, entries := range found[i] {
			f.objects[addon] = union(f.objects[addon], entries)
		}
	}
	err = errors.Join(err, errors.Join(errs...))
	f.whole = err == nil
	return f, err
}

// list finds the objects of one kind; with an error, those of the pages that came.
func (s *searcher) list(ctx context.Context, r schema.GroupVersionResource, gk schema.GroupKind) (map[string][]v1alpha1.InventoryEntry, error) {
	found := map[string][]v1alpha1.InventoryEntry{}
	opts := metav1.ListOptions{LabelSelector: v1alpha1.LabelAddon, Limit: searchPage}
	for {
		each, cancel := context.WithTimeout(ctx, listTimeout) // a kind may have many pages
		page, err := s.objects.Resource(r).List(each, opts)
		cancel()
		if err != nil {
			return found, fmt.Errorf("list %s: %w", r.GroupResource(), err)
		}
		for i := range page.Items {
			o := &page.Items[i]
			addon := o.Labels[v1alpha1.LabelAddon]
			if addon == "" || ensured(o) || !appliedByUs(o, r.Group) {
				continue
			}
			id := object.ObjMetadata{Namespace: o.Namespace, Name: o.Name, GroupKind: gk}
			found[addon] = append(found[addon], v1alpha1.InventoryEntry{ID: id.String(), Version: r.Version})
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return found, nil
		}
	}
}

// appliedByUs tells whether the agent's own server-side apply gave an object of the
// group its label of the addon, and nobody has changed that since. Labels alone prove
// nothing: people copy them, and controllers do (those of a Service are on its
// EndpointSlices). Nor does what another group shows of the object: OpenShift's Project
// is a Namespace, with its metadata, and no kind whose deletion needs an approval. Nor
// does an apply that is older than the object: what is restored from a backup, perhaps
// under another name or for people to look at, has the managed fields of what was saved.
// Of times whole seconds are kept, and an object is made just after its first apply.
func appliedByUs(o metav1.Object, group string) bool {
	return slices.ContainsFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		gv, err := schema.ParseGroupVersion(m.APIVersion)
		if err != nil || gv.Group != group || m.Manager != fieldOwner || m.Operation != metav1.ManagedFieldsOperationApply || m.Subresource != "" ||
			m.Time == nil || m.Time.Add(time.Second).Before(o.GetCreationTimestamp().Time) {
			return false
		}
		var fields map[string]any // metav1.FieldsV1
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			return false
		}
		_, owned, err := unstructured.NestedFieldNoCopy(fields, "f:metadata", "f:labels", "f:"+v1alpha1.LabelAddon)
		return owned && err == nil
	})
}

// inventories is what the agent knows of its inventories as a whole. The names of all
// addons that have one lie in the identity's Secret as well, written before an addon's
// first object: an AddonStatus that is missing is missed. While the cluster is
// searched, [unsure] lies there, so that an agent that is killed meanwhile searches again.
type inventories struct {
	names     []string
	searching bool
	whole     bool                                 // all was found, and is yet to be noted
	found     map[string][]v1alpha1.InventoryEntry // by addon: not in its AddonStatus yet
}

// beginSearch tells whether inventories may be lost.
func (a *Agent) beginSearch(ctx context.Context) (bool, error) {
	if a.opts.Apply == ApplyOther || a.opts.Apply == ApplyFiles {
		// What the agent had applied is left to them. Without a name nothing of it is missed
		// when the agent applies again.
		return false, a.hub.identity.noteAddons(ctx, nil)
	}
	names, known, err := a.hub.identity.addons(ctx)
	if err != nil {
		return false, err
	}
	filled := a.store.withInventory() // an AddonStatus is made before it is filled
	missed := slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(filled, name) })
	// Where inventories are and no names, an agent that noted none was here. What it left behind long ago in
	// cluster after cluster must not go with an upgrade that no ring, window or person let pass.
	if known && !missed || !known && len(filled) > 0 {
		return false, a.noteNames(ctx, filled)
	}
	a.inv.searching = true
	return true, a.hub.identity.noteAddons(ctx, []string{unsure})
}

// searchLoop searches until every kind was listed. A kind that cannot be listed is
// asked for less and less often, and delays nothing else.
func (a *Agent) searchLoop(ctx context.Context) {
	for pause := retryAfter; ; pause = min(2*pause, idle) {
		f, err := a.search.look(ctx)
		select {
		case a.searched <- f:
		case <-ctx.Done():
			return
		}
		if f.whole {
			return
		}
		a.log.Info("the cluster is not wholly searched for what was applied before; trying again", "error", oneLine(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// takeIn takes in what was found.
func (a *Agent) takeIn(f finding) {
	a.inv.whole = f.whole
	for addon, entries := range f.objects {
		a.inv.found[addon] = union(a.inv.found[addon], entries)
	}
}

// bringBack writes what was found into the AddonStatuses, before anything of it is pruned.
func (a *Agent) bringBack(ctx context.Context) {
	for _, addon := range slices.Sorted(maps.Keys(a.inv.found)) {
		u, found := a.units[addon], a.inv.found[addon]
		if u != nil { // what it leaves to people may have been seen before it was handed over
			found = without(found, entriesOf(u.unit, ensured))
		}
		lost := len(without(found, a.store.get(addon).Status.Inventory))
		if err := a.store.update(ctx, addon, func(s *v1alpha1.AddonStatusStatus) { s.Inventory = union(found, s.Inventory) }); err != nil {
			a.log.Info("lost inventory not written; trying again", "addon", addon, "error", err.Error())
			continue
		}
		delete(a.inv.found, addon)
		if lost > 0 {
			a.log.Info("objects found that no inventory had", "addon", addon, "objects", lost)
		}
		switch {
		case u != nil && len(stale(u.unit, found)) > 0:
			u.applied, u.failures = false, 0
		case u == nil && a.revision != "":
			a.removed[addon] = true
		}
	}
	if !a.inv.searching || !a.inv.whole || len(a.inv.found) > 0 {
		return
	}
	names := a.store.withInventory()
	if err := a.hub.identity.noteAddons(ctx, names); err != nil {
		a.log.Info("names of the addons not noted; trying again", "error", err.Error())
		return
	}
	a.inv.names, a.inv.searching = names, false
}

// pending is true when bringBack has something to do.
func (v *inventories) pending() bool { return len(v.found) > 0 || v.searching && v.whole }

// noteAddon notes, durably, that an addon is about to have an inventory.
func (a *Agent) noteAddon(ctx context.Context, name string) error {
	if a.inv.searching || slices.Contains(a.inv.names, name) {
		return nil
	}
	return a.noteNames(ctx, append(slices.Clone(a.inv.names), name))
}

// dropAddon notes that an addon has nothing to prune any more. If that fails, the next agent
// searches, and finds nothing.
func (a *Agent) dropAddon(ctx context.Context, name string) {
	if a.inv.searching || !slices.Contains(a.inv.names, name) {
		return
	}
	if err := a.noteNames(ctx, slices.DeleteFunc(slices.Clone(a.inv.names), func(n string) bool { return n == name })); err != nil {
		a.log.Info("names of the addons not noted", "error", err.Error())
	}
}

func (a *Agent) noteNames(ctx context.Context, names []string) error {
	if err := a.hub.identity.noteAddons(ctx, names); err != nil {
		return err
	}
	a.inv.names = names
	return nil
}

// keyAddons, in the identity's Secret, names the addons that have an inventory, one a
// line.
const keyAddons = "addons"

// unsure, in place of the names, is no addon's: nobody knows whether all inventories are there.
const unsure = "?"

// addons are those that were noted; known is false when none ever were.
func (i *identity) addons(ctx context.Context) (names []string, known bool, err error) {
	err = i.withSecret(ctx, func(context.Context) error {
		var text []byte
		text, known = i.known.Data[keyAddons]
		names = strings.Fields(string(text))
		return nil
	})
	return names, known, err
}

// noteAddons notes them.
func (i *identity) noteAddons(ctx context.Context, names []string) error {
	text := []byte(strings.Join(names, "\n") + "\n")
	return i.withSecret(ctx, func(ctx context.Context) error {
		if was, there := i.known.Data[keyAddons]; there && string(was) == string(text) {
			return nil
		}
		return i.save(ctx, map[string][]byte{keyAddons: text})
	})
}
