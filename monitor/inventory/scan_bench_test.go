package inventory_test

import (
	"fmt"
	"maps"
	"testing"

	"holdfast.dev/monitor/inventory"
)

// manyDisks is a tree of disks behind an HBA, each with two partitions, a logical volume and
// its place, at the depth that such have in sysfs.
func manyDisks(disks int) map[string]string {
	files := map[string]string{}
	for i := range disks {
		dev, addr := fmt.Sprintf("sd%c%c", 'a'+i/26, 'a'+i%26), fmt.Sprintf("0:0:%d:0", i)
		place := fmt.Sprintf("devices/pci0000:00/0000:00:03.0/0000:04:00.0/host0/port-0:0/expander-0:0/port-0:0:%d/end_device-0:0:%d/target0:0:%d/%s/", i, i, i, addr)
		at := "sys/" + place + "block/" + dev + "/"
		dm := fmt.Sprintf("dm-%d", i)
		maps.Copy(files, map[string]string{
			"sys/block/" + dev:      "-> ../" + place + "block/" + dev,
			at + "device":           "-> ../../../" + addr,
			"sys/" + place + "wwid": fmt.Sprintf("naa.5000c500a1b2%04x\n", i), "sys/" + place + "model": "ST4000NM0035\n",
			"sys/" + place + "vpd_pg80": "\x00\x80\x00\x08ZC1ABCDE",
			at + "dev":                  fmt.Sprintf("8:%d\n", 16*i), at + "size": "7814037168\n", at + "ro": "0\n",
			at + "stat": "1 0 8 1 1 0 8 1 0 1 2 0 0 0 0 0 0\n", at + "queue/rotational": "1\n",
			at + dev + "1/partition": "1\n", at + dev + "1/dev": fmt.Sprintf("8:%d\n", 16*i+1), at + dev + "1/stat": "1 0 8 1 1 0 8 1 0 1 2\n",
			at + dev + "2/partition": "2\n", at + dev + "2/dev": fmt.Sprintf("8:%d\n", 16*i+2), at + dev + "2/stat": "1 0 8 1 1 0 8 1 0 1 2\n",
			"dev/" + dev: "", "dev/disk/by-path/pci-0000:04:00.0-sas-" + dev: "-> ../../" + dev,
			"sys/block/" + dm:                                          "-> ../devices/virtual/block/" + dm,
			"sys/devices/virtual/block/" + dm + "/dev":                 fmt.Sprintf("253:%d\n", i),
			"sys/devices/virtual/block/" + dm + "/dm/name":             "vg-lv\n",
			"sys/devices/virtual/block/" + dm + "/dm/uuid":             "LVM-x\n",
			"sys/devices/virtual/block/" + dm + "/slaves/" + dev + "2": "-> ../../../../../" + place + "block/" + dev + "/" + dev + "2",
		})
	}
	return files
}

func BenchmarkScan60(b *testing.B) {
	f, _ := host(b, manyDisks(60))
	for b.Loop() {
		if s := inventory.Scan(f); s.Err != nil || len(s.Disks) != 60 || s.Disks[0].Slot == "" || len(s.Disks[0].Above) != 3 {
			b.Fatalf("%d disks, %v, first %+v", len(s.Disks), s.Err, s.Disks[0])
		}
	}
}
