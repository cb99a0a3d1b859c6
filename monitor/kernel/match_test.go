package kernel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
)

type line struct {
	Message  string
	Class    v1alpha1.FaultClass
	Severity v1alpha1.Severity
	Device   string
	Source   string
}

func lines(t testing.TB) []line {
	t.Helper()
	data, err := os.ReadFile("testdata/lines.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []line
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

func TestMatchRealLines(t *testing.T) {
	m := NewMatcher()
	all := lines(t)
	if len(all) < 60 {
		t.Fatalf("only %d lines", len(all))
	}
	for _, l := range all {
		ev, _ := m.Match(&Record{Message: []byte(l.Message)}, time.Time{})
		if ev == nil {
			ev = &Event{}
		}
		if ev.Class != l.Class || ev.Severity != l.Severity || l.Device != "" && !slices.Contains(ev.Devices, l.Device) {
			t.Errorf("%q: got %s %s %q, want %s %s %q; from %s", l.Message, ev.Class, ev.Severity, ev.Devices, l.Class, l.Severity, l.Device, l.Source)
		}
	}
}

func TestMatch(t *testing.T) {
	cases := map[string]struct {
		reason  string
		rec     Record
		class   v1alpha1.FaultClass
		devices []string
	}{
		"Loop":       {"what the lab's loop devices give (Linux 6.18)", Record{Message: []byte("I/O error, dev loop3, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2")}, v1alpha1.FaultBlockIO, []string{"loop3"}},
		"Program":    {"a program's line is no evidence, whatever it says", Record{Facility: 1, Message: []byte("I/O error, dev sda, sector 1 op 0x0:(READ) flags 0x0")}, "", nil},
		"Dictionary": {"the dictionary names the device too", Record{Message: []byte("sd 6:0:0:0: [sda] tag#3 Sense Key : Medium Error [current] "), Device: []byte("+scsi:6:0:0:0")}, v1alpha1.FaultMedium, []string{"6:0:0:0", "sda", "6:0:0:0"}},
		"MultiLine":  {"libata prints command and result in one record", Record{Message: []byte("ata4.00: cmd 60/88:60:30:65:2b/00:00:03:00:00/40 tag 12 ncq dma 69632 in\n         res 41/40:00:90:65:2b/00:00:03:00:00/00 Emask 0x409 (media error) <F>")}, v1alpha1.FaultMedium, []string{"ata4.00"}},
		"UserXFS":    {"flag 0x4: somebody asked for it", Record{Message: []byte("XFS (sda3): Metadata I/O Error (0x4) detected at xfs_fs_goingdown+0x4b/0x180 [xfs] (fs/xfs/xfs_fsops.c:492).  Shutting down filesystem.")}, "", nil},
		"GoneXFS":    {"flag 0x20: the device was removed", Record{Message: []byte("XFS (sda3): Metadata I/O Error (0x20) detected at xfs_fs_mark_dead+0x4b (fs/xfs/xfs_super.c:1).  Shutting down filesystem.")}, v1alpha1.FaultFilesystem, []string{"sda3"}},
		"Discard":    {"a refused discard loses no data", Record{Message: []byte("I/O error, dev sda, sector 473540144 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 0")}, "", nil},
		"Prefix":     {"the text in another message is not the block layer's", Record{Message: []byte("foo: could not parse: Buffer I/O error on dev sda, logical block 1")}, "", nil},
		"ICRC":       {"a bad cable is not a bad disk", Record{Message: []byte("ata1.00: error: { ICRC ABRT }")}, v1alpha1.FaultLink, []string{"ata1.00"}},
		"Predict":    {"the drive warns", Record{Message: []byte("sd 0:0:0:0: [sda] tag#1 Add. Sense: Hardware impending failure general hard drive failure")}, v1alpha1.FaultSCSI, []string{"0:0:0:0", "sda"}},
		"Hostile":    {"evidence stays one line", Record{Message: []byte("EXT4-fs error (device sda1): comm a\nb\x00\xff")}, v1alpha1.FaultFilesystem, []string{"sda1"}},
	}
	m := NewMatcher()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ev, _ := m.Match(&tc.rec, time.Time{})
			if ev == nil {
				ev = &Event{}
			}
			if d := cmp.Diff(tc.devices, ev.Devices); ev.Class != tc.class || d != "" || strings.ContainsAny(ev.Evidence, "\n\x00") || !utf8.ValidString(ev.Evidence) {
				t.Errorf("got %s %q; %s; reason: %s", ev.Class, ev.Evidence, d, tc.reason)
			}
		})
	}
}

