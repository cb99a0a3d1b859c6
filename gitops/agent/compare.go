package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa/normalize"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/protocol"
)

// mayNot is true when RBAC is why a dry run was refused, and not a webhook, a quota
// or a policy: Kubernetes authorizes a dry run as the write that it would be.
func mayNot(err error) bool {
	return apierrors.IsForbidden(err) && (strings.Contains(err.Error(), "cannot patch resource") || strings.Contains(err.Error(), "cannot create resource"))
}

// compare looks by reading alone at what a dry run would say: every field that the
// bundle sets must be there with its value. What the API server thinks of a change
// stays unknown.
func (p *planner) compare(ctx context.Context, o *unstructured.Unstructured, brings brought) *protocol.PlanChange {
	c := &protocol.PlanChange{Object: objectName(object.UnstructuredToObjMetadata(o))}
	if err := p.fits(ctx, o, nil, nil, brings); err != nil {
		c.Action, c.Message = protocol.PlanRefused, oneLine(err)
		return c
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	err := p.client.Get(ctx, client.ObjectKeyFromObject(o), live)
	switch {
	case apierrors.IsNotFound(err):
		c.Action, c.Message = protocol.PlanCreate, "not tried: the agent may only read here"
		return c
	case apierrors.IsForbidden(err):
		c.Action, c.Message = protocol.PlanRefused, oneLine(unseen(err))
		return c
	case err != nil:
		c.Action, c.Message = protocol.PlanRefused, oneLine(err)
		return c
	}
	want := o.DeepCopy()
	if err := normalize.UnstructuredWithScheme(want, p.builtin); err != nil {
		c.Action, c.Message = protocol.PlanRefused, oneLine(err)
		return c
	}
	if c.Fields = lacking(want.Object, live.Object); len(c.Fields) == 0 {
		return nil
	}
	c.Action, c.Message = protocol.PlanChanged, "not tried: the agent may only read here"
	return c
}

// unseen says what to do about an object that the agent may not read.
func unseen(err error) error {
	return fmt.Errorf("the agent cannot see it: %w (bind a ClusterRole that reads it to the agent's ServiceAccount)", err)
}

// builtin are the kinds of which the API server writes what it was given in a way of
// its own: quantities, and without what is empty. Custom resources it keeps as they are.
func builtin() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(scheme.AddToScheme(s), apiextensionsv1.AddToScheme(s))
}

// lacking names the fields of want that have does not have with their values. What
// have has beyond that is the API server's defaults, or others'.
func lacking(want, have map[string]any) []string {
	var out []string
	var walk func(path string, w, h any)
	walk = func(path string, w, h any) {
		switch w := w.(type) {
		case nil:
		case map[string]any:
			there, ok := h.(map[string]any)
			if !ok && len(w) > 0 {
				out = append(out, path)
				return
			}
			for _, key := range keysOf(w) {
				if next := strings.TrimPrefix(path+"."+key, "."); next != "status" {
					walk(next, w[key], there[key])
				}
			}
		case []any:
			there, _ := h.([]any)
			if len(w) != len(there) {
				out = append(out, path)
				return
			}
			for i := range w {
				walk(fmt.Sprintf("%s[%d]", path, i), w[i], there[i])
			}
		default:
			if !sameScalar(w, h) {
				out = append(out, path)
			}
		}
	}
	walk("", want, have)
	return someOf(out)
}

// sameScalar compares as JSON does, which has one kind of number.
func sameScalar(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
