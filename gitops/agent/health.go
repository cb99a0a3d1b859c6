package agent

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/cli-utils/pkg/object"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// watcher keeps the applied objects in memory by watches, so that an idle agent
// asks the API server for nothing.
type watcher struct {
	cache   cache.Cache
	watched map[schema.GroupVersionKind]bool
	notify  func(addon string)
}

func newWatcher(cfg *rest.Config, mapper meta.RESTMapper, notify func(addon string)) (*watcher, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelAddon, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	c, err := cache.New(cfg, cache.Options{
		Mapper:               mapper,
		DefaultLabelSelector: labels.NewSelector().Add(*ours),
		DefaultTransform:     cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &watcher{cache: c, watched: map[schema.GroupVersionKind]bool{}, notify: notify}, nil
}

// watch makes sure that every kind of the unit is watched.
func (w *watcher) watch(ctx context.Context, u unit) error {
	for _, o := range u.objects {
		gvk := o.GroupVersionKind()
		if w.watched[gvk] {
			continue
		}
		inf, err := w.informer(ctx, o)
		if err != nil {
			return fmt.Errorf("watch %s: %w", gvk.Kind, err)
		}
		changed := func(obj any) {
			if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(client.Object); ok {
				w.notify(o.GetLabels()[v1alpha1.LabelAddon])
			}
		}
		if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    changed,
			UpdateFunc: func(old, obj any) { changed(old); changed(obj) }, // a label may have been taken away
			DeleteFunc: changed,
		}); err != nil {
			return fmt.Errorf("watch %s: %w", gvk.Kind, err)
		}
		w.watched[gvk] = true
	}
	return nil
}

// listTimeout is how long the first list of a kind may take. A kind whose
// conversion webhook is dead never answers; it must not stop the other units.
const listTimeout = 10 * time.Second

func (w *watcher) informer(ctx context.Context, o *unstructured.Unstructured) (cache.Informer, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	inf, err := w.cache.GetInformer(ctx, o.DeepCopy())
	if err == nil && !inf.HasSynced() {
		err = fmt.Errorf("the API server does not list it within %s", listTimeout)
	}
	return inf, err
}

// verdict is the health of one unit.
type verdict struct {
	health  v1alpha1.Health
	message string
	// drifted is true when an object is not what was applied.
	drifted bool
	// unseen is true when a watch has not shown an object that was just applied.
	unseen bool
}

// watchLag is how long a watch may take to show what was applied.
const watchLag = 3 * time.Second

// assess computes a unit's health from the watched objects. An object counts
// only with the UID that was applied, at that generation or a later one. since
// is when the unit came to this digest, last when it was last applied.
func (w *watcher) assess(ctx context.Context, u unit, done map[object.ObjMetadata]applied, since, last, now time.Time) verdict {
	v := verdict{health: v1alpha1.HealthHealthy}
	// Reads are from memory; only a kind that was never listed would block.
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var waiting, failed []string
	for _, want := range u.objects {
		label := want.GetKind() + "/" + want.GetName()
		was, ok := done[object.UnstructuredToObjMetadata(want)]
		if !ok {
			waiting = append(waiting, label+": not applied")
			continue
		}
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(want.GroupVersionKind())
		if err := w.cache.Get(ctx, client.ObjectKeyFromObject(want), got); err != nil {
			if client.IgnoreNotFound(err) != nil {
				waiting = append(waiting, fmt.Sprintf("%s: not seen: %v", label, err))
				continue
			}
			if ensured(want) {
				continue // there, and somebody else's: without our label it is not watched
			}
			waiting = append(waiting, label+": not seen")
			v.unseen = now.Before(last.Add(watchLag))
			v.drifted = v.drifted || !v.unseen
			continue
		}
		switch {
		case ensured(want):
		case got.GetUID() == was.uid && got.GetGeneration() <= was.generation && (got.GetGeneration() > 0 || got.GetResourceVersion() == was.resourceVersion):
		case now.Before(last.Add(watchLag)):
			v.unseen = true // perhaps only late
		default:
			v.drifted = true
		}
		if got.GetGeneration() < was.generation {
			waiting = append(waiting, label+": not seen at the new generation")
			continue
		}
		res, err := status.Compute(got)
		switch {
		case err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", label, err))
		case res.Status == status.FailedStatus:
			failed = append(failed, label+": "+res.Message)
		case res.Status != status.CurrentStatus:
			waiting = append(waiting, label+": "+res.Message)
		}
	}
	sort.Strings(waiting)
	sort.Strings(failed)
	switch {
	case len(failed) > 0:
		v.health, v.message = v1alpha1.HealthDegraded, failed[0]
	case len(waiting) > 0 && u.healthTimeout > 0 && !now.Before(since.Add(u.healthTimeout)):
		v.health, v.message = v1alpha1.HealthDegraded, fmt.Sprintf("not ready within %s: %s", u.healthTimeout, waiting[0])
	case len(waiting) > 0:
		v.health, v.message = v1alpha1.HealthProgressing, waiting[0]
	}
	return v
}
