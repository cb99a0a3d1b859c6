package smart_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/monitor/smart"
)

// disk answers commands from tables. It stands in for disks that no machine
// here has; what it serves is laid out as the standards say.
type disk struct {
	nvme  bool
	admin map[string][]byte // "identify 1", "log 2"
	scsi  map[string][]byte // the start of the CDB in hex
	sense map[string]smart.Sense
	errs  map[string]error
	asked []string
}

func (d *disk) NVMe() bool { return d.nvme }

func (d *disk) Admin(c smart.AdminCommand, data []byte) error {
	key := fmt.Sprintf("identify %d", c.CDW10)
	if c.Opcode == 2 {
		key = fmt.Sprintf("log %d", c.CDW10&0xff)
		if want := uint32(len(data)/4 - 1); c.CDW10>>16 != want&0xffff || c.CDW11 != want>>16 {
			return fmt.Errorf("%s: asks for %d dwords into %d bytes", key, c.CDW10>>16, len(data))
		}
	}
	d.asked = append(d.asked, key)
	if err := d.errs[key]; err != nil {
		return err
	}
	page, ok := d.admin[key]
	if !ok {
		return smart.StatusError{Type: 1, Code: 9}
	}
	copy(data, page)
	return nil
}

func (d *disk) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	cmd := fmt.Sprintf("%x", cdb)
	d.asked = append(d.asked, cmd)
	for key, err := range d.errs {
		if strings.HasPrefix(cmd, key) {
			return 0, nil, err
		}
	}
	for key, s := range d.sense {
		if strings.HasPrefix(cmd, key) {
			return 0, s, nil
		}
	}
	for key, page := range d.scsi {
		if strings.HasPrefix(cmd, key) {
			return copy(data, page), nil, nil
		}
	}
	return 0, nil, smart.SenseError{Status: 2, Key: 5, ASC: 0x24}
}

func put(b []byte, at int, s string) { copy(b[at:], s) }

// INQUIRY asked for 96 bytes, and there are USB disks that choke on more than 36.
func TestInquiryIsShort(t *testing.T) {
	for _, d := range []*disk{scsiDisk(), ataDisk("EXAMPLE", pass)} {
		read(t, d)
		if d.asked[0] != "120000002400" {
			t.Errorf("the first command is %s, want INQUIRY for 36 bytes", d.asked[0])
		}
	}
}

// Whatever a disk answers, it is an error or a report.
func TestAnyAnswer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		for _, d := range []*disk{nvmeDisk(), ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8}), allLogs(), scsiDisk()} {
			for _, table := range []map[string][]byte{d.admin, d.scsi} {
				for key, p := range table {
					for range rnd.IntN(6) {
						p[rnd.IntN(len(p))] = byte(rnd.Uint32())
					}
					if len(p) == 512 && rnd.IntN(2) == 0 {
						sum(p)
					}
					if rnd.IntN(8) == 0 {
						table[key] = p[:rnd.IntN(len(p))]
					}
				}
			}
			r, err := smart.Read(t.Context(), d)
			if (r == nil) == (err == nil) {
				t.Fatalf("round %d: report %v, error %v", i, r, err)
			}
		}
	}
}

func TestReaderOfHungDisk(t *testing.T) {
	hang := make(chan struct{})
	calls := 0
	r := &smart.Reader{Ask: func(_ context.Context, device string) (*smart.Report, error) {
		if device == "/dev/sdb" {
			return &smart.Report{}, nil
		}
		calls++
		<-hang // as a call in the kernel, which no context ends
		return &smart.Report{}, nil
	}}
	late := make(chan string, 3)
	r.Late = func(device string) { late <- device }
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		began := time.Now()
		_, err := r.Read(ctx, "/dev/sda")
		cancel()
		if !errors.Is(err, smart.ErrNoAnswer) || time.Since(began) > 5*time.Second {
			t.Fatalf("hung disk: %v after %s", err, time.Since(began))
		}
	}
	if _, err := r.Read(t.Context(), "/dev/sdb"); err != nil {
		t.Errorf("the disk beside it: %v", err)
	}
	if len(late) > 0 {
		t.Errorf("%s is told to answer again", <-late)
	}
	close(hang)
	if device := <-late; device != "/dev/sda" {
		t.Errorf("%s answers again, want /dev/sda", device)
	}
	// The first call is over soon.
	if _, err := wait.Until(t.Context(), 10*time.Second, "a disk that answers again", func() (bool, error) {
		_, err := r.Read(t.Context(), "/dev/sda")
		return true, err
	}); err != nil {
		t.Fatal(err)
	}
	if calls != 2 || len(late) > 0 {
		t.Errorf("%d calls into the kernel, want 2: one that hung, one after it; %d answers more were late", calls, len(late))
	}
}

// A command that the kernel gives up, which may have cost the link a reset, is no late answer.
func TestReaderOfLateError(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		late bool
	}{
		"Aborted":   {errors.New("host status 0x03"), false},
		"TimeIsUp":  {fmt.Errorf("log page 2: %w", context.DeadlineExceeded), true},
		"LateWhole": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				late := false
				r := &smart.Reader{Late: func(string) { late = true }}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := r.ReadBy(ctx, "sda", func(context.Context) (*smart.Report, error) {
					time.Sleep(time.Minute)
					return &smart.Report{}, tc.err
				}); !errors.Is(err, smart.ErrNoAnswer) {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				if late != tc.late {
					t.Errorf("late: %t", late)
				}
			})
		})
	}
}

func TestOpenOfNoDisk(t *testing.T) {
	var r smart.Reader
	for device, want := range map[string]string{"/dev/does-not-exist": "no such file", t.TempDir(): "no device", "/dev/null": "does not offer"} {
		if _, err := r.Read(t.Context(), device); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", device, err, want)
		}
	}
}

func read(t *testing.T, d smart.Device) *smart.Report {
	t.Helper()
	r, err := smart.Read(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
