package verdict

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/monitor/smart"
)

// Thresholds say which numbers of a disk's own report speak against it, and how
// many warnings of the kernel's log. The default ones, thresholds.yaml, have their
// evidence beside each number.
type Thresholds struct {
	// Rules, of a file laid over those of DefaultThresholds: the file's rules about a signal take
	// the place of the built-in ones about it.
	Rules []Rule `yaml:"rules,omitempty"`
	// Windows, of a file laid over those of DefaultThresholds by name.
	Windows []Window `yaml:"windows,omitempty"`
	// Accepted are numbers that people have looked at and live with.
	Accepted []Acceptance `yaml:"accepted,omitempty"`
}

// Rule is about one number of the report. It has either AtLeast or Grows.
type Rule struct {
	// Signal names the number, see Signals; Name is what people read.
	Signal string `yaml:"signal"`
	Name   string `yaml:"name"`
	// AtLeast is the number from which on the rule holds, ClearBelow the one
	// below which it ceases to (default AtLeast), Readings how many readings in
	// a row must say so (default 1).
	AtLeast    *float64          `yaml:"atLeast,omitempty"`
	ClearBelow *float64          `yaml:"clearBelow,omitempty"`
	Readings   int               `yaml:"readings,omitempty"`
	Severity   v1alpha1.Severity `yaml:"severity,omitempty"`
	// Grows makes a warning of Class of each growth between two readings.
	Grows bool                `yaml:"grows,omitempty"`
	Class v1alpha1.FaultClass `yaml:"class,omitempty"`
	// Why is the evidence for the number.
	Why string `yaml:"why"`
	// Remove, in a file, takes the built-in rules about the signal out; nothing but Signal
	// goes with it. No rule of Thresholds has it.
	Remove bool `yaml:"remove,omitempty"`
}

// Acceptance lets a disk have a number without any rule about it holding.
type Acceptance struct {
	Disk   string  `yaml:"disk"`
	Signal string  `yaml:"signal"`
	UpTo   float64 `yaml:"upTo"`
	Why    string  `yaml:"why"`
}

//go:embed thresholds.yaml
var defaultThresholds []byte

// DefaultThresholds are those of this package.
func DefaultThresholds() *Thresholds {
	t, err := parseThresholds("thresholds.yaml", defaultThresholds, &Thresholds{})
	if err != nil {
		panic(err) // it is part of the program
	}
	return t
}

// ParseThresholds reads and checks thresholds, and lays them over the built-in
// ones; name is for errors.
func ParseThresholds(name string, data []byte) (*Thresholds, error) {
	return parseThresholds(name, data, DefaultThresholds())
}

func parseThresholds(name string, data []byte, base *Thresholds) (*Thresholds, error) {
	t := &Thresholds{}
	if err := strictyaml.Decode(name, data, t); err != nil {
		return nil, err
	}
	if err := t.check(name, data, base); err != nil {
		return nil, err
	}
	return t.over(base), nil
}

var signalNames = []string{
	"ata.failing", "ata.prefailure", "ata.uncorrectable", "scsi.failing", "scsi.uncorrected.read", "scsi.uncorrected.write", "scsi.uncorrected.verify", "scsi.scanErrors", "scsi.grownDefects",
	"ata.selfTestFailures", "scsi.selfTestFailures", "nvme.selfTestFailures",
	"nvme.warning.spare", "nvme.warning.temperature", "nvme.warning.reliability", "nvme.warning.readOnly", "nvme.warning.backup",
	"nvme.warning.persistentMemory", "nvme.spareBelowThreshold", "nvme.mediaErrors", "percentUsed", "hdd.celsius",
}

func knownSignal(name string) bool {
	kind, id, _ := strings.Cut(name, ".")
	if kind == "ata" || kind == "hdd" || kind == "ssd" {
		if n, err := strconv.ParseUint(id, 10, 8); err == nil && strconv.FormatUint(n, 10) == id && n > 0 {
			return true
		}
	}
	return slices.Contains(signalNames, name)
}

