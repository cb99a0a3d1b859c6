package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/smart"
)

// drives answer as a test says. A drive that nobody has given has no health to tell.
type drives struct {
	mu     sync.Mutex
	answer map[string]func(ctx context.Context) (*smart.Report, error)
	asked  map[string]int
}

func newDrives() *drives {
	return &drives{answer: map[string]func(context.Context) (*smart.Report, error){}, asked: map[string]int{}}
}

func (d *drives) set(device string, f func(ctx context.Context) (*smart.Report, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer[device] = f
}

func (d *drives) says(device string, r *smart.Report) {
	d.set(device, func(context.Context) (*smart.Report, error) { return r, nil })
}

func (d *drives) ask(ctx context.Context, device string) (*smart.Report, error) {
	d.mu.Lock()
	d.asked[device]++
	f := d.answer[device]
	d.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("inquiry: %w", smart.ErrUnsupported)
	}
	return f(ctx)
}

// as makes a monitor ask these drives, as fast as it is told.
func (d *drives) as(m *Monitor) { m.health.reader.Ask = d.ask }

func nvme(serial string, w smart.CriticalWarning) *smart.Report {
	celsius := 31
	return &smart.Report{Protocol: smart.NVMe, Model: "m", Serial: serial, Celsius: &celsius, NVMe: &smart.NVMeHealth{CriticalWarning: w, AvailableSpare: 100, SpareThreshold: 10}}
}

// healthOptions asks disks at the shortest interval that a test can wait for.
func healthOptions(h *host) Options {
	o := h.options("n")
	o.SmartInterval = 50 * time.Millisecond
	return o
}

func TestHealthBecomesState(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	h.plugDisk("sdb", "b") // without health to tell
	d.says("nvme0n1", nvme("a", 0))
	m, stop := watchWith(t, h, api, healthOptions(h), d.as)
	api.await(t, "healthy", is("model-a", "Healthy"))
	api.await(t, "health read", condition(v1alpha1.ConditionHealthRead, metav1.ConditionTrue))

	d.says("nvme0n1", nvme("a", smart.ReadOnly))
	n := api.await(t, "failed", is("model-a", "Failed SMART*1"))
	if got := n.Status.Disks[0].Faults[0].Evidence; got != "read only" {
		t.Errorf("evidence %q", got)
	}
	if got := diskState(n, "model-b"); got != "Healthy" {
		t.Errorf("a disk without health to tell is %s", got)
	}
	stop()

	// After a restart what it said stands until it says something else.
	hang := make(chan struct{})
	d.set("nvme0n1", func(context.Context) (*smart.Report, error) { <-hang; return nvme("a", smart.ReadOnly), nil })
	m, _ = watchWith(t, h, api, healthOptions(h), d.as)
	within(t, func() bool { return m.looked.Load() })
	if got := diskState(api.object(), "model-a"); got != "Failed SMART*1" {
		t.Errorf("after the restart it is %s", got)
	}
	close(hang)
	d.says("nvme0n1", nvme("a", 0))
	api.await(t, "recovered", is("model-a", "Healthy"))
}

// What a disk said before decides what its first answer means: until the stored
// status is known, none is asked, and the first reading of a rule that needs two
// does not lift a quarantine.
func TestHealthWaitsForTheStoredStatus(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("sda", "a")
	rpm, pending := uint16(7200), &smart.ATAHealth{Attributes: []smart.Attribute{{ID: 197, Count: 3}}}
	d.says("sda", &smart.Report{Protocol: smart.ATA, Serial: "a", RPM: &rpm, ATA: pending})
	api.obj.Status.Disks = []v1alpha1.Disk{{ID: "model-a", State: v1alpha1.DiskFailed, Faults: []v1alpha1.Fault{
		{Class: v1alpha1.FaultSMART, Severity: v1alpha1.SeverityCritical, Count: 1, Evidence: "pending sectors: 3"},
	}}}
	api.down = true
	o := h.options("n")
	o.SmartInterval = time.Hour // one reading
	m, _ := watchWith(t, h, api, o, d.as)
	// Between two looks the loop has passed the place where it would have asked.
	within(t, func() bool { return testutil.ToFloat64(m.metrics.scans) >= 3 })
	d.mu.Lock()
	if n := d.asked["sda"]; n != 0 {
		t.Errorf("asked %d times before the stored status was known", n)
	}
	d.mu.Unlock()
	api.mu.Lock()
	api.down = false
	api.mu.Unlock()
	within(t, func() bool { return answered1(m) })
	if got := diskState(api.object(), "model-a"); got != "Failed SMART*1" {
		t.Errorf("after its first answer it is %s", got)
	}
	for _, d := range m.published.Load().status.Disks {
		if d.State != v1alpha1.DiskFailed {
			t.Errorf("published: %s is %s", d.ID, d.State)
		}
	}
}

