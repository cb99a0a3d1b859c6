package jinja

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"strings"
	"unicode/utf8"
)

// bestWidth is libyaml's: longer lines are folded.
const bestWidth = 80

// yamlWriter writes YAML as PyYAML's CSafeDumper does, byte for byte
// (yaml/representer.py; libyaml's emitter.c).
type yamlWriter struct {
	b          strings.Builder
	column     int
	width      int
	whitespace bool // the last character was a space, or an indicator that needs none after it
	indention  bool // the line holds only indentation and indicators
	indent     int
	flow       int
	style      any // true: flow, false: block, nil: flow where all items are plain scalars
	indented   bool
	ascii      bool // other characters are escaped
	sort       bool // ordered dicts are sorted, too
}

// DumpYAML is PyYAML's dump of a value. flow is default_flow_style: true, false or nil.
func DumpYAML(v, flow any) (string, error) {
	w := &yamlWriter{width: bestWidth, whitespace: true, indention: true, indent: -1, style: flow}
	if err := w.node(v, false, false, 0); err != nil {
		return "", err
	}
	out := w.b.String()
	if !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	return out, nil
}

func (w *yamlWriter) put(s string) {
	w.b.WriteString(s)
	w.column += utf8.RuneCountInString(s)
}

func (w *yamlWriter) newline() {
	w.b.WriteByte('\n')
	w.column = 0
}

func (w *yamlWriter) indicator(s string, needSpace, isSpace, isIndention bool) {
	if needSpace && !w.whitespace {
		w.put(" ")
	}
	w.put(s)
	w.whitespace, w.indention = isSpace, w.indention && isIndention
}

func (w *yamlWriter) writeIndent() {
	indent := max(w.indent, 0)
	if !w.indention || w.column > indent || w.column == indent && !w.whitespace {
		w.newline()
	}
	if w.column < indent {
		w.put(strings.Repeat(" ", indent-w.column))
	}
	w.whitespace, w.indention = true, true
}

// deeper increases the indentation and returns the old.
func (w *yamlWriter) deeper(flow, indentless bool) int {
	old := w.indent
	switch {
	case w.indent < 0 && flow:
		w.indent = 2
	case w.indent < 0:
		w.indent = 0
	case !indentless:
		w.indent += 2
	}
	return old
}

func (w *yamlWriter) node(v any, inMapping, simpleKey bool, depth int) error {
	if depth > maxRepr {
		return Fault("the value nests too deep for YAML", "")
	}
	if w.b.Len() > MaxOutput {
		return Fault("the YAML is too long", "")
	}
	switch v := v.(type) {
	case *List:
		return w.sequence(v.Items, inMapping, depth)
	case []any:
		return w.sequence(v, inMapping, depth)
	case Tuple:
		return w.sequence(v, inMapping, depth)
	case *Map:
		return w.mapping(v, depth)
	case Bytes:
		return w.binary(v, simpleKey)
	}
	s, tag := scalarOf(v)
	w.scalar(s, tag, simpleKey)
	return nil
}

// scalarOf is how PyYAML represents a scalar, and its tag.
func scalarOf(v any) (text, tag string) {
	switch v := v.(type) {
	case nil:
		return "null", "null"
	case bool:
		if v {
			return "true", "bool"
		}
		return "false", "bool"
	case int64, *big.Int:
		return Str(v), "int"
	case float64:
		switch {
		case math.IsNaN(v):
			return ".nan", "float"
		case math.IsInf(v, 1):
			return ".inf", "float"
		case math.IsInf(v, -1):
			return "-.inf", "float"
		}
		s := formatFloat(v)
		if !strings.Contains(s, ".") {
			s = strings.Replace(s, "e", ".0e", 1)
		}
		return s, "float"
	case string:
		return v, "str"
	}
	return "NULL", "null" // Salt's answer to what YAML does not know
}

// flowed decides the style of a collection.
func (w *yamlWriter) flowed(items []any) bool {
	if w.flow > 0 || len(items) == 0 || w.style == true {
		return true
	}
	if w.style == false {
		return false
	}
	for _, item := range items {
		switch item.(type) {
		case *List, Tuple, *Map, []any, Bytes:
			return false
		}
	}
	return true
}

func (w *yamlWriter) sequence(items []any, inMapping bool, depth int) error {
	if w.flowed(items) {
		w.indicator("[", true, true, false)
		old := w.deeper(true, false)
		w.flow++
		for i, item := range items {
			if i > 0 {
				w.indicator(",", false, false, false)
			}
			if w.column > w.width {
				w.writeIndent()
			}
			if err := w.node(item, false, false, depth+1); err != nil {
				return err
			}
		}
		w.flow--
		w.indent = old
		w.indicator("]", false, false, false)
		return nil
	}
	old := w.deeper(false, inMapping && !w.indention && !w.indented)
	for _, item := range items {
		w.writeIndent()
		w.indicator("-", true, false, true)
		if err := w.node(item, false, false, depth+1); err != nil {
			return err
		}
	}
	w.indent = old
	return nil
}

