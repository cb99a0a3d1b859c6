package agent

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// How the objects of a bundle come into the cluster.
const (
	// ApplyAgent: the agent applies them.
	ApplyAgent = "agent"
	// ApplyOther: Flux, Argo CD or a person does, from the same branch. The agent
	// looks, reports, and changes nothing.
	ApplyOther = "other"
	// ApplyFiles: the agent writes files, and kube-addon-manager applies them.
	ApplyFiles = "files"
)

// lookAgain is how soon the agent looks again whether another has applied a unit,
// when no watch tells it.
const lookAgain = 10 * time.Second

// waitError says what another is yet to do. It is no failure: how long it may take
// is the ring's timeout.
type waitError struct{ what string }

func (e *waitError) Error() string { return e.what }

// leave brings a unit into the cluster by another's hands.
func (a *Agent) leave(ctx context.Context, u *unitState) error {
	current := inventoryOf(u.unit)
	old := a.store.get(u.name).Status.Inventory
	files := a.opts.Apply == ApplyFiles
	if err := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) {
		s.DesiredDigest = u.digest
		if files { // with another applier the objects are not ours, and never pruned by us
			s.Inventory = union(old, current)
		}
		if s.AppliedDigest != u.digest {
			s.Health, s.HealthySince, s.Message = v1alpha1.HealthProgressing, nil, "waits for whoever applies it"
		}
	}); err != nil {
		return err
	}
	if files {
		since, err := a.leaveFiles(ctx, u.name, u.objects)
		if err != nil {
			return err
		}
		if err := a.pruneLeft(ctx, u, since); err != nil {
			return err
		}
	}
	if err := a.watch.watch(ctx, u.unit); err != nil {
		if why := a.observe(ctx, u); why != nil {
			return why // it knows better what is not there, or not to be seen
		}
		return &waitError{"waits for its kinds: " + oneLine(err)}
	}
	return a.observe(ctx, u)
}

// pruneLeft deletes what kube-addon-manager may have left: it prunes sixteen kinds,
// StorageClasses, RBAC and definitions not among them, nothing at all while one
// object fails, and never the last object of a namespace.
func (a *Agent) pruneLeft(ctx context.Context, u *unitState, since time.Time) error {
	current := inventoryOf(u.unit)
	gone := stale(u.unit, a.store.get(u.name).Status.Inventory)
	u.pruneAt = time.Time{}
	if len(gone) == 0 {
		u.held = nil
		return nil
	}
	if at := since.Add(a.opts.PruneGrace); time.Now().Before(at) {
		u.pruneAt = at
		return nil
	}
	kept, held, err := a.apply.prune(ctx, u.name, gone, a.deletions)
	u.held = held
	if uerr := a.store.update(ctx, u.name, func(s *v1alpha1.AddonStatusStatus) { s.Inventory = union(kept, current) }); uerr != nil {
		return uerr
	}
	return err
}

// observe looks whether the cluster has every object as the bundle has it: the
// dry run of an apply would change nothing.
func (a *Agent) observe(ctx context.Context, u *unitState) error {
	for _, o := range u.objects {
		if c := a.plans.try(ctx, o, brought{}); c != nil {
			what := "is not yet as the bundle has it"
			if c.Message != "" {
				what += ": " + c.Message
			}
			return &waitError{fmt.Sprintf("waits for whoever applies it: %s %s", c.Object, what)}
		}
	}
	a.apply.rec.reset()
	for _, o := range u.objects {
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(o.GroupVersionKind())
		if err := a.apply.rec.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
			return fmt.Errorf("read %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	u.done = a.apply.rec.taken()
	return nil
}
