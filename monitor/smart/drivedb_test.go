package smart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/smart"
)

// table has the forms that drivedb.h has.
const table = `/* drivedb.h
 * { "not", "an", "entry" } */
  { "VERSION: 7.3/5319", "-", "-",
    "Version information",
    ""
  },
  { "DEFAULT", "-", "-",
    "Default settings",
    "-v 1,raw48,Raw_Read_Error_Rate "
    "-v 177,raw48,Wear_Leveling_Count,SSD "  // a comment
    "-v 250,raw48,Read_Error_Retry_Rate"
  },
  { "Example SSDs",
    "EXAMPLE (SSD|\"X\") [0-9]{3}\\.?",
    "FW0(1|2)", "",
    "-v 170,raw16,Bad_Blocks -v 177,raw24/raw32 -v 251,raw64,Odd -F samsung"
  },
  { "Example SSDs", "EXAMPLE.*", "", "", "-v 177,raw16(raw16),Other_Wear" },
  { "USB: Bridge; Chip", "0x0bda:0x9210", "", "", "-d sntrealtek" },
`

func TestDriveDB(t *testing.T) {
	db, err := smart.ParseDriveDB(table)
	if err != nil {
		t.Fatal(err)
	}
	const raw = 0x0001_0002_0003
	cases := map[string]struct {
		reason, model, firmware string
		id                      uint8
		name                    string
		count                   uint64
	}{
		"Entry":    {"a format of the entry, the name of all drives", "EXAMPLE SSD 100", "FW01", 177, "wear leveling count", 0x0002_0003},
		"Firmware": {"another firmware is of the next entry", "EXAMPLE SSD 100", "FW03", 177, "other wear", 0x0003},
		"Quoted":   {"a quotation mark and a dot in the expression", `EXAMPLE "X" 100.`, "FW02", 177, "wear leveling count", 0x0002_0003},
		"Whole":    {"the expression is of the whole model", "AN EXAMPLE SSD 100", "FW01", 177, "wear leveling count", raw},
		"Default":  {"what every drive has", "OTHER", "", 250, "read error retry rate", raw},
		"Own":      {"what this package knows stays as it is", "EXAMPLE SSD 100", "FW01", 170, "available reserved space", raw},
		"Odd":      {"a format that does not count", "EXAMPLE SSD 100", "FW01", 251, "", raw},
		"None":     {"nobody knows", "OTHER", "", 252, "", raw},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if name, count := smart.Decode(db, tc.id, raw, tc.model, tc.firmware); name != tc.name || count != tc.count {
				t.Errorf("got %q %#x, want %q %#x; reason: %s", name, count, tc.name, tc.count, tc.reason)
			}
		})
	}
	if name, count := smart.Decode(nil, 177, raw, "EXAMPLE SSD 100", "FW01"); name != "" || count != raw {
		t.Errorf("without a table: %q %d", name, count)
	}
}

// A name becomes a label, which must be UTF-8, whatever the host's file is written in.
func TestDriveDBOfAnotherEncoding(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/share/smartmontools"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/share/smartmontools/drivedb.h"), []byte("{ \"DEFAULT\", \"-\", \"-\", \"\", \"-v 250,raw48,Temp\xb0C\" }"), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Close() }() // read only
	db, err := smart.ReadDriveDB(host)
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := smart.Decode(db, 250, 1, "ANY", ""); name != "temp?c" {
		t.Errorf("name %q", name)
	}
}

func TestDriveDBRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{ "a", "b", "c", "d" }`:                 "an entry of 4 strings",
		`{ "a", "b", "c", "d", "-v x,raw48,N" }`: "option -v x,raw48,N",
		`{ "a", "(", "", "d", "-v 9,raw48,N" }`:  "expression:",
		`{ "a", "b", "c", "d", "-v 9,raw48,N" `:  "an entry without an end",
		"{ \"a":                                  "a string without an end",
		"/* x":                                   "a comment without an end",
		`int x = 1;`:                             "no part of a table",
		`{ "\x41" }`:                             `the escape \x`,
		"\n\n\"a\"":                              "line 3",
		`{ {`:                                    "an entry without an end",
		`{ , "a" }`:                              "an entry without an end",
	} {
		if _, err := smart.ParseDriveDB(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// FuzzDriveDB: whatever the file is, it is a table or an error.
func FuzzDriveDB(f *testing.F) {
	f.Add(table)
	f.Fuzz(func(t *testing.T, text string) {
		if db, err := smart.ParseDriveDB(text); (db == nil) == (err == nil) {
			t.Errorf("%v, %v", db, err)
		}
	})
}
