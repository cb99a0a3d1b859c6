package local

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

// names are short names of the volumes of a good world.
var names = map[string]string{
	VolumeName(diskA, uuidA): "a", VolumeName(diskA, uuidRaw): "raw", VolumeName(diskB, uuidB): "b",
}

// outcome is what became of each partition: "create", a reason, or a state.
func outcome(d Decision) map[string]string {
	got := map[string]string{}
	for name, s := range d.Volumes {
		got[names[name]] = string(s)
	}
	for _, pv := range d.Create {
		got[names[pv.Name]] = "create"
	}
	for _, w := range d.Withheld {
		got[names[w.Volume]] = string(w.Reason)
	}
	return got
}

func TestDecide(t *testing.T) {
	type is map[string]string
	cases := map[string]struct {
		reason string
		change func(*world)
		want   is // the partitions that are not simply created
	}{
		"Good":        {"all facts agree", func(*world) {}, is{}},
		"OldKernel":   {"before Linux 6.10 only udev knows the UUID", (*world).noKernelUUIDs, is{}},
		"NoUdev":      {"a kernel that tells the UUID needs no link, but a raw volume's path is the link", func(w *world) { w.links = nil }, is{"raw": "PartitionMissing"}},
		"Neither":     {"nobody tells the UUID", func(w *world) { w.noKernelUUIDs(); w.links = nil }, is{"a": "Unreadable", "b": "Unreadable", "raw": "PartitionMissing"}},
		"Disagree":    {"kernel and udev disagree: neither is believed", func(w *world) { w.links[uuidA] = "sdb1" }, is{"a": "Unreadable"}},
		"StaleLink":   {"the link was left by another disk", func(w *world) { w.noKernelUUIDs(); w.links[uuidA], w.links[uuidB] = "sdb1", "sda1" }, is{"a": "OtherPartition", "b": "OtherPartition"}},
		"Unmounted":   {"sig-storage-local-static-provisioner takes a directory with old data for a volume", func(w *world) { w.mounts = w.mounts[1:] }, is{"a": "NotMounted"}},
		"Swapped":     {"two mounts exchanged: each path has the other's data", func(w *world) { w.mounts[0].number, w.mounts[1].number = w.mounts[1].number, w.mounts[0].number }, is{"a": "OtherPartition", "b": "OtherPartition"}},
		"Renamed":     {"sda and sdb changed names and numbers: identity does not care", func(w *world) { swapNames(w) }, is{}},
		"Clone":       {"a copied partition table has the same UUID on another disk", func(w *world) { w.disks[0].wwid = "naa.5000c500ffffffff" }, is{"a": "DiskDiffers", "raw": "DiskDiffers"}},
		"OverNetwork": {"listed by the id that it would have as a disk of the node", func(w *world) { w.iscsi = "sda" }, is{"a": "OverNetwork", "raw": "OverNetwork"}},
		"OverNetworkOld": {"the volume of an earlier version stays", func(w *world) {
			w.has(0, 0)
			w.iscsi = "sda"
		}, is{"a": "unverified", "raw": "OverNetwork"}},
		"Twins": {"two disks say that they are the same: neither is believed", func(w *world) { w.disks = append(w.disks, wDisk{"sdc", "naa." + diskA}) }, is{"a": "DiskDiffers", "raw": "DiskDiffers"}},
		"Unplaced": {"that nobody knows where another disk is says nothing of one that is gone", func(w *world) {
			w.unplaced = true
			w.disks, w.parts, w.mounts = w.disks[1:], w.parts[2:], w.mounts[1:]
			delete(w.links, uuidRaw)
		}, is{"a": "DiskMissing", "raw": "DiskMissing"}},
		"Pulled": {"the disk is gone, its mount lingers", func(w *world) {
			w.disks, w.parts = w.disks[1:], w.parts[2:]
			delete(w.links, uuidA)
			delete(w.links, uuidRaw)
		}, is{"a": "DiskMissing", "raw": "DiskMissing"}},
		"Gone": {"the disk is gone and unmounted", func(w *world) {
			w.disks, w.parts, w.mounts = w.disks[1:], w.parts[2:], w.mounts[1:]
			delete(w.links, uuidRaw)
		}, is{"a": "DiskMissing", "raw": "DiskMissing"}},
		"Repaired": {"a new partition table on the same disk", func(w *world) {
			w.part("sda1").kernelUUID = "cccccccc-0000-4000-8000-000000000001"
			w.links = map[string]string{uuidRaw: "sda2"}
		}, is{"a": "OtherPartition"}},
		"WholeDisk":  {"a file system on a whole disk has no partition UUID", func(w *world) { w.part("sda1").whole = true }, is{"a": "OtherPartition"}},
		"Tmpfs":      {"not a block device", func(w *world) { w.mounts[0] = wMount{"0:40", "/", "/mnt/holdfast/a", "tmpfs", "rw"} }, is{"a": "OtherPartition"}},
		"Bind":       {"a bind mount of a directory of the right partition", func(w *world) { w.mounts[0].root = "/dir" }, is{"a": "NotMounted"}},
		"Covered":    {"something else is mounted over it", func(w *world) { w.mounts = append(w.mounts, wMount{"0:40", "/", "/mnt/holdfast/a", "tmpfs", "rw"}) }, is{"a": "OtherPartition"}},
		"CoveredDir": {"something is mounted over a directory above both", func(w *world) { w.mounts = append(w.mounts, wMount{"0:40", "/", "/mnt", "tmpfs", "rw"}) }, is{"a": "NotMounted", "b": "NotMounted"}},
		"OverData": {"mounted over something else: the topmost counts", func(w *world) {
			w.mounts = append([]wMount{{"0:40", "/", "/mnt/holdfast/a", "tmpfs", "rw"}}, w.mounts...)
		}, is{}},
		"Filesystem": {"formatted anew by hand", func(w *world) { w.mounts[0].fs = "xfs" }, is{"a": "FilesystemDiffers"}},
		"ReadOnly":   {"ext4 goes read-only after an error", func(w *world) { w.mounts[0].options = "ro" }, is{"a": "ReadOnly"}},
		"RawMounted": {"a raw partition in use must not be given away", func(w *world) { w.mounts = append(w.mounts, wMount{"8:2", "/", "/srv", "ext4", "rw"}) }, is{"raw": "InUse"}},
		"RawInPod": {"a pod has its node, bind-mounted out of /dev: the kernel's number of that mount is devtmpfs's", func(w *world) {
			w.mounts = append(w.mounts, wMount{"0:6", "/sda2", "/var/lib/kubelet/pods/u/raw", "devtmpfs", "rw"})
		}, is{"raw": "InUse"}},
		"OtherInPod": {"another device's node", func(w *world) {
			w.mounts = append(w.mounts, wMount{"0:6", "/sdz2", "/var/lib/kubelet/pods/u/raw", "devtmpfs", "rw"})
		}, is{}},
		"RawHeld":     {"nor one under LVM", func(w *world) { w.part("sda2").holder = "dm-0" }, is{"raw": "InUse"}},
		"Empty":       {"a capacity below 1 MiB is nonsense", func(w *world) { w.part("sda1").bytes = 512 }, is{"a": "Unreadable"}},
		"Quarantined": {"a closed disk gets no new volume", func(w *world) { w.quarantine.Disks = map[string]string{diskA: "Failed"} }, is{"a": "Quarantined", "raw": "Quarantined"}},
		"NoAnswer":    {"quarantine is not known", func(w *world) { w.quarantine.Err = errors.New("timeout") }, is{"a": "QuarantineUnknown", "raw": "QuarantineUnknown", "b": "QuarantineUnknown"}},
		"LVMRole":     {"disks of other roles are not ours", func(w *world) { w.file.Disks[0].Role = v1alpha1.RoleLVM; w.file.Disks[1].Role = v1alpha1.RoleSystem }, is{"a": "", "raw": "", "b": ""}},
		"Exists": {"a volume is made once; a bad disk's volume stays", func(w *world) {
			w.has(0, 0)
			w.has(1, 0)
			w.mounts, w.certified = w.mounts[:1], map[string]int64{uuidRaw: 32 * mib}
			w.quarantine.Disks = map[string]string{diskA: "Failed"}
		}, is{"a": "verified", "b": "unverified", "raw": "Quarantined"}},
		"Orphan": {"absence is never evidence: a volume whose partition is not listed stays", func(w *world) { w.has(1, 0); w.file.Disks = w.file.Disks[:1] }, is{"b": "orphaned"}},
		"Data":   {"the volume was deleted and its file system has a tenant's data", func(w *world) { w.part("sda1").files = []string{"pgdata"} }, is{"a": "Dirty"}},
		"DataOfVolume": {"while its volume stands nobody looks into it", func(w *world) {
			w.part("sda1").files = []string{"pgdata"}
			w.has(0, 0)
		}, is{"a": "verified"}},
		"DataQuarantined": {"no request for a partition that is not offered anyway", func(w *world) {
			w.part("sda1").files = []string{"pgdata"}
			w.quarantine.Err = errors.New("not asked")
		}, is{"a": "Dirty", "raw": "QuarantineUnknown", "b": "QuarantineUnknown"}},
		"LostFile": {"a file named lost+found is a file", func(w *world) { w.part("sda1").files = []string{lostFound} }, is{"a": "Dirty"}},
		"StillMounted": {"the volume was deleted by force and its pod still runs", func(w *world) {
			w.mounts = append(w.mounts, wMount{"8:1", "/", "/var/lib/kubelet/pods/x", "ext4", "rw"})
		}, is{"a": "InUse"}},
		"MountedInPod": {"a volume that pods use is well", func(w *world) {
			w.mounts = append(w.mounts, wMount{"8:1", "/", "/var/lib/kubelet/pods/x", "ext4", "rw"})
			w.has(0, 0)
		}, is{"a": "verified"}},
		"NoCertificate":    {"the node was made anew: nobody has read the raw partition", func(w *world) { w.certified = nil }, is{"raw": "Dirty"}},
		"OtherCertificate": {"a certificate is for one size", func(w *world) { w.certified[uuidRaw] = mib }, is{"raw": "Dirty"}},
		"BeingCleaned": {"a volume that is cleaned is unmounted for a while, and no alarm", func(w *world) {
			pv := w.has(0, 0)
			pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy = corev1.VolumeReleased, corev1.PersistentVolumeReclaimDelete
			w.mounts = w.mounts[1:]
		}, is{"a": "released"}},
		"OtherNode": {"the disk was moved here: the old volume must go first", func(w *world) {
			w.has(0, 0).Labels[v1alpha1.LabelNode] = "node-0"
		}, is{"a": "Conflict"}},
		"OtherPath": {"the mount point was changed under a volume", func(w *world) { w.has(0, 0).Spec.Local.Path = "/mnt/old" }, is{"a": "Conflict"}},
		"OtherDisk": {"a volume of the right name for another disk", func(w *world) { w.has(0, 0).Annotations[v1alpha1.AnnotationDisk] = "x" }, is{"a": "Conflict"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := goodWorld()
			tc.change(w)
			h, _ := w.host(t)
			want := map[string]string{"a": "create", "raw": "create", "b": "create"}
			for k, v := range tc.want {
				if want[k] = v; v == "" {
					delete(want, k)
				}
			}
			d := w.decide(t, h)
			if diff := cmp.Diff(want, outcome(d)); diff != "" {
				t.Errorf("-want +got:\n%s\nwithheld: %+v\nreason: %s", diff, d.Withheld, tc.reason)
			}
		})
	}
}

