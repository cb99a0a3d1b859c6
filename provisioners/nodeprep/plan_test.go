package nodeprep_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/nodeprep"
)

// twoDisks wants two disks of one kind.
func twoDisks() *v1alpha1.NodeFlavor {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{
		Name: "data", Role: v1alpha1.RoleStatic, Media: v1alpha1.MediaSSD, Count: 2,
		Layout: &v1alpha1.DiskLayout{Partitions: []v1alpha1.PartitionLayout{{Filesystem: "ext4", StorageClass: "local"}}},
	}}}}
	f.Name = "two"
	return f
}

func blank(id string) nodeprep.Found {
	return nodeprep.Found{ID: id, Device: "sd" + id, Media: v1alpha1.MediaSSD, Size: 1 << 40, SectorSize: 512, Slot: "slot-" + id}
}

func with(f nodeprep.Found, change func(*nodeprep.Found)) nodeprep.Found {
	change(&f)
	return f
}

// listed is a node whose disks a and b were prepared before there was this program.
func listed(ids ...string) *nodedisks.File {
	f := &nodedisks.File{}
	for _, id := range ids {
		f.Disks = append(f.Disks, nodedisks.Disk{ID: id, Group: "data", Role: v1alpha1.RoleStatic})
	}
	return f
}

func TestPlan(t *testing.T) {
	type in = nodeprep.Input
	ext4 := func(f *nodeprep.Found) {
		f.Content.Signatures = []nodeprep.Signature{{Device: f.Device, Type: "ext4", UUID: "u"}}
	}
	cases := map[string]struct {
		reason string
		in     in
		want   string // "disk condition [group] [does|refused]; …", then problems and shortage
	}{
		"Blank":      {"blank disks that fit are taken", in{Disks: []nodeprep.Found{blank("a"), blank("b")}}, "a blank data does; b blank data does"},
		"Spare":      {"not more than the flavor wants", in{Disks: []nodeprep.Found{blank("a"), blank("b"), blank("c")}}, "a blank data does; b blank data does; c blank"},
		"OtherMedia": {"nor another kind", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Media = "hdd" })}}, "a blank data does; b blank; group data has 1 of 2 disks"},
		"NotBlank":   {"a disk with a file system is refused", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), ext4)}}, "a blank data does; b not blank data refused token; group data has 1 of 2 disks"},
		"BlankFirst": {"a blank disk is taken rather than one with data", in{Disks: []nodeprep.Found{with(blank("a"), ext4), blank("b"), blank("c")}}, "a not blank; b blank data does; c blank data does"},
		"Middle":     {"data without a signature is data", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Content.Middle = "at byte 5" })}}, "a blank data does; b not blank data refused token; group data has 1 of 2 disks"},
		"Unreadable": {"what cannot be read is not blank, and no token helps", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Content.Err = "EIO" })}}, "a blank data does; b unreadable refused; group data has 1 of 2 disks"},
		"InUse":      {"what is used is left alone", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Content.Used = []string{"md0"} })}}, "a blank data does; b in use; group data has 1 of 2 disks"},
		"System":     {"so is the host's own", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Content.System = true })}}, "a blank data does; b system; group data has 1 of 2 disks"},
		"ReadOnly":   {"a read-only disk cannot be prepared", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.ReadOnly = true })}}, "a blank data does; b blank; group data has 1 of 2 disks"},
		"Bad":        {"a quarantined disk gets no place", in{Disks: []nodeprep.Found{blank("a"), blank("b"), blank("c")}, Closed: map[string]string{"a": "quarantined"}}, "a blank; b blank data does; c blank data does"},
		"NotKnown":   {"not to know of quarantine closes all", in{Disks: []nodeprep.Found{blank("a"), blank("b")}, ClosedErr: errors.New("no answer")}, "a blank data refused; b blank data refused; group data has 0 of 2 disks"},
		"Listed":     {"disks of disks.yaml keep their places untouched", in{Disks: []nodeprep.Found{with(blank("a"), ext4), with(blank("b"), ext4), blank("c")}, Listed: listed("a", "b")}, "a listed data; b listed data; c blank"},
		"Missing":    {"a missing disk keeps its place: it may come back", in{Disks: []nodeprep.Found{blank("b"), blank("c")}, Listed: listed("a", "b")}, "a missing data; b listed data; c blank; group data has 1 of 2 disks"},
		"Replace":    {"until a person gives it away", in{Disks: []nodeprep.Found{blank("b"), blank("c")}, Listed: listed("a", "b"), Replace: map[string]string{"a": "c"}}, "b listed data; c blank data does"},
		"Asked":      {"or remediation does, where one disk can take it", in{Disks: []nodeprep.Found{blank("b"), blank("c")}, Listed: listed("a", "b"), Asked: []string{"a"}}, "b listed data; c blank data does"},
		"AskedTwo":   {"which of two is for a person to say", in{Disks: []nodeprep.Found{blank("b"), blank("c"), blank("d")}, Listed: listed("a", "b"), Asked: []string{"a"}}, "a missing data; b listed data; c blank; d blank; 2 new disks could take the place of a: say which with --replace a=<new>: c, d; group data has 1 of 2 disks"},
		"AskedUsed":  {"a disk with data takes no place by itself", in{Disks: []nodeprep.Found{blank("b"), with(blank("c"), ext4)}, Listed: listed("a", "b"), Asked: []string{"a"}}, "a missing data; b listed data; c not blank; group data has 1 of 2 disks"},
		"Present":    {"a disk that is there is not replaced", in{Disks: []nodeprep.Found{blank("a"), blank("b"), blank("c")}, Listed: listed("a", "b"), Replace: map[string]string{"a": "c"}}, "a listed data; b listed data; c blank; --replace a=c: a is there, as sda; pull it first"},
		"PartScan":   {"nothing is missing for certain when not all could be listed", in{Disks: []nodeprep.Found{blank("b"), blank("c")}, ScanErr: errors.New("EIO"), Listed: listed("a", "b"), Replace: map[string]string{"a": "c"}}, "a missing data; b listed data; c blank; the disks could not all be listed: EIO; --replace a=c: the disks could not all be listed, so it is not known whether the old one is missing; group data has 1 of 2 disks"},
		"WrongToken": {"a token of nobody's is none", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), ext4)}, Tokens: map[string]string{"b": "aaaa-bbbb-cccc", "x": "y"}}, "a blank data does; b not blank data refused token; --wipe names disk x, which is not there; group data has 1 of 2 disks"},
		"Tiny":       {"a disk on which the layout has no room", in{Disks: []nodeprep.Found{blank("a"), with(blank("b"), func(f *nodeprep.Found) { f.Size = 8 << 20 })}}, "a blank data does; b blank data refused; group data has 1 of 2 disks"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.in.Flavor, tc.in.State = twoDisks(), &nodeprep.State{Secret: "s"}
			if got := summary(nodeprep.BuildPlan(tc.in)); got != tc.want {
				t.Errorf("got  %s\nwant %s\nreason: %s", got, tc.want, tc.reason)
			}
		})
	}
}