// Signals are the numbers of a report that rules can be about: what the disk
// does not tell is not there. Truths are 1 or 0. An ATA attribute N is ata.N, and
// hdd.N of a disk that rotates, ssd.N of one that does not.
func Signals(r *smart.Report) map[string]float64 {
	s := map[string]float64{}
	truth := func(name string, b bool) {
		s[name] = 0
		if b {
			s[name] = 1
		}
	}
	tests := func(kind string, failures *int) {
		if failures != nil {
			s[kind+".selfTestFailures"] = float64(*failures)
		}
	}
	if r.PercentUsed != nil {
		s["percentUsed"] = float64(*r.PercentUsed)
	}
	if r.Celsius != nil && rotates(r) {
		s["hdd.celsius"] = float64(*r.Celsius)
	}
	if h := r.ATA; h != nil {
		if r.Failing != nil {
			truth("ata.failing", *r.Failing)
		}
		ataSignals(s, r)
		if h.Uncorrectable != nil {
			s["ata.uncorrectable"] = float64(*h.Uncorrectable)
		}
		tests("ata", h.StandingTestFailures)
	}
	if h := r.SCSI; h != nil {
		if r.Failing != nil {
			truth("scsi.failing", *r.Failing)
		}
		for op, c := range map[string]*smart.ErrorCounters{"read": h.Read, "write": h.Write, "verify": h.Verify} {
			if c != nil && c.Uncorrected != nil {
				s["scsi.uncorrected."+op] = float64(*c.Uncorrected)
			}
		}
		if h.ScanErrors != nil {
			s["scsi.scanErrors"] = float64(*h.ScanErrors)
		}
		if h.GrownDefects != nil {
			s["scsi.grownDefects"] = float64(*h.GrownDefects)
		}
		tests("scsi", h.StandingTestFailures)
	}
	if h := r.NVMe; h != nil {
		for bit, name := range map[smart.CriticalWarning]string{
			smart.SpareLow: "spare", smart.TemperatureOutside: "temperature", smart.ReliabilityDegraded: "reliability",
			smart.ReadOnly: "readOnly", smart.BackupFailed: "backup", smart.PersistentMemoryUnreliable: "persistentMemory",
		} {
			truth("nvme.warning."+name, h.CriticalWarning&bit != 0)
		}
		truth("nvme.spareBelowThreshold", h.AvailableSpare < h.SpareThreshold)
		s["nvme.mediaErrors"] = float64(h.MediaErrors)
		tests("nvme", h.StandingTestFailures)
	}
	return s
}

func ataSignals(s map[string]float64, r *smart.Report) {
	kind := "ssd."
	if rotates(r) {
		kind = "hdd."
	}
	failed, told := 0, len(r.ATA.Attributes) > 0
	for _, a := range r.ATA.Attributes {
		s[fmt.Sprintf("ata.%d", a.ID)] = float64(a.Count)
		s[fmt.Sprintf("%s%d", kind, a.ID)] = float64(a.Count)
		told = told && (!a.Prefailure || a.Threshold != nil)
		if a.Prefailure && a.Failed() {
			failed++
		}
	}
	if told || failed > 0 {
		s["ata.prefailure"] = float64(failed)
	}
}

// has says whether a disk like that of the report can tell a signal.
func has(r *smart.Report, signal string) bool {
	kind, _, _ := strings.Cut(signal, ".")
	switch kind {
	case "ata":
		return r.Protocol == smart.ATA
	case "scsi":
		return r.Protocol == smart.SCSI
	case "nvme":
		return r.Protocol == smart.NVMe
	case "hdd":
		return rotates(r)
	case "ssd":
		return !rotates(r)
	}
	return true
}

// rotates says whether the disk rotates. Old drives do not tell their speed; an
// SSD tells that it has none (ACS-2 and SBC-3, nominal media rotation rate).
func rotates(r *smart.Report) bool { return r.RPM == nil || *r.RPM > 0 }