func (w *yamlWriter) mapping(m *Map, depth int) error {
	keys := m.keys
	if !m.Ordered || w.sort {
		if s, err := sorted(keys, nil); err == nil {
			keys = s
		}
	}
	var all []any
	for _, k := range keys {
		v, _ := m.At(k)
		all = append(all, k, v)
	}
	flow := w.flowed(all)
	if flow {
		w.indicator("{", true, true, false)
		defer func() { w.indicator("}", false, false, false) }()
		w.flow++
	}
	old := w.deeper(flow, false)
	for i, k := range keys {
		if flow && i > 0 {
			w.indicator(",", false, false, false)
		}
		if !flow || w.column > w.width {
			w.writeIndent()
		}
		simple := simpleKey(k)
		if !simple {
			w.indicator("?", true, false, !flow)
		}
		if err := w.node(k, true, simple, depth+1); err != nil {
			return err
		}
		if simple {
			w.indicator(":", false, false, false)
		} else {
			if !flow || w.column > w.width {
				w.writeIndent()
			}
			w.indicator(":", true, false, !flow)
		}
		if err := w.node(all[2*i+1], true, false, depth+1); err != nil {
			return err
		}
	}
	w.indent = old
	if flow {
		w.flow--
	}
	return nil
}

// simpleKey tells whether a key fits before its colon.
func simpleKey(k any) bool {
	if t, ok := k.(Tuple); ok {
		return len(t) == 0
	}
	s, _ := scalarOf(k)
	return len(s) <= 128 && !strings.ContainsAny(s, "\n\u0085\u2028\u2029")
}

func (w *yamlWriter) binary(b Bytes, simpleKey bool) error {
	text := base64.StdEncoding.EncodeToString([]byte(b))
	w.indicator("!!binary", true, false, false)
	if w.flow > 0 || simpleKey {
		w.doubleQuoted(text+"\n", !simpleKey)
		return nil
	}
	w.indicator("|", true, false, false)
	old := w.deeper(false, false)
	for text != "" {
		n := min(76, len(text))
		w.newline()
		w.put(strings.Repeat(" ", max(w.indent, 2)) + text[:n])
		text = text[n:]
	}
	w.indent = old
	w.whitespace, w.indention = true, false
	return nil
}

// scalar writes a scalar in the plainest style that keeps its tag.
func (w *yamlWriter) scalar(s, tag string, simpleKey bool) {
	a := analyze(s)
	if w.ascii && strings.IndexFunc(s, func(r rune) bool { return r > 126 }) >= 0 {
		a = analysis{multiline: a.multiline}
	}
	plain := a.blockPlain
	if w.flow > 0 {
		plain = a.flowPlain
	}
	if PlainTag(s) != tag || s == "" && (w.flow > 0 || simpleKey) || simpleKey && a.multiline {
		plain = false
	}
	old := w.deeper(true, false)
	defer func() { w.indent = old }()
	switch {
	case plain:
		w.plain(s, !simpleKey)
	case a.singleQuoted && (!simpleKey || !a.multiline):
		w.singleQuoted(s, !simpleKey)
	default:
		w.doubleQuoted(s, !simpleKey)
	}
}

// analysis is libyaml's yaml_emitter_analyze_scalar.
type analysis struct{ multiline, flowPlain, blockPlain, singleQuoted bool }

func isBreak(r rune) bool { return r == '\n' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029 }
func isBlank(r rune) bool { return r == ' ' || r == '\t' || isBreak(r) }

// printableYAML is libyaml's IS_PRINTABLE.
func printableYAML(r rune) bool {
	return r == '\n' || r >= ' ' && r <= '~' || r == 0x85 || r >= 0xA0 && r <= 0xD7FF || r >= 0xE000 && r < 0xFFFE && r != 0xFEFF
}

func analyze(s string) analysis {
	if s == "" {
		return analysis{blockPlain: true, singleQuoted: true}
	}
	var flowInd, blockInd, special, breaks, edge, breakSpace, spaceBreak, prevSpace, prevBreak bool
	if strings.HasPrefix(s, "---") || strings.HasPrefix(s, "...") {
		flowInd, blockInd = true, true
	}
	runes := []rune(s)
	for i, r := range runes {
		before := i == 0 || isBlank(runes[i-1])
		after := i+1 == len(runes) || isBlank(runes[i+1])
		switch {
		case i == 0 && strings.ContainsRune("#,[]{}&*!|>'\"%@`", r), i == 0 && r == '-' && after, i > 0 && r == '#' && before:
			flowInd, blockInd = true, true
		case i > 0 && strings.ContainsRune(",?[]{}", r):
			flowInd = true
		case r == ':' || i == 0 && r == '?':
			flowInd = true
			blockInd = blockInd || after
		}
		if !printableYAML(r) {
			special = true
		}
		switch {
		case r == ' ':
			edge = edge || i == 0 || i == len(runes)-1
			breakSpace = breakSpace || prevBreak
			prevSpace, prevBreak = true, false
		case isBreak(r):
			breaks = true
			edge = edge || i == 0 || i == len(runes)-1
			spaceBreak = spaceBreak || prevSpace
			prevSpace, prevBreak = false, true
		default:
			prevSpace, prevBreak = false, false
		}
	}
	plain := !edge && !breakSpace && !spaceBreak && !special && !breaks
	return analysis{breaks, plain && !flowInd, plain && !blockInd, !breakSpace && !spaceBreak && !special}
}

