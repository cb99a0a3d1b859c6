package pyyaml

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// Load reads a rendered text as Salt does: PyYAML's YAML 1.1 with the changes of
// salt/utils/yamlloader.py. yes is true, 0644 is 644, a date stays a string, <<
// merges, and a key that is there twice is an error. A text without a document is
// nil. ordered is whether dicts keep their order when they are written again, as
// those of an SLS do.
func Load(f *File, ordered bool) (any, error) {
	if err := strictyaml.CheckText(f.Name, f.Text); err != nil {
		return nil, f.relocated(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.Text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, syntaxFault(f, err)
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, f.Fault(&more, "has more than one YAML document", "keep one, without ---")
	case !errors.Is(err, io.EOF):
		return nil, syntaxFault(f, err)
	}
	l := &loader{file: f, ordered: ordered, anchors: map[*yaml.Node]any{}}
	return l.value(doc.Content[0], 0)
}

// relocated moves an error to the template's line.
func (f *File) relocated(err error) error {
	var e *strictyaml.Error
	if errors.As(err, &e) && e.Line > 0 {
		e.Line = f.Line(e.Line)
	}
	return err
}

type loader struct {
	file    *File
	ordered bool
	nodes   int
	anchors map[*yaml.Node]any // an alias is the very value of its anchor
}

func (l *loader) value(n *yaml.Node, depth int) (any, error) {
	if l.nodes++; l.nodes > maxNodes {
		return nil, l.file.Fault(n, fmt.Sprintf("holds more than %d values", maxNodes), "split the file, or use fewer aliases")
	}
	if depth > maxDepth {
		return nil, l.file.Fault(n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
	}
	switch n.Kind {
	case yaml.AliasNode:
		if v, ok := l.anchors[n.Alias]; ok {
			return v, nil
		}
		return nil, l.file.Fault(n, "the alias *"+n.Value+" stands inside what it names", "write the value out")
	case yaml.SequenceNode:
		return l.sequence(n, depth)
	case yaml.MappingNode:
		return l.mapping(n, depth)
	}
	v, err := l.scalar(n)
	if n.Anchor != "" {
		l.anchors[n] = v
	}
	return v, err
}

func (l *loader) sequence(n *yaml.Node, depth int) (any, error) {
	if t := explicitTag(n); t != "" && t != "seq" {
		return l.tagged(n, t, depth)
	}
	out := jinja.NewList()
	for _, c := range n.Content {
		v, err := l.value(c, depth+1)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, v)
	}
	if n.Anchor != "" {
		l.anchors[n] = out
	}
	return out, nil
}

// tagged reads the collections that PyYAML knows by a tag.
func (l *loader) tagged(n *yaml.Node, tag string, depth int) (any, error) {
	switch tag {
	case "omap", "pairs":
		if l.ordered && tag == "omap" {
			return nil, l.file.Fault(n, "Salt does not read a list as !!omap", "write a mapping: its order is kept")
		}
		out := jinja.NewList()
		for _, c := range n.Content {
			if c.Kind != yaml.MappingNode || len(c.Content) != 2 {
				return nil, l.file.Fault(c, "an item of !!"+tag+" is not one key and a value", "")
			}
			k, err := l.value(c.Content[0], depth+1)
			if err != nil {
				return nil, err
			}
			v, err := l.value(c.Content[1], depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, jinja.Tuple{k, v})
		}
		return out, nil
	}
	return nil, l.file.Fault(n, "the tag "+n.Tag+" is not known", "quote the value instead")
}

// pair is one entry of a mapping, after << is resolved.
type pair struct{ key, value *yaml.Node }

// pairs resolves << as Salt does: merged entries come first, those that the
// mapping sets itself are left out (salt/utils/yamlloader.py, flatten_mapping).
func (l *loader) pairs(n *yaml.Node, depth int) ([]pair, error) {
	if depth > maxDepth {
		return nil, l.file.Fault(n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
	}
	var own, merged []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if !plain(k) || k.Value != "<<" {
			own = append(own, pair{k, v})
			continue
		}
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		sources := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			sources = nil
			for i := len(v.Content) - 1; i >= 0; i-- {
				sources = append(sources, v.Content[i])
			}
		}
		for _, s := range sources {
			if s.Kind == yaml.AliasNode {
				s = s.Alias
			}
			if s.Kind != yaml.MappingNode {
				return nil, l.file.Fault(s, "<< needs a mapping or a list of mappings", "")
			}
			more, err := l.pairs(s, depth+1)
			if err != nil {
				return nil, err
			}
			if merged = append(merged, more...); len(merged) > maxNodes {
				return nil, l.file.Fault(n, fmt.Sprintf("holds more than %d values", maxNodes), "")
			}
		}
	}
	mine := map[string]bool{}
	for _, p := range own {
		mine[p.key.Value] = true
	}
	var out []pair
	for _, p := range merged {
		if !mine[p.key.Value] {
			out = append(out, p)
		}
	}
	return append(out, own...), nil
}

