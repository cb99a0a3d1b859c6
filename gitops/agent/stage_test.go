package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// TestAppliesAtOnce: new objects cost a dry run and an apply each, eight at a time, kind
// after kind. One after the other, a thousand of them took ten seconds and more.
func TestAppliesAtOnce(t *testing.T) {
	var lock sync.Mutex
	var kinds []string
	gets, now, most := 0, 0, 0
	full, once := make(chan struct{}), sync.Once{}
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			lock.Lock()
			defer lock.Unlock()
			gets++
			return errors.New("nobody should ask")
		},
		Patch: func(_ context.Context, _ client.WithWatch, o client.Object, _ client.Patch, opts ...client.PatchOption) error {
			if len((&client.PatchOptions{}).ApplyOptions(opts).DryRun) > 0 {
				return nil // without a resource version: it is not there yet
			}
			lock.Lock()
			kinds = append(kinds, o.GetObjectKind().GroupVersionKind().Kind)
			now++
			if most = max(most, now); now == atOnce {
				once.Do(func() { close(full) })
			}
			lock.Unlock()
			select {
			case <-full:
			case <-time.After(10 * time.Second): // most says that so many never came
				once.Do(func() { close(full) })
			}
			lock.Lock()
			defer lock.Unlock()
			now--
			return nil
		},
	}).Build()
	u := unit{name: "one", digest: "d"}
	for i := range 4 * atOnce {
		o := &unstructured.Unstructured{}
		o.SetAPIVersion("v1")
		o.SetKind([]string{"ConfigMap", "ServiceAccount"}[i%2])
		o.SetNamespace("default")
		o.SetName(fmt.Sprintf("m%02d", i))
		u.objects = append(u.objects, o)
	}
	if _, err := newApplier(c).apply(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if most != atOnce || gets > 0 || len(kinds) != len(u.objects) {
		t.Errorf("%d at once, %d looks before, %d applied", most, gets, len(kinds))
	}
	if first := slices.Index(kinds, "ConfigMap"); first != 2*atOnce || slices.Contains(kinds[first:], "ServiceAccount") {
		t.Errorf("the kinds came as %v, accounts are to come before what may name them", kinds)
	}
}
