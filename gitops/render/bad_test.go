package render_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/render"
)

// edit is one change of the test fleet: old is replaced by new in a file; an
// empty old replaces the whole file.
type edit struct{ file, old, new string }

func edited(t testing.TB, edits ...edit) map[string]string {
	t.Helper()
	files := testFleet(t)
	for _, e := range edits {
		switch {
		case e.old == "":
			files[e.file] = e.new
		case !strings.Contains(files[e.file], e.old):
			t.Fatalf("%s has no %q", e.file, e.old)
		default:
			files[e.file] = strings.Replace(files[e.file], e.old, e.new, 1)
		}
	}
	return files
}

const (
	deployment = "salt/states/web/files/deployment.yaml.jinja"
	webInit    = "salt/states/web/init.sls"
	common     = "salt/pillar/common.sls"
	webAddon   = "addons/web/addon.yaml"
	component  = "kustomize/components/web/kustomization.yaml"
)

// A push that must not pass is refused with one line for each fault, which names
// file, line and remedy.
func TestBadInput(t *testing.T) {
	cases := map[string]struct {
		reason string
		edits  []edit
		want   string
	}{
		"JinjaSyntax":        {"broken Jinja", []edit{{deployment, "{{ web.replicas }}", "{{ web.replicas }"}}, "salt/states/web/files/deployment.yaml.jinja:9: \"}\" closes nothing, in `replicas: {{ web.replicas }` (check the brackets)"},
		"JinjaUndefined":     {"a name that nobody defined", []edit{{deployment, "{{ port }}", "{{ prot }}"}}, "salt/states/web/files/deployment.yaml.jinja:24: \"prot\" is not defined, in `- containerPort: {{ prot }}` (define it with {% set %}, or with context: in the state)"},
		"PillarMissing":      {"a key that the pillar does not have must not render to nothing", []edit{{deployment, "'web:interval'", "'web:intervall'"}}, "salt/states/web/files/deployment.yaml.jinja:19: salt['pillar.get'] finds no 'web:intervall', in `- --interval={{ salt['pillar.get']('web:intervall') }}` (set it in salt/pillar, give it a default in addon.yaml, or give a default here)"},
		"PillarItem":         {"a key that the pillar does not have", []edit{{deployment, "pillar.get('web')", "pillar['wep']"}}, "salt/states/web/files/deployment.yaml.jinja:2: the pillar \"wep\" is not defined, in `{% set web = pillar['wep'] %}` (set it in salt/pillar, or give a default)"},
		"GrainMissing":       {"a grain that no label sets", []edit{{deployment, "grains['az']", "grains['zone']"}}, "salt/states/web/files/deployment.yaml.jinja:34: the grain \"zone\" is not defined, in `zone: {{ grains['zone'] }}` (set it as a label of the cluster in fleet.yaml, or write grains.get(name, default))"},
		"SaltFunction":       {"no command may run", []edit{{deployment, "salt['pillar.get']('web:interval')", "salt['cmd.run']('date')"}}, "salt/states/web/files/deployment.yaml.jinja:19: the function 'cmd.run' is not supported, in `- --interval={{ salt['cmd.run']('date') }}` (a rendering runs no command: set the value in the pillar)"},
		"Include":            {"another addon's states write to its folder", []edit{{webInit, "{% set dir", "include:\n- base\n{% set dir"}}, "salt/states/base/init.sls:1: the state \"/etc/kubernetes/addons/base/namespace.yaml\" is not a manifest of the addon (its id is the path /etc/kubernetes/addons/web/<file>.yaml)"},
		"CmdRun":             {"not supported", []edit{{webInit, "  file.managed:", "  cmd.run:"}}, "salt/states/web/init.sls:3: \"cmd.run\" is not supported in a state (a rendering writes files and does nothing else: use file.managed)"},
		"Requisite":          {"a state that is not there", []edit{{webInit, "    - context:", "    - require: [{file: zz}]\n    - context:"}}, "salt/states/web/init.sls:3: require of the state \"/etc/kubernetes/addons/web/deployment.yaml\" names file: zz, which does not exist (include its SLS, or correct the name)"},
		"Destination":        {"a state writes its own addon's folder only", []edit{{webInit, "addons/web/'", "addons/base/'"}}, `salt/states/web/init.sls:3: the state "/etc/kubernetes/addons/base/deployment.yaml" is not a manifest of the addon (its id is the path /etc/kubernetes/addons/web/<file>.yaml)`},
		"DestinationEscape":  {"a path must not leave it", []edit{{webInit, "addons/web/'", "addons/web/../'"}}, `salt/states/web/init.sls:3: the state "/etc/kubernetes/addons/web/../deployment.yaml" is not a manifest of the addon (its id is the path /etc/kubernetes/addons/web/<file>.yaml)`},
		"SourceEscape":       {"a source neither", []edit{{webInit, "salt://web/files/dep", "salt://web/../base/files/dep"}}, "salt/states/web/init.sls:5: there is no salt://web/../base/files/deployment.yaml.jinja (correct source:, or add the file)"},
		"SourceMissing":      {"a file that is not there", []edit{{webInit, "deployment.yaml.jinja", "daemon.yaml.jinja"}}, "salt/states/web/init.sls:5: there is no salt://web/files/daemon.yaml.jinja (correct source:, or add the file)"},
		"Shebang":            {"another renderer", []edit{{webInit, "#!jinja|yaml", "#!py"}}, "salt/states/web/init.sls:1: the renderer \"py\" is not supported (known are jinja, yaml and json)"},
		"YAMLSyntax":         {"the template's line, not the rendered text's", []edit{{deployment, "      containers:", "     containers: ]"}}, "salt/states/web/files/deployment.yaml.jinja:15: not valid YAML: did not find expected node content, near `containers: ]` (check the indentation and the quotes around it)"},
		"YAMLDuplicate":      {"the last of two must not win", []edit{{deployment, "  namespace: web\nspec:", "  namespace: web\n  name: two\nspec:"}}, `salt/states/web/files/deployment.yaml.jinja:8: key "name" is there twice, first in line 6 (remove one)`},
		"YAMLTrap":           {"yes is a string to us and true to the API server", []edit{{deployment, "  zone: {{ grains['az'] }}", "  zone: yes"}}, `salt/states/web/files/deployment.yaml.jinja:34: yes is a boolean to some YAML readers and a string to others (quote it)`},
		"UnknownField":       {"an invalid manifest", []edit{{deployment, "        image:", "        imagee: x\n        image:"}}, `salt/states/web/files/deployment.yaml.jinja:17: Deployment web/web has the unknown field "spec.template.spec.containers[0].imagee" (check its spelling and indentation)`},
		"WrongType":          {"an invalid manifest", []edit{{deployment, "- containerPort: {{ port }}", "- containerPort: http"}}, `salt/states/web/files/deployment.yaml.jinja:24: Deployment web/web does not decode: spec.template.spec.containers.ports.containerPort must be an integer, not string (correct the value)`},
		"BadQuantity":        {"the decoder names no field here", []edit{{deployment, "{memory: {{ web.memory }}}", "{memory: lots}"}}, `salt/states/web/files/deployment.yaml.jinja:26: Deployment web/web does not decode: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' (correct the value)`},
		"UnknownKind":        {"a kind that is not in the group", []edit{{deployment, "kind: Deployment", "kind: Deploiment"}}, `salt/states/web/files/deployment.yaml.jinja:3: Deploiment web/web is of a kind that apps/v1 does not have (correct apiVersion or kind)`},
		"OldVersion":         {"a version that is gone", []edit{{deployment, "apps/v1", "extensions/v1"}}, `salt/states/web/files/deployment.yaml.jinja:3: Deployment web/web is of a kind that extensions/v1 does not have (correct apiVersion or kind)`},
		"NoName":             {"every object has one", []edit{{deployment, "  name: web\n  namespace: web\nspec", "  namespace: web\nspec"}}, `salt/states/web/files/deployment.yaml.jinja:3: the Deployment has no metadata.name (give it one; generateName is not supported)`},
		"NoNamespace":        {"it would land in default", []edit{{deployment, "  namespace: web\nspec", "spec"}}, `salt/states/web/files/deployment.yaml.jinja:6: Deployment web has no metadata.namespace (write namespace: holdfast-system)`},
		"NamespaceOnCluster": {"a cluster-wide object has none", []edit{{"salt/states/base/files/namespace.yaml", "  name: small", "  name: small\n  namespace: web"}}, `salt/states/base/files/namespace.yaml:12: NodeFlavor web/small has a namespace, which its kind cannot have (remove it)`},
		"OwnKind":            {"our own kinds are decoded strictly, too", []edit{{"salt/states/base/files/namespace.yaml", "minSize: 10Gi", "minimumSize: 10Gi"}}, `salt/states/base/files/namespace.yaml:14: NodeFlavor small has the unknown field "spec.disks[0].minimumSize" (check its spelling and indentation)`},
		"KubeSystem":         {"an addon must not own it", []edit{{"salt/states/base/files/namespace.yaml", "name: web", "name: kube-system"}}, `salt/states/base/files/namespace.yaml:1: Namespace kube-system is Kubernetes' own namespace (use a namespace of the addon's own: what an addon brings can be pruned with it)`},
		"Mode":               {"it would be one mode for kube-addon-manager, and another for the agent", []edit{{"salt/states/base/files/namespace.yaml", "mode: EnsureExists", "mode: ensureexists"}}, `salt/states/base/files/namespace.yaml:6: Namespace web has the mode "ensureexists" (write EnsureExists, to have it made and left alone, or Reconcile)`},
		"ModeType":           {"nor is it a boolean", []edit{{"salt/states/base/files/namespace.yaml", "mode: EnsureExists", "mode: \"\""}}, `salt/states/base/files/namespace.yaml:6: Namespace web has the mode "" (write EnsureExists, to have it made and left alone, or Reconcile)`},
		"ModeAnnotation":     {"nobody reads it there", []edit{{"salt/states/base/files/namespace.yaml", "  labels:", "  annotations:\n    addonmanager.kubernetes.io/mode: EnsureExists\n  labels:"}}, `salt/states/base/files/namespace.yaml:6: Namespace web has its mode as an annotation (make addonmanager.kubernetes.io/mode a label)`},
		"ModeByPatch":        {"nor what a patch makes of it", []edit{{"kustomize/components/web/priority.yaml", "  name: web", "  name: web\n  labels: {addonmanager.kubernetes.io/mode: Once}"}}, `kustomize/components/web/priority.yaml:5: Deployment web/web has the mode "Once" (write EnsureExists, to have it made and left alone, or Reconcile)`},
		"Secret":             {"no secret is ever in git", []edit{{deployment, "kind: ConfigMap", "kind: Secret"}}, `salt/states/web/files/deployment.yaml.jinja:33: has what looks like a Secret with data (take it out of every commit of the push and revoke it; refer to a Secret that is made in the cluster. If it is none: # not-a-secret: REASON)`},
		"SecretByTemplate":   {"nor one that only the template makes", []edit{{deployment, "kind: ConfigMap", "kind: {{ 'Secret' }}"}}, `salt/states/web/files/deployment.yaml.jinja:28: Secret web/web holds data (no secret belongs in git: refer to one that is made in the cluster, or encrypt it with SOPS)`},
		"DuplicateInAddon":   {"one object, two texts", []edit{{"salt/states/web/files/zones.yaml.jinja", "zone-{{ zone }}", "web"}}, "salt/states/web/files/zones.yaml.jinja:3: ConfigMap web/web is there twice, first in salt/states/web/files/deployment.yaml.jinja:28 (remove one)\nsalt/states/web/files/zones.yaml.jinja:3: ConfigMap web/web is there twice, first in salt/states/web/files/zones.yaml.jinja:3 (remove one)"},
		"DuplicateInAddons":  {"two addons would fight over it", []edit{{"salt/states/web/files/deployment.yaml.jinja", "apiVersion: v1\nkind: ConfigMap", "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n---\napiVersion: v1\nkind: ConfigMap"}}, `salt/states/web/files/deployment.yaml.jinja:28: Namespace web is in the addon web and in base (salt/states/base/files/namespace.yaml:1) (remove one)`},
		"PillarUnknown":      {"a misspelt value would be ignored", []edit{{common, "interval: 10s", "intervall: 10s"}}, `salt/pillar/common.sls:2: web has no value "intervall" (known are extra, interval, memory, replicas, verbose, zones)`},
		"PillarType":         {"a wrong type", []edit{{common, "interval: 10s", "interval: 10"}}, `salt/pillar/common.sls:2: web:interval is 10, not a duration (how often it looks)`},
		"PillarTypeCluster":  {"the file is the one that set it last", []edit{{"salt/pillar/c1.sls", "replicas: 3", "replicas: three"}}, `salt/pillar/c1.sls:2: web:replicas is the string "three", not an int (how many there are)`},
		"PillarReserved":     {"images and versions are the catalogue's", []edit{{common, "site:", "addons: {web: {version: 9}}\nsite:"}}, `salt/pillar/common.sls:4: the pillar key "addons" is the renderer's own (set values below the addon's name)`},
		"PillarSLSMissing":   {"a file that is not there", []edit{{"salt/pillar/top.sls", "- common", "- commmon"}}, `salt/pillar/top.sls:2: there is no pillar "commmon" (add salt/pillar/commmon.sls, or remove it here)`},
		"PillarOctal":        {"0644 is read in three ways", []edit{{common, "site: {name: example}", "site:\n  mode: 0644"}}, `salt/pillar/common.sls:5: 0644 is octal to some YAML readers and decimal to others (quote it)`},
		"TopTarget":          {"a matcher that is not supported", []edit{{"salt/pillar/top.sls", "'c1':", "'N@c':"}}, "salt/pillar/top.sls:6: the target \"N@c\" is not supported (known are globs and G@, P@, I@, J@, L@, S@ and E@)"},
		"TopUnknownState":    {"a state is an addon", []edit{{"salt/states/top.sls", "- web", "- wep"}}, `salt/states/top.sls:2: the state "wep" is no addon (add addons/wep/addon.yaml, or remove it here)`},
		"AddonUnknownField":  {"strict", []edit{{webAddon, "order: 20", "ordr: 20"}}, `addons/web/addon.yaml:6: unknown field "ordr" (check its spelling and indentation)`},
		"AddonName":          {"the folder's name is the addon's", []edit{{webAddon, "name: web", "name: wep"}}, `addons/web/addon.yaml:3: the name "wep" is not the folder's, "web" (make them the same)`},
		"AddonDefault":       {"a default has the value's type", []edit{{webAddon, "type: int, default: 2", "type: int, default: two"}}, `addons/web/addon.yaml:11: the default of "replicas" is the string "two", not an int`},
		"AddonRequires":      {"what is required must be in the bundle", []edit{{"salt/states/top.sls", "    - base\n", ""}}, "addons/web/addon.yaml:7: web needs the addon base, which cluster c1 does not get (select base in salt/states/top.sls too)\naddons/web/addon.yaml:7: web needs the addon base, which cluster c2 does not get (select base in salt/states/top.sls too)\naddons/web/addon.yaml:7: web needs the addon base, which cluster canary does not get (select base in salt/states/top.sls too)"},
		"AddonKubernetes":    {"a cluster that is too old", []edit{{webAddon, `kubernetes: ">=1.29.0", addons`, `kubernetes: ">=1.36.0", addons`}}, `addons/web/addon.yaml:7: web needs Kubernetes >=1.36.0, cluster c2 has 1.35 (select the addon for other clusters only, or upgrade the cluster)`},
		"AddonOrder":         {"order and requires must agree", []edit{{webAddon, "order: 20", "order: 10"}}, `addons/web/addon.yaml:6: web has order 10, which is not above 10 of base, which it requires (raise it)`},
		"ClusterInNoRing":    {"it would never change", []edit{{"fleet.yaml", "labels: {tier: canary}}", "labels: {tier: test}}\n- {name: c4, az: az1, kubernetes: \"1.36\", labels: {tier: canary}}"}}, `fleet.yaml:4: the cluster "canary" is in no ring (change its labels, or add a ring that selects them)`},
		"KustomizeField":     {"not supported", []edit{{component, "patches:", "helmCharts: []\npatches:"}}, `kustomize/components/web/kustomization.yaml:5: the field "helmCharts" is not supported (known are apiVersion, kind, commonAnnotations, components, configMapGenerator, generatorOptions, images, labels, namespace, patches, replacements, replicas, resources)`},
		"KustomizeRemote":    {"nothing is fetched", []edit{{component, "- ../../base/labels", "- https://github.com/x/y//z?ref=main"}}, `kustomize/components/web/kustomization.yaml:4: "https://github.com/x/y//z?ref=main" is not a path in the repository (copy what it refers to into kustomize/base)`},
		"KustomizeRemote2":   {"kustomize takes this for a repository", []edit{{component, "- ../../base/labels", "- github.com/x/y"}}, `kustomize/components/web/kustomization.yaml:4: kustomize/components/web/github.com/x/y is not there, or not for this addon and cluster (a folder may use its own files and kustomize/base)`},
		"KustomizeEscape":    {"a path out of the repository", []edit{{component, "- path: priority.yaml", "- path: ../../../../etc/passwd"}}, `kustomize/components/web/kustomization.yaml:6: "../../../../etc/passwd" leads out of the repository (copy what it refers to into kustomize/base)`},
		"KustomizeOther":     {"another addon's folder", []edit{{component, "- ../../base/labels", "- ../base"}}, `kustomize/components/web/kustomization.yaml:4: kustomize/components/base is not there, or not for this addon and cluster (a folder may use its own files and kustomize/base)`},
		"KustomizePatch":     {"a patch that fits nothing", []edit{{"kustomize/components/web/priority.yaml", "name: web", "name: wep"}}, `kustomize/components/web/priority.yaml:4: kustomize for web: no resource matches strategic merge patch 'Deployment.v1.apps/wep.web': no matches for Id Deployment.v1.apps/wep.web; failed to find unique target for patch Deployment.v1.apps/wep.web (correct the folder, or its patch)`},
		"KustomizeField2":    {"a patch that makes the object invalid", []edit{{"kustomize/components/web/priority.yaml", "priorityClassName", "priorityClass"}}, `kustomize/components/web/priority.yaml:9: Deployment web/web has the unknown field "spec.template.spec.priorityClass" (check its spelling and indentation)`},
		"KustomizeKind":      {"an overlay is a component", []edit{{"kustomize/overlays/az2/kustomization.yaml", "kind: Component", "kind: Kustomization"}}, `kustomize/overlays/az2/kustomization.yaml:1: the kind is "Kustomization" (write apiVersion: kustomize.config.k8s.io/v1alpha1 and kind: Component)`},
		"KustomizeNowhere":   {"an overlay that nothing would use", []edit{{"kustomize/overlays/az9/kustomization.yaml", "", "kind: Component\n"}}, `kustomize/overlays/az9: there is no cluster and no availability zone of this name (rename or remove the folder)`},
		"NoFleet":            {"not a fleet repository", []edit{{"fleet.yaml", "", "\n"}}, `fleet.yaml: the file is empty`},
		"NewlineInName":      {"a fault is one line, whatever a name holds", []edit{{deployment, "  name: web\n  namespace: web\nspec", "  name: \"w\\nb\"\nspec"}}, `salt/states/web/files/deployment.yaml.jinja:6: Deployment w b has a name that is not valid (use lower-case letters, digits, - and .)`},
		"Two":                {"independent faults are told together", []edit{{deployment, "{{ port }}", "{{ prot }}"}, {"salt/states/base/files/namespace.yaml", "minSize: 10Gi", "minimumSize: 10Gi"}}, "salt/states/base/files/namespace.yaml:14: NodeFlavor small has the unknown field \"spec.disks[0].minimumSize\" (check its spelling and indentation)\nsalt/states/web/files/deployment.yaml.jinja:24: \"prot\" is not defined, in `- containerPort: {{ prot }}` (define it with {% set %}, or with context: in the state)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res, err := render.Fleet(context.Background(), tree(t, edited(t, tc.edits...)), "c", nil)
			if err == nil {
				t.Fatalf("it passes; reason: %s", tc.reason)
			}
			if res != nil {
				t.Error("there is a result beside the error")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("%s\nreason: %s", err, tc.reason)
			}
			if errors.Is(err, context.Canceled) {
				t.Error("cancelled")
			}
		})
	}
}
