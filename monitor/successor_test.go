package monitor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

// A replacement that is bad from the beginning fails itself, and not the disk before it: the
// kernel reads its partition table before it says that it is attached.
func TestDeadOnArrival(t *testing.T) {
	for bus, says := range map[string]struct {
		dev         string
		comes, fail []string
	}{
		"SD": {
			"sdc", []string{"scsi 2:0:0:0: Direct-Access     ATA      NEWDISK          0001 PQ: 0 ANSI: 6", "sd 2:0:0:0: [sdc] 7814037168 512-byte logical blocks: (4.00 TB/3.64 TiB)"},
			[]string{"critical medium error, dev sdc, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", "sd 2:0:0:0: [sdc] Attached SCSI disk"},
		},
		"NVMe": {
			"nvme0n1", []string{"nvme nvme0: pci function 0000:01:00.0"},
			[]string{"critical medium error, dev nvme0n1, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"},
		},
	} {
		t.Run(bus, func(t *testing.T) {
			h, api := newHost(t), newMemory()
			h.plugDisk(says.dev, "old")
			h.write(nodedisks.Path, "apiVersion: holdfast.dev/v1alpha1\nkind: NodeDisks\ndisks:\n- {id: model-old, group: data, role: static, media: hdd, partitions: [{uuid: 00000000-0000-0000-0000-000000000001, filesystem: ext4, mountPoint: /mnt/a, storageClass: local}]}\n")
			h.say("the log is read") // before that, this log's times are not those of the looks
			watch(t, h, api, h.options("n"))
			api.await(t, "healthy", func(n *v1alpha1.ComputeNode) bool { return is("model-old", "Healthy")(n) && n.Status.KernelLog != nil })
			h.remove("sys/block/" + says.dev)
			api.await(t, "missing", is("model-old", "Missing Missing*1"))
			for _, line := range says.comes {
				h.say("%s", line)
			}
			h.plugDisk(says.dev, "new")
			for _, line := range says.fail {
				h.say("%s", line)
			}
			n := api.await(t, "the new disk has failed", is("model-new", "Failed Medium*1"))
			if got := diskState(n, "model-old"); got != "Missing Missing*1" {
				t.Errorf("the old disk is %s", got)
			}
		})
	}
}

// A disk that fails, leaves and comes back while no monitor runs has failed, by the status
// before; what is said of a name whose owner then nobody knows is counted.
func TestOutdatedFaults(t *testing.T) {
	const comes = "loop1: detected capacity change from 0 to 2048"
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.ioError("loop1")
	h.say(comes)
	m, stop := watch(t, h, api, h.options("n"))
	within(t, func() bool {
		return testutil.ToFloat64(m.metrics.discounted.WithLabelValues("BlockIO", "outdated")) == 1
	})
	api.await(t, "healthy", is("loop-a", "Healthy"))
	stop()
	h.ioError("loop1")
	h.say(comes)
	m, stop = watch(t, h, api, h.options("n"))
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
	stop()
	if n := testutil.ToFloat64(m.metrics.discounted.WithLabelValues("BlockIO", "outdated")); n != 0 {
		t.Errorf("%v of it discounted", n)
	}
	// Another disk in its place has nothing of it.
	h.plug("loop1", "b")
	h.ioError("loop1")
	h.say(comes)
	m, _ = watch(t, h, api, h.options("n"))
	within(t, func() bool {
		return testutil.ToFloat64(m.metrics.discounted.WithLabelValues("BlockIO", "outdated")) == 1
	})
	api.await(t, "the other disk", func(n *v1alpha1.ComputeNode) bool { return diskState(n, "loop-b") == "Healthy" })
}

// A disk that comes and goes costs the API server few writes, and is seen in the end.
func TestFlap(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.prepare("a")
	m, _ := watchWith(t, h, api, h.options("n"), func(m *Monitor) { m.pace.Burst, m.pace.Each = 4, time.Second })
	local := func(want string) {
		t.Helper()
		within(t, func() bool {
			p := m.published.Load()
			return p != nil && diskState(&v1alpha1.ComputeNode{Status: *p.status}, "loop-a") == want
		})
	}
	start := time.Now()
	for range 10 {
		local("Healthy")
		h.remove("sys/block/loop1")
		local("Missing Missing*1")
		h.plug("loop1", "a")
	}
	api.await(t, "back", is("loop-a", "Healthy"))
	api.mu.Lock()
	defer api.mu.Unlock()
	if most := 4 + 1 + int(time.Since(start)/time.Second); api.writes > most {
		t.Errorf("%d writes, want at most %d", api.writes, most)
	}
}

// One that has come back too often stays closed: its state does not follow what is there at the moment.
func TestFlapping(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.prepare("a")
	o := h.options("n")
	th, err := verdict.ParseThresholds("t", []byte("windows: [{name: flapping, class: Flapping, atLeast: 1, within: 1h, severity: Critical, why: w}]"))
	if err != nil {
		t.Fatal(err)
	}
	o.Thresholds = th
	watchWith(t, h, api, o, func(m *Monitor) { m.pace.Counts = 10 * time.Millisecond })
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.remove("sys/block/loop1")
	api.await(t, "missing", is("loop-a", "Missing Missing*1"))
	seen := map[string]bool{}
	follow := func(what string, ok func(d v1alpha1.Disk) bool) *v1alpha1.ComputeNode {
		t.Helper()
		return api.await(t, what, func(n *v1alpha1.ComputeNode) bool {
			seen[string(n.Status.Disks[0].State)] = true
			return ok(n.Status.Disks[0])
		})
	}
	h.plug("loop1", "a")
	n := api.await(t, "back", func(n *v1alpha1.ComputeNode) bool { return n.Status.Disks[0].State != v1alpha1.DiskMissing })
	if got := diskState(n, "loop-a"); got != "Failed Flapping*1" {
		t.Errorf("back too often, it is %s", got)
	}
	since := n.Status.Disks[0].Since
	h.remove("sys/block/loop1")
	follow("gone", func(d v1alpha1.Disk) bool { return d.Device == "" })
	h.plug("loop1", "a")
	n = follow("back again", func(d v1alpha1.Disk) bool {
		return d.Device == "loop1" && len(d.Faults) == 1 && d.Faults[0].Count == 2 && d.Since.Equal(since)
	})
	if len(seen) != 1 || !seen["Failed"] {
		t.Errorf("its state was %v", seen)
	}
	if f := n.Status.Disks[0].Faults[0]; f.Until == nil || !strings.Contains(f.Evidence, "come back as loop1") {
		t.Errorf("fault %+v", f)
	}
}

// The replacement of a disk that hangs its caller gets its name, and not its hang.
func TestNameOfAHungDisk(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	asked := 0
	h := health{reader: smart.Reader{Ask: func(context.Context, string) (*smart.Report, error) {
		if asked++; asked == 1 {
			<-hang
		}
		return &smart.Report{Serial: "NEW"}, nil
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.ask(ctx, "old", "sda", nil); !errors.Is(err, smart.ErrNoAnswer) {
		t.Fatal(err)
	}
	if _, err := h.ask(t.Context(), "old", "sda", nil); !errors.Is(err, smart.ErrNoAnswer) {
		t.Errorf("asked again while it hangs: %v", err)
	}
	if r, err := h.ask(t.Context(), "new", "sda", nil); err != nil || r.Serial != "NEW" {
		t.Errorf("%v, %v", r, err)
	}
}
