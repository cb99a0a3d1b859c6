package smart

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Adapters are the disks that are asked through smartctl, since they are drives
// behind a RAID adapter that no ioctl of this package reaches. None is unless it is named.
type Adapters struct {
	Disks []Adapter `yaml:"disks"`
}

// Adapter says how smartctl reaches one drive. What the adapter shows as a disk
// must be this one drive, passed through or alone in its volume: what one of several
// drives says is no word on the disk that they make up together.
type Adapter struct {
	// Disk is a disk's id. In its place, Flavor and Slot name a disk of every node of
	// a flavor: the one in that slot (such as pci-0000:3b:00.0-scsi-0:2:3:0).
	Disk   string `yaml:"disk,omitempty"`
	Flavor string `yaml:"flavor,omitempty"`
	Slot   string `yaml:"slot,omitempty"`
	// Type is smartctl's option -d, such as megaraid,3 or cciss,0.
	Type string `yaml:"type"`
	// Device is the file that smartctl opens, such as /dev/sg2; the disk's own when it is empty.
	Device string `yaml:"device,omitempty"`
	// Serial is the drive's serial number: another drive that answers is an error. Empty
	// takes any. The disk's own is not compared: adapters make one up.
	Serial string `yaml:"serial,omitempty"`
}

// Find is how a disk is asked, nil when by ioctl. An entry for the disk goes before
// one for its node's flavor.
func (a *Adapters) Find(disk, flavor, slot string) *Adapter {
	if a == nil {
		return nil
	}
	for i := range a.Disks {
		if a.Disks[i].Disk == disk {
			return &a.Disks[i]
		}
	}
	for i := range a.Disks {
		if d := &a.Disks[i]; d.Disk == "" && d.Flavor == flavor && d.Slot == slot {
			return d
		}
	}
	return nil
}

// ParseAdapters reads and checks adapters; name is for errors.
func ParseAdapters(name string, data []byte) (*Adapters, error) {
	a := &Adapters{}
	if err := strictyaml.Decode(name, data, a); err != nil {
		return nil, err
	}
	root, err := strictyaml.Node(name, data)
	if err != nil {
		return nil, err
	}
	var errs []error
	report := func(i int, field, msg, hint string) {
		errs = append(errs, &strictyaml.Error{File: name, Line: strictyaml.Line(root, "disks", i, field), Msg: fmt.Sprintf("disks[%d]: %s", i, msg), Hint: hint})
	}
	if len(a.Disks) == 0 {
		errs = append(errs, &strictyaml.Error{File: name, Line: root.Line, Msg: "there are no disks", Hint: "name one, or leave smartctl out"})
	}
	seen := map[[3]string]bool{}
	for i := range a.Disks {
		d := &a.Disks[i]
		for _, m := range d.check() {
			report(i, m[0], m[1], m[2])
		}
		key := [3]string{d.Disk, d.Flavor, d.Slot}
		if seen[key] {
			report(i, "", "the same disk is there twice", "remove one of them")
		}
		seen[key] = true
	}
	return a, errors.Join(errs...)
}

// types are the words that smartctl(8) has for adapters and bridges, before the first comma.
var types = []string{
	"areca", "aacraid", "cciss", "hpt", "megaraid", "3ware", "sssraid", "jmb39x", "jms56x", "jmb39x-q", "jmb39x-q2",
	"sat", "scsi", "ata", "nvme", "usbasm1352r", "usbcypress", "usbjmicron", "usbprolific", "usbsunplus", "sntasmedia", "sntjmicron", "sntrealtek", "intelliprop",
}

var (
	// typeRE is what an option -d looks like: words of letters and digits, and their numbers.
	typeRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*(?:[,/+][a-zA-Z0-9][a-zA-Z0-9-]*)*$`)
	fileRE = regexp.MustCompile(`^/dev/[A-Za-z0-9][A-Za-z0-9/_-]*$`)
)

// check says what is wrong: field, message and hint.
func (a *Adapter) check() (wrong [][3]string) {
	switch {
	case a.Disk == "" && (a.Flavor == "" || a.Slot == ""):
		wrong = append(wrong, [3]string{"disk", "neither disk nor flavor and slot are given", "write disk: with the id that \"holdfast disks\" shows, or flavor: and slot:"})
	case a.Disk != "" && (a.Flavor != "" || a.Slot != ""):
		wrong = append(wrong, [3]string{"flavor", "disk goes without flavor and slot", "remove one or the other"})
	}
	if msg, hint := checkType(a.Type); msg != "" {
		wrong = append(wrong, [3]string{"type", msg, hint})
	}
	if a.Device != "" && (!fileRE.MatchString(a.Device) || path.Clean(a.Device) != a.Device) {
		wrong = append(wrong, [3]string{"device", fmt.Sprintf("device is %q", a.Device), "write a device file, such as /dev/sg2"})
	}
	return wrong
}

// AdapterOf is an adapter that is given by its type alone, whatever disk it shows.
func AdapterOf(typ string) (*Adapter, error) {
	if msg, hint := checkType(typ); msg != "" {
		return nil, fmt.Errorf("%s (%s)", msg, hint)
	}
	return &Adapter{Type: typ}, nil
}

// checkType says what is wrong with a type, and what to do; empty when nothing is.
func checkType(typ string) (msg, hint string) {
	word, rest, numbered := strings.Cut(typ, ",")
	word, _, _ = strings.Cut(word, "+")
	switch {
	case !typeRE.MatchString(typ) || !slices.Contains(types, word):
		return fmt.Sprintf("type is %q", typ), "write an option -d of smartctl(8), such as megaraid,3, cciss,0 or aacraid,0,0,1; auto and test name no drive"
	case slices.Contains(raid, word) && (!numbered || !slotRE.MatchString(rest)):
		return fmt.Sprintf("type %q names no drive of the adapter", typ), "write its number, such as " + word + ",0"
	}
	return "", ""
}

// raid are the types that count the drives behind an adapter.
var raid = []string{"areca", "aacraid", "cciss", "hpt", "megaraid", "3ware", "sssraid", "jmb39x", "jms56x", "jmb39x-q", "jmb39x-q2"}

// slotRE is a drive's number, and what may be beside it.
var slotRE = regexp.MustCompile(`^[0-9]+(?:[,/+][a-z0-9]+)*$`)
