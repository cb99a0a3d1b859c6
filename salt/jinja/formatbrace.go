package jinja

import (
	"fmt"
	"strconv"
	"strings"
)

// formatString is Python's s.format(*args, **named).
func formatString(s string, args []any, named *Map) (string, error) {
	f := &braceFormat{args: args, named: named}
	return f.format(s, 0)
}

type braceFormat struct {
	args  []any
	named *Map
	auto  int
}

func (f *braceFormat) format(s string, depth int) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '{' && c != '}' {
			b.WriteByte(c)
			continue
		}
		if i+1 < len(s) && s[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		if c == '}' || depth > 1 {
			return "", Fault("the format has a single }", "write }} for }")
		}
		open, end := 1, i+1
		for ; end < len(s) && open > 0; end++ {
			switch s[end] {
			case '{':
				open++
			case '}':
				open--
			}
		}
		if open > 0 {
			return "", Fault("the format has a single {", "write {{ for {")
		}
		out, err := f.field(s[i+1:end-1], depth)
		if err != nil {
			return "", err
		}
		if b.WriteString(out); b.Len() > MaxOutput {
			return "", Fault("the string is too long", "")
		}
		i = end - 1
	}
	return b.String(), nil
}

func (f *braceFormat) field(s string, depth int) (string, error) {
	name, spec, _ := strings.Cut(s, ":")
	name, conversion, hasConversion := strings.Cut(name, "!")
	v, err := f.lookup(name)
	if err != nil {
		return "", err
	}
	if spec, err = f.format(spec, depth+1); err != nil {
		return "", err
	}
	if hasConversion {
		switch conversion {
		case "s":
			v, err = text(v)
		case "r", "a":
			v, err = repr(v)
		default:
			return "", faultf("the conversion %q is not known", conversion)
		}
		if err != nil {
			return "", err
		}
	}
	return formatValue(v, spec)
}

// lookup finds name.attribute[item] among the arguments.
func (f *braceFormat) lookup(name string) (any, error) {
	i := strings.IndexAny(name, ".[")
	first, rest := name, ""
	if i >= 0 {
		first, rest = name[:i], name[i:]
	}
	var v any
	switch {
	case first == "":
		first = strconv.Itoa(f.auto)
		f.auto++
		fallthrough
	case isDigits(first):
		n, err := strconv.Atoi(first)
		if err != nil || n >= len(f.args) {
			return nil, Fault(fmt.Sprintf("the format has no argument %s", first), "")
		}
		v = f.args[n]
	default:
		var ok bool
		if v, ok = f.named.Get(first); !ok {
			return nil, Fault(fmt.Sprintf("the format has no argument %q", first), "")
		}
	}
	for rest != "" {
		var err error
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, Fault("the format has an open bracket", "")
			}
			var key any = rest[1:end]
			if n, ok := toInt(key, 10); ok && isDigits(rest[1:end]) {
				key = n
			}
			v, err = item(v, key)
			rest = rest[end+1:]
		} else {
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			v, err = attribute(v, rest[1:end])
			rest = rest[end:]
		}
		if err != nil {
			return nil, err
		}
		if u, ok := v.(*undefined); ok {
			return nil, u.fault()
		}
	}
	return v, nil
}
