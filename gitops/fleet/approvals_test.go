package fleet_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/fleet"
)

const approvals = `apiVersion: holdfast.dev/v1alpha1
kind: Approvals
deletions:
- {cluster: az1-c1, kind: PersistentVolumeClaim, namespace: db, name: data-0, uid: 0f0e0d0c-0000-4000-8000-000000000001, reason: moved away}
- cluster: az2-c1
  kind: Namespace
  name: old
  uid: 0f0e0d0c-0000-4000-8000-000000000002
  reason: empty since May
retained:
- {cluster: az2-c1, kind: CustomResourceDefinition, name: backups.example.com, reason: another team has it now}
`

func TestApprovals(t *testing.T) {
	f, err := fleet.Compile("fleet.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Approvals("approvals.yaml", []byte(approvals))
	if err != nil {
		t.Fatal(err)
	}
	want := &fleet.Approvals{Deletions: map[string][]fleet.Deletion{
		"az1-c1": {{Kind: "PersistentVolumeClaim", Namespace: "db", Name: "data-0", UID: "0f0e0d0c-0000-4000-8000-000000000001", Reason: "moved away"}},
		"az2-c1": {{Kind: "Namespace", Name: "old", UID: "0f0e0d0c-0000-4000-8000-000000000002", Reason: "empty since May"}},
	}, Retained: map[string][]fleet.Retention{"az2-c1": {{Kind: "CustomResourceDefinition", Name: "backups.example.com"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cases := map[string]struct{ old, new, want string }{
		"Cluster":     {"cluster: az2-c1", "cluster: az9", `approvals.yaml:5: there is no cluster "az9" (name one of fleet.yaml)`},
		"Kind":        {"kind: Namespace", "kind: ConfigMap", `approvals.yaml:5: the kind "ConfigMap" needs none (write one of PersistentVolume, PersistentVolumeClaim, Namespace, CustomResourceDefinition; other kinds need no approval)`},
		"NoNamespace": {"namespace: db, ", "", `approvals.yaml:4: the namespace "" does not fit the kind PersistentVolumeClaim (give a PersistentVolumeClaim its namespace, and nothing else one)`},
		"Pattern":     {"name: old", `name: "old-*"`, `approvals.yaml:5: the name "old-*" is not an object's (write the object's name; patterns are not supported)`},
		"NoUID":       {"  uid: 0f0e0d0c-0000-4000-8000-000000000002\n", "", `approvals.yaml:5: the uid "" is not one (holdfast plan prints it)`},
		"NoReason":    {"  reason: empty since May\n", "", `approvals.yaml:5: the deletion of Namespace old has no reason (write reason: and why)`},
		"Field":       {"  name: old", "  nme: old", `approvals.yaml:7: unknown field "nme" (check its spelling and indentation)`},
		"Document":    {"kind: Approvals", "kind: Fleet", `approvals.yaml:1: apiVersion "holdfast.dev/v1alpha1" and kind "Fleet" are not the approvals' (write apiVersion: holdfast.dev/v1alpha1 and kind: Approvals)`},
		"Both":        {"CustomResourceDefinition, name: backups.example.com", "Namespace, name: old", `approvals.yaml:11: the retention of az2-c1 Namespace /old is there twice, first in line 5 (it is either deleted or retained; keep what is meant)`},
		"NoWhy":       {", reason: another team has it now", "", `approvals.yaml:11: the retention of CustomResourceDefinition backups.example.com has no reason (write reason: and why)`},
		"Twice":       {"cluster: az2-c1\n  kind: Namespace\n  name: old", "cluster: az1-c1\n  kind: PersistentVolumeClaim\n  namespace: db\n  name: data-0", `approvals.yaml:5: the deletion of az1-c1 PersistentVolumeClaim db/data-0 is there twice, first in line 4 (keep the one with the UID that is meant)`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(approvals, tc.old) {
				t.Fatalf("there is no %q", tc.old)
			}
			if _, err := f.Approvals("approvals.yaml", []byte(strings.Replace(approvals, tc.old, tc.new, 1))); err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}
