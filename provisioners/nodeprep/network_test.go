package nodeprep_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/output"
	"holdfast.dev/provisioners/nodeprep"
)

// connect has a disk reached by way of a place of sysfs.
func (w *world) connect(dev, place string) {
	device := w.path("sys/block/" + dev + "/device")
	w.must(os.MkdirAll(w.path("sys/devices/"+filepath.Dir(place)), 0o755))
	w.must(os.Rename(device, w.path("sys/devices/"+place)))
	w.must(os.Symlink("../../devices/"+place, device))
}

// overISCSI has a disk reached by iSCSI; the id that the disk monitor gives it is returned.
func (w *world) overISCSI(dev string) string {
	w.write("sys/class/iscsi_session/session1/targetname", "iqn.2003-01.org.example:"+dev+"\n")
	w.connect(dev, "platform/host3/session1/target3:0:0/3:0:0:"+fmt.Sprint(dev[2]-'a'))
	return fmt.Sprintf("iscsi-iqn.2003-01.org.example-%s-lun-%d", dev, dev[2]-'a')
}

func (w *world) overFibreChannel(dev string) {
	w.connect(dev, "pci0000:00/host5/rport-5:0-1/target5:0:1/5:0:1:"+fmt.Sprint(dev[2]-'a'))
}

// data is the flavor of one disk with file systems.
func dataOnly() *v1alpha1.NodeFlavor {
	f := allKinds()
	f.Spec.Disks = f.Spec.Disks[1:2]
	return f
}

// row is what the plan says of a disk.
func (w *world) row(f *v1alpha1.NodeFlavor, o nodeprep.Options, disk string) nodeprep.Row {
	w.t.Helper()
	o.Output = output.JSON
	out, _, _ := w.prepare(f, o, -1)
	var plan nodeprep.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	for _, r := range plan.Disks {
		if r.Disk == disk {
			return r
		}
	}
	w.t.Fatalf("no row of disk %s: %s", disk, out)
	return nodeprep.Row{}
}

// A blank disk of a network was prepared and listed by its wwid, and the disk monitor, which knows it
// by its target, called it Missing and closed its volumes. Other hosts may find it blank as well.
func TestNetworkDiskIsNotTaken(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	for _, dev := range []string{"sdb", "sdc"} {
		w.add(dev, 96*mib)
	}
	id := w.overISCSI("sdb")
	w.overFibreChannel("sdc")
	before := w.sums("sdb", "sdc")
	out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
	if !errors.Is(err, nodeprep.ErrRefused) || !strings.Contains(out, "group data has 0 of 1 disks") || strings.Count(out, "reached over a network (") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	for disk, how := range map[string]string{id: "iSCSI", "wwn-sdc": "Fibre Channel"} {
		if r := w.row(f, nodeprep.Options{}, disk); r.Network != how || r.Condition != nodeprep.Networked || r.Group != "" || r.Refused != "" {
			t.Errorf("in JSON: %+v", r)
		} else if disk == id && r.Media != v1alpha1.MediaVirtual {
			t.Errorf("its media are those of a target: %+v", r)
		}
		// Whoever names it is told what to do.
		give := nodeprep.Options{Apply: true, Wipe: map[string]string{disk: "aaaa-bbbb-cccc"}}
		if out, err, _ := w.prepare(f, give, -1); !errors.Is(err, nodeprep.ErrRefused) || !strings.Contains(err.Error(), how) || strings.Contains(err.Error(), "the token is not the disk's") {
			t.Errorf("a token for %s: %v\n%s", disk, err, out)
		}
		if r := w.row(f, nodeprep.Options{Wipe: give.Wipe}, disk); !strings.Contains(r.Refused, how) || !strings.Contains(r.Hint, "connect a disk to the host itself") {
			t.Errorf("%+v", r)
		}
	}
	if _, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdb": "aaaa-bbbb-cccc"}}, -1); !errors.Is(err, nodeprep.ErrRefused) || !strings.Contains(err.Error(), id) {
		t.Errorf("a token for what the disk would be: %v", err)
	}
	if d := cmp.Diff(before, w.sums("sdb", "sdc")); d != "" {
		t.Error(d)
	}
	w.add("sdd", 96*mib)
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil || w.listed().Disks[0].ID != "wwn-sdd" {
		t.Errorf("%v\n%s", err, out)
	}
	w.pull("sdd")
	if _, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Replace: map[string]string{"wwn-sdd": "wwn-sdb"}}, -1); !errors.Is(err, nodeprep.ErrRefused) || !strings.Contains(err.Error(), "wwn-sdb is sdb, and is reached over a network (iSCSI)") {
		t.Errorf("it is to take a place by what it would be as a drive: %v", err)
	}
}

