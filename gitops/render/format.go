package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"holdfast.dev/addons"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
	"holdfast.dev/salt/jinja"
)

// checkFormat has the content of a value read as the program will that it is for: what
// that refuses would be found out on the nodes. Errors are of the pillar's lines.
func checkFormat(what, format string, v *jinja.Map, o jinja.Origin) error {
	var s speller
	s.spell(v, o)
	var err error
	switch format {
	case addons.FormatThresholds:
		_, err = verdict.ParseThresholds(what, s.text.Bytes())
	case addons.FormatSmartctl:
		_, err = smart.ParseAdapters(what, s.text.Bytes())
	default:
		return fault(o, fmt.Sprintf("%s has the format %q, which this renderer does not know", what, format), "render with a newer one")
	}
	return s.placed(what, err)
}

// speller writes a value as JSON, one entry a line, and keeps where each was written.
type speller struct {
	text  bytes.Buffer
	lines []jinja.Origin // of each line of text
}

func (s *speller) line(o jinja.Origin, text string) {
	s.text.WriteString(text + "\n")
	s.lines = append(s.lines, o)
}

// spell writes what stands at o.
func (s *speller) spell(v any, o jinja.Origin) {
	switch v := v.(type) {
	case *jinja.Map:
		s.line(first(v, o), "{")
		for i, k := range v.Keys() {
			comma := ""
			if i > 0 {
				comma = ", "
			}
			e, _ := v.Get(k)
			s.line(v.Origin(k), comma+quoted(k)+":")
			s.spell(e, v.Origin(k))
		}
		s.line(o, "}")
	case *jinja.List:
		s.list(v.Items, o)
	case jinja.Tuple:
		s.list(v, o)
	case []any:
		s.list(v, o)
	default:
		data, err := json.Marshal(v)
		if err != nil { // a number that JSON has not; the parser refuses what it stands for
			data = []byte("null")
		}
		s.line(o, string(data))
	}
}

func (s *speller) list(items []any, o jinja.Origin) {
	s.line(o, "[")
	for i, item := range items {
		at := o
		if m, ok := item.(*jinja.Map); ok {
			at = first(m, o)
		}
		if i > 0 {
			s.line(at, ",")
		}
		s.spell(item, at)
	}
	s.line(o, "]")
}

// first is where the first entry of a map was written, o when it has none.
func first(m *jinja.Map, o jinja.Origin) jinja.Origin {
	if keys := m.Keys(); len(keys) > 0 && m.Origin(keys[0]).File != "" {
		return m.Origin(keys[0])
	}
	return o
}

func quoted(s string) string {
	data, err := json.Marshal(s)
	if err != nil { // no string is none
		return strconv.Quote(s)
	}
	return string(data)
}

// placed are the errors with the lines of the text made those of the pillar.
func (s *speller) placed(what string, err error) error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range many.Unwrap() {
			errs = append(errs, s.placed(what, e))
		}
		return errors.Join(errs...)
	}
	var e *strictyaml.Error
	if !errors.As(err, &e) {
		return fault(s.lines[0], what+": "+err.Error(), "")
	}
	return fault(s.lines[min(max(e.Line-1, 0), len(s.lines)-1)], what+": "+e.Msg, e.Hint)
}
