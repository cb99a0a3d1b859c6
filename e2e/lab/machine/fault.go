package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"holdfast.dev/e2e/lab/qmp"
)

// ErrNoHotPlug is returned for a disk whose bus cannot plug while the machine runs.
var ErrNoHotPlug = errors.New("the bus cannot plug a disk while the machine runs")

// Fault is what is wrong with a disk. The zero value is a good disk. Setting it
// back to that undoes every fault.
type Fault struct {
	// BadSectors cannot be read (unrecovered read error); writing them works, and
	// mends nothing.
	BadSectors []int64
	// ReadOnly makes every write fail, as a worn-out SSD does.
	ReadOnly bool
	// IOPS, when above 0, makes the disk slow: as many requests a second.
	IOPS int
	// Hung answers nothing any more, not even with an error.
	Hung bool
	// CriticalWarning is the byte of that name in an NVMe disk's health log (NVM
	// Express Base Specification 2.0, figure 207): 0x01 spare below threshold, 0x02
	// temperature, 0x04 reliability degraded, 0x08 read-only, 0x10 backup failed.
	CriticalWarning uint8
}

// SetFault makes a disk bad, or good again. It holds over power cycles.
func (m *Machine) SetFault(ctx context.Context, disk string, f Fault) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(disk)
	if err != nil {
		return err
	}
	if f.CriticalWarning != 0 && b.disk.Bus != NVMe {
		return fmt.Errorf("disk %s: only an NVMe disk has a critical warning", disk)
	}
	b.fault = f
	if !b.plugged || !m.running() {
		return nil
	}
	if err := m.apply(ctx, b); err != nil {
		return fmt.Errorf("set fault of disk %s: %w", disk, err)
	}
	return nil
}

// apply brings QEMU to what the bay's fault says. The caller holds mu.
func (m *Machine) apply(ctx context.Context, b *bay) error {
	if err := m.injectNothing(ctx, b); err != nil {
		return err
	}
	if rules := b.rules(); len(rules) > 0 {
		if err := m.do(ctx, "blockdev-add", map[string]any{"driver": "blkdebug", "node-name": b.faultNode(), "image": b.fileNode(), "inject-error": rules}); err != nil {
			return err
		}
		b.failing = true
		if err := m.reopen(ctx, b, b.faultNode()); err != nil {
			return err
		}
	}
	// A limit of one byte a second answers a request of 4 KiB after an hour.
	limit := map[string]any{"id": b.device(), "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": b.fault.IOPS, "iops_rd": 0, "iops_wr": 0}
	if b.fault.Hung {
		limit["bps"], limit["iops"] = 1, 0
	}
	if err := m.do(ctx, "block_set_io_throttle", limit); err != nil {
		return err
	}
	if b.disk.Bus != NVMe {
		return nil
	}
	return m.do(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + b.device(), "property": "smart_critical_warning", "value": b.fault.CriticalWarning})
}

// rules are blkdebug's (https://www.qemu.org/docs/master/devel/testing.html and
// BlkdebugInjectErrorOptions in QEMU's QMP reference).
func (b *bay) rules() []map[string]any {
	errno := syscall.EIO
	if b.disk.Bus == SCSI {
		errno = syscall.ENODATA // becomes MEDIUM ERROR, unrecovered read error (QEMU scsi/utils.c)
	}
	var rules []map[string]any
	for _, s := range b.fault.BadSectors {
		rules = append(rules, map[string]any{"event": "none", "iotype": "read", "errno": int(errno), "sector": s, "once": false})
	}
	if b.fault.ReadOnly {
		rules = append(rules, map[string]any{"event": "none", "iotype": "write", "errno": int(syscall.EIO), "once": false})
	}
	return rules
}

func (m *Machine) injectNothing(ctx context.Context, b *bay) error {
	if !b.failing {
		return nil
	}
	if err := m.reopen(ctx, b, b.fileNode()); err != nil {
		return err
	}
	b.failing = false
	return m.do(ctx, "blockdev-del", map[string]any{"node-name": b.faultNode()})
}

