package nodeprep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/hostexec"
)

// node is the path of a device for LVM, which takes names of its own scan only.
func (h *Host) node(dev string) string { return h.FS.Path("/dev/" + dev) }

func (h *Host) run(ctx context.Context, timeout time.Duration, stdin string, name string, args ...string) ([]byte, error) {
	return h.exec(ctx, timeout, hostexec.Command{Path: name, Args: args}, stdin)
}

func (h *Host) exec(ctx context.Context, timeout time.Duration, c hostexec.Command, stdin string) ([]byte, error) {
	c.Stdin = strings.NewReader(stdin)
	return h.Exec(ctx, timeout, c)
}

// look is what blkid, wipefs and lsblk say of a device. Any of them is enough
// to say that something is there; that nothing is, all three must have said
// themselves. No answer is never that answer.
type look struct {
	signatures     []Signature
	fsType, fsUUID string
}

func (h *Host) look(ctx context.Context, d *held, partition bool) (look, error) {
	var l look
	add := func(kind, uuid string) {
		if kind == "" {
			return
		}
		for _, s := range l.signatures {
			if s.Type == kind && (s.UUID == uuid || uuid == "") {
				return
			}
		}
		l.signatures = append(l.signatures, Signature{Device: d.name, Type: kind, UUID: uuid})
	}
	if err := h.blkid(ctx, d, partition, &l, add); err != nil {
		return l, err
	}
	if err := h.wipefs(ctx, d, add); err != nil {
		return l, err
	}
	return l, h.lsblk(ctx, d, partition, add)
}

// blkid probes the device itself and not its cache. It exits with 2 when it
// finds nothing and with 8 when what it finds is ambivalent, blkid(8).
func (h *Host) blkid(ctx context.Context, d *held, partition bool, l *look, add func(kind, uuid string)) error {
	out, err := h.on(ctx, d, toolTimeout, "", "blkid", "-p", "-o", "export")
	text := strings.TrimSpace(string(out))
	switch {
	case hostexec.ExitCode(err) == 2 && text == "":
		return nil
	case hostexec.ExitCode(err) == 8:
		add("several at once", "")
		return nil
	case err != nil:
		return fmt.Errorf("probe %s: %w", d.name, err)
	}
	v := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			v[key] = value
		}
	}
	if v["TYPE"] == "" && v["PTTYPE"] == "" && (!partition || v["PART_ENTRY_UUID"] == "") {
		return fmt.Errorf("probe %s: blkid succeeds and tells nothing", d.name)
	}
	l.fsType, l.fsUUID = v["TYPE"], v["UUID"]
	add(v["TYPE"], v["UUID"])
	add(v["PTTYPE"], v["PTUUID"])
	return nil
}

