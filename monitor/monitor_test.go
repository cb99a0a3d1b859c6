package monitor

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/report"
)

func TestFaultBecomesState(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "b")
	h.prepare("a", "b")
	api.volumes = []report.Volume{{Name: "pv-a", Disk: "loop-a", PartitionUUID: "00000000-0000-0000-0000-000000000001", Claim: "ns/c"}}
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-b", "Healthy"))

	start := time.Now()
	h.ioError("loop1p1")
	n := api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
	t.Logf("line to status: %s", time.Since(start).Round(time.Millisecond))
	if got := diskState(n, "loop-b"); got != "Healthy" {
		t.Errorf("the other disk is %s", got)
	}
	if v := n.Status.Disks[0].Volumes[0]; v.Claim != "ns/c" || v.PersistentVolume != "pv-a" {
		t.Errorf("volume %+v", v)
	}
	if !strings.Contains(n.Status.Summary, "loop-a (loop1) Failed: BlockIO") {
		t.Errorf("summary %q", n.Status.Summary)
	}

	h.ioError("sdz") // nobody's
	h.say("EXT4-fs error (device loop2): ext4_find_entry:1455: inode #2: comm x: reading directory lblock 0")
	api.await(t, "filesystem", is("loop-b", "Failed Filesystem*1"))
	within(t, func() bool { return testutil.ToFloat64(m.metrics.unattributed.WithLabelValues("BlockIO")) == 1 })
}

// A disk that appears and fails at once, before it was looked at.
func TestFaultOfNewDisk(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	o := h.options("n")
	o.ScanInterval = time.Hour
	watch(t, h, api, o)
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.plug("loop5", "new")
	h.say("loop5: detected capacity change from 0 to 2048")
	h.ioError("loop5")
	api.await(t, "the new disk has failed", is("loop-new", "Failed BlockIO*1"))
}

// A line about a disk that is gone is put down to it, not to its successor.
func TestFaultOfGoneDisk(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.prepare("a")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.remove("sys/block/loop1")
	api.await(t, "missing", is("loop-a", "Missing Missing*1"))
	h.ioError("loop1")
	api.await(t, "its last words", is("loop-a", "Missing BlockIO*1 Missing*1"))
	h.plug("loop1", "b")
	n := api.await(t, "the successor", is("loop-b", "Healthy"))
	if got := diskState(n, "loop-a"); got != "Missing BlockIO*1 Missing*1" {
		t.Errorf("the old disk is %s", got)
	}
}

// A fault of what lies on a disk degrades it, and one of what lies on several
// is none of theirs.
func TestFaultAbove(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "b")
	h.write("sys/block/dm-0/slaves/loop1p1/x", "")
	h.write("sys/block/md0/slaves/loop1p1/x", "")
	h.write("sys/block/md0/slaves/loop2p1/x", "")
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-b", "Healthy"))
	h.say("EXT4-fs error (device md0): ext4_find_entry:1455: inode #2: comm x: reading directory lblock 0")
	within(t, func() bool { return testutil.ToFloat64(m.metrics.unattributed.WithLabelValues("Filesystem")) == 1 })
	h.say("EXT4-fs error (device dm-0): ext4_find_entry:1455: inode #2: comm x: reading directory lblock 0")
	n := api.await(t, "degraded", is("loop-a", "Degraded Filesystem*1"))
	if got := diskState(n, "loop-b"); got != "Healthy" {
		t.Errorf("the other disk is %s", got)
	}
	h.ioError("loop1")
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1 Filesystem*1"))
}

// A file system of several disks speaks by the name of one of them; a disk's own
// errors are its own, member or not.
func TestFaultOfAMember(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "b")
	h.write("sys/fs/btrfs/f/devices/loop1/x", "")
	h.write("sys/fs/btrfs/f/devices/loop2/x", "")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-b", "Healthy"))
	h.say("BTRFS error (device loop1): parent transid verify failed on 1166187577344 wanted 31136 found 31158")
	api.await(t, "degraded", is("loop-a", "Degraded Filesystem*1"))
	h.ioError("loop2")
	n := api.await(t, "failed", is("loop-b", "Failed BlockIO*1"))
	if got := diskState(n, "loop-a"); got != "Degraded Filesystem*1" {
		t.Errorf("the member that is named is %s", got)
	}
}

