package agent

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
)

// statusStore writes AddonStatus objects. The agent is their only writer, so
// what it wrote last is what is there.
type statusStore struct {
	client client.Client
	known  map[string]v1alpha1.AddonStatus
}

func (s *statusStore) load(ctx context.Context) error {
	var list v1alpha1.AddonStatusList
	if err := s.client.List(ctx, &list); err != nil {
		return fmt.Errorf("read addon statuses: %w", err)
	}
	for _, st := range list.Items {
		s.known[st.Name] = st
	}
	return nil
}

func (s *statusStore) get(name string) v1alpha1.AddonStatus { return s.known[name] }

// withInventory are the addons that have something to prune, sorted.
func (s *statusStore) withInventory() []string {
	names := []string{}
	for name, st := range s.known {
		if len(st.Status.Inventory) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// update changes one status; it writes nothing when nothing changes.
func (s *statusStore) update(ctx context.Context, name string, change func(*v1alpha1.AddonStatusStatus)) error {
	st, ok := s.known[name]
	if !ok {
		st = v1alpha1.AddonStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}
		err := s.client.Create(ctx, &st)
		if apierrors.IsAlreadyExists(err) {
			err = s.client.Get(ctx, client.ObjectKey{Name: name}, &st)
		}
		if err != nil {
			return fmt.Errorf("create addon status %s: %w", name, err)
		}
		s.known[name] = st
	}
	next := st.DeepCopy()
	change(&next.Status)
	if equality.Semantic.DeepEqual(st.Status, next.Status) {
		return nil
	}
	err := s.client.Status().Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		// A person touched or deleted it: take theirs as the base, keep our inventory.
		var fresh v1alpha1.AddonStatus
		if gerr := s.client.Get(ctx, client.ObjectKey{Name: name}, &fresh); apierrors.IsNotFound(gerr) {
			fresh = v1alpha1.AddonStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if cerr := s.client.Create(ctx, &fresh); cerr != nil {
				return fmt.Errorf("create addon status %s: %w", name, cerr)
			}
		} else if gerr != nil {
			return fmt.Errorf("read addon status %s: %w", name, gerr)
		}
		fresh.Status = next.Status
		next = &fresh
		err = s.client.Status().Update(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("write addon status %s: %w", name, err)
	}
	s.known[name] = *next
	return nil
}

func (s *statusStore) remove(ctx context.Context, name string) error {
	st := s.known[name]
	if err := client.IgnoreNotFound(s.client.Delete(ctx, &st)); err != nil {
		return fmt.Errorf("delete addon status %s: %w", name, err)
	}
	delete(s.known, name)
	return nil
}

// sendReport tells the hub what changed since the last report.
func (a *Agent) sendReport(ctx context.Context) {
	r := protocol.Report{Revision: a.revision, Digest: a.digest, Refused: a.refused, Error: a.fetchError}
	for _, name := range a.order {
		s := a.store.get(name).Status
		ar := protocol.AddonReport{Name: name, Version: s.Version, DesiredDigest: s.DesiredDigest, AppliedDigest: s.AppliedDigest, Health: s.Health, Message: s.Message}
		if s.AppliedAt != nil {
			ar.AppliedAt = s.AppliedAt.Time
		}
		if s.HealthySince != nil {
			ar.HealthySince = s.HealthySince.Time
		}
		if u := a.units[name]; !u.applied && ar.AppliedDigest == u.digest && ar.Health == v1alpha1.HealthHealthy {
			ar.Health = v1alpha1.HealthProgressing // stored before a restart, not seen again yet
		}
		r.Addons = append(r.Addons, ar)
	}
	if a.lastReport != nil && reflect.DeepEqual(*a.lastReport, r) {
		return
	}
	if err := a.hub.report(ctx, r); err != nil {
		a.log.Info("report not delivered", "error", err.Error())
		a.lastReport = nil
		return
	}
	a.lastReport = &r
}

func nowMicro() *metav1.MicroTime {
	t := metav1.NewMicroTime(time.Now().Truncate(time.Microsecond))
	return &t
}