func (h *Host) wipefs(ctx context.Context, d *held, add func(kind, uuid string)) error {
	out, err := h.on(ctx, d, toolTimeout, "", "wipefs", "--no-act", "--json")
	if err != nil {
		return fmt.Errorf("list signatures of %s: %w", d.name, err)
	}
	var answer struct {
		Signatures *[]struct {
			Type string  `json:"type"`
			UUID *string `json:"uuid"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(out, &answer); err != nil || answer.Signatures == nil {
		return errors.Join(fmt.Errorf("list signatures of %s: wipefs tells no list", d.name), err)
	}
	for _, s := range *answer.Signatures {
		id := ""
		if s.UUID != nil {
			id = *s.UUID
		}
		add(s.Type, id)
	}
	return nil
}

// lsblk tells what udev knows, or libblkid where there is no udev. In udev's
// database a partition has its disk's ID_PART_TABLE_TYPE, too
// (rules.d/60-persistent-storage.rules imports it from the parent): that is no
// signature of what is in the partition.
func (h *Host) lsblk(ctx context.Context, d *held, partition bool, add func(kind, uuid string)) error {
	out, err := h.on(ctx, d, toolTimeout, "", "lsblk", "--json", "--bytes", "--nodeps", "--output", "NAME,SIZE,FSTYPE,PTTYPE")
	if err != nil {
		return fmt.Errorf("list %s: %w", d.name, err)
	}
	var answer struct {
		Devices []struct {
			Name   string      `json:"name"`
			Size   json.Number `json:"size"` // a string until util-linux 2.33
			FSType *string     `json:"fstype"`
			PTType *string     `json:"pttype"`
		} `json:"blockdevices"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("list %s: %w", d.name, err)
	}
	if len(answer.Devices) != 1 || answer.Devices[0].Name != d.name || answer.Devices[0].Size.String() != strconv.FormatInt(d.node.Size, 10) {
		return fmt.Errorf("list %s: lsblk tells of no such device of %d bytes", d.name, d.node.Size)
	}
	dev := answer.Devices[0]
	if dev.FSType != nil {
		add(*dev.FSType, "")
	}
	if dev.PTType != nil && !partition {
		add(*dev.PTType, "")
	}
	return nil
}

// check asks a file system's own checker, which changes nothing with -n.
func (h *Host) check(ctx context.Context, kind string, d *held) (bool, error) {
	args := map[string][]string{"ext4": {"e2fsck", "-f", "-n"}, "xfs": {"xfs_repair", "-n"}}[kind]
	if args == nil {
		return false, nil
	}
	_, err := h.on(ctx, d, checkTimeout, "", args[0], args[1:]...)
	if err == nil {
		return true, nil
	}
	if hostexec.ExitCode(err) > 0 {
		return false, nil
	}
	return false, fmt.Errorf("check %s: %w", d.name, err)
}

// lvm runs a command of LVM that sees the given devices and no others: a disk
// that hangs elsewhere does not hold it up.
func (h *Host) lvm(ctx context.Context, devs []string, command string, args ...string) ([]byte, error) {
	var accept []string
	for _, d := range devs {
		accept = append(accept, `"a|^`+h.node(d)+`$|"`)
	}
	config := "devices{global_filter=[" + strings.Join(append(accept, `"r|.*|"`), ",") + "]"
	if dir := h.FS.Path("/dev"); dir != "/dev" {
		// Not this system's /dev: no udev speaks for it.
		config += fmt.Sprintf(` dir="%[1]s" scan=["%[1]s"] obtain_device_list_from_udev=0 external_device_info_source="none" hints="none" use_devicesfile=0`, dir)
	}
	return h.run(ctx, time.Minute, "", "lvm", append([]string{command, "--config", config + "}"}, args...)...)
}

// LVMFacts asks LVM for the physical volumes on the given devices and what they are part of.
func (h *Host) LVMFacts(ctx context.Context, devs []string) LVMFacts {
	f := LVMFacts{PVs: map[string]PVFacts{}, VGs: map[string]VGFacts{}}
	if len(devs) == 0 {
		return f
	}
	slices.Sort(devs)
	pvs, err1 := h.report(ctx, devs, "pvs", "pv", "pv_uuid,pv_name,vg_name,vg_uuid")
	vgs, err2 := h.report(ctx, devs, "vgs", "vg", "vg_name,vg_uuid,vg_tags,vg_missing_pv_count")
	lvs, err3 := h.report(ctx, devs, "lvs", "lv", "lv_name,vg_name,lv_layout")
	if err := errors.Join(err1, err2, err3); err != nil {
		f.Err = err.Error()
		return f
	}
	if len(pvs) != len(devs) {
		f.Err = fmt.Sprintf("pvs tells of %d physical volumes on the %d devices %s", len(pvs), len(devs), strings.Join(devs, ", "))
		return f
	}
	for _, p := range pvs {
		if !slices.Contains(devs, path.Base(p["pv_name"])) {
			f.Err = "pvs tells of " + p["pv_name"] + ", which was not asked for"
			return f
		}
		f.PVs[p["pv_uuid"]] = PVFacts{VolumeGroup: p["vg_name"], VGUUID: p["vg_uuid"]}
	}
	for _, v := range vgs {
		missing, err := strconv.Atoi(v["vg_missing_pv_count"])
		if err != nil {
			f.Err = fmt.Sprintf("vgs tells of %q missing physical volumes", v["vg_missing_pv_count"])
			return f
		}
		f.VGs[v["vg_name"]] = VGFacts{UUID: v["vg_uuid"], Tags: strings.Split(v["vg_tags"], ","), Missing: missing, Volumes: map[string]string{}}
	}
	for _, l := range lvs {
		if g, ok := f.VGs[l["vg_name"]]; ok {
			g.Volumes[strings.Trim(l["lv_name"], "[]")] = l["lv_layout"]
		}
	}
	return f
}

func (h *Host) report(ctx context.Context, devs []string, command, kind, fields string) ([]map[string]string, error) {
	args := []string{"--reportformat", "json", "-o", fields}
	if command == "lvs" {
		args = append(args, "--all")
	}
	out, err := h.lvm(ctx, devs, command, args...)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", command, err)
	}
	var answer struct {
		Report []map[string][]map[string]string `json:"report"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("ask %s: %w", command, err)
	}
	if len(answer.Report) != 1 || answer.Report[0][kind] == nil {
		return nil, fmt.Errorf("ask %s: it tells no list", command)
	}
	return answer.Report[0][kind], nil
}
