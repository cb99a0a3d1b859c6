package render_test

import (
	"testing"

	"holdfast.dev/gitops/render"
)

func TestCheckVersions(t *testing.T) {
	raise := edit{webAddon, "version: 0.3.1", "version: 0.3.2"}
	cases := map[string]struct {
		reason string
		edits  []edit
		want   string
	}{
		"Same":            {"nothing changed", nil, ""},
		"Pillar":          {"values need no version", []edit{{common, "10s", "20s"}}, ""},
		"Overlay":         {"overlays are the fleet's own", []edit{{"kustomize/overlays/az2/kustomization.yaml", "zone: az2}", "zone: z}"}}, ""},
		"Raised":          {"as it should be", []edit{{deployment, "tier:", "tear:"}, raise}, ""},
		"RaisedOnly":      {"a version alone may rise", []edit{raise}, ""},
		"Template":        {"content without a version", []edit{{deployment, "tier:", "tear:"}}, "addons/web/addon.yaml:4: the version of web is still 0.3.1, but salt/states/web/files/deployment.yaml.jinja has changed (write version: 0.3.2)"},
		"Comment":         {"a comment is content: nobody has to judge", []edit{{webInit, "#!jinja|yaml\n", "#!jinja|yaml\n# new\n"}}, "addons/web/addon.yaml:4: the version of web is still 0.3.1, but salt/states/web/init.sls has changed (write version: 0.3.2)"},
		"AddonFile":       {"so is addon.yaml", []edit{{webAddon, "64Mi", "65Mi"}}, "addons/web/addon.yaml:4: the version of web is still 0.3.1, but addons/web/addon.yaml has changed (write version: 0.3.2)"},
		"Component":       {"and the component", []edit{{component, "patches:", "commonAnnotations: {a: b}\npatches:"}}, "addons/web/addon.yaml:4: the version of web is still 0.3.1, but kustomize/components/web/kustomization.yaml has changed (write version: 0.3.2)"},
		"NewFile":         {"and a file more", []edit{{"salt/states/web/files/x", "", "x\n"}}, "addons/web/addon.yaml:4: the version of web is still 0.3.1, but salt/states/web/files/x has changed (write version: 0.3.2)"},
		"Lowered":         {"a lower version may mean anything", []edit{{webAddon, "version: 0.3.1", "version: 0.3.0"}}, "addons/web/addon.yaml:4: the version of web goes back from 0.3.1 to 0.3.0, which never had this content: addons/web/addon.yaml differs (write version: 0.3.2)"},
		"PreReleaseFirst": {"a pre-release is lower", []edit{{webAddon, "version: 0.3.1", "version: 0.3.1-rc.1"}}, "addons/web/addon.yaml:4: the version of web goes back from 0.3.1 to 0.3.1-rc.1, which never had this content: addons/web/addon.yaml differs (write version: 0.3.2)"},
		"NewAddon":        {"a new one has nothing to compare with", []edit{{"addons/new/addon.yaml", "", "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: new\nversion: 0.0.1\nsummary: s\nupgradeNotes: none\n"}}, ""},
		"Broken":          {"what cannot be read cannot be compared", []edit{{webAddon, "order: 20", "ordr: 20"}}, `addons/web/addon.yaml:6: unknown field "ordr" (check its spelling and indentation)`},
	}
	old := tree(t, testFleet(t))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := render.CheckVersions(old, tree(t, edited(t, tc.edits...))); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s\nreason: %s", got, tc.want, tc.reason)
			}
		})
	}
	t.Run("Removed", func(t *testing.T) {
		files := testFleet(t)
		for _, p := range []string{webAddon, webInit, deployment} {
			delete(files, p)
		}
		if err := render.CheckVersions(old, tree(t, files)); err != nil {
			t.Error(err)
		}
	})
	t.Run("Revert", func(t *testing.T) {
		raised := tree(t, edited(t, edit{deployment, "tier:", "tear:"}, raise))
		if err := render.CheckVersions(raised, old); err == nil {
			t.Error("a version went back to content that nobody knows")
		}
		if err := render.CheckVersions(raised, old, render.Contents(old)...); err != nil {
			t.Errorf("a revert to what was published before: %v", err)
		}
		forged := tree(t, edited(t, edit{deployment, "tier:", "tier2:"}))
		if err := render.CheckVersions(raised, forged, render.Contents(old)...); err == nil {
			t.Error("a version went back to other content than it had")
		}
	})
}
