package render

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/addons"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

const webYAML = `apiVersion: holdfast.dev/v1alpha1
kind: Addon
name: web
version: 1.2.3
summary: A web server
order: 20
requires: {kubernetes: ">=1.29.0", addons: [base]}
images: {web: "registry.example.com:5000/a/web:v1@sha256:0123456789012345678901234567890123456789012345678901234567890123"}
values:
  interval: {type: duration, default: 5s, doc: how often}
  size: {type: quantity, doc: how large}
  level: {type: int, default: 0, doc: how much}
health: {timeout: 90s}
upgradeNotes: none
`

func pillarOf(t *testing.T, text string) *jinja.Map {
	t.Helper()
	m, err := pyyaml.One(&pyyaml.File{Name: "p.sls", Output: jinja.Plain([]byte(text))})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestComplete(t *testing.T) {
	web, err := addons.Load("a.yaml", []byte(webYAML))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ pillar, want, err string }{
		"Defaults": {pillar: "web: {size: 1Gi}\nsite: x\n", want: `{"addons": {"web": {"images": {"web": "` + web.Images["web"] + `"}, "version": "1.2.3"}}, "site": "x", "web": {"interval": "5s", "level": 0, "size": "1Gi"}}`},
		"Over":     {pillar: "web: {size: 5, interval: 1m, level: -2}\n", want: `{"addons": {"web": {"images": {"web": "` + web.Images["web"] + `"}, "version": "1.2.3"}}, "web": {"interval": "1m", "level": -2, "size": 5}}`},
		"Required": {pillar: "a: 1\n", err: "a.yaml:11: web:size has no default and the pillar does not set it (set it in salt/pillar: how large)"},
		"Unknown":  {pillar: "web:\n  size: 1\n  sice: 2\n", err: `p.sls:3: web has no value "sice" (known are interval, level, size)`},
		"Duration": {pillar: "web:\n  size: 1\n  interval: 5\n", err: "p.sls:3: web:interval is 5, not a duration (how often)"},
		"Negative": {pillar: "web:\n  size: 1\n  interval: -5s\n", err: `p.sls:3: web:interval is "-5s", which is not a duration such as 5s or 2m (how often)`},
		"Quantity": {pillar: "web:\n  size: big\n", err: `p.sls:2: web:size is "big", which is not a quantity such as 10Gi (how large)`},
		"Empty":    {pillar: "web:\n  size: 1\n  level:\n", err: "p.sls:3: web:level is empty, not an int (how much)"},
		"NotMap":   {pillar: "web: 3\n", err: "p.sls:1: the values of web are 3, not a map (write name: value below it)"},
		"Reserved": {pillar: "addons: {}\nweb: {size: 1}\n", err: `p.sls:1: the pillar key "addons" is the renderer's own (set values below the addon's name)`},
		"Several":  {pillar: "web:\n  size: []\n  level: x\n", err: "p.sls:2: web:size is a list, not a quantity (how large)\np.sls:3: web:level is the string \"x\", not an int (how much)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := complete(pillarOf(t, tc.pillar), []*addons.Addon{web})
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got  %v\nwant %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tpl, err := jinja.Parse("t", []byte("{{ m|json }}"))
			if err != nil {
				t.Fatal(err)
			}
			out, err := tpl.Render(map[string]any{"m": m})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(out.Text)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