func summary(p *nodeprep.Plan) string {
	var out []string
	for _, r := range p.Disks {
		s := r.Disk + " " + string(r.Condition)
		for _, x := range []struct {
			on   bool
			word string
		}{{r.Group != "", r.Group}, {len(r.Do) > 0, "does"}, {r.Refused != "", "refused"}, {r.Token != "", "token"}} {
			if x.on {
				s += " " + x.word
			}
		}
		out = append(out, s)
	}
	return strings.Join(append(append(out, p.Problems...), p.Short...), "; ")
}

// A token is for one disk, with what is on it, on one node.
func TestTokenIsBound(t *testing.T) {
	token := func(id, secret, uuid, sum string) string {
		f := with(blank(id), func(f *nodeprep.Found) {
			f.Content.Signatures = []nodeprep.Signature{{Device: f.Device, Type: "ext4", UUID: uuid}}
			f.Content.Sum = sum
		})
		p := nodeprep.BuildPlan(nodeprep.Input{Flavor: twoDisks(), State: &nodeprep.State{Secret: secret}, Disks: []nodeprep.Found{f}})
		return p.Disks[0].Token
	}
	seen := map[string]string{}
	for _, args := range [][4]string{{"a", "s", "u", "x"}, {"b", "s", "u", "x"}, {"a", "t", "u", "x"}, {"a", "s", "v", "x"}, {"a", "s", "u", "y"}} {
		got := token(args[0], args[1], args[2], args[3])
		if other, dup := seen[got]; dup || len(got) != 14 {
			t.Errorf("%v has the token %q of %s", args, got, other)
		}
		seen[got] = fmt.Sprint(args)
	}
}

// Partitions lie in their order, aligned, between the two partition tables.
func TestExtents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var parts []v1alpha1.PartitionLayout
		for range rapid.IntRange(1, 4).Draw(t, "parts") {
			p := v1alpha1.PartitionLayout{Count: int32(rapid.IntRange(0, 3).Draw(t, "count")), Filesystem: rapid.SampledFrom([]v1alpha1.Filesystem{"", "ext4", "xfs"}).Draw(t, "fs")}
			if rapid.Bool().Draw(t, "fixed") {
				p.Size = quantity(fmt.Sprint(rapid.Int64Range(1<<20, 1<<32).Draw(t, "size")))
			}
			parts = append(parts, p)
		}
		size := rapid.Int64Range(0, 1<<34).Draw(t, "disk")
		got, err := nodeprep.Extents(parts, size)
		if err != nil {
			return
		}
		next := int64(mib)
		for _, e := range got {
			if e.Start != next || e.Start%mib != 0 || e.Size < mib || e.Size%mib != 0 {
				t.Fatalf("%v of %v on %d bytes", got, parts, size)
			}
			next += e.Size
		}
		if next > size-mib {
			t.Fatalf("%v reaches into the last MiB of %d bytes", got, size)
		}
	})
}

