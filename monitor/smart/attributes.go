package smart

import "strings"

// Attributes that the report itself looks at.
const (
	attrPowerOn       = 9
	attrPowerCycles   = 12
	attrUncorrectable = 187
	attrAirflow       = 190
	attrTemperature   = 194
)

// format says which of the 48 bits of a raw value count.
type format uint8

const (
	plain  format = iota // all of them
	low16                // the low 16; above are the least and the most, or other counts
	low32                // the low 32; above is a part of a unit
	low8                 // the low 8
	halves               // the high 16 count, the low 32 are operations (Seagate)
)

type attribute struct {
	id     uint8
	name   string
	format format
	// source shows the meaning, and the packing where there is one.
	source string
}

const (
	// The draft that gave the first attributes their numbers, which vendors have kept.
	sff    = "SFF-8035i revision 2.0 and the vendors since"
	intel  = "Intel SSD DC S3500 product specification, SMART attributes"
	micron = "Micron technical note TN-FD-22, SMART attributes"
)

// attributes are those whose number means the same to the vendors of disks in
// servers. Others are kept raw, without a name.
var attributes = []attribute{
	{1, "read error rate", plain, sff + "; no count where the vendor packs it"},
	{3, "spin-up time", low16, sff},
	{4, "start/stop count", plain, sff},
	{5, "reallocated sectors", low16, sff + "; other counts above: Hitachi and IBM (43 and 43, 22 and 4 in testdata/pages), Fujitsu; smartctl's default, raw16(raw16)"},
	{7, "seek error rate", halves, "Seagate: errors in the high 16 bits, seeks in the low 32"},
	{9, "power-on hours", low32, sff + "; Seagate has milliseconds in the high bits; of another unit: DriveDB.perHour"},
	{10, "spin retries", low16, sff},
	{11, "recalibration retries", plain, sff},
	{12, "power cycles", low32, sff},
	{170, "available reserved space", plain, intel},
	{171, "program failures", low32, intel},
	{172, "erase failures", low32, intel},
	{173, "wear leveling", low16, micron + "; Phison: the most erasures of a block, and above the average"},
	{174, "unexpected power losses", low32, intel},
	{175, "power loss protection failures", low16, intel + "; above are the age and the number of the tests"},
	{180, "unused reserved blocks", plain, micron},
	{183, "interface downshifts", low32, intel},
	{184, "end-to-end errors", low32, "Hewlett-Packard SMART IV; " + intel},
	{187, "reported uncorrectable errors", low32, "Seagate, Intel, Micron: errors that the host was told of"},
	{188, "command timeouts", low16, "Seagate: all of them; those over 5 s and over 7.5 s in the 16 bits each above"},
	{189, "high fly writes", plain, "Seagate"},
	{190, "airflow temperature", low8, "Seagate, Western Digital, Intel: the least and the most above"},
	{191, "shock", plain, "Seagate, Western Digital"},
	{192, "power-off retracts", low32, sff},
	{193, "load cycles", low32, sff},
	{194, "temperature", low8, sff + "; the least and the most above"},
	{195, "corrected errors", plain, "Seagate; no count where the vendor packs it"},
	{196, "reallocation events", low16, sff},
	{197, "pending sectors", low32, sff},
	{198, "offline uncorrectable sectors", low32, sff},
	{199, "interface checksum errors", low32, sff},
	{200, "write error rate", plain, "Western Digital"},
	{231, "life left", plain, "Kingston, Phison, SandForce"},
	{233, "media wearout", plain, intel + "; in the value"},
	{240, "head flying hours", low32, "Seagate, Western Digital, Toshiba"},
	{241, "written", plain, "of units that differ by the vendor"},
	{242, "read", plain, "of units that differ by the vendor"},
}

// attribute returns an attribute's name and the part of its raw value that counts,
// by this package's own table, else by the host's. The power-on time is in hours, as far
// as the host's table tells of another unit.
func (db *DriveDB) attribute(id uint8, raw uint64, model, firmware string) (name string, count uint64) {
	name, count = decode(id, raw, model)
	if id == attrPowerOn {
		return name, count / db.perHour(model, firmware)
	}
	if name == "" {
		if n, c, ok := db.decode(id, raw, model, firmware); ok {
			return n, c
		}
	}
	return name, count
}

// decode returns an attribute's name and the part of its raw value that counts.
func decode(id uint8, raw uint64, model string) (name string, count uint64) {
	for _, a := range attributes {
		if a.id != id {
			continue
		}
		return a.name, a.format.count(raw, strings.HasPrefix(model, "ST"))
	}
	return "", raw
}

func (f format) count(raw uint64, seagate bool) uint64 {
	switch f {
	case low8:
		return raw & 0xff
	case low16:
		return raw & 0xffff
	case low32:
		return raw & 0xffffffff
	case halves:
		if seagate {
			return raw >> 32
		}
	}
	return raw
}