func TestAttachLines(t *testing.T) {
	m := NewMatcher()
	cases := map[string][]string{
		"loop5: detected capacity change from 0 to 113696":                             {"loop5"},
		"loop5: detected capacity change from 113696 to 0":                             nil,
		"scsi 4:0:0:0: Direct-Access     ATA      ST4000NM0035-1V4 TN04 PQ: 0 ANSI: 5": {"4:0:0:0"},
		"scsi 6:0:1:0: Enclosure         LSI      SAS2X36          0e12 PQ: 0 ANSI: 5": nil,
		"sd 4:0:0:0: [sdb] 7814037168 512-byte logical blocks: (4.00 TB/3.64 TiB)":     {"4:0:0:0", "sdb"},
		"sd 4:0:0:0: [sdb] 0 512-byte logical blocks: (0 B/0 B)":                       nil, // it does not answer
		"sd 4:0:0:0: [sdb] Attached SCSI removable disk":                               nil, // too late
		"nvme nvme4: pci function 0000:b2:00.0":                                        {"nvme4"},
		"nvme nvme4: 8/0/0 default/read/poll queues":                                   nil,
		"virtio_blk virtio1: [vda] 2048 512-byte logical blocks (1.05 MB/1.00 MiB)":    {"vda"},
		"ata3.00: ATA-10: WDC WD20EFAX-68FB5N0, 82.00A82, max UDMA/133":                {"ata3.00"},
	}
	for msg, want := range cases {
		_, att := m.Match(&Record{Message: []byte(msg)}, time.Time{})
		if att == nil {
			att = &Attach{}
		}
		if d := cmp.Diff(want, att.Devices); d != "" {
			t.Errorf("%q: %s", msg, d)
		}
	}
}

// elsewhere are the classes whose lines may name no device.
var elsewhere = []v1alpha1.FaultClass{v1alpha1.FaultFilesystem, v1alpha1.FaultIntegrity, v1alpha1.FaultMapper, v1alpha1.FaultArray, v1alpha1.FaultHungIO, v1alpha1.FaultNetwork}

func TestPatternsAreWhole(t *testing.T) {
	for _, p := range append(Patterns(), attachPatterns()...) {
		re := regexp.MustCompile(p.Expr)
		hasDev := slices.Contains(re.SubexpNames(), "dev")
		if p.Source == "" || (p.Severity != "" && (p.Class == "" || p.About == "" || !hasDev && !slices.Contains(elsewhere, p.Class) && !strings.Contains(p.Source, "no device"))) {
			t.Errorf("incomplete pattern %+v", p)
		}
	}
}

