package inventory_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/monitor/inventory"
)

// remoteTree is a host with two LUNs of one iSCSI session, and an RBD image.
func remoteTree() map[string]string {
	const target = "sys/devices/platform/host3/session1/target3:0:0/"
	m := map[string]string{
		"sys/class/iscsi_session/session1/targetname": "iqn.2003-01.org.example:storage.lun\n",
		"sys/devices/rbd/7/pool":                      "kube\n",
		"sys/devices/rbd/7/pool_ns":                   "\n",
		"sys/devices/rbd/7/name":                      "csi-vol-0f1e\n",
		"sys/devices/rbd/7/current_snap":              "-\n",
		"sys/bus/rbd/devices/7":                       "-> ../../../devices/rbd/7",
		"sys/block/rbd7":                              "-> ../devices/rbd/7/block/rbd7",
		"sys/devices/rbd/7/block/rbd7/size":           "2048\n",
		"sys/devices/rbd/7/block/rbd7/dev":            "252:112\n",
		"sys/devices/rbd/7/block/rbd7/stat":           "7 0 0 0 1 0 0 0 2 0 0\n",
	}
	for i, dev := range []string{"sdb", "sdc"} {
		lun := fmt.Sprintf("3:0:0:%d", i)
		m["sys/block/"+dev] = "-> ../devices/platform/host3/session1/target3:0:0/" + lun + "/block/" + dev
		m[target+lun+"/block/"+dev+"/device"] = "-> ../../../" + lun
		m[target+lun+"/wwid"] = fmt.Sprintf("naa.6001405%09d\n", i)
		m[target+lun+"/block/"+dev+"/size"] = "4096\n"
	}
	return m
}

func TestRemote(t *testing.T) {
	f, _ := host(t, remoteTree())
	s := inventory.Scan(f)
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	lun := func(n, dev string) inventory.Disk {
		return inventory.Disk{
			ID: "iscsi-iqn.2003-01.org.example-storage.lun-lun-" + n, Weak: true, Device: dev, Media: v1alpha1.MediaVirtual, Size: 4096 * 512, Network: "iSCSI", Told: "600140500000000" + n,
			Slot: "platform/host3/session1/target3:0:0/3:0:0:" + n, Names: []string{dev, "3:0:0:" + n, "session1", "connection1:0"},
		}
	}
	want := []inventory.Disk{lun("0", "sdb"), lun("1", "sdc"), {ID: "rbd-kube-csi-vol-0f1e", Weak: true, Device: "rbd7", Media: v1alpha1.MediaVirtual, Size: 1 << 20, Slot: "kube/csi-vol-0f1e", Network: "RBD", Answered: 8, Waiting: 2, Names: []string{"rbd7", "252:112"}}}
	if d := cmp.Diff(want, s.Disks, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	var n inventory.Names
	n.Update(&s, time.Now())
	ids, how, answer := n.Resolve("session1", time.Now())
	if len(ids) != 2 || how != inventory.Network || answer != inventory.Known {
		t.Errorf("a session is of %v, %v, %v", ids, how, answer)
	}
}

func TestRemoteUnreadable(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(map[string]string)
		err  string
	}{
		"NoTarget": {func(m map[string]string) { delete(m, "sys/class/iscsi_session/session1/targetname") }, "no targetname"},
		"NoPool":   {func(m map[string]string) { delete(m, "sys/devices/rbd/7/pool") }, "no pool or no name"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := remoteTree()
			tc.edit(tree)
			f, _ := host(t, tree)
			if s := inventory.Scan(f); s.Err == nil || !strings.Contains(s.Err.Error(), tc.err) {
				t.Errorf("got %v, want %q", s.Err, tc.err)
			}
		})
	}
	// One image that is mapped twice is one disk.
	tree := remoteTree()
	tree["sys/block/rbd8/size"] = "2048\n"
	for _, k := range []string{"pool", "name"} {
		tree["sys/bus/rbd/devices/8/"+k] = tree["sys/devices/rbd/7/"+k]
	}
	f, _ := host(t, tree)
	if s := inventory.Scan(f); s.Err != nil || len(s.Disks) != 3 {
		t.Errorf("%d disks, %v", len(s.Disks), s.Err)
	}
}

