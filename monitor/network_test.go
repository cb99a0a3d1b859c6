package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/internal/nodedisks"
)

// A disk of a network that disks.yaml lists by its wwid is there, and says what is wrong. When it goes,
// it settles as any other does.
func TestListedDiskIsOverNetwork(t *testing.T) {
	h, api := newHost(t), newMemory()
	const lun = "sys/devices/platform/host3/session1/target3:0:0/3:0:0:1"
	h.write("sys/class/iscsi_session/session1/targetname", "iqn.a\n")
	h.write(lun+"/wwid", "naa.6001405a\n")
	h.write("sys/block/sdb/size", "2048\n")
	if err := os.Symlink("../../../"+lun, filepath.Join(h.dir, "sys/block/sdb/device")); err != nil {
		t.Fatal(err)
	}
	h.write(nodedisks.Path, "apiVersion: holdfast.dev/v1alpha1\nkind: NodeDisks\ndisks:\n- {id: 6001405a, group: data, role: lvm}\n")
	watch(t, h, api, h.options("n"))
	n := api.await(t, "told", is("6001405a", "Degraded Network*1"))
	if got := n.Status.Disks[0].Faults[0].Evidence; !strings.Contains(got, "watched as iscsi-iqn.a-lun-1") {
		t.Errorf("evidence %q", got)
	}
	if got := diskState(n, "iscsi-iqn.a-lun-1"); got != "Healthy" {
		t.Errorf("the disk of the network is %s", got)
	}
	h.remove("sys/block/sdb")
	api.await(t, "missing", is("6001405a", "Missing Missing*1"))
}
