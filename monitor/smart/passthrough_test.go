package smart_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// unknownOpcode is how a disk refuses a command that it does not know.
var unknownOpcode = smart.SenseError{Status: 2, Key: 5, ASC: 0x20}

// bridge is an ATA disk behind a translator that does not know the 16-byte form of ATA PASS-THROUGH.
type bridge struct {
	*disk
	twelve bool // it knows the form of 12 bytes
	sent   []string
}

func (b *bridge) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	b.sent = append(b.sent, fmt.Sprintf("%x", cdb))
	switch {
	case cdb[0] == 0x85, cdb[0] == 0xa1 && !b.twelve:
		return 0, nil, unknownOpcode
	case cdb[0] == 0xa1: // its fields, by SAT-5 12.2.2, in their places of the other form
		cdb = []byte{0x85, cdb[1], cdb[2], 0, cdb[3], 0, cdb[4], 0, cdb[5], 0, cdb[6], 0, cdb[7], cdb[8], cdb[9], 0}
	}
	return b.disk.SCSI(cdb, data)
}

// The commands of an ordinary disk, which has had no others.
func TestPassThroughOfSixteen(t *testing.T) {
	d := ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8})
	read(t, d)
	if diff := cmp.Diff([]string{
		"120000002400",
		"85080e0000000100000000000000ec00",
		"85062000da0000000000" + "4f00c200b000",
		"85080e00d00001000000" + "4f00c200b000",
		"85080e00d10001000000" + "4f00c200b000",
		"85080e00d50001000100" + "4f00c200b000",
		"85080e00d50001000600" + "4f00c200b000",
	}, d.asked); diff != "" {
		t.Errorf("want (-) and sent (+): %s", diff)
	}
}

// A disk behind a bridge that knows the 12-byte form alone had no health to tell.
func TestPassThroughOfTwelve(t *testing.T) {
	for _, registers := range []uint16{pass, fail} {
		b := &bridge{disk: ataDisk("EXAMPLE", registers, attr{5, 3, 100, 10, 8}), twelve: true}
		got, want := read(t, b), read(t, ataDisk("EXAMPLE", registers, attr{5, 3, 100, 10, 8}))
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{})); diff != "" || len(got.Problems) > 0 {
			t.Errorf("without the bridge (-) and behind it (+): %s\nproblems %q", diff, got.Problems)
		}
		if diff := cmp.Diff([]string{
			"120000002400",
			"85080e0000000100000000000000ec00", // once in a reading
			"a1080e0001000000" + "00ec0000",
			"a10620da00004fc2" + "00b00000",
			"a1080ed001004fc2" + "00b00000",
			"a1080ed101004fc2" + "00b00000",
			"a1080ed501014fc2" + "00b00000",
			"a1080ed501064fc2" + "00b00000",
		}, b.sent); diff != "" {
			t.Errorf("want (-) and sent (+): %s", diff)
		}
	}
}

func TestPassThroughOfNeither(t *testing.T) {
	b := &bridge{disk: ataDisk("EXAMPLE", pass)}
	_, err := smart.Read(t.Context(), b)
	if !errors.Is(err, smart.ErrUnsupported) || !strings.Contains(err.Error(), "ATA PASS-THROUGH") {
		t.Errorf("error %v, want that it does not offer ATA PASS-THROUGH", err)
	}
	if len(b.sent) != 3 {
		t.Errorf("%d commands, want INQUIRY and one of each form: %q", len(b.sent), b.sent)
	}
}

// A1h is BLANK for an optical drive. It goes to an ATA disk alone, and only when that does
// not know the other form.
func TestPassThroughOfTwelveIsTheLastResort(t *testing.T) {
	ata := func(errs map[string]error) *disk {
		d := ataDisk("EXAMPLE", pass)
		d.errs = errs
		return d
	}
	typed := func(kind byte) *disk {
		d := ata(map[string]error{"85": unknownOpcode})
		d.scsi["120000"][0] = kind
		return d
	}
	refuses := func(err error) *disk { return ata(map[string]error{"85": err}) }
	vendor := scsiDisk()
	vendor.errs = map[string]error{"4d": unknownOpcode}
	for name, tc := range map[string]struct {
		reason string
		disk   *disk
	}{
		"Optical":  {"an optical drive would be blanked", typed(0x05)},
		"Zoned":    {"no other type than 0 is known to be a disk with such a bridge", typed(0x14)},
		"Vendor":   {"a disk of another vendor has not said that it takes ATA commands", vendor},
		"Field":    {"an invalid field is no unknown command", refuses(smart.SenseError{Status: 2, Key: 5, ASC: 0x24})},
		"Access":   {"20h with a qualifier is denied access", refuses(smart.SenseError{Status: 2, Key: 5, ASC: 0x20, ASCQ: 2})},
		"Aborted":  {"the disk knows the command, and aborts it", refuses(smart.SenseError{Status: 2, Key: 0xb, ASC: 0x20})},
		"NotReady": {"a disk that is not ready may know it later", refuses(smart.SenseError{Status: 2, Key: 2, ASC: 4, ASCQ: 1})},
		"Busy":     {"nor does a busy one say what it knows", refuses(smart.SenseError{Status: 8})},
		"NoAnswer": {"what does not answer is not asked in another way: that costs its users a reset", refuses(errors.New("host status 0x03"))},
		"Kernel":   {"a kernel without SG_IO sends neither", refuses(smart.ErrUnsupported)},
		"Later":    {"a disk that has taken the form of 16 bytes knows it", ata(map[string]error{thresholds: unknownOpcode})},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := smart.Read(t.Context(), tc.disk)
			if err == nil && len(r.Problems) == 0 {
				t.Errorf("%s: nothing is wrong with %+v", tc.reason, r)
			}
			for _, cmd := range tc.disk.asked {
				if strings.HasPrefix(cmd, "a1") {
					t.Errorf("%s: it is sent %s", tc.reason, cmd)
				}
			}
		})
	}
}
