package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/monitor/smart"
)

// smartctl is a program that says this of a SCSI drive as which it is asked.
func smartctl(t *testing.T, status string) *smart.Smartctl {
	t.Helper()
	p := filepath.Join(t.TempDir(), "smartctl")
	script := `#!/bin/sh
for device; do :; done
printf '{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"name":"%s","protocol":"SCSI"},"serial_number":"Z1","smart_status":` + status + `}' "$device"
`
	if err := os.WriteFile(p, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &smart.Smartctl{Program: p}
}

// A disk that is named for it is asked by smartctl and by nothing else, and what it says
// counts as what a disk says by ioctl; the others are asked by ioctl.
func TestSmartctlBecomesState(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("sda", "adapter-made-this-up")
	h.plugDisk("sdb", "b")
	h.plugDisk("sdc", "c")
	d.says("sdb", &smart.Report{Protocol: smart.SCSI, Model: "m", Serial: "b", SCSI: &smart.SCSIHealth{}})
	o := healthOptions(h)
	var err error
	o.Adapters, err = smart.ParseAdapters("t", []byte("disks:\n- {disk: model-adapter-made-this-up, type: 'megaraid,3', serial: Z1}\n- {disk: model-c, type: 'megaraid,4', serial: Z2}\n"))
	if err != nil {
		t.Fatal(err)
	}
	watchWith(t, h, api, o, func(m *Monitor) {
		d.as(m)
		m.health.smartctl = smartctl(t, `{"passed":false,"scsi":{"asc":93,"ascq":16}}`)
	})
	api.await(t, "failed by what smartctl says", is("model-adapter-made-this-up", "Failed SMART*1"))
	api.await(t, "unknown, for another drive answers", is("model-c", "Unknown"))
	api.await(t, "healthy by what it says itself", is("model-b", "Healthy"))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked["sda"] != 0 || d.asked["sdc"] != 0 || d.asked["sdb"] == 0 {
		t.Errorf("asked by ioctl: %v", d.asked)
	}
}

// What a flavor says of a slot counts on nodes of that flavor, from when the node has it.
func TestSmartctlByFlavor(t *testing.T) {
	a, err := smart.ParseAdapters("t", []byte("disks:\n- {flavor: big, slot: s1, type: 'megaraid,3'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	hl := health{adapters: a, disks: map[string]*diskHealth{}}
	disks := []listedDisk{{"d1", "sda", "x", "s1"}, {"d2", "sdb", "y", "s2"}}
	via := func() string {
		text := ""
		for _, id := range []string{"d1", "d2"} {
			if v := hl.disks[id].via; v != nil {
				text += fmt.Sprint(id, " ", v.Type)
			}
		}
		return text
	}
	for _, step := range []struct{ flavor, want string }{{"", ""}, {"small", ""}, {"big", "d1 megaraid,3"}, {"big", "d1 megaraid,3"}, {"small", ""}} {
		before := hl.disks["d1"]
		hl.list(disks, step.flavor, true, time.Now())
		if got := via(); got != step.want {
			t.Errorf("flavor %q: asked through smartctl are %q, want %q", step.flavor, got, step.want)
		}
		if again := before != nil && before.via == hl.disks["d1"].via; again != (before == hl.disks["d1"]) && before != nil {
			t.Errorf("flavor %q: what is known of a disk must last as long as the way it is asked", step.flavor)
		}
	}
}
