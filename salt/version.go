package salt

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"holdfast.dev/salt/jinja"
)

// versionCmp is pkg.version_cmp: -1, 0 or 1. Debian's rules hold where the grain
// os_family is Debian (deb-version(7)), those of Python's looseversion elsewhere.
func versionCmp(e *engine, a *jinja.Args) (any, error) {
	x, err := a.Need("pkg1")
	if err != nil {
		return nil, err
	}
	y, err := a.Need("pkg2")
	if err != nil {
		return nil, err
	}
	noEpoch, err := a.Flag("ignore_epoch", false)
	if err != nil {
		return nil, err
	}
	a.Keywords()
	v, w := jinja.Str(x), jinja.Str(y)
	if noEpoch {
		v, w = withoutEpoch(v), withoutEpoch(w)
	}
	e.trace.note("grains:os_family")
	if family, _ := e.grains.Get("os_family"); family == "Debian" {
		return int64(debianCompare(v, w)), nil
	}
	c, ok := looseCompare(v, w)
	if !ok {
		return nil, nil
	}
	return int64(c), nil
}

func withoutEpoch(s string) string {
	if _, rest, ok := strings.Cut(s, ":"); ok {
		return rest
	}
	return s
}

func debianCompare(a, b string) int {
	split := func(s string) (epoch int, upstream, revision string) {
		if e, rest, ok := strings.Cut(s, ":"); ok {
			if n, err := strconv.Atoi(e); err == nil {
				epoch, s = n, rest
			}
		}
		if i := strings.LastIndexByte(s, '-'); i >= 0 {
			return epoch, s[:i], s[i+1:]
		}
		return epoch, s, ""
	}
	e1, u1, r1 := split(a)
	e2, u2, r2 := split(b)
	return cmp.Or(cmp.Compare(e1, e2), debianPart(u1, u2), debianPart(r1, r2))
}

// weight orders characters: ~ before the end, letters before others.
func weight(s string) int {
	switch {
	case s == "" || s[0] >= '0' && s[0] <= '9':
		return 0
	case s[0] == '~':
		return -1
	case unicode.IsLetter(rune(s[0])):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func isDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func debianPart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a) || b != "" && !isDigit(b) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		n, m := digits(a), digits(b)
		a, b = a[len(n):], b[len(m):]
		n, m = strings.TrimLeft(n, "0"), strings.TrimLeft(m, "0")
		if c := cmp.Or(cmp.Compare(len(n), len(m)), strings.Compare(n, m)); c != 0 {
			return c
		}
	}
	return 0
}

func digits(s string) string {
	i := 0
	for i < len(s) && isDigit(s[i:]) {
		i++
	}
	return s[:i]
}

var looseRE = regexp.MustCompile(`\d+|[a-z]+|\.`)

// looseCompare compares the runs of digits and letters; ok is false where Python
// cannot compare a number with a word.
func looseCompare(a, b string) (c int, ok bool) {
	parts := func(s string) []string {
		var out []string
		at := 0
		for _, m := range looseRE.FindAllStringIndex(s, -1) {
			if m[0] > at {
				out = append(out, s[at:m[0]])
			}
			if p := s[m[0]:m[1]]; p != "." {
				out = append(out, p)
			}
			at = m[1]
		}
		if at < len(s) {
			out = append(out, s[at:])
		}
		return out
	}
	x, y := parts(a), parts(b)
	for i := range min(len(x), len(y)) {
		n, err1 := strconv.Atoi(x[i])
		m, err2 := strconv.Atoi(y[i])
		if (err1 == nil) != (err2 == nil) {
			n, m = strings.Compare(x[i], y[i]), 0 // Salt's own class compares them as strings
		} else if err1 != nil {
			n, m = strings.Compare(x[i], y[i]), 0
		}
		if c := cmp.Compare(n, m); c != 0 {
			return c, true
		}
	}
	return cmp.Compare(len(x), len(y)), true
}