// A namespace that is reached by NVMe over TCP, RDMA or Fibre Channel was taken for a drive
// of this host: it filled groups of the flavor and failed with its network.
func TestFabrics(t *testing.T) {
	const ctl, id = "sys/devices/virtual/nvme-fabrics/ctl/nvme7/", "nvmeof-nqn.2014-08.org.example-a-ns-3"
	direct := map[string]string{ // without native multipath
		"sys/block/nvme7n1":    "-> ../devices/virtual/nvme-fabrics/ctl/nvme7/nvme7n1",
		ctl + "nvme7n1/device": "-> ../../nvme7", ctl + "nvme7n1/size": "1000\n", ctl + "nvme7n1/nsid": "3\n", ctl + "nvme7n1/wwid": "uuid.77\n",
		ctl + "transport": "tcp\n", ctl + "subsysnqn": "nqn.2014-08.org.example:a\n",
	}
	head := map[string]string{
		"sys/block/nvme1n1":    "-> ../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
		sub + "nvme1n1/device": "-> ../../nvme-subsys1", sub + "nvme1n1/size": "1000\n", sub + "nvme1n1/nsid": "3\n", sub + "nvme1n1/wwid": "uuid.77\n",
		sub + "nvme7": "-> ../../nvme-fabrics/ctl/nvme7", sub + "nvme8": "-> ../../nvme-fabrics/ctl/nvme8", sub + "subsysnqn": "nqn.2014-08.org.example:a\n",
		ctl + "transport": "rdma\n", "sys/devices/virtual/nvme-fabrics/ctl/nvme8/transport": "fc\n",
	}
	with := func(m map[string]string, name, data string) map[string]string {
		m = maps.Clone(m)
		m[name] = data
		return m
	}
	without := func(m map[string]string, names ...string) map[string]string {
		m = maps.Clone(m)
		maps.DeleteFunc(m, func(name, _ string) bool { return slices.Contains(names, name) })
		return m
	}
	for name, tc := range map[string]struct {
		tree  map[string]string
		id    string
		names string
		err   string
	}{
		"Direct":  {direct, id, "nvme7n1 nvme7", ""},
		"Head":    {head, id, "nvme1n1 nvme7 nvme8", ""},
		"PCIe":    {with(direct, ctl+"transport", "pcie\n"), "uuid.77", "nvme7n1 nvme7", ""},
		"Apple":   {with(direct, ctl+"transport", "apple-nvme\n"), "uuid.77", "nvme7n1 nvme7", ""},
		"OneIsIn": {with(head, ctl+"transport", "pcie\n"), "uuid.77", "nvme1n1 nvme7 nvme8", ""},
		"NoNQN":   {with(direct, ctl+"subsysnqn", "\n"), "", "", "no subsysnqn"},
		"NoneNow": {without(head, sub+"nvme7", sub+"nvme8"), "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := host(t, tc.tree)
			s := inventory.Scan(f)
			if tc.err != "" {
				if s.Err == nil || !strings.Contains(s.Err.Error(), tc.err) || len(s.Disks) > 0 {
					t.Errorf("got %v, %+v, want %q", s.Err, s.Disks, tc.err)
				}
				return
			}
			if tc.id == "" { // it was an error of the whole look
				if s.Err != nil || len(s.Disks) > 0 || !s.MayBe("uuid.77") || !s.MayBe(id) || s.MayBe("") {
					t.Errorf("got %v, %+v", s.Err, s)
				}
				return
			}
			if s.Err != nil || len(s.Disks) != 1 {
				t.Fatalf("%d disks, %v", len(s.Disks), s.Err)
			}
			d, remote := s.Disks[0], tc.id == id
			if told, ok := s.Told("uuid.77"); ok != remote || ok && told.ID != tc.id {
				t.Errorf("who would be uuid.77 is %+v", told)
			}
			if d.ID != tc.id || diskid.Networked(d.ID, d.Weak) != remote || (d.Network != "") != remote || d.Weak != remote || (d.Media == v1alpha1.MediaVirtual) != remote || strings.Join(d.Names, " ") != tc.names {
				t.Errorf("got %+v", d)
			}
		})
	}
}
