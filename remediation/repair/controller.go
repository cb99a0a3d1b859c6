package repair

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/index"
	"holdfast.dev/remediation/policy"
)

// Controller carries out plans. Its requests are names of Remediations. It must
// run with one worker: two plans of one node may wait for the same new disk.
type Controller struct {
	API
	Log *slog.Logger
	// Decided is told of each step that was done and each plan that ended.
	Decided func(decision string)
}

// SetupWithManager registers the controller.
func (c *Controller) SetupWithManager(m ctrl.Manager, o controller.Options) error {
	o.MaxConcurrentReconciles = 1
	return ctrl.NewControllerManagedBy(m).
		Named("repair").
		WithOptions(o).
		For(&v1alpha1.Remediation{}).
		Watches(&v1alpha1.ComputeNode{}, index.NodeToPlans(m.GetClient(), client.Object.GetName)).
		Watches(&corev1.PersistentVolume{}, index.NodeToPlans(m.GetClient(), func(o client.Object) string {
			return o.GetLabels()[v1alpha1.LabelNode]
		})).
		Watches(&v1alpha1.RemediationPolicy{}, index.PolicyToPlans(m.GetClient())).
		Complete(c)
}

// maxMoves bounds one Reconcile: more than a plan has steps.
const maxMoves = 32

// Reconcile moves one plan on until it waits or ends.
func (c *Controller) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	for range maxMoves {
		p := &Plan{Remediation: &v1alpha1.Remediation{}}
		if err := c.Live.Get(ctx, req.NamespacedName, p.Remediation); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		if p.Status.FinishedAt != nil {
			return ctrl.Result{}, c.letGo(ctx, p)
		}
		again, err := c.move(ctx, p)
		switch {
		case apierrors.IsConflict(err):
			continue // somebody else wrote it: look again
		case err != nil:
			return ctrl.Result{}, fmt.Errorf("plan %s: %w", p.Name, err)
		case again != nil:
			return ctrl.Result{RequeueAfter: *again}, nil
		}
	}
	return ctrl.Result{RequeueAfter: time.Second}, nil
}

// move makes one move. It returns nil when there may be another, else after how
// long to look again (0: when something changes).
func (c *Controller) move(ctx context.Context, p *Plan) (*time.Duration, error) {
	pol, err := c.policy(ctx)
	if err != nil {
		return nil, err
	}
	if p.Node, err = c.node(ctx, p.Spec.Node); err != nil {
		return nil, err
	}
	view := policy.View{Plan: p.Remediation, Node: p.Node, Now: c.Now()}
	if pol != nil {
		view.Policy = &pol.Spec
	}
	m := policy.Next(view)
	all := steps(&c.API)
	step := all[m.Step]
	switch {
	case m.Step != "" && step == nil:
		return nil, c.end(ctx, p, v1alpha1.PhaseEscalated, fmt.Sprintf("step %q is unknown to this version; update the controller or finish by hand", m.Step), all)
	case m.End != "":
		return nil, c.end(ctx, p, m.End, m.Message, all)
	case m.Step == "":
		return &m.Again, c.say(ctx, p, m.Message)
	}
	if s := policy.StepOf(p.Remediation, m.Step); s == nil || s.State == v1alpha1.StepPending {
		if err := c.start(ctx, p, m.Step); err != nil {
			return nil, err
		}
	}
	o, err := step.Run(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("step %s: %w", m.Step, err)
	}
	if err := c.record(ctx, p, m.Step, o); err != nil {
		return nil, err
	}
	if !o.Done {
		return &m.Again, nil
	}
	return nil, nil
}

// start writes the intent to have a step's effect.
func (c *Controller) start(ctx context.Context, p *Plan, name v1alpha1.StepName) error {
	return c.patchStatus(ctx, p.Remediation, func() {
		if p.Status.Phase == "" {
			p.Status.Phase = v1alpha1.PhasePending
		}
		s := stepFor(p, name)
		now := c.now()
		s.State, s.StartedAt = v1alpha1.StepStarted, &now
		p.Status.Step, p.Status.Message = name, ""
	})
}

