package repair

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/marks"
	"holdfast.dev/remediation/policy"
)

// retireVolumes deletes the PersistentVolumes of a disk that was replaced, as
// far as no claim has them, and waits for the owners of the rest. Only the API
// objects go; nothing is wiped. Each deletion names UID and resource version, so
// a volume that got a claim in the meantime, or was made anew, is left alone.
// What is about to be deleted is noted on the plan first.
type retireVolumes struct{ *API }

func (s *retireVolumes) Run(ctx context.Context, p *Plan) (Outcome, error) {
	if old := policy.Disk(p.Node, p.Spec.Disk); old != nil && old.Device != "" {
		return Outcome{Message: fmt.Sprintf("disk %s is back as %s: pull it, or cancel the plan", p.Spec.Disk, old.Device)}, nil
	}
	if policy.ReplacedBy(p.Remediation) == "" {
		return Outcome{Message: fmt.Sprintf("waits: the plan no longer says which disk replaced %s; cancel it", p.Spec.Disk)}, nil
	}
	volumes, err := s.volumes(ctx, p)
	if err != nil {
		return Outcome{}, err
	}
	var retire []*corev1.PersistentVolume
	var waits []string
	for i := range volumes {
		pv := &volumes[i]
		switch {
		case pv.DeletionTimestamp != nil:
			waits = append(waits, "PersistentVolume "+pv.Name+" to go")
		case marks.On(pv) && !marks.Claimed(pv):
			retire = append(retire, pv)
		case marks.Claimed(pv):
			waits = append(waits, fmt.Sprintf("the owner of claim %s/%s to save its data and delete it", pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name))
		default:
			waits = append(waits, "the quarantine of PersistentVolume "+pv.Name)
		}
	}
	if err := s.intend(ctx, p, retire); err != nil {
		return Outcome{}, err
	}
	for _, pv := range retire {
		if err := s.delete(ctx, pv); err != nil {
			return Outcome{}, err
		}
		waits = append(waits, "PersistentVolume "+pv.Name+" to go")
	}
	effects, err := s.Observe(ctx, p)
	if err != nil {
		return Outcome{}, err
	}
	if len(waits) > 0 {
		return Outcome{Message: "waits for " + strings.Join(waits, "; "), Effects: effects}, nil
	}
	return Outcome{Done: true, Effects: effects}, nil
}

// intend notes the volumes on the plan, next to those of earlier rounds.
func (s *retireVolumes) intend(ctx context.Context, p *Plan, retire []*corev1.PersistentVolume) error {
	noted, err := parseRefs(p.Annotations[v1alpha1.AnnotationRetiring])
	if err != nil {
		return err
	}
	known := len(noted)
	for _, pv := range retire {
		if ref := (volumeRef{pv.Name, pv.UID}); !slices.Contains(noted, ref) {
			noted = append(noted, ref)
		}
	}
	if len(noted) == known {
		return nil
	}
	text, err := json.Marshal(noted)
	if err != nil {
		return fmt.Errorf("encode list of volumes: %w", err)
	}
	if err := s.patch(ctx, p.Remediation, func() { p.Annotations[v1alpha1.AnnotationRetiring] = string(text) }); err != nil {
		return fmt.Errorf("note the volumes to delete: %w", err)
	}
	return nil
}

func (s *retireVolumes) delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	err := s.Client.Delete(ctx, pv, client.Preconditions{UID: &pv.UID, ResourceVersion: &pv.ResourceVersion})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete PersistentVolume %s: %w", pv.Name, err)
	}
	return nil
}

// Observe says which of the noted volumes are gone or going.
func (s *retireVolumes) Observe(ctx context.Context, p *Plan) ([]string, error) {
	noted, err := parseRefs(p.Annotations[v1alpha1.AnnotationRetiring])
	if err != nil {
		return nil, err
	}
	var effects []string
	for _, ref := range noted {
		var pv corev1.PersistentVolume
		err := s.Live.Get(ctx, types.NamespacedName{Name: ref.Name}, &pv)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read PersistentVolume %s: %w", ref.Name, err)
		}
		if err != nil || pv.UID != ref.UID || pv.DeletionTimestamp != nil {
			effects = append(effects, ref.deleted())
		}
	}
	return effects, nil
}
