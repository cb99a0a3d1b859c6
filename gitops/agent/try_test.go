package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
)

// TestTriesAtOnce: the objects of a question are tried eight at a time. One after
// the other, a large bundle was never tried in time, and so never published.
func TestTriesAtOnce(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var now atomic.Int64
	var few, many atomic.Bool
	var once sync.Once
	full := make(chan struct{})
	open := func() { once.Do(func() { close(full) }) }
	c := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			n := now.Add(1)
			defer now.Add(-1)
			if n >= atOnce {
				open()
			}
			if n > atOnce {
				many.Store(true)
			}
			select {
			case <-full:
			case <-time.After(10 * time.Second):
				few.Store(true)
				open()
			}
			return errors.New("refused")
		},
	}).Build()
	u := unit{name: "one", digest: "d"}
	for i := range 2 * atOnce {
		o := &unstructured.Unstructured{}
		o.SetAPIVersion("v1")
		o.SetKind("ConfigMap")
		o.SetNamespace("default")
		o.SetName(fmt.Sprintf("m%02d", i))
		u.objects = append(u.objects, o)
	}
	var rep protocol.PlanReport
	p, err := newPlanner(Options{Cluster: "c"}, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.plan(t.Context(), []unit{u}, nil, true, &rep); err != nil {
		t.Fatal(err)
	}
	if few.Load() || many.Load() || len(rep.Changes) != 2*atOnce {
		t.Fatalf("fewer than %d at once: %v; more: %v; %d changes", atOnce, few.Load(), many.Load(), len(rep.Changes))
	}
	for i, c := range rep.Changes {
		if want := fmt.Sprintf("ConfigMap default/m%02d", i); c.Object != want || c.Action != protocol.PlanRefused || c.Addon != "one" {
			t.Errorf("change %d is %+v, want of %s", i, c, want)
		}
	}
}

// TestTimeToTry: an answer arrives while the hub waits for it, and has more time the
// more there is to try.
func TestTimeToTry(t *testing.T) {
	for _, files := range []int{1, 1000} {
		if limit, wait := planLimit(files, true), protocol.TrialWait(files); limit >= wait || limit < time.Duration(files)*100*time.Millisecond {
			t.Errorf("%d files: %s to try them, the hub waits for %s", files, limit, wait)
		}
	}
	if planLimit(1000, false) >= protocol.PlanWait {
		t.Error("a person has gone before the answer comes")
	}
}