// record writes what came of a step.
func (c *Controller) record(ctx context.Context, p *Plan, name v1alpha1.StepName, o Outcome) error {
	if !o.Done && p.Status.Message == o.Message && !slices.ContainsFunc(o.Effects, func(e string) bool { return !audited(p, e) }) {
		return nil
	}
	err := c.patchStatus(ctx, p.Remediation, func() {
		now := c.now()
		c.audit(p, name, o.Effects)
		if name != v1alpha1.StepReleaseBudget { // there, the message is why the plan ends
			stepFor(p, name).Message = o.Message
			p.Status.Message = o.Message
		}
		if !o.Done {
			return
		}
		done(p, name, &now)
		for _, skip := range o.Skip {
			stepFor(p, skip).Message = "nothing to do: " + o.Message
			done(p, skip, &now)
		}
		switch name {
		case v1alpha1.StepReserveBudget:
			p.Status.Phase, p.Status.StartedAt = v1alpha1.PhaseRunning, &now
		case v1alpha1.StepReleaseBudget:
			p.Status.FinishedAt = &now
			if p.Status.Phase == v1alpha1.PhaseRunning {
				p.Status.Phase = v1alpha1.PhaseSucceeded
				p.Status.Message = succeeded(p)
			}
		}
	})
	if err != nil || !o.Done {
		return err
	}
	c.Decided("step")
	c.Log.Info("step done", "plan", p.Name, "node", p.Spec.Node, "disk", p.Spec.Disk, "step", name, "message", o.Message)
	if p.Status.FinishedAt != nil {
		c.Decided("finish")
		c.Log.Info("plan ended", "plan", p.Name, "phase", p.Status.Phase, "message", p.Status.Message)
	}
	return nil
}

// end writes that a plan ends before its time, with what its step has already
// done. Undoing what is to be undone, and FinishedAt, come with ReleaseBudget.
func (c *Controller) end(ctx context.Context, p *Plan, phase v1alpha1.Phase, why string, all map[v1alpha1.StepName]Step) error {
	at := p.Status.Step
	var effects []string
	if o, ok := all[at].(Observer); ok {
		var err error
		if effects, err = o.Observe(ctx, p); err != nil {
			return fmt.Errorf("step %s: %w", at, err)
		}
	}
	return c.patchStatus(ctx, p.Remediation, func() {
		now := c.now()
		c.audit(p, at, effects)
		p.Status.Phase, p.Status.Message = phase, why
		s := stepFor(p, v1alpha1.StepReleaseBudget)
		s.State, s.StartedAt, s.Message = v1alpha1.StepStarted, &now, why
		p.Status.Step = v1alpha1.StepReleaseBudget
	})
}

// say writes what a plan waits for, when that is news.
func (c *Controller) say(ctx context.Context, p *Plan, message string) error {
	if p.Status.Message == message && p.Status.Phase != "" {
		return nil
	}
	return c.patchStatus(ctx, p.Remediation, func() {
		if p.Status.Phase == "" {
			p.Status.Phase = v1alpha1.PhasePending
		}
		p.Status.Message = message
	})
}

// letGo takes the finalizer off a finished plan that somebody deleted.
func (c *Controller) letGo(ctx context.Context, p *Plan) error {
	if p.DeletionTimestamp == nil || !slices.Contains(p.Finalizers, v1alpha1.FinalizerBudget) {
		return nil
	}
	err := c.patch(ctx, p.Remediation, func() {
		p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == v1alpha1.FinalizerBudget })
	})
	return client.IgnoreNotFound(err)
}

// audit adds effects to the trail, each once.
func (c *Controller) audit(p *Plan, step v1alpha1.StepName, effects []string) {
	for _, e := range effects {
		if !audited(p, e) {
			p.Status.Audit = append(p.Status.Audit, v1alpha1.AuditEntry{Time: c.now(), Step: step, Effect: e})
		}
	}
}
