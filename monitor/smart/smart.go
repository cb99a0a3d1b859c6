// Package smart asks disks for their health: ATA SMART, SCSI log pages, the
// NVMe health log. It speaks to the kernel's ioctls and starts no program, but
// smartctl for drives that no ioctl reaches, where that is configured (Smartctl).
//
// Everything read is what the disk says at that moment. A disk that does not
// answer gives an error, never an earlier answer and never zeros.
package smart

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"holdfast.dev/internal/bounded"
)

// Protocol is the language a disk speaks.
type Protocol string

// Protocols.
const (
	ATA  Protocol = "ata"
	SCSI Protocol = "scsi"
	NVMe Protocol = "nvme"
)

// Report is what a disk says of itself. A nil pointer is something that it
// does not tell.
type Report struct {
	Protocol Protocol `json:"protocol"`
	Vendor   string   `json:"vendor,omitempty"` // SCSI alone
	Model    string   `json:"model"`
	Serial   string   `json:"serial"`
	Firmware string   `json:"firmware"`
	// CapacityBytes is 0 for a disk that does not tell.
	CapacityBytes uint64 `json:"capacityBytes"`
	// RPM is the speed of rotation; 0 for a disk that does not rotate.
	RPM *uint16 `json:"rpm,omitempty"`
	// Failing is the disk's own prediction that it will fail.
	Failing *bool `json:"failing,omitempty"`
	// Celsius is the disk's temperature.
	Celsius      *int    `json:"celsius,omitempty"`
	PowerOnHours *uint64 `json:"powerOnHours,omitempty"`
	PowerCycles  *uint64 `json:"powerCycles,omitempty"`
	// PercentUsed is the vendor's estimate of the endurance used up; it may be
	// more than 100, and 255 stands for anything above 254.
	PercentUsed *uint8 `json:"percentUsed,omitempty"`

	// One of these has what is of one protocol alone.
	ATA  *ATAHealth  `json:"ata,omitempty"`
	SCSI *SCSIHealth `json:"scsi,omitempty"`
	NVMe *NVMeHealth `json:"nvme,omitempty"`

	// Problems are parts of the report that could not be read.
	Problems []string `json:"problems,omitempty"`

	db *DriveDB
}

func (r *Report) problem(what string, err error) {
	r.Problems = append(r.Problems, what+": "+err.Error())
}

// Errors of a Reader.
var (
	// ErrNoAnswer is a disk that has not answered in time.
	ErrNoAnswer = errors.New("the disk does not answer")
	// ErrUnsupported is a disk, or a command, that has no such thing.
	ErrUnsupported = errors.New("the disk does not offer this")
)

// Reader reads disks, each under the deadline of its call. A disk that hangs
// its caller in the kernel costs one goroutine, however often it is asked: until
// the first call is over the next ones fail at once. It is safe for concurrent use.
type Reader struct {
	// Ask reads one disk; nil is ReadFile. It may hang.
	Ask func(ctx context.Context, device string) (*Report, error)
	// Late, when set, is told the key (of Read, the device) of a question that was given up and has
	// ended since, with no error but that its time was over: the disk answers again, and may be asked.
	Late func(key string)

	mu   sync.Mutex
	busy map[string]bool
}

// Read asks the disk with this device file, such as /dev/sda or /dev/nvme0n1.
// The error is ErrNoAnswer when ctx ends first, or while an earlier call hangs.
func (r *Reader) Read(ctx context.Context, device string) (*Report, error) {
	ask := r.Ask
	if ask == nil {
		ask = ReadFile
	}
	return r.ReadBy(ctx, device, func(ctx context.Context) (*Report, error) { return ask(ctx, device) })
}

// ReadBy is Read of a disk that is asked in another way; key names the disk and the way.
func (r *Reader) ReadBy(ctx context.Context, key string, ask func(context.Context) (*Report, error)) (*Report, error) {
	if !r.begin(key) {
		return nil, fmt.Errorf("read %s: %w", key, ErrNoAnswer)
	}
	report, err := bounded.Call(ctx, func() (*Report, error) {
		report, err := ask(ctx)
		r.end(key)
		if over := context.Cause(ctx); over != nil && r.Late != nil && (err == nil || errors.Is(err, over)) {
			r.Late(key)
		}
		return report, err
	})
	switch {
	case err == nil:
		return report, nil
	case errors.Is(err, context.Cause(ctx)):
		return nil, fmt.Errorf("read %s: %w", key, ErrNoAnswer)
	}
	return nil, fmt.Errorf("read %s: %w", key, err)
}

func (r *Reader) begin(device string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[device] {
		return false
	}
	if r.busy == nil {
		r.busy = map[string]bool{}
	}
	r.busy[device] = true
	return true
}

func (r *Reader) end(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, device)
}

// ReadFile opens a device file and reads the disk. It takes as long as the disk does.
func ReadFile(ctx context.Context, device string) (_ *Report, err error) {
	f, err := Open(device)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return Read(ctx, f)
}

// Device sends commands to one disk. Commands only read.
type Device interface {
	// NVMe tells whether the disk takes NVMe commands; if not, it takes SCSI's.
	NVMe() bool
	// Admin executes an NVMe admin command that reads into data. The error is a
	// StatusError when the disk refuses.
	Admin(c AdminCommand, data []byte) error
	// SCSI executes a command that reads into data (none when empty) and returns
	// how much was read. Sense is what the disk says beside; the error is a
	// SenseError when it refuses.
	SCSI(cdb, data []byte) (n int, sense Sense, err error)
}

// Namespaced is a Device that may be one of several namespaces of an NVMe controller.
type Namespaced interface {
	// Namespace is the identifier of the namespace; the error is ErrUnsupported
	// when the device is the controller itself.
	Namespace() (uint32, error)
}

// Read asks a disk for everything it tells. It fails when the disk cannot be
// identified or has no health to tell; of other parts that fail, the report has
// the reason. ctx is looked at between two commands.
func Read(ctx context.Context, d Device) (*Report, error) { return ReadWith(ctx, d, nil) }

// ReadWith is Read with a table of what vendors mean by their attributes, which may be nil.
func ReadWith(ctx context.Context, d Device, db *DriveDB) (*Report, error) {
	return readKnown(ctx, d, db, &knownDisk{})
}

func readKnown(ctx context.Context, d Device, db *DriveDB, known *knownDisk) (*Report, error) {
	if d.NVMe() {
		return readNVMe(ctx, d)
	}
	inq, err := inquire(d)
	if err != nil {
		return nil, err
	}
	if inq.vendor == "ATA" { // SAT-5: what translates ATA names itself so
		return readATA(ctx, d, inq, db, &known.ata)
	}
	return readSCSI(ctx, d, inq, &known.scsi)
}
