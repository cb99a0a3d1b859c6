//go:build bench

package monitor

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"holdfast.dev/monitor/smart"
)

// slowDisk answers as a disk of a protocol does that has everything it can be asked for, each
// command after a while.
type slowDisk struct {
	protocol smart.Protocol
	wait     time.Duration
	commands int
}

func (d *slowDisk) NVMe() bool { return d.protocol == smart.NVMe }

func (d *slowDisk) Admin(c smart.AdminCommand, data []byte) error {
	d.commands++
	time.Sleep(d.wait)
	if c.Opcode == 0x06 && c.CDW10 == 1 {
		copy(data[4:], "S                   MODEL")
		data[256] = 16 // self-tests; no capacity, so that the namespace is asked
	}
	if c.Opcode == 0x06 && c.CDW10 == 0 {
		data[0], data[128+2] = 8, 9 // blocks of 512 bytes
	}
	if c.Opcode == 0x02 && c.CDW10&0xff == 0x02 {
		data[1], data[2], data[3] = 0x2c, 0x01, 100 // 300 K, spare
	}
	return nil
}

func (d *slowDisk) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	d.commands++
	time.Sleep(d.wait)
	switch {
	case cdb[0] == 0x12 && cdb[1] == 0:
		vendor := "EXAMPLE "
		if d.protocol == smart.ATA {
			vendor = "ATA     "
		}
		return copy(data, "\x00\x00\x06\x12\x1f\x00\x00\x02"+vendor+"MODEL           0001"), nil, nil
	case cdb[0] == 0x12 && cdb[2] == 0x00:
		return copy(data, "\x00\x00\x00\x04\x00\x80\x83\xb1"), nil, nil
	case cdb[0] == 0x12 && cdb[2] == 0x83: // the name of a port on SAS
		return copy(data, "\x00\x83\x00\x0c\x61\x93\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd5"), nil, nil
	case cdb[0] == 0x12:
		return copy(data, []byte{0, cdb[2], 0, 4, 0x2a, 0x30, 0, 0}), nil, nil // 10,800 rotations, as 0xb1 has them
	case cdb[0] == 0x9e:
		return copy(data, "\x00\x00\x00\x00\x8b\xba\x0c\xaf\x00\x00\x02\x00"+string(make([]byte, 20))), nil, nil
	case cdb[0] == 0x4d && cdb[2]&0x3f == 0:
		return copy(data, "\x00\x00\x00\x0a\x00\x02\x03\x05\x0d\x0e\x10\x11\x15\x2f"), nil, nil
	case cdb[0] == 0x4d:
		return copy(data, []byte{cdb[2] & 0x3f, 0, 0, 8, 0, 0, 3, 4, 0, 30, 30, 0}), nil, nil
	case cdb[0] == 0xb7:
		return copy(data, "\x00\x0c\x00\x00\x00\x00\x00\x00"), nil, nil
	case cdb[0] == 0x85 && cdb[4] == 0xda:
		return 0, smart.Sense{0x72, 1, 0, 0x1d, 0, 0, 0, 14, 0x09, 0x0c, 17: 0x4f, 19: 0xc2, 21: 0x50}, nil
	case cdb[0] == 0x85 && cdb[14] == 0xec: // has SMART, and it is turned on
		binary.LittleEndian.PutUint16(data[2*82:], 1)
		binary.LittleEndian.PutUint16(data[2*85:], 1)
	}
	return len(data), nil, nil
}

// TestBenchDisks is what the figures of 60 disks rest on: so many commands are a reading.
func TestBenchDisks(t *testing.T) {
	for protocol, want := range map[smart.Protocol]int{smart.ATA: 7, smart.SCSI: 17, smart.NVMe: 5} {
		d := &slowDisk{protocol: protocol}
		r, err := smart.Read(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if r.Protocol != protocol || d.commands != want || len(r.Problems) > 0 {
			t.Errorf("%s: %d commands, want %d; read as %s, problems %q", protocol, d.commands, want, r.Protocol, r.Problems)
		}
	}
}

// disks60 is a host with 20 disks of each protocol, and a monitor that asks them through
// commands that take so long. The first one hangs when hung is set.
func disks60(t *testing.T, o func(*Options), wait time.Duration, hung bool) *Monitor {
	t.Helper()
	h, api := newHost(t), newMemory()
	disks := map[string]smart.Protocol{}
	for i := range 20 {
		disks[fmt.Sprintf("nvme%dn1", i)] = smart.NVMe
		disks[fmt.Sprintf("sda%c", 'a'+i)] = smart.ATA
		disks[fmt.Sprintf("sdb%c", 'a'+i)] = smart.SCSI
	}
	for name := range disks {
		h.plugDisk(name, "s"+name)
	}
	opts := h.options("n")
	opts.ScanInterval, opts.SmartInterval = 5*time.Second, 5*time.Minute
	o(&opts)
	m, _ := watchWith(t, h, api, opts, func(m *Monitor) {
		m.health.reader.Ask = func(ctx context.Context, device string) (*smart.Report, error) {
			if hung && device == "nvme0n1" {
				<-t.Context().Done()
			}
			r, err := smart.Read(ctx, &slowDisk{protocol: disks[device], wait: wait})
			if r != nil {
				r.Serial = "" // all are one
			}
			return r, err
		}
	})
	return m
}

func answered(m *Monitor) int {
	n := 0
	if p := m.published.Load(); p != nil {
		for _, r := range p.readings {
			if r.report != nil {
				n++
			}
		}
	}
	return n
}
