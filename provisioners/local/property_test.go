package local

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// TestCreatedIffAllFactsAgree makes good nodes, breaks them in up to four ways
// at once and compares what is created with an oracle that knows the world
// itself, not what can be read of it.
func TestCreatedIffAllFactsAgree(t *testing.T) {
	root, n := t.TempDir(), 0
	created, withheld := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		for range rapid.IntRange(0, 4).Draw(rt, "faults") {
			spoil(rt, w)
		}
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		w.write(rt, dir)
		defer func() { _ = os.RemoveAll(dir) }()
		f, err := hostfs.Open(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		d := w.decide(t, NewHost(f, 5*time.Second))

		var got []string
		for _, pv := range d.Create {
			got = append(got, pv.Name)
		}
		want := w.oracle()
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("-want +got:\n%s\nworld: %+v\ntable:\n%s\nwithheld: %+v", diff, w, w.table(), d.Withheld)
		}
		created, withheld = created+len(got), withheld+len(d.Withheld)
	})
	if created == 0 || withheld == 0 {
		t.Errorf("%d created and %d withheld: the test proves nothing", created, withheld)
	}
}

// drawWorld is a good node of one to three disks.
func drawWorld(t *rapid.T) *world {
	w := &world{links: map[string]string{}, certified: map[string]int64{}, file: nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks"}}
	kernel := rapid.Bool().Draw(t, "kernelTellsUUID")
	for d := range rapid.IntRange(1, 3).Draw(t, "disks") {
		dev, id := "sd"+string(rune('a'+d)), fmt.Sprintf("5000c500%08x", d)
		w.disks = append(w.disks, wDisk{dev, "naa." + id})
		disk := nodedisks.Disk{ID: id, Group: "data", Role: v1alpha1.RoleStatic}
		for p := range rapid.IntRange(1, 3).Draw(t, "partitions") {
			uuid := fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", d, p)
			part := wPart{dev: fmt.Sprintf("%s%d", dev, p+1), disk: dev, number: fmt.Sprintf("8:%d", 16*d+p+1), bytes: 8 * mib}
			if kernel {
				part.kernelUUID = uuid
			}
			listed := nodedisks.Partition{UUID: uuid, StorageClass: "local"}
			w.certified[uuid] = part.bytes
			if rapid.IntRange(0, 4).Draw(t, "raw") != 0 {
				listed.Filesystem, listed.MountPoint = "ext4", fmt.Sprintf("/mnt/%d/%d", d, p)
				w.mounts = append(w.mounts, wMount{part.number, "/", listed.MountPoint, "ext4", "rw"})
			}
			w.parts, w.links[uuid] = append(w.parts, part), part.dev
			disk.Partitions = append(disk.Partitions, listed)
		}
		w.file.Disks = append(w.file.Disks, disk)
	}
	return w
}

// spoil breaks one thing of the world, or changes one that must not matter.
func spoil(t *rapid.T, w *world) {
	disk := &w.disks[rapid.IntRange(0, len(w.disks)-1).Draw(t, "disk")]
	part := &w.parts[rapid.IntRange(0, len(w.parts)-1).Draw(t, "part")]
	other := &w.parts[rapid.IntRange(0, len(w.parts)-1).Draw(t, "other")]
	uuid := rapid.SampledFrom(slices.Sorted(maps.Keys(w.links))).Draw(t, "uuid")
	faults := map[string]func(){
		"wwid":            func() { disk.wwid = "naa.5000c500eeeeeeee" },
		"swap disks":      func() { disk.wwid, w.disks[0].wwid = w.disks[0].wwid, disk.wwid },
		"swap partitions": func() { part.kernelUUID, other.kernelUUID = other.kernelUUID, part.kernelUUID },
		"kernel UUID":     func() { part.kernelUUID = "eeeeeeee-0000-4000-8000-000000000000" },
		"twin":            func() { w.disks = append(w.disks, wDisk{fmt.Sprintf("sdx%d", len(w.disks)), disk.wwid}) },
		"kernel silent":   func() { part.kernelUUID = "" },
		"link moved":      func() { w.links[uuid] = other.dev },
		"whole":           func() { part.whole = true },
		"held":            func() { part.holder = "dm-0" },
		"small":           func() { part.bytes = mib - 512 },
		"quarantine":      func() { w.quarantine.Disks = map[string]string{w.file.Disks[0].ID: "Failed"} },
		"data":            func() { part.files = []string{"pgdata"} },
		"certificate":     func() { delete(w.certified, uuid) },
		"in a pod": func() {
			w.mounts = append(w.mounts, wMount{part.number, "/", fmt.Sprintf("/pods/%d", len(w.mounts)), "ext4", "rw"})
		},
		"cover all": func() { w.mounts = append(w.mounts, wMount{"0:40", "/", "/mnt", "tmpfs", "rw"}) },
		"cover":     func() { w.mounts = append(w.mounts, wMount{other.number, "/", "/mnt/0/0", "ext4", "rw"}) },
		"role":      func() { w.file.Disks[0].Role = v1alpha1.RoleLVM },
	}
	if len(w.links) > 1 {
		faults["link lost"] = func() { delete(w.links, uuid) }
	}
	if len(w.mounts) > 0 {
		i := rapid.IntRange(0, len(w.mounts)-1).Draw(t, "mount")
		j := rapid.IntRange(0, len(w.mounts)-1).Draw(t, "other mount")
		m, o := &w.mounts[i], &w.mounts[j]
		faults["swap mounts"] = func() { m.number, o.number = o.number, m.number }
		faults["unmount"] = func() { w.mounts = slices.Delete(w.mounts, i, i+1) }
		faults["bind"] = func() { m.root = "/sub" }
		faults["format"] = func() { m.fs = "xfs" }
		faults["read-only"] = func() { m.options = "ro" }
		faults["remount"] = func() { w.mounts = append(w.mounts, *m) }
	}
	faults[rapid.SampledFrom(slices.Sorted(maps.Keys(faults))).Draw(t, "fault")]()
}

// oracle lists the volumes that must be created, from the world itself.
func (w *world) oracle() []string {
	var names []string
	for _, d := range w.file.Disks {
		for _, p := range d.Partitions {
			if d.Role == v1alpha1.RoleStatic && w.quarantine.Disks[d.ID] == "" && w.agrees(d.ID, p) {
				names = append(names, VolumeName(d.ID, p.UUID))
			}
		}
	}
	return names
}

func (w *world) agrees(diskID string, p nodedisks.Partition) bool {
	var part *wPart
	if p.MountPoint == "" {
		for i := range w.parts {
			if w.links[p.UUID] == w.parts[i].dev {
				part = &w.parts[i]
			}
		}
		if part == nil || part.holder != "" || slices.ContainsFunc(w.mounts, func(m wMount) bool { return m.number == part.number }) {
			return false
		}
		if w.certified[p.UUID] != part.bytes {
			return false
		}
	} else {
		seen := w.seen(p.MountPoint)
		if len(w.shown(p.MountPoint)) > 0 || slices.ContainsFunc(w.mounts, func(m wMount) bool { return m.number == seen.number && m.point != p.MountPoint }) {
			return false
		}
		if seen == nil || seen.point != p.MountPoint || seen.root != "/" || seen.fs != p.Filesystem || seen.options == "ro" {
			return false
		}
		for i := range w.parts {
			if w.parts[i].number == seen.number {
				part = &w.parts[i]
			}
		}
	}
	if part == nil || part.whole || part.bytes < mib {
		return false
	}
	if linked, ok := w.links[p.UUID]; ok && linked != part.dev || !ok && part.kernelUUID == "" {
		return false
	}
	if part.kernelUUID != "" && part.kernelUUID != p.UUID {
		return false
	}
	same, on := 0, false
	for _, d := range w.disks {
		if d.wwid == "naa."+diskID {
			same++
			on = on || d.dev == part.disk
		}
	}
	return on && same == 1
}