func TestLiterals(t *testing.T) {
	words := rapid.SliceOfN(rapid.StringMatching(`[ab ]{7,9}`), 1, 3)
	short := rapid.SliceOfN(rapid.StringMatching(`[ab ]{1,4}`), 1, 3)
	rapid.Check(t, func(t *rapid.T) {
		var required []requirement
		for range rapid.IntRange(1, 150).Draw(t, "patterns") {
			r := requirement{first: words.Draw(t, "first")}
			if rapid.Bool().Draw(t, "begins") {
				r.begin = short.Draw(t, "begin")
			}
			for range rapid.IntRange(0, 2).Draw(t, "rest") {
				r.rest = append(r.rest, short.Draw(t, "set"))
			}
			required = append(required, r)
		}
		text := rapid.StringMatching(`[abc ]{0,60}`).Draw(t, "text")
		has := func(set []string) bool {
			return slices.ContainsFunc(set, func(w string) bool { return strings.Contains(text, w) })
		}
		var want patternSet
		for i, r := range required {
			met := has(r.first) && (r.begin == nil || slices.ContainsFunc(r.begin, func(w string) bool { return strings.HasPrefix(text, w) }))
			for _, set := range r.rest {
				met = met && has(set)
			}
			if met {
				want.add(i)
			}
		}
		var got patternSet
		l := newLiterals(required)
		found := l.in([]byte(text))
		for i, ok := l.next(&found, []byte(text)); ok; i, ok = l.next(&found, []byte(text)) {
			got.add(i)
		}
		if got != want {
			t.Errorf("%q in %q: %x, want %x", required, text, got, want)
		}
	})
}

func TestRequired(t *testing.T) {
	for expr, want := range map[string]requirement{
		`^sd \d+: (?:\[(?P<dev>sd\w+)\] )?Sense Key : (?:Medium|Hardware)`: {first: []string{"Sense Key : Hardware", "Sense Key : Medium"}, begin: digits("sd "), rest: [][]string{digits("sd "), {": "}}},
		`a (?:first one|second one) b`:                                     {first: []string{"a first one b", "a second one b"}},
		`a (?:first one|\d+) b`:                                            {},
		`(?i:sense key)`:                                                   {},
		`x*(?:abcdefg)?`:                                                   {},
		`(?:abcdefg)+`:                                                     {first: []string{"abcdefg"}},
		`(?:abcdef)+`:                                                      {},
		`ab(?:c|d)? (?P<dev>ef\d) lost`:                                    {first: []string{"ab ef0 lost", "ab ef1 lost"}},
		`^(?:one|two) of(?: it)? \w+ is`:                                   {first: []string{"one of ", "one of it ", "two of ", "two of it "}, begin: []string{"one of ", "one of it ", "two of ", "two of it "}, rest: [][]string{{" is"}}},
	} {
		got, err := required(expr, nil)
		if expr == `ab(?:c|d)? (?P<dev>ef\d) lost` { // thirty of them
			if len(got.first) != 30 {
				t.Errorf("%s: %q", expr, got.first)
			}
			continue
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(requirement{}), cmpopts.EquateEmpty()); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", expr, err, d)
		}
	}
}

// slowly is what find must find, by trying each expression in turn.
func slowly(m *Matcher, msg string) *Pattern {
	for i := range m.patterns {
		if m.patterns[i].re.MatchString(msg) {
			return m.patterns[i].Pattern
		}
	}
	return nil
}

// testLines are the lines of all files here, and of the boot of a sound machine.
func testLines(t testing.TB) (out []string) {
	t.Helper()
	for _, name := range []string{"corpus.jsonl", "source.jsonl", "lines.jsonl"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for text := range bytes.Lines(data) {
			var l struct{ Line, Message string }
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatal(err)
			}
			msg := l.Line + l.Message
			if _, after, ok := strings.Cut(msg, "] "); ok && strings.HasPrefix(msg, "[") {
				msg = after
			}
			out = append(out, msg)
		}
	}
	boot, err := os.ReadFile("testdata/boot.txt")
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(boot)) {
		out = append(out, strings.TrimSuffix(text, "\n"))
	}
	return out
}

