//go:build bench

package monitor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/monitor/kernel"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/smart"
)

// These are no tests: "make bench-monitor" prints what they measure.

func bench(name, format string, value any, unit string, peer ...any) {
	line := fmt.Sprintf("BENCH name=%s value="+format+" unit=%s", name, value, unit)
	if len(peer) == 3 {
		line += fmt.Sprintf(" peer=%s peer_value=%.1f ratio=%.2f", peer...)
	}
	fmt.Fprintln(os.Stdout, line)
}

// cpuTime is the processor time that this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func p99(all []time.Duration) float64 {
	slices.Sort(all)
	return all[(len(all)*99+99)/100-1].Seconds()
}

// TestBenchUnmatched is the cost of lines that say nothing of disks: the benign
// ones of the corpus. The peer tries the expressions one after the other, each
// compiled once, as node-problem-detector does (its module cannot be had).
func TestBenchUnmatched(t *testing.T) {
	f, err := os.Open("kernel/testdata/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	m := kernel.NewMatcher()
	var lines [][]byte
	for in := bufio.NewScanner(f); in.Scan(); {
		var l struct{ Line, Label string }
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		_, msg, ok := strings.Cut(l.Line, "] ")
		if ev, att := m.Match(&kernel.Record{Message: []byte(msg)}, time.Time{}); ok && l.Label == "benign" && ev == nil && att == nil {
			lines = append(lines, []byte("6,1234,5000001,-;"+msg+"\n"))
		}
	}
	buf := make([]byte, 4096)
	read := func(line []byte) {
		rec, _, err := kernel.ParseRecord(buf[:copy(buf, line)])
		if err != nil {
			t.Fatal(err)
		}
		if ev, _ := m.Match(&rec, time.Time{}); ev != nil {
			t.Fatal("matched")
		}
	}
	var rules []*regexp.Regexp
	for _, p := range kernel.Patterns() {
		rules = append(rules, regexp.MustCompile(p.Expr))
	}
	inTurn := func(line []byte) {
		for _, r := range rules {
			r.Match(line)
		}
	}
	// each is the processor time of a line, in the best of so many rounds: what else
	// runs on the machine makes a line slower by the cache alone.
	each := func(rounds, repeat int, f func([]byte)) float64 {
		best := time.Hour
		for range rounds {
			began := cpuTime(t)
			for range repeat {
				for _, line := range lines {
					f(line)
				}
			}
			best = min(best, cpuTime(t)-began)
		}
		return float64(best.Nanoseconds()) / float64(repeat*len(lines))
	}
	ours, peer := each(15, 100, read), each(3, 2, inTurn)
	bytes := 0
	for _, l := range lines {
		bytes += len(l)
	}
	t.Logf("%d lines of %d bytes on average, %d patterns", len(lines), bytes/len(lines), len(rules))
	bench("kernel_unmatched_ns", "%.0f", ours, "ns", "each_expression_in_turn", peer, ours/peer)
	var texts []string
	for _, l := range lines {
		_, text, _ := strings.Cut(string(l), ";")
		texts = append(texts, strings.TrimSpace(text))
	}
	npd := npdLine(t, texts...)
	bench("kernel_unmatched_beside_npd_ns", "%.0f", ours, "ns", "npd_log_buffer", npd, ours/npd)
	allocs := testing.AllocsPerRun(100, func() {
		for _, line := range lines {
			read(line)
		}
	})
	bench("kernel_unmatched_allocs", "%.2f", allocs/float64(len(lines)), "allocs")
}

// count is the records that the status has of a disk's class.
func count(n *v1alpha1.ComputeNodeStatus, id string, class v1alpha1.FaultClass) int64 {
	for _, d := range n.Disks {
		for _, f := range d.Faults {
			if d.ID == id && f.Class == class {
				return f.Count
			}
		}
	}
	return 0
}

// TestBenchStorm is 100,000 fault lines as fast as they go, written by another process,
// so that the processor time is the monitor's own.
func TestBenchStorm(t *testing.T) {
	const lines = 100_000
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	o := h.options("n")
	o.ScanInterval = defaultScanInterval
	m, _ := watch(t, h, api, o)
	api.await(t, "healthy", is("loop-a", "Healthy"))
	began, cpu := time.Now(), cpuTime(t)
	writer, err := hostexec.Start(hostexec.Command{
		Path: "/proc/self/exe", Args: []string{"-test.run=^TestStormWriter$"},
		Env: append(os.Environ(), fmt.Sprintf("HOLDFAST_STORM=%d %d %s", h.seq, lines, filepath.Join(h.dir, "dev/kmsg"))),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Stop(0)
	var got int64
	for deadline := time.Now().Add(2 * time.Minute); got < lines && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = count(m.published.Load().status, "loop-a", v1alpha1.FaultBlockIO); got == 0 {
			began, cpu = time.Now(), cpuTime(t) // the writer is starting
		}
	}
	took, used := time.Since(began), cpuTime(t)-cpu
	<-writer.Done()
	if err := writer.Err(); err != nil {
		t.Fatal(err)
	}
	bench("storm_unaccounted_lines", "%d", lines-got-m.stats.Lost.Load(), "lines")
	bench("storm_lines_per_second", "%.0f", lines/took.Seconds(), "lines/s")
	bench("storm_cores", "%.2f", used.Seconds()/took.Seconds(), "cores")
	peer := npdLine(t, stormLine)
	bench("storm_line_ns", "%.0f", float64(used.Nanoseconds())/lines, "ns", "npd_log_buffer", peer, float64(used.Nanoseconds())/lines/peer)
}

const stormLine = "I/O error, dev loop1, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2"

// TestStormWriter is the other process of TestBenchStorm.
func TestStormWriter(t *testing.T) {
	var seq, lines int
	var path string
	if n, _ := fmt.Sscan(os.Getenv("HOLDFAST_STORM"), &seq, &lines, &path); n != 3 {
		return // it is no test
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // what is not written is seen to be missing
	for i := 1; i <= lines; i++ {
		if _, err := fmt.Fprintf(f, "3,%d,%d,-;%s\n", seq+i, (seq+i)*1000, stormLine); err != nil {
			t.Fatal(err)
		}
	}
}

// npdLine is the time that a line takes node-problem-detector's log monitor with our
// patterns as its rules: each line goes into a buffer of ten, and each expression, anchored at the end, is
// searched for in the ten together (pkg/systemlogmonitor/log_buffer.go and log_monitor.go of
// its main branch, which compiles each once; v1.36.0 compiles each for each line). It is
// its algorithm written down again, without what it does with a match.
func npdLine(t *testing.T, lines ...string) float64 {
	t.Helper()
	data, err := os.ReadFile("../addons/disk-monitor/node-problem-detector/kernel-disks.json")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		BufferSize int
		Rules      []struct{ Pattern string }
	}
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	var rules []*regexp.Regexp
	for _, r := range config.Rules {
		rules = append(rules, regexp.MustCompile(r.Pattern+`\z`))
	}
	const rounds = 200
	buffer := make([]string, config.BufferSize)
	began := cpuTime(t)
	for i := range rounds {
		buffer = append(buffer[1:], lines[i%len(lines)])
		joined := strings.Join(buffer, "\n")
		for _, r := range rules {
			r.FindStringIndex(joined)
		}
	}
	return float64((cpuTime(t) - began).Nanoseconds()) / rounds
}

// TestBenchStormWrites is a storm of a minute about four disks, from its first line on, at the pace of a node.
func TestBenchStormWrites(t *testing.T) {
	h, api := newHost(t), newMemory()
	for i := range 4 {
		h.plug(fmt.Sprint("loop", i), fmt.Sprint(i))
	}
	watchWith(t, h, api, h.options("n"), func(m *Monitor) { m.pace = report.DefaultPace() })
	api.await(t, "healthy", is("loop-3", "Healthy"))
	before := api.object().ResourceVersion
	for i, end := 0, time.Now().Add(time.Minute); time.Now().Before(end); i++ {
		h.ioError(fmt.Sprint("loop", i%4))
		time.Sleep(200 * time.Microsecond)
	}
	var a, b int
	if _, err := fmt.Sscan(before+" "+api.object().ResourceVersion, &a, &b); err != nil {
		t.Fatal(err)
	}
	bench("storm_api_writes_per_minute", "%d", b-a, "writes/min")
}

// TestBenchLatency is from a line in the log to the metric and to the object.
func TestBenchLatency(t *testing.T) {
	const faults = 300
	h, api := newHost(t), newMemory()
	for i := range faults {
		h.plug(fmt.Sprint("loop", i), fmt.Sprint(i))
	}
	o := h.options("n")
	o.ScanInterval = time.Hour
	m, _ := watch(t, h, api, o)
	api.await(t, "healthy", is(fmt.Sprint("loop-", faults-1), "Healthy"))
	var metric, object []time.Duration
	for i := range faults {
		id, began := fmt.Sprint("loop-", i), time.Now()
		h.ioError(fmt.Sprint("loop", i))
		for count(m.published.Load().status, id, v1alpha1.FaultBlockIO) == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		metric = append(metric, time.Since(began))
		api.await(t, "failed", func(n *v1alpha1.ComputeNode) bool { return count(&n.Status, id, v1alpha1.FaultBlockIO) == 1 })
		object = append(object, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	bench("fault_to_metric_seconds_p99", "%.4f", p99(metric), "s")
	bench("fault_to_computenode_seconds_p99", "%.4f", p99(object), "s")
}

// TestBenchSweep is as long as the disk takes that is asked most: a disk on SAS, 17 commands.
func TestBenchSweep(t *testing.T) {
	began := time.Now()
	m := disks60(t, func(*Options) {}, 50*time.Millisecond, false)
	within(t, func() bool {
		if !m.looked.Load() {
			began = time.Now()
		}
		return answered(m) == 60
	})
	bench("smart_sweep60_seconds", "%.2f", time.Since(began).Seconds(), "s")
}

// TestBenchForks is what the processor does for 60 disks beside the disks' own time: 60
// readings of NVMe disks that answer at once, and 60 runs of smartctl (HOLDFAST_SMARTCTL, or none)
// that find no disk to ask, as smartctl_exporter and Scrutiny start it for each disk.
func TestBenchForks(t *testing.T) {
	cpu := cpuTime(t)
	for range 60 {
		if _, err := smart.Read(t.Context(), &slowDisk{protocol: smart.NVMe}); err != nil {
			t.Fatal(err)
		}
	}
	ours := (cpuTime(t) - cpu).Seconds()
	program := os.Getenv("HOLDFAST_SMARTCTL")
	if program == "" {
		bench("smart_cpu60_seconds", "%.4f", ours, "s")
		return
	}
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &before); err != nil {
		t.Fatal(err)
	}
	cpu = cpuTime(t)
	for range 60 {
		_, err := (&smart.Smartctl{Program: program}).Ask(t.Context(), &smart.Adapter{Type: "scsi"}, "/dev/null")
		if err == nil || !strings.Contains(err.Error(), "cannot ask the drive") {
			t.Fatal(err)
		}
	}
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &after); err != nil {
		t.Fatal(err)
	}
	peer := (cpuTime(t) - cpu + time.Duration(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())).Seconds()
	line := fmt.Sprintf("BENCH name=smart_cpu60_seconds value=%.4f unit=s peer=smartctl_forks peer_value=%.4f ratio=%.4f", ours, peer, ours/peer)
	fmt.Fprintln(os.Stdout, line)
}

func TestBenchHungDisk(t *testing.T) {
	m := disks60(t, func(o *Options) { o.SmartInterval = healthGap }, 50*time.Millisecond, true)
	within(t, func() bool { return answered(m) == 59 })
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	var all []time.Duration
	for range 200 {
		began := time.Now()
		if code, _ := get(t, srv.URL+"/metrics"); code != 200 {
			t.Fatalf("code %d", code)
		}
		all = append(all, time.Since(began))
	}
	bench("scrape_hung_disk_seconds_p99", "%.4f", p99(all), "s")
}

func TestBenchIdle(t *testing.T) {
	const long = time.Minute
	m := disks60(t, func(o *Options) { o.ScanInterval, o.SmartInterval = defaultScanInterval, long }, time.Millisecond, false)
	within(t, func() bool { return answered(m) == 60 })
	time.Sleep(2 * time.Second)
	cpu := cpuTime(t)
	time.Sleep(long)
	bench("idle60_millicores", "%.2f", (cpuTime(t)-cpu).Seconds()/long.Seconds()*1000, "m")
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			bench("idle60_rss_mib", "%.1f", kib/1024, "MiB") // of the test with what it needs to stand in for the host
		}
	}
}
