package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/verdict"
)

// warn writes a line of a request that failed on one path only.
func (h *host) warn(dev string, sector int) {
	h.t.Helper()
	h.say("recoverable transport error, dev %s, sector %d op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2", dev, sector)
}

// hello waits until the monitor reads lines as they come: these are dated by its
// own clock, earlier ones by the time since the boot.
func hello(t *testing.T, h *host, m *Monitor) {
	t.Helper()
	h.say("hello")
	within(t, func() bool { return m.stats.Records.Load() == 1 })
}

// twoPlaces makes a fault of two places within the time.
func twoPlaces(t *testing.T, within string) *verdict.Thresholds {
	t.Helper()
	th, err := verdict.ParseThresholds("t", []byte("windows: [{name: places, class: BlockIO, lines: transport, distinct: true, atLeast: 2, within: "+within+", severity: Warning, why: w}]"))
	if err != nil {
		t.Fatal(err)
	}
	return th
}

// Too few lines are no fault; enough are one, which ends when there are no more,
// without anything else that happens.
func TestWindow(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	o := h.options("n")
	o.ScanInterval, o.Thresholds = time.Hour, twoPlaces(t, "1s")
	m, _ := watch(t, h, api, o)
	api.await(t, "healthy", is("loop-a", "Healthy"))
	hello(t, h, m)
	h.warn("loop1", 8)
	h.warn("loop1", 8)
	within(t, func() bool {
		return testutil.ToFloat64(m.metrics.discounted.WithLabelValues("BlockIO", "below_threshold")) == 2
	})
	if n := api.object(); diskState(n, "loop-a") != "Healthy" {
		t.Errorf("one place makes it %s", diskState(n, "loop-a"))
	}
	h.warn("loop1", 16)
	n := api.await(t, "degraded", is("loop-a", "Degraded BlockIO*3"))
	if f := n.Status.Disks[0].Faults[0]; f.Until == nil || f.Until.Sub(f.LastSeen.Time) > 2*time.Second {
		t.Errorf("until %v", f.Until)
	}
	api.await(t, "it is over", is("loop-a", "Healthy"))
}

// What was said of the disk before a restart counts in its windows and nowhere else.
func TestWindowOverARestart(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	o := h.options("n")
	o.Thresholds = twoPlaces(t, "1h")
	m, _ := watch(t, h, api, o)
	api.await(t, "healthy", is("loop-a", "Healthy"))
	hello(t, h, m)
	now := time.Now()
	m.tell(t.Context(), func() {
		m.onLog(kernel.Update{Events: []kernel.Event{
			{Class: v1alpha1.FaultBlockIO, Severity: v1alpha1.SeverityWarning, Devices: []string{"loop1"}, First: now, Last: now, Count: 1, Evidence: "transport", Seen: []kernel.Sighting{{At: now, Place: "8"}}, Old: true},
			{Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical, Devices: []string{"loop1"}, First: now, Last: now, Count: 1, Seen: []kernel.Sighting{{At: now}}, Old: true},
		}})
	})
	h.warn("loop1", 16)
	api.await(t, "degraded", is("loop-a", "Degraded BlockIO*2"))
}

// A volume that repeats what its disk has said adds nothing.
func TestEcho(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.write("sys/block/dm-0/slaves/loop1p1/x", "")
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	hello(t, h, m)
	h.ioError("loop1")
	h.say("Buffer I/O error on dev dm-0, logical block 1, async page read")
	within(t, func() bool {
		return testutil.ToFloat64(m.metrics.discounted.WithLabelValues("BufferIO", "echo")) == 1
	})
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
}

// What fails on a network's disk degrades that disk, and closes nothing.
func TestFaultOfRemoteDisk(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	for name, data := range map[string]string{"bus/rbd/devices/0/pool": "kube\n", "bus/rbd/devices/0/name": "vol\n", "block/rbd0/size": "2048\n"} {
		h.write("sys/"+name, data)
	}
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("rbd-kube-vol", "Healthy"))
	h.ioError("rbd0")
	n := api.await(t, "degraded", is("rbd-kube-vol", "Degraded Network*1"))
	if got := diskState(n, "loop-a"); got != "Healthy" {
		t.Errorf("the disk of the host is %s", got)
	}
}

// A disk that has requests and answers none is Degraded, whatever the log says, for
// as long as it does and the window afterwards. One that is idle is not.
func TestNoAnswer(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "b")
	stat := func(dev string, reads, inFlight int) { // Documentation/block/stat.rst
		h.write("sys/block/"+dev+"/stat", fmt.Sprintf("%8d 0 16 0 7 0 0 0 %8d 0 0 0 0 0 0 0 0\n", reads, inFlight))
	}
	stat("loop1", 5, 2)
	stat("loop2", 5, 0)
	o := h.options("n")
	th, err := verdict.ParseThresholds("t", []byte("windows: [{name: no-answer, class: NoAnswer, atLeast: 1, within: 1s, severity: Warning, why: w}]"))
	if err != nil {
		t.Fatal(err)
	}
	o.Thresholds = th
	watchWith(t, h, api, o, func(m *Monitor) { m.silence.Step = 300 * time.Millisecond })
	n := api.await(t, "degraded", func(n *v1alpha1.ComputeNode) bool {
		return strings.HasPrefix(diskState(n, "loop-a"), "Degraded NoAnswer")
	})
	if s := diskState(n, "loop-b"); s != "Healthy" {
		t.Errorf("the idle disk is %s", s)
	}
	if e := n.Status.Disks[0].Faults[0].Evidence; !strings.HasPrefix(e, "2 requests wait and none was answered for ") || !strings.HasSuffix(e, " (/sys/block/loop1/stat)") {
		t.Errorf("evidence %q", e)
	}
	stat("loop1", 7, 0)
	api.await(t, "it is over", is("loop-a", "Healthy"))
}
