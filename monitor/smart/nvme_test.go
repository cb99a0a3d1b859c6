package smart_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"holdfast.dev/monitor/smart"
)

func nvmeDisk() *disk {
	id, ns, health, errs, tests := make([]byte, 4096), make([]byte, 4096), make([]byte, 512), make([]byte, 64*4), make([]byte, 564)
	put(id, 4, "S5GXNX0T        ")
	put(id, 24, "Example NVMe 3.84TB         ")
	put(id, 64, "GDC5602Q")
	binary.LittleEndian.PutUint16(id[256:], 1<<4)
	id[262] = 3
	binary.LittleEndian.PutUint64(ns, 7501476528)
	ns[26], ns[128+4+2] = 1, 9 // the second format, of 512 bytes
	health[0] = 0
	binary.LittleEndian.PutUint16(health[1:], 273+36)
	health[3], health[4], health[5] = 100, 10, 3
	binary.LittleEndian.PutUint64(health[32:], 1000)
	binary.LittleEndian.PutUint64(health[112:], 21)
	binary.LittleEndian.PutUint64(health[128:], 11237)
	binary.LittleEndian.PutUint64(health[160:], 2)
	binary.LittleEndian.PutUint64(health[176:], 5)
	binary.LittleEndian.PutUint16(health[200:], 273+35)
	binary.LittleEndian.PutUint64(errs, 5)
	binary.LittleEndian.PutUint16(errs[12:], 0x0281<<1|1)
	binary.LittleEndian.PutUint64(errs[16:], 81920)
	binary.LittleEndian.PutUint32(errs[24:], 1)
	tests[4], tests[4+28] = 0x20, 0x27 // extended: passed; failed in a segment
	return &disk{nvme: true, admin: map[string][]byte{"identify 1": id, "identify 0": ns, "log 1": errs, "log 2": health, "log 6": tests}}
}

func TestNVMe(t *testing.T) {
	d := nvmeDisk()
	r := read(t, d)
	if r.Model != "Example NVMe 3.84TB" || r.Serial != "S5GXNX0T" || r.Firmware != "GDC5602Q" || r.CapacityBytes != 7501476528*512 {
		t.Errorf("identity: %+v", r)
	}
	if *r.Celsius != 36 || *r.PowerOnHours != 11237 || *r.PowerCycles != 21 || *r.PercentUsed != 3 || *r.Failing || *r.RPM != 0 {
		t.Errorf("health: %+v", r)
	}
	h := r.NVMe
	if h.BytesRead != 512_000_000 || h.MediaErrors != 2 || h.ErrorLogEntries != 5 || *h.SelfTestFailures != 1 || len(h.SensorsCelsius) != 1 || h.SensorsCelsius[0] != 35 {
		t.Errorf("log: %+v", h)
	}
	if want := (smart.NVMeError{Count: 5, Type: 2, Code: 0x81, LBA: 81920, Namespace: 1}); len(h.Errors) != 1 || h.Errors[0] != want {
		t.Errorf("errors %+v, want %+v alone", h.Errors, want)
	}
	if len(r.Problems) != 0 {
		t.Errorf("problems: %q", r.Problems)
	}
}

// namespace is one of several that a disk has.
type namespace struct {
	*disk
	id    uint32
	err   error
	sizes map[uint32]uint64
}

func (n *namespace) Namespace() (uint32, error) { return n.id, n.err }

func (n *namespace) Admin(c smart.AdminCommand, data []byte) error {
	if c.Opcode == 6 && c.CDW10 == 0 {
		binary.LittleEndian.PutUint64(n.admin["identify 0"], n.sizes[c.NSID])
	}
	return n.disk.Admin(c, data)
}

// The capacity of nvme0n2 was that of nvme0n1.
func TestNVMeNamespaces(t *testing.T) {
	sizes := map[uint32]uint64{1: 1000, 2: 2000}
	for name, tc := range map[string]struct {
		reason string
		id     uint32
		err    error
		want   uint64
	}{
		"First":      {"nvme0n1", 1, nil, 1000 * 512},
		"Second":     {"nvme0n2", 2, nil, 2000 * 512},
		"Controller": {"nvme0 is of no namespace: its first", 0, fmt.Errorf("%w: inappropriate ioctl for device", smart.ErrUnsupported), 1000 * 512},
		"Unknown":    {"which one it is cannot be told, so no size is", 0, errors.New("input/output error"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t, &namespace{nvmeDisk(), tc.id, tc.err, sizes})
			if r.CapacityBytes != tc.want || (tc.want == 0) != (len(r.Problems) == 1) {
				t.Errorf("%s: %d bytes, want %d; problems %q", tc.reason, r.CapacityBytes, tc.want, r.Problems)
			}
		})
	}
}

func TestNVMeWarnings(t *testing.T) {
	for bits, failing := range map[smart.CriticalWarning]bool{0: false, smart.TemperatureOutside: false, smart.SpareLow: true, smart.ReliabilityDegraded: true, smart.ReadOnly | smart.TemperatureOutside: true} {
		d := nvmeDisk()
		d.admin["log 2"][0] = byte(bits)
		if r := read(t, d); *r.Failing != failing {
			t.Errorf("warning %#x (%q): failing %t", bits, bits.Reasons(), !failing)
		}
	}
}

func TestNVMeWideCounters(t *testing.T) {
	d := nvmeDisk()
	d.admin["log 2"][160+8] = 1
	binary.LittleEndian.PutUint64(d.admin["log 2"][48:], math.MaxUint64/2)
	if r := read(t, d); r.NVMe.MediaErrors != math.MaxUint64 || r.NVMe.BytesWritten != math.MaxUint64 {
		t.Errorf("counters beyond 64 bits: %+v", r.NVMe)
	}
}

// A refusal must not look like a disk without errors.
func TestNVMeRefusal(t *testing.T) {
	for _, key := range []string{"identify 1", "log 2"} {
		d := nvmeDisk()
		d.errs = map[string]error{key: smart.StatusError{Code: 0x06}}
		if r, err := smart.Read(t.Context(), d); !errors.As(err, new(smart.StatusError)) {
			t.Errorf("%s refused: %+v, %v", key, r, err)
		}
	}
	d := nvmeDisk()
	clear(d.admin["log 2"])
	if r, err := smart.Read(t.Context(), d); err == nil {
		t.Errorf("an empty health log reads as %+v", r.NVMe)
	}
	d = nvmeDisk()
	d.errs = map[string]error{"log 1": smart.StatusError{Type: 1, Code: 9}}
	if r := read(t, d); len(r.Problems) != 1 || r.NVMe.MediaErrors != 2 {
		t.Errorf("no error log: %+v", r)
	}
}

// The ioctl succeeds when the disk refuses: its result is the status, with the
// bit "do not retry" (0x4000) beside.
func TestAdminStatus(t *testing.T) {
	if err := smart.AdminStatus(0); err != nil {
		t.Errorf("success is %v", err)
	}
	for result, want := range map[int]smart.StatusError{0x4002: {Type: 0, Code: 2}, 0x4109: {Type: 1, Code: 9}, 0x0281: {Type: 2, Code: 0x81}} {
		if err := smart.AdminStatus(result); !errors.Is(err, want) {
			t.Errorf("result %#x is %v, want %v", result, err, want)
		}
	}
	if !errors.Is(smart.AdminStatus(0x4109), smart.ErrUnsupported) || errors.Is(smart.AdminStatus(0x0281), smart.ErrUnsupported) {
		t.Error("an invalid log page is what the disk does not offer, a media error is not")
	}
}
