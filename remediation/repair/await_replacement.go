package repair

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

// awaitReplacement waits until another disk has the old one's place, or the old
// one is back and healthy. Which disk it was is noted on the plan, so that no
// other plan counts the same one.
type awaitReplacement struct{ *API }

func (s *awaitReplacement) Run(ctx context.Context, p *Plan) (Outcome, error) {
	old := policy.Disk(p.Node, p.Spec.Disk)
	if old != nil && old.State == v1alpha1.DiskHealthy {
		return Outcome{
			Done:    true,
			Message: fmt.Sprintf("disk %s is healthy again", p.Spec.Disk),
			Skip:    []v1alpha1.StepName{v1alpha1.StepRetireVolumes},
		}, nil
	}
	by := policy.ReplacedBy(p.Remediation)
	if by == "" {
		var found bool
		var err error
		if by, found, err = s.find(ctx, p); err != nil {
			return Outcome{}, err
		}
		if !found {
			return Outcome{Message: s.waiting(p, old)}, nil
		}
		err = s.patch(ctx, p.Remediation, func() {
			if p.Annotations == nil {
				p.Annotations = map[string]string{}
			}
			p.Annotations[v1alpha1.AnnotationReplacedBy] = by
			if old != nil && old.Since != nil {
				p.Annotations[v1alpha1.AnnotationGoneSince] = policy.Stamp(old.Since.Time)
			}
		})
		if err != nil {
			return Outcome{}, fmt.Errorf("note the new disk: %w", err)
		}
	}
	return Outcome{Done: true, Message: fmt.Sprintf("disk %s has the place of %s", by, p.Spec.Disk)}, nil
}

// find looks for the new disk, past those that other plans count as theirs.
func (s *awaitReplacement) find(ctx context.Context, p *Plan) (string, bool, error) {
	if _, found := policy.Replacement(p.Node, p.Remediation, nil); !found {
		return "", false, nil
	}
	var plans v1alpha1.RemediationList
	if err := s.Live.List(ctx, &plans, client.MatchingLabels{v1alpha1.LabelNode: p.Spec.Node}); err != nil {
		return "", false, fmt.Errorf("list plans of node %s: %w", p.Spec.Node, err)
	}
	id, found := policy.Replacement(p.Node, p.Remediation, policy.Claimed(p.Node, p.Remediation, plans.Items))
	return id, found, nil
}

func (*awaitReplacement) waiting(p *Plan, old *v1alpha1.Disk) string {
	where := "node " + p.Spec.Node
	if p.Spec.Slot != "" {
		where += " slot " + p.Spec.Slot
	}
	if old != nil && old.Device != "" {
		return fmt.Sprintf("waits for a person to replace disk %s (%s) in %s", p.Spec.Disk, old.Device, where)
	}
	return fmt.Sprintf("waits for a healthy disk in place of %s in %s", p.Spec.Disk, where)
}
