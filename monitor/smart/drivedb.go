package smart

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"holdfast.dev/internal/hostfs"
)

// DriveDB knows what vendors mean by attributes that this package has no name for:
// smartmontools' drivedb.h, where a host has it. What this package knows itself, it
// does not change, but for the unit of the power-on time: the thresholds were made for
// that. A nil DriveDB knows nothing.
type DriveDB struct {
	entries []driveEntry
	common  map[uint8]preset // for every drive (the entry DEFAULT)

	mu    sync.Mutex
	found map[[2]string]driveEntry // by model and firmware
}

// driveEntry has its expressions as text: compiled, those of the whole table take more
// memory than the rest of the process, and a host has few models.
type driveEntry struct {
	model, firmware string
	presets         map[uint8]preset
	noLogDirectory  bool // -F nologdir: the drive may freeze when its log directory is read
}

// find is the first entry that a drive matches, as smartctl has it; an empty one when there is none.
func (db *DriveDB) find(model, firmware string) driveEntry {
	db.mu.Lock()
	defer db.mu.Unlock()
	key := [2]string{model, firmware}
	if e, ok := db.found[key]; ok {
		return e
	}
	matches := func(expr, s string) bool {
		re, err := whole(expr)
		return err == nil && re.MatchString(s) // it was compiled once before
	}
	i := slices.IndexFunc(db.entries, func(e driveEntry) bool {
		return matches(e.model, model) && (e.firmware == "" || matches(e.firmware, firmware))
	})
	if i < 0 {
		db.found[key] = driveEntry{}
	} else {
		db.found[key] = db.entries[i]
	}
	return db.found[key]
}

// noLogDirectory says that a drive may freeze when its log directory is read.
func (db *DriveDB) noLogDirectory(model, firmware string) bool {
	return db != nil && db.find(model, firmware).noLogDirectory
}

func whole(expr string) (*regexp.Regexp, error) { return regexp.CompilePOSIX("^(" + expr + ")$") }

// preset is the option -v ID,FORMAT,NAME of smartctl(8).
type preset struct{ format, name string }

// driveDBPaths are where Debian, and others, have the file.
var driveDBPaths = []string{"/var/lib/smartmontools/drivedb/drivedb.h", "/usr/share/smartmontools/drivedb.h"}

// ReadDriveDB reads the host's drivedb.h. It is nil when the host has none.
func ReadDriveDB(host *hostfs.FS) (*DriveDB, error) {
	for _, path := range driveDBPaths {
		data, err := host.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		db, err := ParseDriveDB(strings.ToValidUTF8(string(data), "?")) // its names become labels
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return db, nil
	}
	return nil, nil
}

// ParseDriveDB reads a table of entries of five strings, { family, model, firmware,
// warning, presets }, written as C has it (drivedb.h of smartmontools: strings behind
// each other are one, comments may stand anywhere). Anything else is an error: half
// a table could name an attribute wrongly.
func ParseDriveDB(text string) (*DriveDB, error) {
	p := tableParser{rest: text, line: 1}
	db := &DriveDB{common: map[uint8]preset{}, found: map[[2]string]driveEntry{}}
	for {
		switch tok, err := p.next(); {
		case err != nil:
			return nil, err
		case tok.kind == 0:
			return db, nil
		case tok.kind == ',':
		case tok.kind == '{':
			fields, err := p.entry()
			if err != nil {
				return nil, err
			}
			if err := db.add(fields); err != nil {
				return nil, fmt.Errorf("line %d: %w", p.line, err)
			}
		default:
			return nil, fmt.Errorf("line %d: %q where an entry begins", p.line, tok.kind)
		}
	}
}

func (db *DriveDB) add(f []string) error {
	family, model, firmware, options := f[0], f[1], f[2], f[4]
	presets, err := parsePresets(options)
	switch {
	case err != nil:
		return err
	case family == "VERSION", strings.HasPrefix(family, "USB:"):
		return nil
	case family == "DEFAULT":
		db.common = presets
		return nil
	}
	for _, expr := range []string{model, firmware} {
		if _, err := whole(expr); err != nil {
			return fmt.Errorf("expression: %w", err)
		}
	}
	db.entries = append(db.entries, driveEntry{model, firmware, presets, strings.Contains(options, "-F nologdir")})
	return nil
}

// parsePresets reads "-v 9,msec24hour32 -v 190,tempminmax,Airflow -F samsung".
func parsePresets(options string) (map[uint8]preset, error) {
	out := map[uint8]preset{}
	words := strings.Fields(options)
	for i := 0; i < len(words); i += 2 {
		if i+1 == len(words) || !strings.HasPrefix(words[i], "-") {
			return nil, fmt.Errorf("options %q", options)
		}
		if words[i] != "-v" {
			continue
		}
		id, rest, ok := strings.Cut(words[i+1], ",")
		n, err := strconv.ParseUint(id, 10, 8)
		if !ok || err != nil || n == 0 {
			return nil, fmt.Errorf("option -v %s", words[i+1])
		}
		format, name, _ := strings.Cut(rest, ",")
		name, _, _ = strings.Cut(name, ",") // "HDD" or "SSD" may follow
		format, _, _ = strings.Cut(format, ":")
		out[uint8(n)] = preset{format: format, name: strings.ToLower(strings.ReplaceAll(name, "_", " "))}
	}
	return out, nil
}