// reopen puts another node below the disk's own, under a running guest.
func (m *Machine) reopen(ctx context.Context, b *bay, below string) error {
	o := b.rawOptions()
	o["file"] = below
	return m.do(ctx, "blockdev-reopen", map[string]any{"options": []any{o}})
}

// Pull takes a disk out of its place. When it returns, the guest's kernel has
// let go of it. The error is ErrNoHotPlug for a bus that cannot do that in a
// running machine; then the disk is gone after the next power cut.
func (m *Machine) Pull(ctx context.Context, disk string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(disk)
	if err != nil {
		return err
	}
	b.pulled = true
	if !b.plugged || !m.running() {
		return nil
	}
	if b.disk.Bus == ATA {
		return fmt.Errorf("pull disk %s: %w", disk, ErrNoHotPlug)
	}
	if err := m.unplug(ctx, b); err != nil {
		return fmt.Errorf("pull disk %s: %w", disk, err)
	}
	return nil
}

func (m *Machine) unplug(ctx context.Context, b *bay) error {
	ctx, cancel := context.WithTimeout(ctx, 3*qmpTimeout)
	defer cancel()
	mark := m.qmp.Mark()
	if err := m.do(ctx, "device_del", map[string]any{"id": b.device()}); err != nil {
		return err
	}
	_, err := m.qmp.Await(ctx, mark, func(e qmp.Event) bool {
		var d struct{ Device string }
		return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &d) == nil && d.Device == b.device()
	})
	if err != nil {
		return err
	}
	b.plugged = false
	for _, node := range []string{b.node(), b.faultNode(), b.fileNode()} {
		if node == b.faultNode() && !b.failing {
			continue
		}
		if err := m.do(ctx, "blockdev-del", map[string]any{"node-name": node}); err != nil {
			return err
		}
	}
	b.failing = false
	return nil
}

// Insert puts a pulled disk back.
func (m *Machine) Insert(ctx context.Context, disk string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(disk)
	if err != nil {
		return err
	}
	return m.insert(ctx, b)
}

func (m *Machine) insert(ctx context.Context, b *bay) error {
	b.pulled = false
	if b.plugged || !m.running() {
		return nil
	}
	if b.disk.Bus == ATA {
		return fmt.Errorf("insert disk %s: %w", b.disk.Name, ErrNoHotPlug)
	}
	for _, o := range []map[string]any{b.fileOptions(), b.rawOptions()} {
		if err := m.do(ctx, "blockdev-add", o); err != nil {
			return fmt.Errorf("insert disk %s: %w", b.disk.Name, err)
		}
	}
	if err := m.do(ctx, "device_add", b.deviceOptions()); err != nil {
		return fmt.Errorf("insert disk %s: %w", b.disk.Name, err)
	}
	b.plugged, b.failing = true, false
	if err := m.apply(ctx, b); err != nil {
		return fmt.Errorf("insert disk %s: %w", b.disk.Name, err)
	}
	return nil
}

// Swap puts a new, empty and good disk with another serial number (and WWN,
// unless that is 0) in the place of one that was pulled.
func (m *Machine) Swap(ctx context.Context, disk, serial string, wwn uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(disk)
	if err != nil {
		return err
	}
	if !b.pulled {
		return fmt.Errorf("swap disk %s: it is in its place; pull it first", disk)
	}
	if b.plugged && m.running() {
		return fmt.Errorf("swap disk %s: %w; cut the power first", disk, ErrNoHotPlug)
	}
	next := b.disk
	next.Serial, next.WWN = serial, wwn
	if err := next.validate(); err != nil {
		return fmt.Errorf("swap disk: %w", err)
	}
	b.disk, b.fault = next, Fault{}
	if err := b.makeDisk(); err != nil {
		return fmt.Errorf("swap disk %s: %w", disk, err)
	}
	return m.insert(ctx, b)
}

// Disk is the disk that is, or belongs, in a place.
func (m *Machine) Disk(name string) (Disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(name)
	if err != nil {
		return Disk{}, err
	}
	return b.disk, nil
}

// Fault is what is wrong with a disk now, for changing a part of it.
func (m *Machine) Fault(disk string) (Fault, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.bay(disk)
	if err != nil {
		return Fault{}, err
	}
	return b.fault, nil
}
