package agent

import (
	"context"
	"errors"

	"github.com/fluxcd/cli-utils/pkg/object"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/protocol"
)

// errSealed is why a Secret that SOPS encrypted is nothing that an agent applies: the
// API server would refuse it, for no Secret has a field sops.
var errSealed = errors.New("it is encrypted with SOPS, and this agent decrypts nothing: let Flux apply the bundle (holdfast join --apply=other), or write an ExternalSecret or a SopsSecret, whose operator decrypts it in the cluster")

// sealed tells whether an object is such a Secret.
func sealed(o *unstructured.Unstructured) bool {
	_, block := o.Object["sops"]
	return block && o.GetKind() == "Secret" && o.GetAPIVersion() == "v1"
}

// trySealed looks by its labels and annotations whether whoever decrypts it has applied
// the Secret; nil when it has. What is in it nobody here can compare.
func (p *planner) trySealed(ctx context.Context, o *unstructured.Unstructured) *protocol.PlanChange {
	c := &protocol.PlanChange{Object: objectName(object.UnstructuredToObjMetadata(o)), Action: protocol.PlanRefused}
	if !p.looksOnly {
		c.Message = oneLine(errSealed)
		return c
	}
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	switch err := p.client.Get(ctx, client.ObjectKeyFromObject(o), live); {
	case apierrors.IsNotFound(err):
		c.Action, c.Message = protocol.PlanCreate, "not tried: it is encrypted"
		return c
	case apierrors.IsForbidden(err):
		c.Message = oneLine(unseen(err))
		return c
	case err != nil:
		c.Message = oneLine(err)
		return c
	case ensured(o):
		return nil
	}
	marks := func(o metav1.Object) map[string]any {
		return map[string]any{"labels": anyOf(o.GetLabels()), "annotations": anyOf(o.GetAnnotations())}
	}
	if c.Fields = lacking(map[string]any{"metadata": marks(o)}, map[string]any{"metadata": marks(live)}); len(c.Fields) == 0 {
		return nil
	}
	c.Action, c.Message = protocol.PlanChanged, "not tried: it is encrypted"
	return c
}

func anyOf(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