// What the logs of an ATA disk tell beyond its attributes are metrics: the numbers of its
// device statistics were in the report, and no test asked for them elsewhere.
func TestMetricsOfATALogs(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("sda", "a")
	logged, uncorrectable, celsius, used, failures := uint64(900), uint64(3), 30, uint8(101), 2
	d.says("sda", &smart.Report{Protocol: smart.ATA, Serial: "a", Celsius: &celsius, PercentUsed: &used, ATA: &smart.ATAHealth{Errors: &logged, Uncorrectable: &uncorrectable, SelfTestFailures: &failures}})
	m, _ := watchWith(t, h, api, healthOptions(h), d.as)
	within(t, func() bool { return answered1(m) })
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m.Collector())
	const want = `# HELP holdfast_disk_monitor_smart_ata_errors_total Errors that an ATA disk has logged in its life.
# TYPE holdfast_disk_monitor_smart_ata_errors_total counter
holdfast_disk_monitor_smart_ata_errors_total{disk="model-a"} 900
# HELP holdfast_disk_monitor_smart_ata_uncorrectable_errors_total Uncorrectable errors that an ATA disk without attribute 187 has reported in its life.
# TYPE holdfast_disk_monitor_smart_ata_uncorrectable_errors_total counter
holdfast_disk_monitor_smart_ata_uncorrectable_errors_total{disk="model-a"} 3
# HELP holdfast_disk_monitor_smart_endurance_used_ratio The vendor's estimate of the endurance used up; may exceed 1.
# TYPE holdfast_disk_monitor_smart_endurance_used_ratio gauge
holdfast_disk_monitor_smart_endurance_used_ratio{disk="model-a"} 1.01
# HELP holdfast_disk_monitor_smart_failed_self_tests Failed self-tests among the last ones that the disk remembers.
# TYPE holdfast_disk_monitor_smart_failed_self_tests gauge
holdfast_disk_monitor_smart_failed_self_tests{disk="model-a"} 2
# HELP holdfast_disk_monitor_smart_temperature_celsius Temperature of the disk.
# TYPE holdfast_disk_monitor_smart_temperature_celsius gauge
holdfast_disk_monitor_smart_temperature_celsius{disk="model-a"} 30
`
	names := []string{"ata_errors_total", "ata_uncorrectable_errors_total", "endurance_used_ratio", "failed_self_tests", "temperature_celsius"}
	for i := range names {
		names[i] = "holdfast_disk_monitor_smart_" + names[i]
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func answered1(m *Monitor) bool {
	p := m.published.Load()
	return p != nil && len(p.readings) == 1 && p.readings[0].report != nil
}

// A disk that hangs is Unknown, shows no old numbers, and delays no other.
func TestSilentDisk(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	h.plugDisk("nvme1n1", "b")
	d.says("nvme0n1", nvme("a", 0))
	d.says("nvme1n1", nvme("b", 0))
	m, _ := watchWith(t, h, api, healthOptions(h), d.as)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m.Collector())
	numbers := func(disk string) int {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			for _, x := range f.GetMetric() {
				for _, l := range x.GetLabel() {
					if strings.Contains(f.GetName(), "_smart_") && l.GetName() == "disk" && l.GetValue() == disk {
						n++
					}
				}
			}
		}
		return n
	}
	within(t, func() bool { return numbers("model-a") > 10 && numbers("model-b") > 10 })

	d.set("nvme0n1", func(context.Context) (*smart.Report, error) { return nil, smart.ErrNoAnswer })
	n := api.await(t, "unknown", is("model-a", "Unknown"))
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionHealthRead)
	if c.Status != metav1.ConditionFalse || !strings.HasPrefix(c.Message, "model-a since ") {
		t.Errorf("condition %+v", c)
	}
	within(t, func() bool { return numbers("model-a") == 2 }) // that it does not answer, and since when
	if got := numbers("model-b"); got < 10 {
		t.Errorf("%d numbers of the other disk", got)
	}
	if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
		t.Errorf("%v, problems %+v", err, lint)
	}
}

