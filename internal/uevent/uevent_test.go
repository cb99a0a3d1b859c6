package uevent

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// message is what kobject_uevent_env sends (lib/kobject_uevent.c): action@devpath, then
// the environment, each ended by a zero.
func message(fields ...string) []byte { return []byte(strings.Join(fields, "\x00") + "\x00") }

func TestParseUevent(t *testing.T) {
	const dev = "/devices/pci0000:00/0000:00:04.0/nvme/nvme0"
	cases := map[string]struct {
		reason string
		msg    []byte
		want   Event
		ok     bool
	}{
		"Block": {"a disk that has come", message("add@/devices/virtual/block/loop3", "ACTION=add", "DEVPATH=/devices/virtual/block/loop3", "SUBSYSTEM=block", "MAJOR=7", "MINOR=3", "DEVNAME=loop3", "DEVTYPE=disk", "SEQNUM=3021"), Event{}, true},
		"Part":  {"a partition", message("remove@"+dev+"/nvme0n1/nvme0n1p1", "ACTION=remove", "SUBSYSTEM=block", "DEVTYPE=partition"), Event{}, true},
		// drivers/nvme/host/core.c nvme_aen_uevent: kasprintf("NVME_AEN=%#08x"), KOBJ_CHANGE on the
		// device of class nvme; nvme_class_uevent adds NVME_TRTYPE. A SMART event is 0x…01 with the log page in bits 16 to 23.
		"AEN":     {"an NVMe controller whose health has changed", message("change@"+dev, "ACTION=change", "DEVPATH="+dev, "SUBSYSTEM=nvme", "NVME_AEN=0x020101", "NVME_TRTYPE=pcie", "MAJOR=238", "MINOR=0", "DEVNAME=nvme0", "SEQNUM=3055"), Event{Controller: "nvme0"}, true},
		"Fabrics": {"one that is reached over a network has no PCI device above it", message("change@/devices/virtual/nvme-fabrics/ctl/nvme4", "ACTION=change", "SUBSYSTEM=nvme", "NVME_AEN=0x020001"), Event{Controller: "nvme4"}, true},
		"Added":   {"a controller that comes has its disks announced by themselves", message("add@"+dev, "ACTION=add", "SUBSYSTEM=nvme", "NVME_TRTYPE=pcie", "DEVNAME=nvme0"), Event{}, false},
		"Event":   {"another message of the controller", message("change@"+dev, "ACTION=change", "SUBSYSTEM=nvme", "NVME_EVENT=connected"), Event{}, false},
		"Other":   {"what is no disk", message("change@/devices/LNXSYSTM:00/device:00", "ACTION=change", "SUBSYSTEM=acpi"), Event{}, false},
		"Suffix":  {"a subsystem that only begins so", message("add@/devices/x", "SUBSYSTEM=block-generic"), Event{}, false},
		"Value":   {"a value that looks like a key", message("add@/devices/x", "DEVNAME=SUBSYSTEM=block", "SUBSYSTEM=usb"), Event{}, false},
		"Empty":   {"nothing", nil, Event{}, false},
		"NoZero":  {"a message that was cut", []byte("change@" + dev + "\x00SUBSYSTEM=nvme\x00NVME_AEN"), Event{}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got, ok := parseUevent(tc.msg); got != tc.want || ok != tc.ok {
				t.Errorf("got %+v %t, want %+v %t; reason: %s", got, ok, tc.want, tc.ok, tc.reason)
			}
		})
	}
}

// A program may send to the group; only the kernel has the port 0.
func TestFromKernel(t *testing.T) {
	for from, want := range map[unix.Sockaddr]bool{
		&unix.SockaddrNetlink{Pid: 0}:   true,
		&unix.SockaddrNetlink{Pid: 712}: false,
		&unix.SockaddrUnix{}:            false,
	} {
		if got := fromKernel(from); got != want {
			t.Errorf("%+v: %t", from, got)
		}
	}
}

// FuzzParseUevent: a controller's name is one element of a path, whatever comes.
func FuzzParseUevent(f *testing.F) {
	f.Add(message("change@/devices/a/nvme0", "SUBSYSTEM=nvme", "NVME_AEN=0x020101"))
	f.Add(message("add@/devices/virtual/block/loop3", "SUBSYSTEM=block"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, ok := parseUevent(msg)
		if !ok && e != (Event{}) || strings.Contains(e.Controller, "/") && e.Controller != "/" {
			t.Errorf("%q: %+v %t", msg, e, ok)
		}
	})
}