// A way to a disk that is lost is not the disk; its medium is.
func TestFaultOfAPath(t *testing.T) {
	h, api := newHost(t), newMemory()
	for _, dev := range []string{"sda", "sdb"} {
		h.plugDisk(dev, "a")
		h.write("sys/block/"+dev+"/holders/dm-0/x", "")
		h.write("sys/block/dm-0/slaves/"+dev+"/x", "")
	}
	h.write("sys/block/dm-0/dm/uuid", "mpath-model_a\n")
	h.write("sys/block/dm-0/dev", "253:0\n")
	watch(t, h, api, h.options("n"))
	api.await(t, "one disk", is("model-a", "Healthy"))
	h.ioError("sdb")
	api.await(t, "degraded", is("model-a", "Degraded Path*1"))
	h.say("critical medium error, dev sda, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2")
	api.await(t, "failed", is("model-a", "Failed Medium*1 Path*1"))
	h.say("device-mapper: multipath: 253:0: returning EIO; QIFNP = 0; SQIFNP = 0; DNFS = 0")
	api.await(t, "every path is lost", is("model-a", "Failed DeviceOffline*1 Medium*1 Path*1"))
}

// An adapter that loses a disk says its SAS address, and its own name, which is no disk's.
func TestFaultOfASASAddress(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plugDisk("sda", "a")
	h.write("sys/block/sda/device/sas_address", "0x5000cca25492cd81\n")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("model-a", "Healthy"))
	h.say("mpt3sas_cm0: removing handle(0x0029), sas_addr(0x5000cca25492cd81)")
	api.await(t, "failed", is("model-a", "Failed DeviceOffline*1"))
}

func TestMissingAndBack(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "b")
	h.prepare("a", "b")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.remove("sys/block/loop1")
	n := api.await(t, "missing", is("loop-a", "Missing Missing*1"))
	if d := n.Status.Disks[0]; d.Device != "" || n.Status.State != v1alpha1.DiskMissing {
		t.Errorf("device %q, node %s", d.Device, n.Status.State)
	}
	h.plug("loop7", "a")
	api.await(t, "back", is("loop-a", "Healthy"))

	h.remove("sys/block/loop7")
	api.await(t, "missing again", is("loop-a", "Missing Missing*1"))
	h.prepare("b", "c") // replaced: the new disk is listed, the old one is not
	h.plug("loop7", "c")
	n = api.await(t, "replaced", is("loop-c", "Healthy"))
	api.await(t, "gone for good", is("loop-a", "not listed"))
	_ = n
}

// Absence is never evidence.
func TestUnreadableIsUnknown(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.prepare("a")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	if err := os.Rename(filepath.Join(h.dir, "sys"), filepath.Join(h.dir, "away")); err != nil {
		t.Fatal(err)
	}
	n := api.await(t, "unknown", is("loop-a", "Unknown"))
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionInventoryRead); c == nil || c.Status != metav1.ConditionFalse {
		t.Errorf("condition %+v", c)
	}
	stop := time.After(time.Second) // five times the settle time
	for {
		api.mu.Lock()
		obj, next := api.obj.DeepCopy(), api.changed
		api.mu.Unlock()
		if got := diskState(obj, "loop-a"); got != "Unknown" {
			t.Fatalf("state %s while sysfs cannot be read", got)
		}
		select {
		case <-next:
			continue
		case <-stop:
		}
		break
	}
	if err := os.Rename(filepath.Join(h.dir, "away"), filepath.Join(h.dir, "sys")); err != nil {
		t.Fatal(err)
	}
	api.await(t, "healthy again", is("loop-a", "Healthy"))
}

func TestBootSettles(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.prepare("a", "slow")
	h.write("proc/uptime", "1.00 1.00\n")
	o := h.options("n")
	o.BootSettle = 2 * time.Second
	watch(t, h, api, o)
	n := api.await(t, "listed", is("loop-a", "Healthy"))
	if got := diskState(n, "loop-slow"); got != "Unknown" {
		t.Errorf("a disk that may still spin up is %s", got)
	}
	api.await(t, "missing at last", is("loop-slow", "Missing Missing*1"))
}

