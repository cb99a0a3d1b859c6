// Package repair carries out plans. Before a step has its effect, the plan's
// status says that it started; after it, that it is done, and the audit trail
// what was done. A controller that comes after a crash looks whether the effect
// has happened before it tries again. All of that is read from the API server
// and not from a cache, and every write is a compare-and-swap.
package repair

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/remediation/marks"
)

// Step is one kind of step.
type Step interface {
	// Run brings the step's effect about, or finds that it has happened, or
	// says what it waits for. It is called again after a crash at any line.
	Run(ctx context.Context, p *Plan) (Outcome, error)
}

// Observer is a Step that can have had its effect when its plan is ended early.
type Observer interface {
	// Observe says which effects have happened, and changes nothing.
	Observe(ctx context.Context, p *Plan) ([]string, error)
}

// Outcome is what came of a Run.
type Outcome struct {
	Done bool
	// Message says what is waited for, or how the step ended.
	Message string
	// Effects that have happened, each in words that no other effect of the plan has.
	Effects []string
	// Skip are later steps that have nothing to do, because of Message.
	Skip []v1alpha1.StepName
}

// Plan is what a step works on. Everything in it was read live.
type Plan struct {
	*v1alpha1.Remediation
	// Node is nil when there is no ComputeNode; only ReleaseBudget has to cope with that.
	Node *v1alpha1.ComputeNode
}

// API is how steps read and write.
type API struct {
	// Client writes; nothing is read through it, as it may answer from a cache.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	Now  func() time.Time
}

// steps lists every kind of step.
func steps(api *API) map[v1alpha1.StepName]Step {
	return map[v1alpha1.StepName]Step{
		v1alpha1.StepReserveBudget:      &reserveBudget{api},
		v1alpha1.StepConfirmQuarantine:  &confirmQuarantine{api},
		v1alpha1.StepRequestReplacement: &requestReplacement{api},
		v1alpha1.StepAwaitReplacement:   &awaitReplacement{api},
		v1alpha1.StepRetireVolumes:      &retireVolumes{api},
		v1alpha1.StepLiftQuarantine:     &liftQuarantine{api},
		v1alpha1.StepReleaseBudget:      &releaseBudget{api},
	}
}

// policy reads the policy in force; nil when there is none.
func (a *API) policy(ctx context.Context) (*v1alpha1.RemediationPolicy, error) {
	p := &v1alpha1.RemediationPolicy{}
	if err := a.Live.Get(ctx, types.NamespacedName{Name: v1alpha1.DefaultPolicy}, p); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read RemediationPolicy %s: %w", v1alpha1.DefaultPolicy, err)
	}
	return p, nil
}

// node reads a ComputeNode; nil when there is none.
func (a *API) node(ctx context.Context, name string) (*v1alpha1.ComputeNode, error) {
	n := &v1alpha1.ComputeNode{}
	if err := a.Live.Get(ctx, types.NamespacedName{Name: name}, n); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read ComputeNode %s: %w", name, err)
	}
	return n, nil
}

// volumes lists the volumes on the plan's disk.
func (a *API) volumes(ctx context.Context, p *Plan) ([]corev1.PersistentVolume, error) {
	var l corev1.PersistentVolumeList
	sel := client.MatchingLabels{v1alpha1.LabelNode: p.Spec.Node, v1alpha1.LabelDisk: diskid.Label(p.Spec.Disk)}
	if err := a.Live.List(ctx, &l, sel); err != nil {
		return nil, fmt.Errorf("list volumes of disk %s: %w", p.Spec.Disk, err)
	}
	return slices.DeleteFunc(l.Items, func(pv corev1.PersistentVolume) bool { return marks.DiskOf(&pv) != p.Spec.Disk }), nil
}

// patch writes what change does to an object, unless anybody changed it since it was read.
func (a *API) patch(ctx context.Context, o client.Object, change func()) error {
	base, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("copy %T: not an object", o)
	}
	change()
	if err := a.Client.Patch(ctx, o, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("update %s: %w", o.GetName(), err)
	}
	return nil
}

// patchStatus is patch for the status.
func (a *API) patchStatus(ctx context.Context, o client.Object, change func()) error {
	base, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("copy %T: not an object", o)
	}
	change()
	if err := a.Client.Status().Patch(ctx, o, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("update status of %s: %w", o.GetName(), err)
	}
	return nil
}

// now is the time as the API keeps it.
func (a *API) now() metav1.Time { return metav1.NewTime(a.Now().UTC().Truncate(time.Second)) }

// volumeRef names one volume, once and for all.
type volumeRef struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

func (v volumeRef) deleted() string {
	return fmt.Sprintf("deleted PersistentVolume %s (UID %s)", v.Name, v.UID)
}

func parseRefs(text string) ([]volumeRef, error) {
	if text == "" {
		return nil, nil
	}
	var out []volumeRef
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("decode list of volumes %q: %w", text, err)
	}
	return out, nil
}