// A question that ends after its time has the disk asked long before its turn.
func TestLateAnswerIsHeard(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	d.says("nvme0n1", nvme("a", 0))
	m, _ := watchWith(t, h, api, healthOptions(h), d.as)
	api.await(t, "healthy", is("model-a", "Healthy"))
	d.says("nvme0n1", nvme("a", smart.ReadOnly))
	m.tell(t.Context(), func() {
		disk := m.health.disks["model-a"]
		disk.failures, disk.asking, disk.asked, disk.next = 5, false, time.Time{}, time.Now().Add(time.Hour)
	})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.health.reader.ReadBy(over, "nvme0n1 (model-a)", func(context.Context) (*smart.Report, error) { return nil, nil }); err != nil && !errors.Is(err, smart.ErrNoAnswer) {
		t.Fatal(err)
	}
	api.await(t, "failed", is("model-a", "Failed SMART*1"))
}

// A disk that told its health, and then says that it has none, is not sound.
func TestHealthRefused(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	d.says("nvme0n1", nvme("a", smart.SpareLow))
	_, stop := watchWith(t, h, api, healthOptions(h), d.as)
	api.await(t, "failed", is("model-a", "Failed SMART*1"))
	d.set("nvme0n1", func(context.Context) (*smart.Report, error) { return nil, smart.ErrUnsupported })
	api.await(t, "not read", condition(v1alpha1.ConditionHealthRead, metav1.ConditionFalse))
	stop()
	d.mu.Lock()
	d.asked["nvme0n1"] = 0
	d.mu.Unlock()
	watchWith(t, h, api, healthOptions(h), d.as) // nor after a restart
	within(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.asked["nvme0n1"] > 2
	})
	if got := diskState(api.object(), "model-a"); got != "Failed SMART*1" {
		t.Errorf("it is %s", got)
	}
}

func TestHealthOfAnotherDisk(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	d.says("nvme0n1", nvme("stranger", smart.ReadOnly))
	watchWith(t, h, api, healthOptions(h), d.as)
	n := api.await(t, "unknown", is("model-a", "Unknown"))
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionHealthRead); !strings.Contains(c.Message, "has serial stranger, want a") {
		t.Errorf("condition %+v", c)
	}
}

// A growing counter is a warning; it is counted and not repeated.
func TestHealthGrows(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	r := nvme("a", 0)
	d.says("nvme0n1", r)
	m, _ := watchWith(t, h, api, healthOptions(h), d.as)
	api.await(t, "healthy", is("model-a", "Healthy"))
	within(t, func() bool { return answered1(m) })
	worse := *r
	health := *r.NVMe
	health.MediaErrors = 3
	worse.NVMe = &health
	d.says("nvme0n1", &worse)
	n := api.await(t, "degraded", is("model-a", "Degraded Medium*3"))
	if got := n.Status.Disks[0].Faults[0].Evidence; got != "SMART: media errors grew from 0 to 3" {
		t.Errorf("evidence %q", got)
	}
}

// Asking is off: what disks said before counts no more.
func TestHealthOff(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	api.obj.Status.Disks = []v1alpha1.Disk{{ID: "model-a", State: v1alpha1.DiskFailed, Faults: []v1alpha1.Fault{{Class: v1alpha1.FaultSMART, Severity: v1alpha1.SeverityCritical, Count: 1}}}}
	watchWith(t, h, api, h.options("n"), d.as)
	api.await(t, "healthy", is("model-a", "Healthy"))
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) != 0 {
		t.Errorf("asked %v", d.asked)
	}
}

// A fault in the kernel log is a reason to ask the disk at once.
func TestFaultAsksTheDisk(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	d.says("nvme0n1", nvme("a", 0))
	o := h.options("n")
	o.SmartInterval = time.Hour
	m, _ := watchWith(t, h, api, o, d.as)
	api.await(t, "healthy", is("model-a", "Healthy"))
	within(t, func() bool { return answered1(m) })
	m.tell(t.Context(), func() { m.health.gap = 0 })
	d.says("nvme0n1", nvme("a", smart.SpareLow))
	h.ioError("nvme0n1")
	api.await(t, "both", is("model-a", "Failed BlockIO*1 SMART*1"))
}

// The socket answers with the status of now, and outlives a killed process and a
// path that no socket address can have.
func TestSocket(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	if _, err := m.serveSocket(socket); err != nil { // never stopped, as one that was killed
		t.Fatal(err)
	}
	stop, err := m.serveSocket(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	t.Chdir(dir)
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "s")
	}}}
	defer c.CloseIdleConnections()
	h.ioError("loop1")
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var status v1alpha1.ComputeNodeStatus
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || status.Disks[0].State != v1alpha1.DiskFailed {
		t.Errorf("answer %+v, %v", status, err)
	}
	stop()
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket stays")
	}
}

func condition(kind string, want metav1.ConditionStatus) func(*v1alpha1.ComputeNode) bool {
	return func(n *v1alpha1.ComputeNode) bool {
		c := meta.FindStatusCondition(n.Status.Conditions, kind)
		return c != nil && c.Status == want
	}
}
