package scheduler

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

// quarantine is what ComputeNodes say. It is the durable record: the marks on
// volumes and the capacity of volume groups follow it a moment later.
type quarantine struct {
	nodes cache.Indexer
	// known is false until the record has been read. Until then no disk is open:
	// the absence of a record is no evidence.
	known func() bool
}

func (q quarantine) closed(disk string) bool {
	if disk == "" {
		return false
	}
	keys, err := q.nodes.IndexKeys(quarIndex, disk)
	return err != nil || len(keys) > 0
}

// quarantineIndexers read the disks of spec.quarantine. An entry that cannot be
// read is skipped; the API server's schema allows none.
func quarantineIndexers() cache.Indexers {
	return cache.Indexers{quarIndex: on(func(cn *unstructured.Unstructured) []string {
		return quarantined(cn)
	})}
}

func quarantined(cn *unstructured.Unstructured) []string {
	entries, _, err := unstructured.NestedSlice(cn.Object, "spec", "quarantine")
	if err != nil {
		return nil
	}
	var keys []string
	for _, e := range entries {
		if m, ok := e.(map[string]any); ok {
			if id, ok := m["disk"].(string); ok && id != "" {
				keys = append(keys, diskid.Key(cn.GetName(), diskid.Label(id)))
			}
		}
	}
	return keys
}

// watchQuarantine watches the ComputeNodes until ctx ends and keeps of each
// only its name and its quarantine. changed is called after the record was read
// and whenever a disk may have been opened.
//
// It is an informer of its own and no event of the plugin's
// EventsToRegister: kube-scheduler waits for the informers of those before it
// schedules anything, and a cluster without the ComputeNode API would never start.
func watchQuarantine(ctx context.Context, cfg *rest.Config, changed func()) (quarantine, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType, cfg.AcceptContentTypes = "application/json", "application/json" // CRDs have no protobuf
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return quarantine{}, fmt.Errorf("make client for ComputeNodes: %w", err)
	}
	gvr := v1alpha1.GroupVersion.WithResource("computenodes")
	inf := dynamicinformer.NewFilteredDynamicInformer(client, gvr, "", 0, quarantineIndexers(), nil).Informer()
	if err := inf.SetTransform(trimComputeNode); err != nil {
		return quarantine{}, fmt.Errorf("watch ComputeNodes: %w", err)
	}
	reg, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			a, aok := old.(*unstructured.Unstructured)
			b, bok := now.(*unstructured.Unstructured)
			if aok && bok && len(quarantined(a)) > 0 && fmt.Sprint(quarantined(a)) != fmt.Sprint(quarantined(b)) {
				changed()
			}
		},
		DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return quarantine{}, fmt.Errorf("watch ComputeNodes: %w", err)
	}
	go inf.RunWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
			changed()
		}
	}()
	return quarantine{nodes: inf.GetIndexer(), known: inf.HasSynced}, nil
}

// trimComputeNode leaves out the status, which is most of the object.
func trimComputeNode(obj any) (any, error) {
	cn, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	slim := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": cn.GetAPIVersion(), "kind": cn.GetKind(),
		"metadata": map[string]any{"name": cn.GetName(), "resourceVersion": cn.GetResourceVersion(), "uid": string(cn.GetUID())},
	}}
	if q, ok, err := unstructured.NestedSlice(cn.Object, "spec", "quarantine"); err == nil && ok {
		slim.Object["spec"] = map[string]any{"quarantine": q}
	}
	return slim, nil
}