func (l *loader) mapping(n *yaml.Node, depth int) (any, error) {
	if t := explicitTag(n); t != "" && t != "map" && t != "omap" && t != "set" {
		return nil, l.file.Fault(n, "the tag "+n.Tag+" is not known", "quote the value instead")
	}
	entries, err := l.pairs(n, depth)
	if err != nil {
		return nil, err
	}
	m := jinja.NewMap()
	m.Ordered = l.ordered
	if n.Anchor != "" {
		l.anchors[n] = m
	}
	for _, p := range entries {
		key, err := l.key(p.key, depth)
		if err != nil {
			return nil, err
		}
		if _, dup := m.At(key); dup {
			return nil, l.file.Fault(p.key, fmt.Sprintf("key %q is there twice, first in line %d", jinja.Str(key), m.OriginOf(key).Line), "remove one")
		}
		v, err := l.value(p.value, depth+1)
		if err != nil {
			return nil, err
		}
		if err := m.PutAt(key, v, jinja.Origin{File: l.file.Name, Line: l.file.Line(p.key.Line)}); err != nil {
			hint := "quote it"
			if p.key.Kind == yaml.MappingNode {
				hint = "{{ }} in YAML needs quotes around it"
			}
			return nil, l.file.Fault(p.key, "a key is not a plain value", hint)
		}
	}
	if explicitTag(n) == "set" {
		set, err := jinja.NewSet(m.All())
		if err != nil {
			return nil, l.file.Fault(n, "the set holds what cannot be in it", "")
		}
		return set, nil
	}
	return m, nil
}

// key reads a mapping's key, where a plain = is a string.
func (l *loader) key(n *yaml.Node, depth int) (any, error) {
	if plain(n) && n.Value == "=" {
		return n.Value, nil
	}
	return l.value(n, depth+1)
}

func plain(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
}

// explicitTag is the short name of a tag that is written out.
func explicitTag(n *yaml.Node) string {
	if n.Style&yaml.TaggedStyle == 0 {
		return ""
	}
	if t, ok := strings.CutPrefix(n.ShortTag(), "!!"); ok {
		return t
	}
	return n.Tag
}

func (l *loader) scalar(n *yaml.Node) (any, error) {
	tag := "str"
	if plain(n) {
		tag = jinja.PlainTag(n.Value)
	}
	if t := explicitTag(n); t != "" && t != "!" {
		tag = t
	}
	wrong := func() error { return l.file.Fault(n, n.Value+" is not a value of "+tag, "quote it") }
	switch tag {
	case "str", "timestamp", "merge", "python/unicode":
		return n.Value, nil
	case "value":
		return nil, l.file.Fault(n, "a plain = is no value", "quote it")
	case "null":
		return nil, nil
	case "bool":
		switch strings.ToLower(n.Value) {
		case "yes", "true", "on":
			return true, nil
		case "no", "false", "off":
			return false, nil
		}
		return nil, wrong()
	case "int":
		if v, ok := integer(n.Value); ok {
			return v, nil
		}
		return nil, wrong()
	case "float":
		if v, ok := float(n.Value); ok {
			return v, nil
		}
		return nil, wrong()
	case "binary":
		return l.binary(n)
	}
	return nil, l.file.Fault(n, "the tag "+n.Tag+" is not known", "quote the value instead")
}

// integer is construct_yaml_int, with Salt's change: leading zeros are dropped, and
// do not mean octal.
func integer(s string) (any, bool) {
	if s != "0" && strings.HasPrefix(s, "0") && !strings.HasPrefix(s, "0b") && !strings.HasPrefix(s, "0x") {
		if s = strings.TrimLeft(s, "0"); s == "" {
			s = "0"
		}
	}
	s = strings.ReplaceAll(s, "_", "")
	negative := strings.HasPrefix(s, "-")
	s = strings.TrimLeft(s, "+-")
	n := new(big.Int)
	ok := true
	switch {
	case s == "0":
	case strings.HasPrefix(s, "0b"):
		_, ok = n.SetString(s[2:], 2)
	case strings.HasPrefix(s, "0x"):
		_, ok = n.SetString(s[2:], 16)
	case strings.HasPrefix(s, "0"):
		_, ok = n.SetString(s, 8)
	default:
		for part := range strings.SplitSeq(s, ":") {
			d, good := new(big.Int).SetString(part, 10)
			if !good || len(part) > 4300 {
				return nil, false
			}
			n.Add(n.Mul(n, big.NewInt(60)), d)
		}
	}
	if !ok {
		return nil, false
	}
	if negative {
		n.Neg(n)
	}
	if n.IsInt64() {
		return n.Int64(), true
	}
	return n, true
}

// float is construct_yaml_float.
func float(s string) (any, bool) {
	s = strings.ToLower(strings.ReplaceAll(s, "_", ""))
	sign := 1.0
	if strings.HasPrefix(s, "-") {
		sign = -1
	}
	s = strings.TrimLeft(s, "+-")
	switch {
	case s == ".inf":
		return math.Inf(int(sign)), true
	case s == ".nan":
		return math.NaN(), true
	case strings.Contains(s, ":"):
		v := 0.0
		for part := range strings.SplitSeq(s, ":") {
			d, err := strconv.ParseFloat(part, 64)
			if err != nil {
				return nil, false
			}
			v = v*60 + d
		}
		return sign * v, true
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(v, 0) {
		return nil, false
	}
	return sign * v, true
}

func (l *loader) binary(n *yaml.Node) (any, error) {
	text := strings.Join(strings.Fields(n.Value), "")
	text = strings.TrimRight(text, "=")
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, l.file.Fault(n, "!!binary holds what is not base64", "")
	}
	return jinja.Bytes(b), nil
}
