package report

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"holdfast.dev/api/v1alpha1"
)

// Client talks to the API server about one node. It knows four kinds: a typed
// clientset of all of Kubernetes would be most of this process.
type Client struct {
	node           string
	holdfast, core rest.Interface
}

// NewClient makes a client for the node's objects.
func NewClient(cfg *rest.Config, node string) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register API types: %w", err)
	}
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.PersistentVolume{}, &corev1.PersistentVolumeList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	codecs := serializer.NewCodecFactory(scheme)
	c := &Client{node: node}
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	for _, api := range []struct {
		dst  *rest.Interface
		path string
		gv   schema.GroupVersion
	}{
		{&c.holdfast, "/apis", v1alpha1.GroupVersion},
		{&c.core, "/api", corev1.SchemeGroupVersion},
	} {
		cc := rest.CopyConfig(cfg)
		cc.APIPath, cc.GroupVersion = api.path, &api.gv
		cc.NegotiatedSerializer = codecs.WithoutConversion()
		cc.AcceptContentTypes, cc.ContentType = "application/json", "application/json"
		if *api.dst, err = rest.RESTClientForConfigAndClient(cc, httpClient); err != nil {
			return nil, fmt.Errorf("make API client: %w", err)
		}
	}
	return c, nil
}

// GetNode implements StatusClient.
func (c *Client) GetNode(ctx context.Context) (*v1alpha1.ComputeNode, error) {
	var n v1alpha1.ComputeNode
	return &n, c.holdfast.Get().Resource("computenodes").Name(c.node).Do(ctx).Into(&n)
}

// UpdateStatus implements StatusClient.
func (c *Client) UpdateStatus(ctx context.Context, n *v1alpha1.ComputeNode) (*v1alpha1.ComputeNode, error) {
	var got v1alpha1.ComputeNode
	return &got, c.holdfast.Put().Resource("computenodes").Name(c.node).SubResource("status").Body(n).Do(ctx).Into(&got)
}

// GetFlavor reads a NodeFlavor; nil when there is none of that name.
func (c *Client) GetFlavor(ctx context.Context, name string) (*v1alpha1.NodeFlavor, error) {
	var f v1alpha1.NodeFlavor
	err := c.holdfast.Get().Resource("nodeflavors").Name(name).Do(ctx).Into(&f)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read NodeFlavor %s: %w", name, err)
	}
	return &f, nil
}

// WatchNode tells of the node's ComputeNode until the context ends: once for
// each change, nil when it is deleted.
func (c *Client) WatchNode(ctx context.Context, log *slog.Logger, changed func(*v1alpha1.ComputeNode)) {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { changed(o.(*v1alpha1.ComputeNode)) },
		UpdateFunc: func(_, o any) { changed(o.(*v1alpha1.ComputeNode)) },
		DeleteFunc: func(any) { changed(nil) },
	}
	c.watch(ctx, log, c.holdfast, "computenodes", &v1alpha1.ComputeNode{}, nil, handler, func() {}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", c.node).String()
	})
}

// WatchVolumes tells of the node's PersistentVolumes until the context ends:
// all of them, sorted by name, once they are known and after each change.
func (c *Client) WatchVolumes(ctx context.Context, log *slog.Logger, changed func([]Volume)) {
	var mu sync.Mutex
	all, known := map[string]Volume{}, false
	tell := func(edit func()) {
		mu.Lock()
		defer mu.Unlock()
		if edit(); !known {
			return // a part of the list is no answer
		}
		list := make([]Volume, 0, len(all))
		for _, v := range all {
			list = append(list, v)
		}
		slices.SortFunc(list, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
		changed(list)
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { v := volume(o); tell(func() { all[v.Name] = v }) },
		UpdateFunc: func(_, o any) { v := volume(o); tell(func() { all[v.Name] = v }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				tell(func() { delete(all, gone.Key) }) // the key of a cluster-scoped object is its name
				return
			}
			tell(func() { delete(all, volume(o).Name) })
		},
	}
	synced := func() { tell(func() { known = true }) }
	c.watch(ctx, log, c.core, "persistentvolumes", &corev1.PersistentVolume{}, trim, handler, synced, func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{v1alpha1.LabelNode: c.node}.String()
	})
}

func (c *Client) watch(ctx context.Context, log *slog.Logger, client rest.Interface, resource string, kind runtime.Object, trim cache.TransformFunc, h cache.ResourceEventHandler, synced func(), restrict func(*metav1.ListOptions)) {
	lw := cache.NewFilteredListWatchFromClient(client, resource, metav1.NamespaceAll, restrict)
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: lw, ObjectType: kind, Handler: h, Transform: trim})
	log.Debug("watch", "resource", resource)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
			synced()
		}
	})
	controller.RunWithContext(ctx)
}

// trim keeps of a PersistentVolume what volume reads.
func trim(o any) (any, error) {
	pv, ok := o.(*corev1.PersistentVolume)
	if !ok {
		return o, nil
	}
	keep := map[string]string{}
	for _, k := range []string{v1alpha1.AnnotationDisk, v1alpha1.AnnotationPartition} {
		if v, ok := pv.Annotations[k]; ok {
			keep[k] = v
		}
	}
	return &corev1.PersistentVolume{
		TypeMeta:   pv.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Name: pv.Name, UID: pv.UID, ResourceVersion: pv.ResourceVersion, Annotations: keep},
		Spec:       corev1.PersistentVolumeSpec{ClaimRef: pv.Spec.ClaimRef},
	}, nil
}

func volume(o any) Volume {
	pv := o.(*corev1.PersistentVolume)
	v := Volume{Name: pv.Name, Disk: pv.Annotations[v1alpha1.AnnotationDisk], PartitionUUID: pv.Annotations[v1alpha1.AnnotationPartition]}
	if r := pv.Spec.ClaimRef; r != nil && (r.Namespace != v1alpha1.SentinelClaimNamespace || r.Name != v1alpha1.SentinelClaimName) {
		v.Claim = r.Namespace + "/" + r.Name
	}
	return v
}