// has puts the volume of a partition of disks.yaml into the cluster.
func (w *world) has(disk, part int) *corev1.PersistentVolume {
	d := w.file.Disks[disk]
	pv := volume(testNode, d, d.Partitions[part], 64*mib, false)
	w.existing[pv.Name] = pv
	return pv
}

func swapNames(w *world) {
	w.disks[0].dev, w.disks[1].dev = "sdb", "sda"
	for i, p := range []wPart{
		{dev: "sdb1", disk: "sdb", number: "8:17"}, {dev: "sdb2", disk: "sdb", number: "8:18"}, {dev: "sda1", disk: "sda", number: "8:1"},
	} {
		w.parts[i].dev, w.parts[i].disk, w.parts[i].number = p.dev, p.disk, p.number
	}
	w.links = map[string]string{uuidA: "sdb1", uuidRaw: "sdb2", uuidB: "sda1"}
	w.mounts[0].number, w.mounts[1].number = "8:17", "8:1"
}

func TestVolume(t *testing.T) {
	w := goodWorld()
	h, _ := w.host(t)
	got := w.decide(t, h).Create[0]
	mode := corev1.PersistentVolumeFilesystem
	want := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        "local-f189784411fd0b4842bf",
			Labels:      map[string]string{"holdfast.dev/node": testNode, "holdfast.dev/disk": diskA, "holdfast.dev/media": "ssd"},
			Annotations: map[string]string{"holdfast.dev/disk-id": diskA, "holdfast.dev/partition-uuid": uuidA, "pv.kubernetes.io/provisioned-by": "holdfast.dev/local-volume-provisioner"},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{"storage": resource.MustParse("64Mi")}, // 64 MiB and a sector, rounded down
			AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, VolumeMode: &mode,
			StorageClassName: "local-ssd", PersistentVolumeReclaimPolicy: "Retain",
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/holdfast/a"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: "In", Values: []string{testNode}}},
			}}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	raw := w.decide(t, h).Create[1]
	if *raw.Spec.VolumeMode != "Block" || raw.Spec.Local.Path != "/dev/disk/by-partuuid/"+uuidRaw {
		t.Errorf("raw volume is %s at %s", *raw.Spec.VolumeMode, raw.Spec.Local.Path)
	}
}

// The 32-bit names of sig-storage-local-static-provisioner collide in a
// cluster of 10,000 volumes once in 80 clusters.
func TestVolumeNamesDoNotCollide(t *testing.T) {
	const n = 1_000_000
	seen := make(map[string]struct{}, n)
	for i := range n {
		seen[VolumeName(fmt.Sprintf("5000c500%08x", i/5), fmt.Sprintf("00000000-0000-4000-8000-%012x", i))] = struct{}{}
	}
	if len(seen) != n {
		t.Errorf("%d names for %d partitions", len(seen), n)
	}
	if VolumeName("ab", "c") == VolumeName("a", "bc") {
		t.Error("disk id and partition UUID run into one another")
	}
}