// Two sessions with one target make two devices of one disk. It is not touched, and so is no reason
// to doubt the others.
func TestNetworkDiskTwice(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	for _, dev := range []string{"sdb", "sdc", "sdd"} {
		w.add(dev, 96*mib)
	}
	for i, dev := range []string{"sdb", "sdc"} {
		w.write(fmt.Sprintf("sys/class/iscsi_session/session%d/targetname", i), "iqn.a\n")
		w.connect(dev, fmt.Sprintf("platform/host%d/session%d/target%d:0:0/%d:0:0:4", i, i, i, i))
	}
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil || strings.Contains(out, "2 devices") || w.listed().Disks[0].ID != "wwn-sdd" {
		t.Errorf("%v\n%s", err, out)
	}
	if r := w.row(f, nodeprep.Options{}, "iscsi-iqn.a-lun-4"); r.Condition != nodeprep.Networked {
		t.Errorf("%+v", r)
	}
}

// A node that was prepared before such disks were told apart: what is there stays as it is, listed and
// mounted, until a person gives its place to another disk. It was never missing.
func TestNetworkDiskOfEarlierVersion(t *testing.T) {
	for name, kind := range map[string]*v1alpha1.NodeFlavor{"file systems": dataOnly(), "volume group": {Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[2:3]}}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add("sdb", 96*mib)
			if out, err, _ := w.prepare(kind, nodeprep.Options{Apply: true}, -1); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			list, before, mounts := w.read(nodedisks.Path), w.sums("sdb", "sdb1", "sdb2", "sdb3"), w.read("proc/1/mountinfo")
			id := w.overISCSI("sdb")
			out, err, _ := w.prepare(kind, nodeprep.Options{Apply: true, Wipe: map[string]string{"wwn-sdb": "aaaa-bbbb-cccc"}}, -1)
			if !errors.Is(err, nodeprep.ErrRefused) || strings.Contains(out, "is not there") {
				t.Errorf("%v\n%s", err, out)
			}
			// Its volume group waited for a disk that is missing.
			if w.listed().Disks[0].VolumeGroup != "" && !strings.Contains(out, "waits: disk wwn-sdb is there over a network, as sdb") || strings.Contains(out, "is missing") {
				t.Errorf("%s", out)
			}
			if r := w.row(kind, nodeprep.Options{}, "wwn-sdb"); r.Condition != nodeprep.Networked || r.Group != kind.Spec.Disks[0].Name || r.Network != "iSCSI" ||
				!strings.Contains(r.Refused, id) || !strings.Contains(r.Hint, "--replace wwn-sdb=") {
				t.Errorf("%+v", r)
			}
			w.add("sdc", 96*mib)
			give := nodeprep.Options{Apply: true, Replace: map[string]string{"wwn-sdb": "wwn-sdc"}}
			if _, err, _ := w.prepare(kind, give, -1); !errors.Is(err, nodeprep.ErrRefused) || !strings.Contains(err.Error(), "disconnect it first") {
				t.Errorf("its place was given away while it is there: %v", err)
			}
			ask := func(s *nodeprep.Said) { s.Asked = []string{"wwn-sdb"} }
			w.prepare(kind, nodeprep.Options{Apply: true}, -1, ask) //nolint:errcheck // it is refused, see above
			if w.read(nodedisks.Path) != list || w.read("proc/1/mountinfo") != mounts || !cmp.Equal(before, w.sums("sdb", "sdb1", "sdb2", "sdb3")) {
				t.Error("something was changed")
			}
			w.pull("sdb")
			if out, err, _ := w.prepare(kind, give, -1); err != nil || w.listed().Disks[0].ID != "wwn-sdc" {
				t.Errorf("after it was disconnected: %v\n%s", err, out)
			}
		})
	}
}