func (w *yamlWriter) plain(s string, fold bool) {
	if !w.whitespace && (s != "" || w.flow > 0) {
		w.put(" ")
	}
	w.folded([]rune(s), fold, false, func(r rune) { w.put(string(r)) })
	w.whitespace, w.indention = false, false
}

// folded writes characters and folds at single spaces beyond the width; quoted
// text is not folded at its ends.
func (w *yamlWriter) folded(runes []rune, fold, quoted bool, put func(r rune)) {
	spaces := false
	for i, r := range runes {
		if r != ' ' {
			put(r)
			w.indention, spaces = false, false
			continue
		}
		inside := !quoted || i > 0 && i < len(runes)-1
		next := i+1 < len(runes) && runes[i+1] == ' '
		if fold && !spaces && w.width >= 0 && w.column > w.width && inside && !next {
			w.writeIndent()
		} else {
			w.put(" ")
		}
		spaces = true
	}
}

func (w *yamlWriter) singleQuoted(s string, fold bool) {
	w.indicator("'", true, false, false)
	breaks := false
	var line []rune
	flush := func() {
		if len(line) > 0 {
			w.folded(line, fold, true, func(r rune) {
				if r == '\'' {
					w.put("'")
				}
				w.put(string(r))
			})
			line = nil
		}
	}
	for _, r := range s {
		if !isBreak(r) {
			if breaks {
				w.writeIndent()
			}
			breaks = false
			line = append(line, r)
			continue
		}
		flush()
		if !breaks && r == '\n' {
			w.newline()
		}
		if r == '\n' {
			w.newline()
		} else {
			w.b.WriteRune(r)
			w.column = 0
		}
		w.indention, breaks = true, true
	}
	flush()
	if breaks {
		w.writeIndent()
	}
	w.indicator("'", false, false, false)
	w.whitespace, w.indention = false, false
}

var yamlEscapes = map[rune]string{0: `\0`, 7: `\a`, 8: `\b`, 9: `\t`, 10: `\n`, 11: `\v`, 12: `\f`, 13: `\r`, 27: `\e`, '"': `\"`, '\\': `\\`, 0x85: `\N`, 0xA0: `\_`, 0x2028: `\L`, 0x2029: `\P`}

func (w *yamlWriter) doubleQuoted(s string, fold bool) {
	w.indicator(`"`, true, false, false)
	runes := []rune(s)
	spaces := false
	for i, r := range runes {
		switch {
		case !printableYAML(r) || isBreak(r) || r == '"' || r == '\\' || w.ascii && r > 126:
			w.put(yamlEscape(r))
			spaces = false
		case r == ' ':
			if fold && !spaces && w.width >= 0 && w.column > w.width && i > 0 && i < len(runes)-1 {
				w.writeIndent()
				if runes[i+1] == ' ' {
					w.put(`\`)
				}
			} else {
				w.put(" ")
			}
			spaces = true
		default:
			w.put(string(r))
			spaces = false
		}
	}
	w.indicator(`"`, false, false, false)
	w.whitespace, w.indention = false, false
}

func yamlEscape(r rune) string {
	if s, ok := yamlEscapes[r]; ok {
		return s
	}
	switch {
	case r <= 0xFF:
		return fmt.Sprintf(`\x%02X`, r)
	case r <= 0xFFFF:
		return fmt.Sprintf(`\u%04X`, r)
	}
	return fmt.Sprintf(`\U%08X`, r)
}

// yamlDoubleQuoted is one double-quoted scalar; width < 0 folds nothing.
func yamlDoubleQuoted(s string, width, column int) string {
	w := &yamlWriter{width: width, whitespace: true, column: column}
	w.doubleQuoted(s, true)
	return w.b.String()
}

// filterYAML is Salt's yaml filter.
func filterYAML(_ *run, v any, a *Args) (any, error) {
	flow := a.Take("flow_style", true)
	if flow != nil {
		on, err := truth(flow)
		if err != nil {
			return nil, err
		}
		flow = on
	}
	out, err := DumpYAML(v, flow)
	if err != nil {
		return nil, err
	}
	return Markup(strings.TrimSpace(out)), nil
}
