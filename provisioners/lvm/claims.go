package lvm

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// claimPage is how many claims are asked for at once.
const claimPage = 500

// claims watches the claims of this node and keeps no others, so that memory does not
// grow with the cluster. The API server cannot select claims by node, so all pass by.
type claims struct {
	api  kubernetes.Interface
	node string

	mu      sync.Mutex
	kept    map[types.UID]bool // that the informer has
	volumes map[string]bool    // names of this node's volumes
}

func newClaims(api kubernetes.Interface, node string) *claims {
	return &claims{api: api, node: node, kept: map[types.UID]bool{}, volumes: map[string]bool{}}
}

// informer is an informer of the claims that are to be kept.
func (c *claims) informer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(&cache.ListWatch{ListWithContextFunc: c.list, WatchFuncWithContext: c.watch}, &corev1.PersistentVolumeClaim{}, 0, cache.Indexers{})
}

// volume is told of this node's volumes: claims that are bound to one are kept
// whoever provisioned it.
func (c *claims) volume(name string, there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.volumes[name] = there; !there {
		delete(c.volumes, name)
	}
}

func (c *claims) keep(p *corev1.PersistentVolumeClaim) bool {
	if p.Annotations[annSelectedNode] == c.node && p.Annotations[annProvisioner] == DriverName {
		return true
	}
	return p.Spec.VolumeName != "" && c.volumes[p.Spec.VolumeName]
}

func (c *claims) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	out := &corev1.PersistentVolumeClaimList{}
	kept := map[types.UID]bool{}
	o.Limit, o.ResourceVersion, o.ResourceVersionMatch, o.Continue = claimPage, "", "", ""
	for {
		l, err := c.api.CoreV1().PersistentVolumeClaims("").List(ctx, o)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		for i := range l.Items {
			if c.keep(&l.Items[i]) {
				kept[l.Items[i].UID] = true
				out.Items = append(out.Items, *l.Items[i].DeepCopy())
			}
		}
		c.mu.Unlock()
		out.ListMeta = metav1.ListMeta{ResourceVersion: l.ResourceVersion}
		if o.Continue = l.Continue; o.Continue == "" {
			c.mu.Lock()
			c.kept = kept
			c.mu.Unlock()
			return out, nil
		}
	}
}

func (c *claims) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := c.api.CoreV1().PersistentVolumeClaims("").Watch(ctx, o)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, c.filter), nil
}

// filter drops what is not to be kept, and turns a claim that is not any more into a
// deleted one.
func (c *claims) filter(ev watch.Event) (watch.Event, bool) {
	p, ok := ev.Object.(*corev1.PersistentVolumeClaim)
	if !ok || ev.Type == watch.Bookmark || ev.Type == watch.Error {
		return ev, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ev.Type != watch.Deleted && c.keep(p):
		c.kept[p.UID] = true
		return ev, true
	case c.kept[p.UID]:
		delete(c.kept, p.UID)
		ev.Type = watch.Deleted
		return ev, true
	}
	return ev, false
}
