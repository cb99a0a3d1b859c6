package docker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/provisioners/docker"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// daemon speaks to a plugin as dockerd does (pkg/plugins/client.go and
// volume/drivers/proxy.go of Docker 20.10): POST, JSON without a content type, and an
// Accept of the API's version.
type daemon struct {
	t      *testing.T
	client *http.Client
}

func dial(t *testing.T, w *world) *daemon {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "holdfast.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- docker.Serve(ctx, socket, w.driver, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return connect(t, socket)
}

// connect makes a client of a plugin that listens.
func connect(t *testing.T, socket string) *daemon {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &daemon{t: t, client: &http.Client{Transport: tr}}
}

// ask returns the status, and the body as it came.
func (d *daemon) ask(method, body string) (int, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, "http://holdfast.sock/"+method, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	resp, err := d.client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/vnd.docker.plugins.v1.1+json" {
		d.t.Errorf("%s: the content type is %q", method, ct)
	}
	return resp.StatusCode, strings.TrimSpace(string(data))
}

// good is an answer without an error, exactly this one.
func (d *daemon) good(method, body, want string) {
	d.t.Helper()
	if code, got := d.ask(method, body); code != http.StatusOK || got != want {
		d.t.Errorf("%s %s: %d %s, want %s", method, body, code, got, want)
	}
}

// bad is an error as Docker shows it to a person.
func (d *daemon) bad(method, body, want string) {
	d.t.Helper()
	code, got := d.ask(method, body)
	var e map[string]string
	if err := json.Unmarshal([]byte(got), &e); err != nil || code != http.StatusInternalServerError || len(e) != 1 || !strings.Contains(e["Err"], want) {
		d.t.Errorf("%s %s: %d %s, want Err with %q", method, body, code, got, want)
	}
}

