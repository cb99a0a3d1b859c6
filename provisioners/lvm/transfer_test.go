package lvm_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

type transferCase struct {
	name, kind string
	from, to   map[string]string
	fs         string
}

func transferCases() []transferCase {
	return []transferCase{
		{"clone-thin", "PersistentVolumeClaim", thin, thin, lvm.Ext4},
		{"clone-thick-block", "PersistentVolumeClaim", thick, thick, lvm.Block},
		{"restore-to-thick", "VolumeSnapshot", thin, thick, lvm.Ext4},
	}
}

// A source in use: a thin one is copied as of one moment, a thick one is not copied.
func TestCopyFromAnotherNodeOfASourceInUse(t *testing.T) {
	use := func(p *twoNodes) {
		if _, err := p.from.host.Run(t.Context(), 0, "mount", "-t", "ext4", "/dev/hf-a/hfv-src", "/somewhere"); err != nil {
			t.Fatal(err)
		}
	}
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
	use(p)
	writes := sync.OnceFunc(func() {
		go p.from.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-src"].Data = "later data" })
	})
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "read" { // the pod writes on
			writes()
		}
		return lvmfake.Honest
	})
	if _, err := p.provision(); err != nil {
		t.Fatal(err)
	}
	if l := p.to.find("hf-b", "hfv-new"); l.Data != "data of src" || !p.settled() {
		t.Errorf("the copy is %+v, n1 has %v", l, p.leftovers())
	}
	p = newTwoNodes(t, "PersistentVolumeClaim", thick, thin, lvm.Ext4)
	use(p)
	if state, err := p.provision(); err == nil || !strings.Contains(err.Error(), "stop what uses it") || state != controller.ProvisioningInBackground {
		t.Errorf("a thick source in use: %v, %v", state, err)
	}
	if n := len(p.to.host.Volumes("hf-b")); n != 0 {
		t.Errorf("there are %d volumes", n)
	}
}

// TestTransferCrashes interrupts a copy at each step of either node, in each way.
func TestTransferCrashes(t *testing.T) {
	for _, c := range transferCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it waits for what hangs
			crashTransfer(t, c)
		})
	}
}

func crashTransfer(t *testing.T, c transferCase) {
	runs := 0
	p := newTwoNodes(t, c.kind, c.from, c.to, c.fs)
	steps := map[bool]int{}
	p.from.host.Calls()
	p.to.host.Calls()
	if _, err := p.provision(); err != nil || p.whole() != "" {
		t.Fatalf("%s without any fault: %v, %s", c.name, err, p.whole())
	}
	steps[true], steps[false] = len(p.from.host.Calls()), len(p.to.host.Calls())
	for source, n := range steps {
		for step := 1; step <= n; step++ {
			for _, mode := range faults {
				runs++
				if msg := interruptTransfer(t, c, source, step, mode); msg != "" {
					t.Errorf("%s, on the source %v, step %d of %d, mode %d: %s", c.name, source, step, n, mode, msg)
				}
			}
		}
	}
	t.Logf("%d runs", runs)
	if runs < 100 {
		t.Errorf("only %d runs", runs)
	}
}

func interruptTransfer(t *testing.T, c transferCase, source bool, step int, mode lvmfake.Mode) string {
	p := newTwoNodes(t, c.kind, c.from, c.to, c.fs)
	p.impatient()
	defer func() { p.stop[p.from](); p.stop[p.to]() }()
	w := p.to
	if source {
		w = p.from
	}
	w.host.Calls()
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		lies := mode == lvmfake.Empty || mode == lvmfake.Garbage || mode == lvmfake.LieNotFound
		if c.N != step || lies && c.Program != "lvm" {
			return lvmfake.Honest
		}
		return mode
	})
	_, err := p.provision()
	if msg := p.wrong(); msg != "" {
		return "right after the fault: " + msg
	}
	p.revive()
	w.host.Misbehave(nil)
	for range 30 {
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // what was left behind ends
		_, err = p.provision()
		if msg := p.wrong(); msg != "" {
			return msg
		}
		p.revive()
	}
	if err != nil {
		return "it does not end well after all faults are over: " + err.Error()
	}
	p.revive()
	return p.whole()
}