func TestRestart(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	h.plug("loop2", "gone")
	h.prepare("a", "gone")
	_, stop := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-gone", "Healthy"))
	for range 3 {
		h.ioError("loop1")
	}
	h.remove("sys/block/loop2")
	api.await(t, "missing", is("loop-gone", "Missing Missing*1"))
	before := api.await(t, "failed", func(n *v1alpha1.ComputeNode) bool {
		return strings.HasPrefix(diskState(n, "loop-a"), "Failed BlockIO*")
	})
	stop()
	api.edit(func(n *v1alpha1.ComputeNode) { // counts are written at leisure; as if this one had been
		n.Status.Disks[0].Faults[0].Count = 3
		n.Status.KernelLog.Sequence = int64(h.seq)
	})
	first := before.Status.Disks[0].Faults[0].FirstSeen
	writes := api.writes

	o := h.options("n")
	o.Settle = time.Hour // what was missing stays so without settling anew
	_, stop = watch(t, h, api, o)
	h.say("EXT4-fs error (device loop1p1): ext4_find_entry:1455: inode #2: comm x: reading directory lblock 0")
	n := api.await(t, "goes on counting", is("loop-a", "Failed BlockIO*3 Filesystem*1"))
	if got := diskState(n, "loop-gone"); got != "Missing Missing*1" {
		t.Errorf("after the restart the missing disk is %s", got)
	}
	if f := n.Status.Disks[0].Faults[0]; !f.FirstSeen.Equal(&first) || n.Status.KernelLog.Sequence != int64(h.seq) {
		t.Errorf("fault %+v, position %d, want first seen %s, %d", f, n.Status.KernelLog.Sequence, first, h.seq)
	}
	stop()
	if d := api.writes - writes; d != 1 {
		t.Errorf("%d writes for one change", d)
	}

	h.write("proc/sys/kernel/random/boot_id", "boot-2\n")
	h.seq = 5
	watch(t, h, api, o)
	h.ioError("loop1")
	n = api.await(t, "new boot", func(n *v1alpha1.ComputeNode) bool { return n.Status.BootID == "boot-2" })
	if !strings.HasPrefix(diskState(n, "loop-a"), "Failed BlockIO*") {
		t.Errorf("a reboot forgave %s", diskState(n, "loop-a"))
	}
}

// The stored status decides where reading goes on: until it is known, the log waits.
func TestServerIsDownAtStart(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	api.down = true
	m, _ := watch(t, h, api, h.options("n"))
	h.ioError("loop1")
	within(t, func() bool { return m.looked.Load() })
	api.mu.Lock()
	api.down = false
	api.mu.Unlock()
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
}

func TestOperatorClears(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.ioError("loop1")
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))
	api.edit(func(n *v1alpha1.ComputeNode) {
		n.Annotations = map[string]string{v1alpha1.AnnotationClearFaults: "loop-a@" + time.Now().Add(2*time.Second).Format(time.RFC3339)}
	})
	api.await(t, "cleared", is("loop-a", "Healthy"))
}

func TestFlavor(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	api.obj.Spec.Flavor = "storage"
	api.flavor = &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Count: 2, Media: v1alpha1.MediaVirtual}}}}
	watch(t, h, api, h.options("n"))
	condition := func(want metav1.ConditionStatus) func(*v1alpha1.ComputeNode) bool {
		return func(n *v1alpha1.ComputeNode) bool {
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionFlavorSatisfied)
			return c != nil && c.Status == want
		}
	}
	api.await(t, "too few", condition(metav1.ConditionFalse))
	h.plug("loop2", "b")
	api.await(t, "satisfied", condition(metav1.ConditionTrue))
}

