package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
)

// try asks the API server about one object; nil when it would stay as it is.
func (p *planner) try(ctx context.Context, o *unstructured.Unstructured, brings brought) *protocol.PlanChange {
	if sealed(o) {
		return p.trySealed(ctx, o)
	}
	c := &protocol.PlanChange{Object: objectName(object.UnstructuredToObjMetadata(o))}
	opts := ssa.DefaultDiffOptions()
	if ensured(o) {
		opts.IfNotPresentSelector = map[string]string{v1alpha1.LabelAddonMode: v1alpha1.ModeEnsureExists}
	}
	entry, existing, after, err := p.manager.Diff(ctx, o.DeepCopy(), opts)
	if err == nil && entry.Action == ssa.SkippedAction {
		existing, after, err = p.handedOver(ctx, o)
		if existing == nil && err == nil {
			return nil
		}
		entry = &ssa.ChangeSetEntry{Action: ssa.ConfiguredAction}
	}
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

// handedOver tries to hand an object that is there over to people; existing is nil when
// that is not to be done, or not the agent's to do.
func (p *planner) handedOver(ctx context.Context, o *unstructured.Unstructured) (existing, after *unstructured.Unstructured, err error) {
	if !p.handsOver {
		return nil, nil, nil
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	if err := p.client.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	if !toHandOver(live) {
		return nil, nil, nil
	}
	if after, err = handOver(ctx, p.client, o, client.DryRunAll); apierrors.IsNotFound(err) {
		return nil, nil, nil // it went meanwhile
	}
	return live, after, err
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
