package render_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/render"
)

// A policy is checked on what clusters get, and names the line that brings it.
func TestPolicies(t *testing.T) {
	policies := func(text string) edit { return edit{"fleet.yaml", "rings:", "policies:\n" + text + "\nrings:"} }
	cases := map[string]struct{ reason, policy, want string }{
		"Satisfied": {"a rule that holds", `- {name: replicas, kinds: [Deployment.apps], rule: "object.spec.replicas >= 1", message: one at least}`, ""},
		"OtherKind": {"a rule about other kinds", `- {name: none, kinds: [DaemonSet.apps], rule: "false", message: never}`, ""},
		"Broken":    {"file and line of the template, and of the policy", `- {name: replicas, kinds: [Deployment.apps], rule: "object.spec.replicas >= 3", message: three at least}`, `salt/states/web/files/deployment.yaml.jinja:3: Deployment.apps web/web does not satisfy the policy "replicas" (three at least; fleet.yaml:8)`},
		"Cluster":   {"what holds in one zone alone", `- {name: zone, kinds: [Deployment.apps], rule: "cluster.az != 'az2' || cluster.labels.tier == 'test'", message: not in az2}`, `salt/states/web/files/deployment.yaml.jinja:3: Deployment.apps web/web does not satisfy the policy "zone" (not in az2; fleet.yaml:8)`},
		"Addon":     {"an exception by addon", `- {name: zone, kinds: [Deployment.apps], rule: "addon == 'web'", message: only web}`, ""},
		"NoField":   {"a rule that cannot be evaluated is not satisfied", `- {name: net, kinds: [Deployment.apps], rule: "!object.spec.template.spec.hostNetwork", message: no host network}`, `salt/states/web/files/deployment.yaml.jinja:3: Deployment.apps web/web cannot be judged (no such key: hostNetwork; use has()) by the policy "net" (no host network; fleet.yaml:8)`},
		"Syntax":    {"a rule that does not compile", `- {name: bad, rule: "object.spec ==", message: x}`, `fleet.yaml:8: the rule of the policy "bad" does not compile: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER} (correct the CEL expression)`},
		"Type":      {"a rule is true or false", `- {name: bad, rule: "1 + 1", message: x}`, `fleet.yaml:8: the rule of the policy "bad" gives int, not true or false (correct the CEL expression)`},
		"Variable":  {"a name that rules do not know", `- {name: bad, rule: "request.user == ''", message: x}`, `fleet.yaml:8: the rule of the policy "bad" does not compile: undeclared reference to 'request' (in container '') (correct the CEL expression)`},
		"NoMessage": {"whoever meets it must learn why", `- {name: bad, rule: "true"}`, `fleet.yaml:8: the policy "bad" has no message (write message: and why, for whoever meets it)`},
		"Kind":      {"kinds are written with their group", `- {name: bad, kinds: [apps/Deployment], rule: "true", message: x}`, `fleet.yaml:8: the policy "bad" has the kind "apps/Deployment", which is not one (write one such as DaemonSet.apps, or Service)`},
		"Twice":     {"names are unique", "- {name: bad, rule: \"true\", message: x}\n- {name: bad, rule: \"true\", message: x}", `fleet.yaml:9: the policy "bad" is there twice, first in line 8 (rename or remove one)`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := render.Fleet(context.Background(), tree(t, edited(t, policies(tc.policy))), "c", nil)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\nreason: %s", diff, tc.reason)
			}
		})
	}
}

// An approved deletion is part of one cluster's bundle, and of its digest.
func TestApprovedDeletions(t *testing.T) {
	plain := mustRender(t, tree(t, testFleet(t)), nil)
	files := testFleet(t)
	files["approvals.yaml"] = "apiVersion: holdfast.dev/v1alpha1\nkind: Approvals\ndeletions:\n- {cluster: c1, kind: Namespace, name: old, uid: 0f0e0d0c-0000-4000-8000-000000000002, reason: empty}\n"
	res := mustRender(t, tree(t, files), nil)
	for name, b := range res.Bundles {
		if changed := b.Index.Digest != plain.Bundles[name].Index.Digest; changed != (name == "c1") || (len(b.Index.Deletions) == 1) != (name == "c1") {
			t.Errorf("%s: digest changed %v, deletions %v", name, changed, b.Index.Deletions)
		}
		if _, err := render.ParseBundle(b.Files); err != nil {
			t.Errorf("the bundle of %s does not pass its own check: %v", name, err)
		}
	}
}