// TestAsDockerSpeaks is the life of a volume over the socket, byte by byte.
func TestAsDockerSpeaks(t *testing.T) {
	w := newWorld(t, groups()...)
	d := dial(t, w)
	d.good("Plugin.Activate", "", `{"Implements": ["VolumeDriver"]}`)
	d.good("VolumeDriver.Capabilities", "", `{"Capabilities":{"Scope":"local"}}`)
	d.good("VolumeDriver.List", "{}", `{"Volumes":[]}`)
	d.bad("VolumeDriver.Get", `{"Name":"pg.Data"}`, "volume pg.Data: not found")
	d.good("VolumeDriver.Create", `{"Name":"pg.Data","Opts":{"size":"5Gi","kind":"thin","fsType":"ext4","vg":"hf-b","mkfsOptions":"-m 1 -i 65536"}}`, `{}`)
	w.host.With("hf-b", func(g *lvmfake.Group) {
		g.LVs[lvm.KindDocker.LV("pg.Data")].Created = time.Date(2026, 11, 26, 6, 35, 19, 0, time.UTC)
	})
	w.must(w.engine.RefreshAll(t.Context())) // LVM's own time
	d.good("VolumeDriver.List", "{}", `{"Volumes":[{"Name":"pg.Data","CreatedAt":"2026-11-26T06:35:19Z"}]}`)
	d.good("VolumeDriver.Path", `{"Name":"pg.Data"}`, `{"Mountpoint":""}`)
	at := `{"Mountpoint":"` + w.target("pg.Data") + `"}`
	d.good("VolumeDriver.Mount", `{"Name":"pg.Data","ID":"c1"}`, at)
	d.good("VolumeDriver.Mount", `{"Name":"pg.Data","ID":"c2"}`, at)
	d.good("VolumeDriver.Mount", `{"Name":"pg.Data","ID":"c2"}`, at)
	d.good("VolumeDriver.Path", `{"Name":"pg.Data"}`, at)
	d.bad("VolumeDriver.Remove", `{"Name":"pg.Data"}`, "it is mounted for c1 (stop the containers that docker ps --filter volume=pg.Data shows")
	d.good("VolumeDriver.Unmount", `{"Name":"pg.Data","ID":"c2"}`, `{}`)
	if !w.mounted("pg.Data") {
		t.Error("it was unmounted under c1, for c2 was counted twice")
	}
	_, body := d.ask("VolumeDriver.Get", `{"Name":"pg.Data"}`)
	var got map[string]map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]any{"Volume": {"Name": "pg.Data", "Mountpoint": w.target("pg.Data"), "CreatedAt": "2026-11-26T06:35:19Z", "Status": map[string]any{
		"bytes": float64(5 * gib), "kind": "thin", "fsType": "ext4", "wipe": "none", "vg": "hf-b", "pool": "db", "lv": w.lv("pg.Data").Name, "disks": []any{"disk-b"},
		"holders": float64(1), "condition": "",
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	d.good("VolumeDriver.Unmount", `{"Name":"pg.Data","ID":"c1"}`, `{}`)
	d.good("VolumeDriver.Unmount", `{"Name":"pg.Data","ID":"c1"}`, `{}`)
	if w.mounted("pg.Data") {
		t.Error("it is mounted, and nobody holds it")
	}
	d.good("VolumeDriver.Remove", `{"Name":"pg.Data"}`, `{}`)
	d.good("VolumeDriver.Remove", `{"Name":"pg.Data"}`, `{}`) // Docker repeats what it heard no answer to
	d.good("VolumeDriver.List", "{}", `{"Volumes":[]}`)
	if w.lv("pg.Data") != nil {
		t.Error("the volume is still there")
	}
}

// TestBadInput: each is refused with its name, its value and what to do, and no program runs.
func TestBadInput(t *testing.T) {
	infos := append(groups(), lvm3())
	w := newWorld(t, infos...)
	d := dial(t, w)
	w.host.Calls()
	create := func(opts string) string { return fmt.Sprintf(`{"Name":"x1","Opts":{%s}}`, opts) }
	pool := `"pool":"db","size":"5Gi",`
	for name, tc := range map[string]struct{ body, want string }{
		"NoSize":     {create(`"pool":"db"`), `option size="": it is missing; give bytes such as 10Gi`},
		"SizeWord":   {create(`"pool":"db","size":"big"`), `option size="big": no quantity; give bytes such as 10Gi`},
		"SizeUnit":   {create(`"pool":"db","size":"10GB"`), `option size="10GB": no quantity`},
		"SizeZero":   {create(`"pool":"db","size":"0"`), `option size="0": give from 1 to`},
		"SizeMinus":  {create(`"pool":"db","size":"-5Gi"`), `option size="-5Gi": give from 1 to`},
		"SizeHuge":   {create(`"pool":"db","size":"100Ei"`), `option size="100Ei": give from 1 to`},
		"SizeSmall":  {create(`"pool":"db","size":"100Mi"`), `option size="100Mi": the file system xfs needs 314572800 bytes at least`},
		"Unknown":    {create(pool + `"tpye":"thin"`), `option tpye="thin": unknown; known are fsType, kind, mkfsOptions, overcommit, placement, pool, size, stripeSize, stripes, vg, wipe`},
		"CSI's name": {create(pool + `"type":"thin"`), `option type="thin": unknown; known are`},
		"Kind":       {create(pool + `"kind":"mirror"`), `option kind="mirror": give linear, striped or thin`},
		"FS":         {create(pool + `"fsType":"zfs"`), `option fsType="zfs": not installed; give xfs or ext4`},
		"Block":      {create(pool + `"fsType":"block"`), `option fsType="block": not installed; give xfs or ext4`},
		"NoPool":     {create(`"size":"5Gi"`), `option pool="": it is missing, and there is more than one or none; this host has the pools db, log`},
		"OtherPool":  {create(`"size":"5Gi","pool":"a;b"`), `option pool="a;b": this host has the pools db, log`},
		"Group":      {create(`"size":"5Gi","vg":"../sda"`), `option vg="../sda": this host has the volume groups hf-a, hf-b, hf-c`},
		"Both":       {create(`"size":"5Gi","vg":"hf-a","pool":"log"`), `option pool="log": volume group hf-a is of pool db; give one of the two`},
		"Force":      {create(pool + `"mkfsOptions":"-f -i size=512"`), `option mkfsOptions="-f -i size=512": mkfs.xfs gets pairs of a flag and its value`},
		"LogDevice":  {create(pool + `"mkfsOptions":"-l logdev=sda"`), "names a file or another device"},
		"Copies":     {create(pool + `"fsType":"ext4","mkfsOptions":"-d etc"`), `"-d" is none`},
		"Shell":      {create(pool + `"mkfsOptions":"-L $(reboot)"`), "has other characters than letters"},
		"Stripes":    {create(pool + `"stripes":"4"`), `option stripes="4": only with kind striped`},
		"Overcommit": {create(pool + `"overcommit":"2"`), `option overcommit="2": only with kind thin`},
		"Wipe":       {create(pool + `"wipe":"shred"`), `option wipe="shred": give zero, discard or none`},
		"Traversal":  {`{"Name":"../../etc","Opts":{}}`, `volume name "../../etc": give 2 to 128 letters, digits and "_.-"`},
		"Hidden":     {`{"Name":"..","Opts":{}}`, `volume name "..": give 2 to 128`},
		"Slash":      {`{"Name":"a/b","Opts":{}}`, `volume name "a/b"`},
		"ShellName":  {`{"Name":"a;reboot","Opts":{}}`, `volume name "a;reboot"`},
		"Newline":    {`{"Name":"aa\nb","Opts":{}}`, `volume name "aa\nb"`},
		"Empty":      {`{"Name":"","Opts":{}}`, `volume name ""`},
		"Long":       {`{"Name":"` + strings.Repeat("a", 129) + `"}`, "give 2 to 128"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &daemon{t: t, client: d.client}
			d.bad("VolumeDriver.Create", tc.body, tc.want)
		})
	}
	for _, method := range []string{"Get", "Remove", "Mount", "Unmount", "Path"} {
		d.bad("VolumeDriver."+method, `{"Name":"../../etc","ID":"c1"}`, `volume name "../../etc"`)
	}
	d.bad("VolumeDriver.Mount", `{"Name":"x1","ID":""}`, `id "": give the ID`)
	d.bad("VolumeDriver.Mount", `{"Name":"x1","ID":"c1"}`, "volume x1: not found")
	for _, c := range w.host.Calls() {
		if c.Sub() != "fullreport" {
			t.Errorf("%s ran", c.Line())
		}
	}
}