// What is found without trying most expressions is what trying all of them finds.
func TestFindIsTheReference(t *testing.T) {
	m, all := NewMatcher(), testLines(t)
	same := func(t interface{ Errorf(string, ...any) }, msg string) {
		if got, want := m.find([]byte(msg)).Pattern, slowly(m, msg); got != want {
			t.Errorf("%q: got %+v, want %+v", msg, got, want)
		}
	}
	for _, msg := range all {
		same(t, msg)
	}
	// Parts of lines behind each other, and shifted, so that strings are at other places.
	line := rapid.SampledFrom(all)
	rapid.Check(t, func(t *rapid.T) {
		a, b := line.Draw(t, "a"), line.Draw(t, "b")
		same(t, a[rapid.IntRange(0, len(a)).Draw(t, "from"):]+b)
		same(t, a[:rapid.IntRange(0, len(a)).Draw(t, "to")]+b[rapid.IntRange(0, len(b)).Draw(t, "of"):])
	})
}

// Any text that an expression matches has what the expression requires.
func TestRequiredIsThere(t *testing.T) {
	m := NewMatcher()
	for i := range m.patterns {
		expr := m.patterns[i].Expr
		texts := rapid.StringMatching(strings.NewReplacer(`\b`, ``).Replace(expr))
		rapid.Check(t, func(t *rapid.T) {
			text := texts.Draw(t, "text")
			got := m.literals.in([]byte(text))
			if m.patterns[i].re.MatchString(text) && (got[i/64]&(1<<(i%64)) == 0 || !m.literals.rest[i].met([]byte(text))) {
				t.Fatalf("%q matches %s and lacks what it requires", text, expr)
			}
		})
	}
}

func TestWithin(t *testing.T) {
	cases := []struct {
		d, disk string
		want    bool
	}{
		{"sda", "sda", true}, {"sda1", "sda", true}, {"sdaa", "sda", false}, {"loop1", "loop1", true}, {"loop12", "loop1", false},
		{"loop1p2", "loop1", true}, {"nvme0n1", "nvme0", true}, {"nvme0n1p3", "nvme0n1", true}, {"nvme01", "nvme0", false},
		{"8:16", "8:1", false}, {"2:0:0:16", "2:0:0:1", false}, {"ata4", "ata4.00", true}, {"ata40", "ata4.00", false}, {"sda1p", "sda", false},
	}
	for _, tc := range cases {
		if got := Within(tc.d, tc.disk); got != tc.want {
			t.Errorf("Within(%q, %q) = %t", tc.d, tc.disk, got)
		}
	}
}

// digits are s with each digit behind it.
func digits(s string) (out []string) {
	for c := '0'; c <= '9'; c++ {
		out = append(out, s+string(c))
	}
	return out
}

// BenchmarkUnmatched is the cost of a line that says nothing of disks: the
// usual one. node-problem-detector's HEAD needs 1,659 ns with 14 rules, by its
// own benchmark (kubernetes/node-problem-detector#1329).
func BenchmarkUnmatched(b *testing.B) {
	m := NewMatcher()
	for name, msg := range map[string]string{
		"Short": "docker0: port 1(veth7e91f32) entered forwarding state",
		"Long":  "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri-containerd-3f1e.scope,mems_allowed=0,oom_memcg=/kubepods.slice/kubepods-burstable.slice,task_memcg=/kubepods.slice,task=java,pid=12345,uid=1000",
		"Near":  "sd 6:0:0:0: [sda] tag#3 Sense Key : Unit Attention [current] ",
	} {
		b.Run(name, func(b *testing.B) {
			line := []byte("6,1234,5000001,-;" + msg + "\n")
			buf := make([]byte, len(line))
			b.ReportAllocs()
			for b.Loop() {
				copy(buf, line)
				rec, _, _ := ParseRecord(buf)
				if ev, _ := m.Match(&rec, time.Time{}); ev != nil {
					b.Fatal("matched")
				}
			}
		})
	}
}

func BenchmarkMatched(b *testing.B) {
	m := NewMatcher()
	rec := Record{Message: []byte("I/O error, dev loop3, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2")}
	b.ReportAllocs()
	for b.Loop() {
		if ev, _ := m.Match(&rec, time.Time{}); ev == nil {
			b.Fatal("no match")
		}
	}
}
