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

const diskYAML = `apiVersion: holdfast.dev/v1alpha1
kind: Addon
name: disks
version: 1.2.3
summary: Watches disks
order: 20
images: {}
values:
  thresholds: {type: map, format: disk-thresholds, default: {}, doc: rules}
  smartctl: {type: map, format: smartctl-disks, default: {}, doc: drives}
upgradeNotes: none
`

// What the monitor would refuse on every node is refused here, by the monitor's own
// parsers, at the pillar's line.
func TestFormats(t *testing.T) {
	disks, err := addons.Load("a.yaml", []byte(diskYAML))
	if err != nil {
		t.Fatal(err)
	}
	const rule = "disks:\n  thresholds:\n    rules:\n    - signal: ata.5\n      name: spares\n      why: because\n"
	cases := map[string]struct{ pillar, err string }{
		"Good":     {rule + "      atLeast: 1.5\n      severity: Warning\n", ""},
		"Empty":    {"disks: {thresholds: {}}\n", ""},
		"Key":      {rule + "      atleast: 1\n      severity: Warning\n", `p.sls:7: disks:thresholds: unknown field "atleast" (check its spelling and indentation)`},
		"Unit":     {"disks:\n  thresholds:\n    windows:\n    - name: mine\n      class: Link\n      why: because\n      atLeast: 4\n      within: 600\n      severity: Warning\n", `p.sls:8: disks:thresholds: "600" is not a duration, such as 10m with its unit`},
		"Value":    {rule + "      severity: Warning\n      atLeast: -3\n", "p.sls:8: disks:thresholds: rules[0] (ata.5): atLeast is -3, want a number above 0 (no disk tells less than 0: the rule would always hold)"},
		"Never":    {"disks:\n  thresholds:\n    accepted:\n    - {disk: d, signal: percentUsed,\n       upTo: 999, why: w}\n", "p.sls:5: disks:thresholds: accepted[0] (d): upTo is 999, but percentUsed is never more than 255 (the rule would never hold; it is in percent)"},
		"Type":     {"disks:\n  thresholds:\n    rules: 3\n", "p.sls:3: disks:thresholds: cannot unmarshal int `3` into []verdict.Rule"},
		"Several":  {rule + "      severity: Bad\n      atLeast: 1\n    - signal: ata.5\n      name: spares\n      why: because\n      grows: true\n", "p.sls:7: disks:thresholds: rules[0] (ata.5): severity is \"Bad\", want Critical or Warning (Critical fails the disk, Warning degrades it)\np.sls:9: disks:thresholds: rules[1] (ata.5): class is missing or unknown: \"\" (it is the class of the warning that a growth is: BlockIO, BufferIO, Medium, SCSI, ATA, Link, NVMe, DeviceOffline, Filesystem, Integrity, Array, Path, Mapper, HungIO, NoAnswer, Controller, PCIe, Network, Flapping)"},
		"Smartctl": {"disks:\n  smartctl:\n    disks:\n    - {disk: d, type: 'megaraid,3'}\n    - disk: e\n      type: megaraid\n", `p.sls:6: disks:smartctl: disks[1]: type "megaraid" names no drive of the adapter (write its number, such as megaraid,0)`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := complete(pillarOf(t, tc.pillar), []*addons.Addon{disks})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.err, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
