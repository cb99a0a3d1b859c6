package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// addonObjects is a group of four objects that need no node; it is repeated. The
// text makes the objects as large as usual ones.
const addonObjects = `{%% for i in range(pillar['%[1]s']['groups']) %%}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "%[1]s-{{ i }}", namespace: default}
data:
  value: {{ pillar['%[1]s']['value'] | json }}
  text: {{ ('the same words again and again ' * 30) | json }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: "%[1]s-{{ i }}", namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "%[1]s-{{ i }}", namespace: default}
rules:
- {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list, watch]}
- {apiGroups: [storage.k8s.io], resources: [storageclasses], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "%[1]s-{{ i }}", namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "%[1]s-{{ i }}"}
subjects:
- {kind: ServiceAccount, name: "%[1]s-{{ i }}", namespace: default}
{%% endfor %%}
`

// writeFleet fills the work tree with a fleet of the clusters given, whose labels
// say their places, and addons of so many groups of four objects. The pillar has
// each addon's value, "v0".
func writeFleet(ctx context.Context, f *Fleet, clusters []string, rings string, addons map[string]int) error {
	var fl, pillar strings.Builder
	fl.WriteString("apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n")
	for i, c := range clusters {
		stage := "last"
		switch {
		case i < len(clusters)/5:
			stage = "first"
		case i < len(clusters)/2:
			stage = "second"
		}
		fmt.Fprintf(&fl, "- {name: %s, az: az1, kubernetes: \"1.36\", labels: {stage: %s}}\n", c, stage)
	}
	fl.WriteString("rings:\n" + rings)
	files := map[string]string{"fleet.yaml": fl.String(), "salt/pillar/top.sls": "base:\n  '*': [common]\n"}
	states := "base:\n  '*':\n"
	for _, a := range slices.Sorted(maps.Keys(addons)) {
		states += "  - " + a + "\n"
		fmt.Fprintf(&pillar, "%s: {groups: %d, value: v0}\n", a, addons[a])
		files["addons/"+a+"/addon.yaml"] = fmt.Sprintf("apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: %s\nversion: 0.1.0\nsummary: objects that need no node\norder: 10\nvalues:\n  groups: {type: int, default: 1, doc: how many groups of four objects}\n  value: {type: string, default: v0, doc: what the ConfigMaps hold}\nhealth: {timeout: 30s}\nupgradeNotes: none\n", a)
		files["salt/states/"+a+"/init.sls"] = fmt.Sprintf("/etc/kubernetes/addons/%[1]s/objects.yaml:\n  file.managed:\n  - source: salt://%[1]s/files/objects.yaml.jinja\n  - template: jinja\n", a)
		files["salt/states/"+a+"/files/objects.yaml.jinja"] = fmt.Sprintf(addonObjects, a)
	}
	files["salt/states/top.sls"], files["salt/pillar/common.sls"] = states, pillar.String()
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if err := f.AddFile(p, files[p]); err != nil {
			return err
		}
	}
	return f.git(ctx, f.Work, "init", "-q", "--initial-branch=main")
}
