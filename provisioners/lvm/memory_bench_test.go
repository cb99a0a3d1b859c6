//go:build bench

package lvm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// otherClaim is the claim number i of a cluster of 1000 nodes.
func otherClaim(i int) corev1.PersistentVolumeClaim {
	class := "lvm-thin"
	return corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("claim-", i), Namespace: fmt.Sprint("ns-", i%500), UID: types.UID(fmt.Sprint("uid-", i)), ResourceVersion: "7",
			Labels:      map[string]string{"app": fmt.Sprint("app-", i)},
			Annotations: map[string]string{annSelectedNode: fmt.Sprint("node-", i%1000), annProvisioner: DriverName}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: fmt.Sprint("pvc-", i), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
	}
}

// serveClaims answers lists of n claims, page by page, made as they are asked for.
func serveClaims(t *testing.T, n int) *kubernetes.Clientset {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "application/json")
		if q.Get("watch") != "" {
			w.WriteHeader(http.StatusOK)
			if q.Get("sendInitialEvents") == "true" { // KEP-3157, what client-go asks for first
				streamClaims(w, n)
			}
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		from, _ := strconv.Atoi(q.Get("continue"))
		limit, err := strconv.Atoi(q.Get("limit"))
		if err != nil {
			limit = n
		}
		list := corev1.PersistentVolumeClaimList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaimList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
		for i := from; i < min(from+limit, n); i++ {
			list.Items = append(list.Items, otherClaim(i))
		}
		if from+limit < n {
			list.Continue = strconv.Itoa(from + limit)
		}
		_ = json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: srv.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// streamClaims sends all claims as events and the bookmark that ends them.
func streamClaims(w http.ResponseWriter, n int) {
	enc := json.NewEncoder(w)
	event := func(kind string, c corev1.PersistentVolumeClaim) {
		c.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
		_ = enc.Encode(map[string]any{"type": kind, "object": c})
	}
	for i := range n {
		event("ADDED", otherClaim(i))
	}
	event("BOOKMARK", corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
}

// TestBenchMemory measures the heap that the daemon's view of a cluster's claims takes, of
// 1,000 and of 50,000 claims, of which one in a thousand is this node's. Objects of
// other kinds are selected by the API server already.
func TestBenchMemory(t *testing.T) {
	held := func(n int) float64 {
		kube := serveClaims(t, n)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := heap()
		informer := newClaims(kube, "node-7").informer()
		go informer.RunWithContext(ctx)
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			t.Fatal("it does not end")
		}
		if got := len(informer.GetStore().List()); got != n/1000 {
			t.Errorf("it holds %d claims of %d", got, n)
		}
		after := heap()
		runtime.KeepAlive(informer)
		return after - before
	}
	held(1000) // what is made once is made
	few, many := held(1000), held(50000)
	const idle = 32e6 // bytes resident of the daemon beside that, as the sibling's
	growth := (many - few) / idle * 100
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=daemon_heap_growth_percent value=%.3g unit=%%\n", growth)
	t.Logf("%.0f bytes with 1,000 claims, %.0f with 50,000", few, many)
}

func heap() float64 {
	for range 3 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond) // finalizers
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse)
}
