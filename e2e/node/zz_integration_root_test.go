//go:build root

package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"

	"holdfast.dev/e2e/cluster"
)

func TestZZ(t *testing.T) {
	c := cluster.ForTest(t)
	dyn, _ := dynamic.NewForConfig(c.RESTConfig())
	var files []string
	for _, g := range []string{"crds", "local-volume-provisioner", "disk-monitor", "remediation-controller"} {
		filepath.Walk("/tmp/nodeit/out/az1-c1", func(p string, i os.FileInfo, err error) error {
			if filepath.Base(filepath.Dir(p)) == g { files = append(files, p) }
			return nil
		})
	}
	disc, _ := discovery.NewDiscoveryClientForConfig(c.RESTConfig())
	for round := 0; round < 3; round++ {
		gr, err := restmapper.GetAPIGroupResources(disc)
		if err != nil { t.Fatal(err) }
		m := restmapper.NewDiscoveryRESTMapper(gr)
		var left []string
		var last error
		for _, f := range files {
			data, _ := os.ReadFile(f)
			var u unstructured.Unstructured
			if err := yaml.Unmarshal(data, &u.Object); err != nil || u.GetKind() == "" { continue }
			gvk := u.GroupVersionKind()
			mp, err := m.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil { left = append(left, f); last = err; continue }
			var ri dynamic.ResourceInterface = dyn.Resource(mp.Resource)
			if mp.Scope.Name() == "namespace" { ri = dyn.Resource(mp.Resource).Namespace(u.GetNamespace()) }
			if _, err := ri.Apply(t.Context(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "t", Force: true}); err != nil { left = append(left, f); last = err }
		}
		files = left
		if len(left) == 0 { break }
		t.Log(round, len(left), last)
		time.Sleep(500*time.Millisecond)
	}
	if len(files) > 0 { fmt.Println("LEFT", files) }
	os.Remove("/tmp/nodeit/holdfast-node.x")
	n := startNode(t, c, "--disks=2", "--bin-dir=/tmp/nodeit", "--labels=holdfast.dev/flavor=storage", "--flavor="+os.Getenv("FLAVOR"))
	_ = n
	client := clientOf(t, c)
	dump := func() {
		s, _ := n.State(t.Context())
		for _, p := range s.Pods { fmt.Printf("POD %s %s ready=%v %+v\n", p.Name, p.Phase, p.Ready, p.Containers)
			if !p.Ready { for _, cc := range p.Containers { b, _ := os.ReadFile(cc.Log); if len(b) > 1500 { b = b[len(b)-1500:] }; fmt.Println(string(b)) } } 
		}
		cns, _ := dyn.Resource(schema.GroupVersionResource{Group: "holdfast.dev", Version: "v1alpha1", Resource: "computenodes"}).List(t.Context(), metav1.ListOptions{})
		for _, cn := range cns.Items { y, _ := yaml.Marshal(cn.Object["status"]); fmt.Printf("CN %s\n%s\n", cn.GetName(), y) }
		pvs, _ := client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		for _, pv := range pvs.Items { fmt.Println("PV", pv.Name, pv.Labels, pv.Spec.ClaimRef, pv.Status.Phase) }
	}
	time.Sleep(12 * time.Second)
	dump()
	f, err := n.Fail(t.Context(), "disk1")
	fmt.Printf("FAIL %+v %v\n", f, err)
	time.Sleep(2 * time.Second)
	dump()
	_, err = n.Remove(t.Context(), "disk1")
	time.Sleep(6 * time.Second)
	fmt.Println("REMOVED", err)
	dump()
	_, err = n.Replace(t.Context(), "disk1")
	time.Sleep(8 * time.Second)
	fmt.Println("REPLACED", err)
	dump()
}
