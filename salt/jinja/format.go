package jinja

import (
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxWidth bounds the widths and precisions of formats.
const maxWidth = 100_000

// percent is Python's s % v.
func percent(s string, v any, escape bool) (any, error) {
	p := &percentFormat{s: s, escape: escape}
	if t, ok := v.(Tuple); ok {
		p.args = t
	} else {
		p.args = []any{v}
		p.mapping, _ = v.(*Map)
	}
	for p.pos < len(s) {
		i := strings.IndexByte(s[p.pos:], '%')
		if i < 0 {
			p.b.WriteString(s[p.pos:])
			break
		}
		p.b.WriteString(s[p.pos : p.pos+i])
		p.pos += i + 1
		if err := p.one(); err != nil {
			return nil, err
		}
		if p.b.Len() > MaxOutput {
			return nil, Fault("the string is too long", "")
		}
	}
	if p.used < len(p.args) && p.mapping == nil {
		if t, ok := v.(Tuple); ok && len(t) > 0 || !ok && p.used == 0 && !is[*List](v) {
			return nil, Fault("not all values are used by the format", "")
		}
	}
	if escape {
		return Markup(p.b.String()), nil
	}
	return p.b.String(), nil
}

type percentFormat struct {
	s       string
	pos     int
	b       strings.Builder
	args    []any
	used    int
	mapping *Map
	escape  bool
}

func (p *percentFormat) next() (any, error) {
	if p.used >= len(p.args) {
		return nil, Fault("not enough values for the format", "")
	}
	p.used++
	return p.args[p.used-1], nil
}

func (p *percentFormat) number() (n int, given bool, err error) {
	if strings.HasPrefix(p.s[p.pos:], "*") {
		p.pos++
		v, err := p.next()
		if err != nil {
			return 0, false, err
		}
		i, ok := integer(v)
		if !ok || i > maxWidth || i < -maxWidth {
			return 0, false, Fault("* needs an integer", "")
		}
		return int(i), true, nil
	}
	from := p.pos
	for p.pos < len(p.s) && isDigit(p.s[p.pos]) {
		p.pos++
	}
	if from == p.pos {
		return 0, false, nil
	}
	n, err = strconv.Atoi(p.s[from:p.pos])
	if err != nil || n > maxWidth {
		return 0, false, Fault("the format's width is too large", "")
	}
	return n, true, nil
}

// one formats one % and what follows.
func (p *percentFormat) one() error {
	var v any
	named := false
	if strings.HasPrefix(p.s[p.pos:], "(") {
		end := strings.IndexByte(p.s[p.pos:], ')')
		if p.mapping == nil || end < 0 {
			return Fault("%(name) needs a dict", "")
		}
		name := p.s[p.pos+1 : p.pos+end]
		p.pos += end + 1
		var ok bool
		if v, ok = p.mapping.Get(name); !ok {
			return faultf("the format's name %q is not in the dict", name)
		}
		named = true
	}
	spec := formatSpec{fill: ' ', align: '>', precision: -1}
	left := false
flags:
	for p.pos < len(p.s) {
		switch p.s[p.pos] {
		case '-':
			left = true
		case '+':
			spec.sign = '+'
		case ' ':
			if spec.sign != '+' {
				spec.sign = ' '
			}
		case '0':
			spec.zero = true
		case '#':
			spec.alternate = true
		default:
			break flags
		}
		p.pos++
	}
	width, _, err := p.number()
	if err != nil {
		return err
	}
	if width < 0 {
		left, width = true, -width
	}
	spec.width = width
	if strings.HasPrefix(p.s[p.pos:], ".") {
		p.pos++
		if spec.precision, _, err = p.number(); err != nil {
			return err
		}
	}
	for p.pos < len(p.s) && strings.IndexByte("hlL", p.s[p.pos]) >= 0 {
		p.pos++
	}
	if p.pos >= len(p.s) {
		return Fault("the format ends after %", "write %% for %")
	}
	spec.kind = p.s[p.pos]
	p.pos++
	if spec.kind == '%' {
		p.b.WriteByte('%')
		return nil
	}
	if !named {
		if v, err = p.next(); err != nil {
			return err
		}
	}
	if left {
		spec.align, spec.zero = '<', false
	}
	out, err := p.convert(spec, v)
	p.b.WriteString(out)
	return err
}

func (p *percentFormat) convert(spec formatSpec, v any) (string, error) {
	switch spec.kind {
	case 's', 'r', 'a', 'c':
		s, err := text(v)
		if spec.kind == 'r' || spec.kind == 'a' {
			s, err = repr(v)
		}
		if n, ok := integer(v); ok && spec.kind == 'c' {
			s = string(rune(n))
		}
		if err != nil {
			return "", err
		}
		if p.escape && !is[Markup](v) {
			s = escapeHTML(s)
		}
		spec.zero = false
		spec.kind = 's'
		return spec.text(s)
	case 'd', 'i', 'u', 'x', 'X', 'o':
		n, ok := asBig(v)
		if f, isFloat := v.(float64); isFloat && (spec.kind == 'd' || spec.kind == 'i' || spec.kind == 'u') {
			if t, ok2 := toInt(f, 10); ok2 {
				n, ok = asBig(t)
			}
		}
		if !ok {
			return "", faultf("%%%c needs a number, not %s", spec.kind, typeName(v))
		}
		if spec.kind == 'i' || spec.kind == 'u' {
			spec.kind = 'd'
		}
		digits := spec.precision
		spec.precision = -1
		return spec.integer(n, digits)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, ok := number(v)
		if !ok {
			return "", faultf("%%%c needs a number, not %s", spec.kind, typeName(v))
		}
		return spec.float(f)
	}
	return "", faultf("the format %%%c is not known", spec.kind)
}

// formatSpec is what stands after the colon of {:...}.
type formatSpec struct {
	fill      rune
	align     byte // '<', '>', '^', '=' or 0
	sign      byte
	alternate bool
	zero      bool
	width     int
	group     byte
	precision int
	kind      byte
}

func parseSpec(s string) (formatSpec, error) {
	f := formatSpec{fill: ' ', precision: -1}
	r, n := utf8.DecodeRuneInString(s)
	if len(s) > n && strings.IndexByte("<>^=", s[n]) >= 0 {
		f.fill, f.align, s = r, s[n], s[n+1:]
	} else if s != "" && strings.IndexByte("<>^=", s[0]) >= 0 {
		f.align, s = s[0], s[1:]
	}
	take := func(set string) byte {
		if s != "" && strings.IndexByte(set, s[0]) >= 0 {
			c := s[0]
			s = s[1:]
			return c
		}
		return 0
	}
	num := func() (int, error) {
		i := 0
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		if i == 0 {
			return 0, nil
		}
		n, err := strconv.Atoi(s[:i])
		s = s[i:]
		if err != nil || n > maxWidth {
			return 0, Fault("the format's width is too large", "")
		}
		return n, nil
	}
	f.sign = take("+- ")
	f.alternate = take("#") != 0
	f.zero = take("0") != 0
	var err error
	if f.width, err = num(); err != nil {
		return f, err
	}
	f.group = take(",_")
	if take(".") != 0 {
		if f.precision, err = num(); err != nil {
			return f, err
		}
	}
	f.kind = take("bcdeEfFgGnosxX%")
	if s != "" {
		return f, faultf("the format %q is not known", s)
	}
	return f, nil
}

// formatValue is Python's format(v, spec).
func formatValue(v any, spec string) (string, error) {
	if spec == "" {
		return text(v)
	}
	f, err := parseSpec(spec)
	if err != nil {
		return "", err
	}
	if s, ok := asText(v); ok {
		if f.kind != 0 && f.kind != 's' || f.sign != 0 || f.align == '=' {
			return "", faultf("the format %q is not one of a string", spec)
		}
		if f.zero {
			f.fill = '0'
		}
		f.zero = false
		return f.text(s)
	}
	if n, ok := asBig(v); ok {
		switch f.kind {
		case 0:
			if is[bool](v) {
				f.kind = 'd'
			}
			return f.integer(n, -1)
		case 'd', 'n', 'b', 'o', 'x', 'X':
			return f.integer(n, -1)
		case 'c':
			return f.text(string(rune(n.Int64())))
		}
		if f.kind == 's' {
			return "", faultf("the format %q is not one of a number", spec)
		}
	}
	x, ok := number(v)
	if !ok {
		return "", faultf("%s cannot be formatted with %q", typeName(v), spec)
	}
	return f.float(x)
}

func (f formatSpec) text(s string) (string, error) {
	if f.precision >= 0 && utf8.RuneCountInString(s) > f.precision {
		s = string([]rune(s)[:f.precision])
	}
	how := f.align
	if how == 0 {
		how = '<'
	}
	out, err := pad(s, int64(f.width), f.fill, how)
	if err != nil {
		return "", err
	}
	if how == '^' { // format() puts the odd space behind
		n := f.width - utf8.RuneCountInString(s)
		if n > 0 {
			return strings.Repeat(string(f.fill), n/2) + s + strings.Repeat(string(f.fill), n-n/2), nil
		}
	}
	return out.(string), nil
}

// signed puts sign, prefix and digits into the field.
func (f formatSpec) signed(negative bool, prefix, digits string) (string, error) {
	sign := ""
	switch {
	case negative:
		sign = "-"
	case f.sign == '+' || f.sign == ' ':
		sign = string(f.sign)
	}
	align := f.align
	if align == 0 {
		align = '>'
	}
	if f.zero && (f.align == 0 || f.align == '>' && f.fill == ' ') {
		align, f.fill = '=', '0'
	}
	if align == '=' {
		room := f.width - len(sign) - len(prefix)
		for f.group != 0 && f.fill == '0' && len(digits) < room {
			return sign + prefix + groupedZeros(digits, room, f.group), nil
		}
		filled, err := pad(digits, int64(room), f.fill, '>')
		if err != nil {
			return "", err
		}
		return sign + prefix + filled.(string), nil
	}
	f.precision, f.align = -1, align
	return f.text(sign + prefix + digits)
}

func groupedZeros(digits string, width int, sep byte) string {
	whole, rest, point := strings.Cut(digits, ".")
	if point {
		rest = "." + rest
	}
	whole = strings.ReplaceAll(whole, string(sep), "")
	for {
		out := grouped(whole, sep, 3) + rest
		if len(out) >= width {
			return out
		}
		whole = "0" + whole
	}
}

func grouped(digits string, sep byte, size int) string {
	if sep == 0 {
		return digits
	}
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && (len(digits)-i)%size == 0 {
			b.WriteByte(sep)
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (f formatSpec) integer(n *big.Int, minDigits int) (string, error) {
	if f.precision >= 0 {
		return "", Fault("an integer has no precision", "")
	}
	base, prefix, size := 10, "", 3
	switch f.kind {
	case 'b':
		base, prefix, size = 2, "0b", 4
	case 'o':
		base, prefix, size = 8, "0o", 4
	case 'x':
		base, prefix, size = 16, "0x", 4
	case 'X':
		base, prefix, size = 16, "0X", 4
	}
	digits := new(big.Int).Abs(n).Text(base)
	if f.kind == 'X' {
		digits = strings.ToUpper(digits)
	}
	if minDigits > len(digits) {
		digits = strings.Repeat("0", minDigits-len(digits)) + digits
	}
	if !f.alternate {
		prefix = ""
	}
	return f.signed(n.Sign() < 0, prefix, grouped(digits, f.group, size))
}

func (f formatSpec) float(x float64) (string, error) {
	precision, kind := f.precision, f.kind
	suffix := ""
	var s string
	switch {
	case kind == 0 && precision < 0:
		s = formatFloat(x)
	case kind == 0:
		s = formatGeneral(x, max(precision, 1), f.alternate)
		if !strings.ContainsAny(s, ".en") {
			s += ".0"
		}
	default:
		if precision < 0 {
			precision = 6
		}
		switch kind {
		case '%':
			x, kind, suffix = x*100, 'f', "%"
		case 'F':
			kind = 'f'
		case 'n':
			kind = 'g'
		}
		if kind == 'g' || kind == 'G' {
			s = formatGeneral(x, max(precision, 1), f.alternate)
			if kind == 'G' {
				s = strings.ToUpper(s)
			}
		} else {
			s = strconv.FormatFloat(x, kind, precision, 64)
		}
	}
	s = strings.Replace(strings.Replace(s, "+Inf", "inf", 1), "NaN", "nan", 1)
	s = strings.Replace(s, "-Inf", "-inf", 1)
	digits, negative := strings.CutPrefix(s, "-")
	if f.group != 0 {
		whole, rest, point := strings.Cut(digits, ".")
		if point {
			rest = "." + rest
		}
		digits = grouped(whole, f.group, 3) + rest
	}
	return f.signed(negative, "", digits+suffix)
}

// formatGeneral is C's %g.
func formatGeneral(x float64, precision int, keepZeros bool) string {
	e := strconv.FormatFloat(x, 'e', precision-1, 64)
	i := strings.IndexByte(e, 'e')
	if i < 0 {
		return e
	}
	exp, err := strconv.Atoi(e[i+1:])
	if err != nil {
		return e
	}
	mantissa, tail := e[:i], e[i:]
	if exp >= -4 && exp < precision {
		mantissa, tail = strconv.FormatFloat(x, 'f', precision-1-exp, 64), ""
	}
	if !keepZeros && strings.Contains(mantissa, ".") {
		mantissa = strings.TrimSuffix(strings.TrimRight(mantissa, "0"), ".")
	}
	return mantissa + tail
}