// decode returns what the table says of an attribute; ok is false when it says
// nothing, or has it in a format that does not count.
func (db *DriveDB) decode(id uint8, raw uint64, model, firmware string) (name string, count uint64, ok bool) {
	if db == nil {
		return "", raw, false
	}
	p, ok := db.common[id]
	if own, told := db.find(model, firmware).presets[id]; told {
		if own.name == "" {
			own.name = p.name
		}
		p, ok = own, true
	}
	if !ok || p.name == "" || strings.HasPrefix(p.name, "unknown") {
		return "", raw, false
	}
	// smartctl(8), option -v: which of the 48 bits are the first number.
	switch p.format {
	case "raw48", "hex48":
		return p.name, raw, true
	case "raw8", "raw16", "raw16(raw16)", "raw16(avg16)", "tempminmax":
		return p.name, raw & map[bool]uint64{true: 0xff, false: 0xffff}[p.format == "raw8" || p.format == "tempminmax"], true
	case "raw24(raw8)", "raw24/raw24":
		return p.name, raw & 0xffffff, true
	case "raw24/raw32", "msec24hour32":
		return p.name, raw & 0xffffffff, true
	}
	return p.name, raw, false
}

// perHour is in how many steps to the hour a drive counts its power-on time (smartctl(8),
// option -v 9: the names of the formats, and those that were there before formats).
func (db *DriveDB) perHour(model, firmware string) uint64 {
	if db == nil {
		return 1
	}
	switch db.find(model, firmware).presets[attrPowerOn].format {
	case "minutes", "min2hour":
		return 60
	case "halfminutes", "halfmin2hour":
		return 120
	case "seconds", "sec2hour":
		return 3600
	}
	return 1
}

// tableParser takes a C table apart.
type tableParser struct {
	rest string
	line int
}

// token is a string (kind '"'), one of the punctuation marks, or the end (0).
type token struct {
	kind byte
	text string
}

func (p *tableParser) skip(n int) {
	p.line += strings.Count(p.rest[:n], "\n")
	p.rest = p.rest[n:]
}

func (p *tableParser) next() (token, error) {
	for {
		trimmed := strings.TrimLeft(p.rest, " \t\r\n")
		p.skip(len(p.rest) - len(trimmed))
		end := -1
		switch {
		case p.rest == "":
			return token{}, nil
		case strings.HasPrefix(p.rest, "//"), p.rest[0] == '#': // a comment, a directive
			end = strings.IndexByte(p.rest, '\n')
			if end < 0 {
				end = len(p.rest)
			}
		case strings.HasPrefix(p.rest, "/*"):
			if end = strings.Index(p.rest, "*/"); end < 0 {
				return token{}, fmt.Errorf("line %d: a comment without an end", p.line)
			}
			end += 2
		}
		if end < 0 {
			break
		}
		p.skip(end)
	}
	c := p.rest[0]
	if strings.IndexByte("{},", c) >= 0 {
		p.skip(1)
		return token{kind: c}, nil
	}
	if c != '"' {
		return token{}, fmt.Errorf("line %d: %.20q is no part of a table of strings", p.line, p.rest)
	}
	return p.str()
}

func (p *tableParser) str() (token, error) {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.skip(i + 1)
			return token{kind: '"', text: b.String()}, nil
		case '\n':
			return token{}, fmt.Errorf("line %d: a string without an end", p.line)
		case '\\':
			i++
			if i == len(p.rest) {
				break
			}
			switch e := p.rest[i]; e {
			case '\\', '"', '?':
				b.WriteByte(e)
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			default:
				return token{}, fmt.Errorf("line %d: the escape \\%c", p.line, e)
			}
		default:
			b.WriteByte(c)
		}
	}
	return token{}, fmt.Errorf("line %d: a string without an end", p.line)
}

// entry reads what follows the opening brace.
func (p *tableParser) entry() (fields []string, err error) {
	var field strings.Builder
	some := false
	for {
		tok, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case tok.kind == '"':
			field.WriteString(tok.text)
			some = true
		case (tok.kind == ',' || tok.kind == '}') && (some || tok.kind == '}'):
			if some {
				fields = append(fields, field.String())
			}
			field.Reset()
			some = false
			if tok.kind == '}' {
				if len(fields) != 5 {
					return nil, fmt.Errorf("line %d: an entry of %d strings, want 5", p.line, len(fields))
				}
				return fields, nil
			}
		default:
			return nil, fmt.Errorf("line %d: an entry without an end", p.line)
		}
	}
}
