package node

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// patientPods are the pods as virtual-kubelet reaches them. It deletes a pod's
// object when the grace period is over, or at once when no container is
// running; a kubelet does so when the last process is gone, and so does the
// provider. Who waits for the object's end, as a StatefulSet's controller does,
// relies on that.
type patientPods struct {
	corev1client.PodsGetter
	provider *provider
}

// Pods are the pods of a namespace.
func (g patientPods) Pods(namespace string) corev1client.PodInterface {
	return patientPodsOf{PodInterface: g.PodsGetter.Pods(namespace), provider: g.provider}
}

type patientPodsOf struct {
	corev1client.PodInterface
	provider *provider
}

// Delete leaves a pod that is still here to the provider, and has it end.
func (g patientPodsOf) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	if opts.Preconditions != nil && opts.Preconditions.UID != nil {
		g.provider.mu.Lock()
		have := g.provider.byUID[*opts.Preconditions.UID]
		g.provider.mu.Unlock()
		if have != nil {
			if have.object().DeletionTimestamp == nil {
				have.end(have.object())
			}
			return nil
		}
	}
	return g.PodInterface.Delete(ctx, name, opts)
}
