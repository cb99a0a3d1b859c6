package lvm

import (
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// LVM doubles the hyphens of both names (lib/misc/lvm-string.c, build_dm_name), so that the one
// between them can be told from theirs.
func TestMapperName(t *testing.T) {
	for device, want := range map[string]string{
		"/dev/db/hfv_x":         "db-hfv_x",
		"/dev/hf-a/hfv-pvc-1":   "hf--a-hfv--pvc--1",
		"/dev/hf--a/hft-v-a--b": "hf----a-hft--v--a----b",
	} {
		if got := mapperName(device); got != want {
			t.Errorf("%s is %q, want %q", device, got, want)
		}
	}
}

// A pod's raw volume is a mount of the device's node. It pins the volume also where this
// process cannot see the mount point: in a namespace that nothing propagates from.
func TestMountsShowTheirDevice(t *testing.T) {
	dev := unix.Mkdev(252, 3)
	for name, c := range map[string]struct {
		reason string
		m      mountinfo.Info
		want   bool
	}{
		"FileSystem": {"mounted", mountinfo.Info{Major: 252, Minor: 3, FSType: "xfs", Root: "/", Mountpoint: "/pod"}, true},
		"Other":      {"another device", mountinfo.Info{Major: 252, Minor: 4, FSType: "xfs", Root: "/", Mountpoint: "/pod"}, false},
		"Node":       {"the kernel's name", mountinfo.Info{Major: 0, Minor: 6, FSType: "devtmpfs", Root: "/dm-3", Mountpoint: "/not/seen/here"}, true},
		"OtherNode":  {"the node of another device", mountinfo.Info{Major: 0, Minor: 6, FSType: "devtmpfs", Root: "/dm-31", Mountpoint: "/not/seen/here"}, false},
		"Mapper":     {"a node that LVM made itself", mountinfo.Info{Major: 0, Minor: 6, FSType: "devtmpfs", Root: "/mapper/hf--a-hfv--x", Mountpoint: "/not/seen/here"}, true},
		"Named":      {"a node in the group's directory", mountinfo.Info{Major: 0, Minor: 6, FSType: "devtmpfs", Root: "/hf-a/hfv-x", Mountpoint: "/not/seen/here"}, true},
		"Dev":        {"/dev as a whole", mountinfo.Info{Major: 0, Minor: 6, FSType: "devtmpfs", Root: "/", Mountpoint: "/dev"}, false},
		"Tmpfs":      {"a file of that name", mountinfo.Info{Major: 0, Minor: 40, FSType: "tmpfs", Root: "/dm-3", Mountpoint: "/tmp"}, false},
	} {
		if got := shows(&c.m, "/dev/hf-a/hfv-x", dev); got != c.want {
			t.Errorf("%s (%s): %v", name, c.reason, got)
		}
	}
}