// What differs from the flavor, or from before, as the host's files show it.
func TestInventoryFaults(t *testing.T) {
	h, api := newHost(t), newMemory()
	for _, serial := range []string{"a", "b", "c"} {
		h.plugDisk("sd"+serial, serial)
	}
	h.write("proc/1/mountinfo", "22 1 0:20 / / rw - nfs server:/root rw\n")
	text := "apiVersion: holdfast.dev/v1alpha1\nkind: NodeDisks\ndisks:\n"
	for _, serial := range []string{"a", "b", "c"} {
		text += "- {id: model-" + serial + ", group: data, role: raw}\n"
	}
	h.write(nodedisks.Path, text)
	api.obj.Spec.Flavor = "storage"
	api.flavor = &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Role: v1alpha1.RoleRaw, Count: 3}}}}
	flavor := func(want string) func(*v1alpha1.ComputeNode) bool {
		return func(n *v1alpha1.ComputeNode) bool {
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionFlavorSatisfied)
			return c != nil && c.Reason+" "+c.Message == want
		}
	}
	_, stop := watch(t, h, api, h.options("n"))
	api.await(t, "as it should be", flavor("Satisfied "))

	h.write("sys/block/sda/ro", "1\n")
	api.await(t, "read-only", is("model-a", "Degraded ReadOnly*1"))
	api.await(t, "and not counted", flavor("ReadOnlyDisks group data has 2 of 3 disks; 1 disk is read-only: model-a (sda)"))
	h.write("sys/block/sda/ro", "0\n")
	api.await(t, "writable", is("model-a", "Healthy"))
	h.plugDisk("sdx", "x")
	api.await(t, "one too many", flavor("Satisfied 1 disk is not asked for by the flavor: model-x (sdx)"))

	// A disk that shrinks while no monitor runs is compared with the stored status.
	stop()
	h.write("sys/block/sdb/size", "1024\n")
	_, stop = watch(t, h, api, h.options("n"))
	api.await(t, "shrunken", is("model-b", "Degraded Shrunken*1"))
	stop()
	watch(t, h, api, h.options("n"))
	h.remove("sys/block/sdc")
	h.plugDisk("sdc", "new")
	n := api.await(t, "the other disk is seen", func(n *v1alpha1.ComputeNode) bool {
		for _, d := range n.Status.Disks {
			if d.ID == "model-c" && len(d.Faults) > 0 {
				return strings.Contains(d.Faults[0].Evidence, "is now model-new (sdc, serial new), which it does not list")
			}
		}
		return false
	})
	if got := diskState(n, "model-b"); got != "Degraded Shrunken*1" {
		t.Errorf("after two restarts the shrunken disk is %s", got)
	}
}

func TestMetrics(t *testing.T) {
	h, api := newHost(t), newMemory()
	h.plug("loop1", "a")
	m, _ := watch(t, h, api, h.options("n"))
	api.await(t, "healthy", is("loop-a", "Healthy"))
	h.ioError("loop1")
	api.await(t, "failed", is("loop-a", "Failed BlockIO*1"))

	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m.Collector())
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, problems %+v", err, problems)
	}
	want := `
# HELP holdfast_disk_monitor_disk_state 1 for the state that the disk is in, else 0.
# TYPE holdfast_disk_monitor_disk_state gauge
holdfast_disk_monitor_disk_state{disk="loop-a",state="Degraded"} 0
holdfast_disk_monitor_disk_state{disk="loop-a",state="Failed"} 1
holdfast_disk_monitor_disk_state{disk="loop-a",state="Healthy"} 0
holdfast_disk_monitor_disk_state{disk="loop-a",state="Missing"} 0
holdfast_disk_monitor_disk_state{disk="loop-a",state="Unknown"} 0
# HELP holdfast_disk_monitor_faults_total Fault records of the disk, a lower bound: the kernel limits their rate.
# TYPE holdfast_disk_monitor_faults_total counter
holdfast_disk_monitor_faults_total{class="BlockIO",disk="loop-a"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "holdfast_disk_monitor_disk_state", "holdfast_disk_monitor_faults_total"); err != nil {
		t.Error(err)
	}

	// The whole endpoint, as promtool check metrics would see it.
	m.alive.Store(time.Now().Unix())
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(t, srv.URL+path); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	_, body := get(t, srv.URL+"/metrics")
	lint, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(lint) > 0 {
		t.Errorf("%v, problems %+v", err, lint)
	}
	m.alive.Store(time.Now().Add(-time.Hour).Unix())
	if code, _ := get(t, srv.URL+"/healthz"); code != 503 && code != 200 { // the loop may have turned meanwhile
		t.Errorf("health %d", code)
	}
}

func TestOptions(t *testing.T) {
	good := Options{NodeName: "n", HostRoot: "/", MetricsAddress: "127.0.0.1:0", ScanInterval: time.Second}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	bad := map[string]func(*Options){
		"--node-name": func(o *Options) { o.NodeName = "" }, "--host-root": func(o *Options) { o.HostRoot = "" },
		"--metrics-address": func(o *Options) { o.MetricsAddress = "x" }, "--scan-interval": func(o *Options) { o.ScanInterval = 0 },
		"--settle": func(o *Options) { o.Settle = -1 },
	}
	for flag, edit := range bad {
		o := good
		edit(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
