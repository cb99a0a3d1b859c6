package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// stringMethod returns a method of a string, nil if there is none of that name.
func stringMethod(s, name string) func(a *Args) (any, error) {
	if change, ok := stringChanges[name]; ok {
		return func(*Args) (any, error) { return change(s), nil }
	}
	if test, ok := stringTests[name]; ok {
		return func(*Args) (any, error) { return test(s), nil }
	}
	if f, ok := stringMethods[name]; ok {
		return func(a *Args) (any, error) { return f(s, a) }
	}
	switch name { // in no map: they reach back to the methods of what they print
	case "format":
		return func(a *Args) (any, error) { return formatString(s, a.Rest(), a.Keywords()) }
	case "format_map":
		return func(a *Args) (any, error) {
			m, ok := a.Take("mapping", nil).(*Map)
			if !ok {
				return nil, Fault("format_map needs a dict", "")
			}
			return formatString(s, nil, m)
		}
	}
	return nil
}

var stringChanges = map[string]func(string) string{
	"capitalize": capitalize,
	"casefold":   func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "ß", "ss") },
	"lower":      strings.ToLower,
	"upper":      upperCase,
	"swapcase": func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsUpper(r) {
				return unicode.ToLower(r)
			}
			return unicode.ToUpper(r)
		}, s)
	},
	"title": func(s string) string {
		inWord := false
		return strings.Map(func(r rune) rune {
			was := inWord
			if inWord = unicode.IsLetter(r); inWord && !was {
				return unicode.ToTitle(r)
			}
			return unicode.ToLower(r)
		}, s)
	},
}

func every(s string, f func(rune) bool) bool {
	for _, r := range s {
		if !f(r) {
			return false
		}
	}
	return s != ""
}