// One that is named as a drive all the same goes on as it was.
func TestFibreChannelDiskOfEarlierVersion(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	w.add("sdb", 96*mib)
	w.prepare(f, nodeprep.Options{Apply: true}, -1) //nolint:errcheck // see below
	w.overFibreChannel("sdb")
	w.boot()
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil || !strings.Contains(w.read("proc/1/mountinfo"), "/mnt/holdfast/") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whatever disks there are, whatever is on them, and with every token that was good while they were the
// host's: nothing is done to one that is reached over a network, and no group counts it.
func TestNothingIsDoneToNetworkDisks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := nodeprep.Input{Flavor: twoDisks(), State: &nodeprep.State{Secret: "s"}, Tokens: map[string]string{}, Replace: map[string]string{}}
		if rapid.Bool().Draw(t, "only listed") { // a group without a layout takes disks that are in use
			in.Flavor.Spec.Disks[0].Layout = nil
		}
		if rapid.Bool().Draw(t, "listed before") {
			in.Listed = listed("gone", "b")
			in.Asked = rapid.SampledFrom([][]string{nil, {"gone"}}).Draw(t, "asked")
		}
		drives := in
		for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 4, rapid.ID).Draw(t, "disks") {
			f := blank(id)
			switch rapid.SampledFrom([]string{"blank", "data", "system", "used"}).Draw(t, "content") {
			case "data":
				f.Content.Signatures = []nodeprep.Signature{{Device: f.Device, Type: "ext4", UUID: "u"}}
			case "system":
				f.Content.System = true
			case "used":
				f.Content.Used = []string{"md0"}
			}
			drives.Disks = append(drives.Disks, f)
			switch rapid.SampledFrom([]string{"host", "iSCSI", "Fibre Channel"}).Draw(t, "where") {
			case "iSCSI":
				f = nodeprep.Found{ID: "iscsi-" + id, Told: id, Weak: true, Network: "iSCSI", Device: f.Device, Media: f.Media, Size: f.Size, SectorSize: f.SectorSize, Slot: f.Slot}
			case "Fibre Channel":
				f.Network = "Fibre Channel"
			}
			in.Disks = append(in.Disks, f)
			if rapid.Bool().Draw(t, "replaces") {
				in.Replace["gone"] = f.ID
			}
		}
		for _, r := range nodeprep.BuildPlan(drives).Disks {
			if r.Token != "" {
				in.Tokens[r.Disk], in.Tokens["iscsi-"+r.Disk] = r.Token, r.Token
			}
		}
		for _, r := range nodeprep.BuildPlan(in).Disks {
			kept := in.Listed != nil && r.Disk == "b" && r.Condition == nodeprep.Listed || r.Condition == nodeprep.SystemDisk
			onlyListed := r.Condition == nodeprep.SystemDisk && cmp.Equal(r.Do, []string{"list it in disks.yaml"}) // of a host that starts from it
			if r.Network != "" && (len(r.Do) > 0 && !onlyListed || r.Token != "" || r.Replaces != "" || r.Group != "" && !kept && r.Refused == "") {
				t.Errorf("%+v", r)
			}
		}
	})
}

// A disk of the host that a network leads to as well is another one's too.
func TestDiskOfHostOverNetworkToo(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	w.add("sdb", 96*mib)
	w.add("sdc", 96*mib)
	w.overISCSI("sdc")
	w.write("sys/block/sdc/device/wwid", "wwn-sdb")
	before := w.sums("sdb", "sdc")
	out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1)
	if err == nil || !strings.Contains(out, "reached over a network too") || !cmp.Equal(before, w.sums("sdb", "sdc")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// A host that lives on a disk of a network, which is listed by its WWN, was refused for ever.
func TestSystemDiskOverNetwork(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	w.add("sdb", 96*mib)
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id := w.overISCSI("sdb")
	w.write("proc/1/mountinfo", "22 1 "+strings.TrimSpace(w.read("sys/block/sdb/sdb1/dev"))+" / / rw - ext4 /dev/sdb1 rw\n")
	list := w.read(nodedisks.Path)
	if out, err, _ := w.prepare(f, nodeprep.Options{}, -1); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, disk := range []string{"wwn-sdb", id} {
		if r := w.row(f, nodeprep.Options{}, disk); r.Condition != nodeprep.SystemDisk || r.Refused != "" || r.Hint != "" || len(r.Do) > 0 {
			t.Errorf("%+v", r)
		}
	}
	if w.read(nodedisks.Path) != list {
		t.Error("the list was changed")
	}
}

// A head of NVMe without a controller, as of a drive that was pulled while it was mounted, kept the places of all
// disks from being given away.
func TestUnplacedDisk(t *testing.T) {
	w, f := newWorld(t), dataOnly()
	w.add("sdb", 96*mib)
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true}, -1); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.pull("sdb")
	w.add("sdc", 96*mib)
	w.write("sys/devices/virtual/nvme-subsystem/nvme-subsys1/subsysnqn", "nqn.a\n")
	w.write("sys/block/nvme1n1/wwid", "uuid.77\n")
	w.write("sys/block/nvme1n1/nsid", "1\n")
	w.must(os.Symlink("../../devices/virtual/nvme-subsystem/nvme-subsys1", w.path("sys/block/nvme1n1/device")))
	if r := w.row(f, nodeprep.Options{}, "uuid.77"); r.Condition != nodeprep.Unreadable || !strings.Contains(r.Refused, "no controller now") || r.Group != "" {
		t.Errorf("%+v", r)
	}
	if _, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Replace: map[string]string{"wwn-sdb": "uuid.77"}}, -1); !errors.Is(err, nodeprep.ErrRefused) || w.listed().Disks[0].ID != "wwn-sdb" {
		t.Errorf("it got a place: %v", err)
	}
	if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Replace: map[string]string{"wwn-sdb": "wwn-sdc"}}, -1); w.listed().Disks[0].ID != "wwn-sdc" {
		t.Errorf("another's place: %v\n%s", err, out)
	}
}
