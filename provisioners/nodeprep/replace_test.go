package nodeprep_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/nodeprep"
)

// A disk is pulled and a new one put in: it gets the place when it is given,
// cut at every boundary; the old one, when it comes back, is not touched.
func TestReplacement(t *testing.T) {
	f := allKinds()
	f.Spec.Disks = f.Spec.Disks[1:3] // file systems, and a volume group of its own disk
	setup := func(t *testing.T) *world {
		w := newWorld(t)
		w.add("sdb", 96*mib)
		w.add("sdc", 96*mib)
		if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.boot()
		w.pull("sdb")
		w.pull("sdc")
		w.add("sdd", 96*mib)
		w.add("sde", 96*mib)
		return w
	}
	w := setup(t)
	out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
	if !errors.Is(err, nodeprep.ErrRefused) || len(w.listed().Disks) != 2 || w.listed().Disks[0].ID != "wwn-sdb" {
		t.Errorf("a missing disk must keep its place: %v\n%s", err, out)
	}
	give := nodeprep.Options{Apply: true, Replace: map[string]string{"wwn-sdb": "wwn-sdd", "wwn-sdc": "wwn-sde"}}
	w.passed = 0
	if out, err, _ := w.prepare(f, give, -1); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	total := w.passed
	replaced := func(t *testing.T, w *world) {
		t.Helper()
		disks := w.listed()
		if len(disks.Disks) != 2 || disks.Disks[0].ID != "wwn-sdd" || disks.Disks[1].ID != "wwn-sde" || len(disks.VolumeGroups) != 1 {
			t.Errorf("disks.yaml has %+v", disks)
		}
		units, err := filepath.Glob(w.path("etc/systemd/system/*.mount"))
		if err != nil || len(units) != 2 {
			t.Errorf("units %v, %v", units, err)
		}
	}
	replaced(t, w)
	// The old disk is back, with its data.
	w.plug("sdb", 96*mib)
	w.boot()
	before := w.sums("sdb", "sdb1", "sdb2")
	out, err, _ = w.prepare(f, nodeprep.Options{Apply: true}, -1)
	if err != nil || !strings.Contains(out, "its place went to wwn-sdd") {
		t.Errorf("%v\n%s", err, out)
	}
	if got := w.sums("sdb", "sdb1", "sdb2"); !cmp.Equal(before, got) {
		t.Error("the old disk was touched")
	}
	for n := range total {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.prepare(f, give, n) //nolint:errcheck // it was cut
			// Where the place has been given, asking for it again is a slip, and told as one.
			if out, err, _ := w.prepare(f, give, -1); err != nil && !errors.Is(err, nodeprep.ErrRefused) {
				t.Fatalf("%v\n%s", err, out)
			}
			if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			replaced(t, w)
		})
	}
}

// answers is an API server that has these objects, or fails.
type answers struct {
	client.Reader
	node *corev1.Node
	cn   *v1alpha1.ComputeNode
	fail error
}

func (a answers) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	none := apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	switch o := obj.(type) {
	case *corev1.Node:
		if a.node == nil {
			return none
		}
		a.node.DeepCopyInto(o)
	case *v1alpha1.NodeFlavor:
		twoDisks().DeepCopyInto(o)
	case *v1alpha1.ComputeNode:
		if a.fail != nil || a.cn == nil {
			return cmpOr(a.fail, none)
		}
		a.cn.DeepCopyInto(o)
	}
	return nil
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func TestAsk(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{v1alpha1.LabelFlavor: "two"}}}
	cn := &v1alpha1.ComputeNode{
		Spec: v1alpha1.ComputeNodeSpec{
			Quarantine:   []v1alpha1.Quarantine{{Disk: "a", Reason: "Failed", By: "me"}},
			Replacements: []v1alpha1.ReplacementRequest{{Disk: "old"}},
		},
		Status: v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{{ID: "b", State: v1alpha1.DiskFailed}, {ID: "c", State: v1alpha1.DiskHealthy}}},
	}
	cases := map[string]struct {
		reason string
		api    answers
		closed string
		code   int
	}{
		"All":      {"quarantined and failed disks are closed", answers{node: node, cn: cn}, "a b", nodeprep.ExitOK},
		"New":      {"a node without a ComputeNode is new", answers{node: node}, "", nodeprep.ExitOK},
		"NoAnswer": {"a server that fails leaves every disk closed", answers{node: node, fail: errors.New("down")}, "all", nodeprep.ExitOK},
		"NoNode":   {"a flavor cannot be guessed", answers{cn: cn}, "", nodeprep.ExitFailed},
		"NoLabel":  {"nor can it without the label", answers{node: &corev1.Node{}}, "", nodeprep.ExitBadInput},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s nodeprep.Said
			if code := nodeprep.ExitCode(s.Ask(t.Context(), tc.api, "n")); code != tc.code {
				t.Fatalf("exit code %d, want %d; reason: %s", code, tc.code, tc.reason)
			}
			closed := ""
			for _, id := range []string{"a", "b", "c"} {
				if s.Closed[id] != "" {
					closed = strings.TrimSpace(closed + " " + id)
				}
			}
			if s.ClosedErr != nil {
				closed = "all"
			}
			if closed != tc.closed {
				t.Errorf("closed are %q, want %q; reason: %s", closed, tc.closed, tc.reason)
			}
		})
	}
}