var stringTests = map[string]func(string) bool{
	"isalnum": func(s string) bool {
		return every(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
	},
	"isalpha":      func(s string) bool { return every(s, unicode.IsLetter) },
	"isascii":      func(s string) bool { return s == "" || every(s, func(r rune) bool { return r < 128 }) },
	"isdecimal":    func(s string) bool { return every(s, unicode.IsDigit) },
	"isdigit":      func(s string) bool { return every(s, unicode.IsDigit) },
	"isnumeric":    func(s string) bool { return every(s, unicode.IsNumber) },
	"isidentifier": func(s string) bool { return s != "" && nameLength(s) == len(s) },
	"islower":      func(s string) bool { return isCased(s, unicode.IsLower, unicode.IsUpper) },
	"isupper":      func(s string) bool { return isCased(s, unicode.IsUpper, unicode.IsLower) },
	"isspace":      func(s string) bool { return every(s, unicode.IsSpace) },
	"isprintable": func(s string) bool {
		return s == "" || every(s, func(r rune) bool { return r == ' ' || unicode.IsPrint(r) })
	},
	"istitle": func(s string) bool {
		return isCased(s, unicode.IsUpper, func(rune) bool { return false }) && s == stringChanges["title"](s)
	},
}

// stringMethods are all but format and format_map.
var stringMethods = map[string]func(s string, a *Args) (any, error){
	"center":       func(s string, a *Args) (any, error) { return justify(s, a, '^') },
	"ljust":        func(s string, a *Args) (any, error) { return justify(s, a, '<') },
	"rjust":        func(s string, a *Args) (any, error) { return justify(s, a, '>') },
	"zfill":        zfill,
	"strip":        func(s string, a *Args) (any, error) { return stripChars(s, a.Take("", nil), true, true) },
	"lstrip":       func(s string, a *Args) (any, error) { return stripChars(s, a.Take("", nil), true, false) },
	"rstrip":       func(s string, a *Args) (any, error) { return stripChars(s, a.Take("", nil), false, true) },
	"startswith":   func(s string, a *Args) (any, error) { return affix(s, a, strings.HasPrefix) },
	"endswith":     func(s string, a *Args) (any, error) { return affix(s, a, strings.HasSuffix) },
	"removeprefix": func(s string, a *Args) (any, error) { p, err := a.Text(""); return strings.TrimPrefix(s, p), err },
	"removesuffix": func(s string, a *Args) (any, error) { p, err := a.Text(""); return strings.TrimSuffix(s, p), err },
	"count": func(s string, a *Args) (any, error) {
		return within(s, a, func(s, sub string) int { return strings.Count(s, sub) }, false)
	},
	"find":   func(s string, a *Args) (any, error) { return within(s, a, strings.Index, true) },
	"rfind":  func(s string, a *Args) (any, error) { return within(s, a, strings.LastIndex, true) },
	"index":  func(s string, a *Args) (any, error) { return found(within(s, a, strings.Index, true)) },
	"rindex": func(s string, a *Args) (any, error) { return found(within(s, a, strings.LastIndex, true)) },
	"replace": func(s string, a *Args) (any, error) {
		from, err := a.Text("old")
		if err != nil {
			return nil, err
		}
		to, err := a.Text("new")
		if err != nil {
			return nil, err
		}
		n, err := a.Int("count", -1)
		if err != nil {
			return nil, err
		}
		return replaced(s, from, to, int(n))
	},
	"split":  func(s string, a *Args) (any, error) { return split(s, a, false) },
	"rsplit": func(s string, a *Args) (any, error) { return split(s, a, true) },
	"splitlines": func(s string, a *Args) (any, error) {
		keep, err := a.Flag("keepends", false)
		return stringList(splitLines(s, keep)), err
	},
	"partition": func(s string, a *Args) (any, error) {
		sep, err := separator(a)
		if before, after, ok := strings.Cut(s, sep); ok && err == nil {
			return Tuple{before, sep, after}, nil
		}
		return Tuple{s, "", ""}, err
	},
	"rpartition": func(s string, a *Args) (any, error) {
		sep, err := separator(a)
		if i := strings.LastIndex(s, sep); i >= 0 && err == nil {
			return Tuple{s[:i], sep, s[i+len(sep):]}, nil
		}
		return Tuple{"", "", s}, err
	},
	"join": func(s string, a *Args) (any, error) {
		items, err := iterate(a.Take("iterable", nil))
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		for i, item := range items {
			part, ok := asText(item)
			if !ok {
				return nil, faultf("join needs strings, not %s", typeName(item))
			}
			if i > 0 {
				b.WriteString(s)
			}
			if b.WriteString(part); b.Len() > MaxOutput {
				return nil, Fault("the string is too long", "")
			}
		}
		return b.String(), nil
	},
	"expandtabs": func(s string, a *Args) (any, error) {
		n, err := a.Int("tabsize", 8)
		return expandTabs(s, int(min(n, 1000))), err
	},
	"encode": func(s string, a *Args) (any, error) {
		a.Take("encoding", nil)
		a.Take("errors", nil)
		return Bytes(s), nil
	},
	"translate": translate,
}

func stringList(parts []string) *List {
	out := &List{make([]any, len(parts))}
	for i, p := range parts {
		out.Items[i] = p
	}
	return out
}

func separator(a *Args) (string, error) {
	sep, err := a.Text("sep")
	if err == nil && sep == "" {
		err = Fault("the separator is empty", "")
	}
	return sep, err
}

func justify(s string, a *Args, how byte) (any, error) {
	width, err := a.Int("width", 0)
	if err != nil {
		return nil, err
	}
	fill, ok := asText(a.Take("fillchar", " "))
	r, n := utf8.DecodeRuneInString(fill)
	if !ok || n == 0 || n != len(fill) {
		return nil, Fault("the filling is one character", "")
	}
	return pad(s, width, r, how)
}

// pad fills s up to a width: '<' at its end, '>' before it, '^' on both sides.
func pad(s string, width int64, fill rune, how byte) (any, error) {
	if width > MaxOutput {
		return nil, Fault("the width is too large", "")
	}
	n := int(width) - utf8.RuneCountInString(s)
	if n <= 0 {
		return s, nil
	}
	left := 0
	switch how {
	case '>':
		left = n
	case '^':
		left = n/2 + n&int(width)&1 // CPython's unicode_center
	}
	return strings.Repeat(string(fill), left) + s + strings.Repeat(string(fill), n-left), nil
}

func zfill(s string, a *Args) (any, error) {
	width, err := a.Int("width", 0)
	n := int(width) - utf8.RuneCountInString(s)
	if err != nil || width > MaxOutput {
		return nil, Fault("the width is too large, or no integer", "")
	}
	if n <= 0 {
		return s, nil
	}
	sign := ""
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		sign, s = s[:1], s[1:]
	}
	return sign + strings.Repeat("0", n) + s, nil
}