func TestFlavorRefused(t *testing.T) {
	const good = `apiVersion: holdfast.dev/v1alpha1
kind: NodeFlavor
metadata: {name: f}
spec:
  disks:
  - name: data
    role: static
    count: 1
    layout:
      partitions:
      - {count: 2, size: 1Gi, filesystem: xfs, storageClass: local, mkfsOptions: ["-i", "size=1024"], mountOptions: [noatime, "logbsize=256k"]}
`
	if _, err := nodeprep.ParseFlavor("f.yaml", []byte(good)); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ reason, old, new, want string }{
		"Unknown":   {"a misspelt field would be a default", "storageClass", "storageclass", `unknown field "spec.disks[0].layout.partitions[0].storageclass"`},
		"Kind":      {"another object", "NodeFlavor", "Node", "not holdfast.dev/v1alpha1 NodeFlavor"},
		"Role":      {"roles are a closed set", "static", "statik", `spec.disks[0].role: "statik" is not system, static, lvm or raw`},
		"System":    {"a system disk is never laid out", "role: static", "role: system", "spec.disks[0].layout: disks of the role system are never laid out"},
		"LVM":       {"partitions are no volume group", "role: static", "role: lvm", "lvm has a volumeGroup, static and raw have partitions"},
		"Both":      {"one of the two", "partitions:", "volumeGroup: {}\n      partitions:", "keep one of them"},
		"Path":      {"no path reaches mkfs", "size=1024", "/dev/sda", `mkfsOptions[1]: "/dev/sda" is no value`},
		"LogDev":    {"nor a second device", `["-i", "size=1024"]`, `["-l", "logdev=sda1"]`, "is no value"},
		"UUID":      {"the UUID is recorded beforehand", `["-i", "size=1024"]`, `["-m", "crc=1,uuid=generate"]`, "is no value"},
		"Force":     {"force is not a flavor's to use", `["-i", "size=1024"]`, `["-f", "x"]`, `mkfsOptions[0]: "-f" is not one of`},
		"Single":    {"an option lacks its value", `["-i", "size=1024"]`, `["-i"]`, "has no value"},
		"Remount":   {"a volume must be written", "noatime", "ro", `mountOptions[0]: "ro" is not allowed`},
		"Comma":     {"one option each", "noatime", `"noatime,suid"`, "is not allowed"},
		"Newline":   {"nothing of a flavor writes a unit's next line", "noatime", `"a\nExec=x"`, "is not allowed"},
		"Class":     {"a class has a valid name", "storageClass: local", "storageClass: Local", "storageClass"},
		"Small":     {"mkfs.xfs refuses it when it is too late", "count: 1\n    layout", "count: 1\n    minSize: 100Mi\n    layout", "its partitions need 2048 MiB"},
		"SmallXFS":  {"the same for xfs alone", "count: 2, size: 1Gi", "size: 100Mi", ""},
		"RawWithFS": {"options without a file system are a slip", "filesystem: xfs, ", "", "name ext4 or xfs, or remove mkfsOptions"},
		"Count":     {"a group of none", "count: 1", "count: 0", "count: 0 is not 1 to 256"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := nodeprep.ParseFlavor("f.yaml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v; without minSize it is found at the disk", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
}

func TestXFSConfig(t *testing.T) {
	files := []string{"dax_x86_64.conf", "lts_4.19.conf", "lts_5.10.conf", "lts_5.4.conf", "lts_6.1.conf"}
	cases := map[string]struct{ reason, mkfs, kernel, want string }{
		"Same":    {"the distribution's own pair", "mkfs.xfs version 6.1.0", "6.1.0-18-amd64", ""},
		"Newer":   {"a newer kernel mounts all", "mkfs.xfs version 6.1.0", "6.18.4", ""},
		"Older":   {"the newest that the kernel knows", "mkfs.xfs version 6.6.0", "5.15.0-100-generic", "lts_5.10.conf"},
		"TooOld":  {"none is an error with a way out", "mkfs.xfs version 6.6.0", "4.18.0-513.el8", "error"},
		"Silence": {"no version is no answer", "", "6.1", "error"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := nodeprep.XFSConfigFor(tc.mkfs, tc.kernel, files)
			if err != nil {
				got = "error"
			}
			if got != tc.want {
				t.Errorf("got %q %v, want %q; reason: %s", got, err, tc.want, tc.reason)
			}
		})
	}
}

func TestUnitName(t *testing.T) {
	// systemd-escape --path --suffix=mount /mnt/holdfast/0fc63daf-8483
	if got, want := nodeprep.UnitName("/mnt/holdfast/0fc63daf-8483"), `mnt-holdfast-0fc63daf\x2d8483.mount`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Whatever is on a disk, reading its table ends and finds nothing that is not there.
func FuzzReadGPT(f *testing.F) {
	f.Add([]byte("EFI PART"), uint16(512))
	f.Add([]byte{0xee, 0x55, 0xaa}, uint16(446))
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		head, tail := make([]byte, mib), make([]byte, mib)
		copy(head[at:], data)
		copy(tail[mib-1024:], data)
		for _, sector := range []int64{512, 4096} {
			g := nodeprep.ReadGPT(head, tail, 4*mib, sector)
			if g.First.Whole || g.Last.Whole {
				t.Log("a fuzzer that computes checksums")
			}
		}
	})
}
