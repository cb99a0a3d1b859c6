package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"holdfast.dev/api/v1alpha1"
)

// pages is an API server that has one object a page, and takes its time with each.
type pages struct {
	metadata.Getter
	each  time.Duration
	names []string
}

func (p *pages) Resource(schema.GroupVersionResource) metadata.Getter { return p }

func (p *pages) List(ctx context.Context, opts metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	select {
	case <-time.After(p.each):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n := len(opts.Continue)
	o := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: p.names[n], Labels: map[string]string{v1alpha1.LabelAddon: "one"}, ManagedFields: []metav1.ManagedFieldsEntry{{
		Manager: fieldOwner, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: &metav1.Time{},
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:` + v1alpha1.LabelAddon + `":{}}}}`),
	}}}}
	list := &metav1.PartialObjectMetadataList{Items: []metav1.PartialObjectMetadata{o}}
	if n+1 < len(p.names) {
		list.Continue = opts.Continue + "+"
	}
	return list, nil
}

// TestSearchOfManyPages: a kind of so many objects that their list takes longer than one
// answer may was never listed to its end, and the search began anew for ever.
func TestSearchOfManyPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pages{each: listTimeout / 2, names: []string{"a", "b", "c", "d", "e"}}
		s := &searcher{objects: p, listed: map[schema.GroupVersionResource]bool{}}
		list := func() (map[string][]v1alpha1.InventoryEntry, error) {
			return s.list(t.Context(), schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, schema.GroupKind{Kind: "ConfigMap"})
		}
		if found, err := list(); err != nil || len(found["one"]) != len(p.names) {
			t.Errorf("found %v, %v", found, err)
		}
		p.each = 2 * listTimeout
		start := time.Now()
		if _, err := list(); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != listTimeout {
			t.Errorf("an answer that never comes: %v after %s", err, time.Since(start))
		}
	})
}