// part is s[start:end] of the next two arguments, and where it begins.
func part(s string, a *Args) (string, int, bool, error) {
	start, end := a.Take("start", nil), a.Take("end", nil)
	if start == nil && end == nil {
		return s, 0, true, nil
	}
	n := int64(utf8.RuneCountInString(s))
	bound := func(v any, def int64) (int64, bool) {
		if v == nil {
			return def, true
		}
		i, ok := integer(v)
		if i < 0 {
			i = max(i+n, 0)
		}
		return i, ok
	}
	from, ok1 := bound(start, 0)
	to, ok2 := bound(end, n)
	if !ok1 || !ok2 {
		return "", 0, false, Fault("the bounds are integers", "")
	}
	to = min(to, n)
	if from > to {
		return "", 0, false, nil
	}
	return string([]rune(s)[from:to]), int(from), true, nil
}

func affix(s string, a *Args, has func(s, part string) bool) (any, error) {
	p, err := a.Need("")
	if err != nil {
		return nil, err
	}
	s, _, ok, err := part(s, a)
	if err != nil || !ok {
		return false, err
	}
	return hasPrefixAny(p, func(p string) bool { return has(s, p) })
}

func within(s string, a *Args, f func(s, sub string) int, position bool) (any, error) {
	sub, err := a.Text("sub")
	if err != nil {
		return nil, err
	}
	s, from, ok, err := part(s, a)
	if err != nil {
		return nil, err
	}
	if !ok {
		if position {
			return int64(-1), nil
		}
		return int64(0), nil
	}
	n := f(s, sub)
	if position && n >= 0 {
		n = utf8.RuneCountInString(s[:n]) + from
	}
	return int64(n), nil
}

func found(v any, err error) (any, error) {
	if err == nil && v == int64(-1) {
		err = Fault("the part is not in the string", "use find, which gives -1")
	}
	return v, err
}

func split(s string, a *Args, fromRight bool) (any, error) {
	sep := a.Take("sep", nil)
	n, err := a.Int("maxsplit", -1)
	if err != nil {
		return nil, err
	}
	if sep == nil {
		return stringList(fields(s, int(n), fromRight)), nil
	}
	by, ok := asText(sep)
	if !ok || by == "" {
		return nil, Fault("the separator is a string that is not empty", "")
	}
	if n < 0 || !fromRight {
		limit := int(n) + 1
		if n < 0 {
			limit = -1
		}
		return stringList(strings.SplitN(s, by, limit)), nil
	}
	var out []string
	for ; n > 0; n-- {
		i := strings.LastIndex(s, by)
		if i < 0 {
			break
		}
		out = append([]string{s[i+len(by):]}, out...)
		s = s[:i]
	}
	return stringList(append([]string{s}, out...)), nil
}

// fields is Python's split() at whitespace, at most n times; n < 0 is no bound.
func fields(s string, n int, fromRight bool) []string {
	all := strings.Fields(s)
	if n < 0 || len(all) <= n {
		return all
	}
	var out []string
	if fromRight {
		s = strings.TrimRightFunc(s, unicode.IsSpace)
		for range n {
			i := strings.LastIndexFunc(s, unicode.IsSpace)
			_, size := utf8.DecodeRuneInString(s[max(i, 0):])
			out = append([]string{s[i+size:]}, out...)
			s = strings.TrimRightFunc(s[:i], unicode.IsSpace)
		}
		return append([]string{s}, out...)
	}
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	for range n {
		i := strings.IndexFunc(s, unicode.IsSpace)
		out = append(out, s[:i])
		s = strings.TrimLeftFunc(s[i:], unicode.IsSpace)
	}
	return append(out, s)
}

// splitLines is Python's splitlines.
func splitLines(s string, keep bool) []string {
	var out []string
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(out, s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		end := i
		if keep {
			end = i + n
		}
		out = append(out, s[:end])
		s = s[i+n:]
	}
	return out
}

func expandTabs(s string, size int) string {
	var b strings.Builder
	col := 0
	for _, r := range s {
		switch r {
		case '\t':
			if size > 0 {
				n := size - col%size
				b.WriteString(strings.Repeat(" ", n))
				col += n
			}
		case '\n', '\r':
			b.WriteRune(r)
			col = 0
		default:
			b.WriteRune(r)
			col++
		}
	}
	return b.String()
}

// translate is str.translate with a dict of code points.
func translate(s string, a *Args) (any, error) {
	m, ok := a.Take("table", nil).(*Map)
	if !ok {
		return nil, Fault("translate needs a dict", "")
	}
	var b strings.Builder
	for _, r := range s {
		v, ok := m.At(int64(r))
		if n, isInt := integer(v); ok && isInt {
			b.WriteRune(rune(n))
		} else if t, isText := asText(v); ok && isText {
			b.WriteString(t)
		} else if !ok {
			b.WriteRune(r)
		}
	}
	return b.String(), nil
}
