package jinja

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"
)

// maxRepr bounds how deep a printed value nests: a list can hold itself.
const maxRepr = 100

// Str is Python's str(v). What is not defined is "".
func Str(v any) string {
	s, err := text(v)
	if err != nil {
		return ""
	}
	return s
}

// text is Python's str(v).
func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case Markup:
		return string(v), nil
	case *undefined:
		if v.lenient {
			return "", nil
		}
		return "", v.fault()
	case interface{ str() (string, error) }:
		return v.str()
	}
	return repr(v)
}

// repr is Python's repr(v).
func repr(v any) (string, error) {
	w := &reprWriter{}
	err := w.value(v, 0)
	return w.b.String(), err
}

// printed is what {{ v }} prints: Salt's finalizer makes dicts friendly to YAML
// (salt/utils/jinja.py, PrintableDict).
func printed(v any) (string, error) {
	switch v.(type) {
	case *Map, *List, Tuple, *Set:
		w := &reprWriter{friendly: true}
		err := w.value(v, 0)
		return w.b.String(), err
	}
	return text(v)
}

type reprWriter struct {
	b        strings.Builder
	friendly bool
}

func (w *reprWriter) value(v any, depth int) error {
	if depth > maxRepr {
		return Fault("prints a value that nests too deep", "")
	}
	if w.b.Len() > MaxOutput {
		return Fault("prints a value that is too long", "")
	}
	switch v := v.(type) {
	case nil:
		w.b.WriteString("None")
	case bool:
		if v {
			w.b.WriteString("True")
		} else {
			w.b.WriteString("False")
		}
	case int64:
		w.b.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		w.b.WriteString(v.String())
	case float64:
		w.b.WriteString(formatFloat(v))
	case string:
		w.b.WriteString(quote(v))
	case Markup:
		w.b.WriteString("Markup(" + quote(string(v)) + ")")
	case Bytes:
		w.b.WriteString(quoteBytes(v))
	case *List:
		return w.list("[", "]", v.Items, depth)
	case Tuple:
		if len(v) == 1 {
			return w.list("(", ",)", v, depth)
		}
		return w.list("(", ")", v, depth)
	case *Set:
		if v.m.Len() == 0 {
			w.b.WriteString("set()")
			return nil
		}
		if v.m.Len() > 1 && !is[int64](v.m.keys[0]) {
			return Fault("prints a set, whose order Python does not fix", "use | sort")
		}
		return w.list("{", "}", v.m.keys, depth)
	case *Map:
		return w.dict(v, depth)
	case *view:
		return w.list("dict_"+v.kind+"([", "])", v.items(), depth)
	case rangeValue:
		fmt.Fprintf(&w.b, "range(%d, %d", v.start, v.stop)
		if v.step != 1 {
			fmt.Fprintf(&w.b, ", %d", v.step)
		}
		w.b.WriteString(")")
	case *undefined:
		w.b.WriteString("Undefined")
	case interface{ str() (string, error) }:
		s, err := v.str()
		w.b.WriteString(s)
		return err
	default:
		return Fault("prints "+typeName(v)+", as Python writes it", "call it, or read a value from it; | list makes a list of a generator")
	}
	return nil
}

func (w *reprWriter) list(open, end string, items []any, depth int) error {
	w.b.WriteString(open)
	for i, item := range items {
		if i > 0 {
			w.b.WriteString(", ")
		}
		if err := w.value(item, depth+1); err != nil {
			return err
		}
	}
	w.b.WriteString(end)
	return nil
}

func (w *reprWriter) dict(m *Map, depth int) error {
	w.b.WriteByte('{')
	for i, k := range m.keys {
		if i > 0 {
			w.b.WriteString(", ")
		}
		if err := w.value(k, depth+1); err != nil {
			return err
		}
		w.b.WriteString(": ")
		e, _ := m.entry(k)
		if s, ok := e.value.(string); ok && w.friendly && strings.ContainsAny(s, "\n\r\t") {
			w.b.WriteString(yamlDoubleQuoted(s, -1, 0))
			continue
		}
		if err := w.value(e.value, depth+1); err != nil {
			return err
		}
	}
	w.b.WriteByte('}')
	return nil
}

// quote is Python's repr of a string.
func quote(s string) string {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == '\\' || r == rune(q):
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte(q)
	return b.String()
}

func quoteBytes(s Bytes) string {
	q := byte('\'')
	if strings.Contains(string(s), "'") && !strings.Contains(string(s), `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte('b')
	b.WriteByte(q)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\' || c == q:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte(q)
	return b.String()
}
