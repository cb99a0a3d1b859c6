// Package pyyaml reads YAML that means the same to every reader it will meet:
// Salt's PyYAML (YAML 1.1), Kubernetes and this program (YAML 1.2). A plain
// scalar that they read differently, such as yes, 0644 or 2024-01-01, is an
// error that says to quote it. So are duplicate keys, keys that are not strings,
// tags, merge keys and documents that grow without bound through aliases.
package pyyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// maxNodes bounds how many values one file may hold, aliases expanded.
const maxNodes = 200_000

// maxDepth bounds how deep values nest.
const maxDepth = 100

// File is a rendered text and the template it came from.
type File struct {
	// Name is the template's path.
	Name string
	*jinja.Output
}

// Document is one YAML document of a file.
type Document struct {
	File *File
	Root *yaml.Node
}

// Fault is an error at a node of the document: at the template's line.
func (f *File) Fault(n *yaml.Node, msg, hint string) error {
	return &strictyaml.Error{File: f.Name, Line: f.Line(n.Line), Msg: msg, Hint: hint}
}

var lineRE = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)`)

// Documents parses all documents of a rendered text. Documents without content are left out.
func Documents(f *File) ([]*Document, error) {
	if err := strictyaml.CheckText(f.Name, f.Text); err != nil {
		var e *strictyaml.Error
		if errors.As(err, &e) && e.Line > 0 {
			e.Line = f.Line(e.Line)
		}
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(f.Text))
	var docs []*Document
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, syntaxFault(f, err)
		}
		root := doc.Content[0]
		if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
			continue
		}
		docs = append(docs, &Document{File: f, Root: root})
	}
}

// syntaxFault places the parser's error at the template's line.
func syntaxFault(f *File, err error) error {
	m := lineRE.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	line, _ := strconv.Atoi(m[1])
	if found := brokenLine(f.Text); found > 0 {
		line = found
	}
	out := &strictyaml.Error{File: f.Name, Line: f.Line(max(line, 1)), Msg: "not valid YAML: " + m[2], Hint: "check the indentation and the quotes around it"}
	if text := lineOf(f.Text, line); text != "" && len(text) <= 120 {
		out.Msg += ", near `" + text + "`"
	}
	return out
}

// brokenLine finds the line after the longest beginning of the text that is valid
// YAML. The parser itself names the line where the surrounding block begins, or
// one less. It returns 0 when the text is too large to look.
func brokenLine(text []byte) int {
	ends := []int{0}
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	const budget = 64 << 20 // bytes parsed
	if len(ends)*len(text) > budget {
		return 0
	}
	for n := len(ends) - 1; n >= 0; n-- {
		if parses(text[:ends[n]]) {
			return n + 1
		}
	}
	return 0
}

func parses(text []byte) bool {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

func lineOf(text []byte, line int) string {
	lines := bytes.SplitN(text, []byte("\n"), line+1)
	if line < 1 || line > len(lines) {
		return ""
	}
	return strings.TrimSpace(string(lines[line-1]))
}

// One parses a text that must hold one mapping, or nothing.
func One(f *File) (*jinja.Map, error) {
	docs, err := Documents(f)
	if err != nil {
		return nil, err
	}
	switch len(docs) {
	case 0:
		return jinja.NewMap(), nil
	case 1:
	default:
		return nil, f.Fault(docs[1].Root, "has more than one YAML document", "keep one, without ---")
	}
	v, err := docs[0].Value()
	if err != nil {
		return nil, err
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil, f.Fault(docs[0].Root, "the file is not a mapping", "write key: value")
	}
	return m, nil
}

// Value is the document as a value: maps are [*jinja.Map], whose origins are the
// template's lines.
func (d *Document) Value() (any, error) {
	r := &reader{file: d.File}
	return r.value(d.Root, 0)
}

type reader struct {
	file  *File
	nodes int
}

func (r *reader) value(n *yaml.Node, depth int) (any, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, r.file.Fault(n, fmt.Sprintf("holds more than %d values", maxNodes), "split the file, or use fewer aliases")
	}
	if depth > maxDepth {
		return nil, r.file.Fault(n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return nil, r.file.Fault(n, "the tag "+n.Tag+" is not supported", "quote the value instead")
	}
	switch n.Kind {
	case yaml.AliasNode:
		return r.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := r.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		return r.mapping(n, depth)
	default:
		return r.scalar(n)
	}
}

func (r *reader) mapping(n *yaml.Node, depth int) (any, error) {
	m := jinja.NewMap()
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Tag == "!!merge" {
			return nil, r.file.Fault(k, "the merge key << is not supported", "write the keys out")
		}
		key, err := r.value(k, depth+1)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, r.file.Fault(k, fmt.Sprintf("the key %s is not a string", k.Value), "quote it")
		}
		if _, dup := m.Get(name); dup {
			return nil, r.file.Fault(k, fmt.Sprintf("key %q is there twice, first in line %d", name, m.Origin(name).Line), "remove one")
		}
		v, err := r.value(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		m.Set(name, v, jinja.Origin{File: r.file.Name, Line: r.file.Line(k.Line)})
	}
	return m, nil
}

// numeric are the bytes that numbers, and what looks like one, begin with.
const numeric = "+-.0123456789_="

// traps are plain scalars that YAML 1.1 and 1.2, or PyYAML and Go, read
// differently (PyYAML's resolver.py against the core schema of YAML 1.2). begin are all bytes that
// one can begin with: most scalars begin with none of them, and no expression is tried.
var traps = []struct {
	begin string
	re    *regexp.Regexp
	what  string
}{
	{"yYnNoO", regexp.MustCompile(`^(?:y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)$`), "a boolean to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?0[0-9_]+$`), "octal to some YAML readers and decimal to others"},
	{numeric, regexp.MustCompile(`^[-+]?0[box][0-9a-fA-F_]+$`), "a number to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$`), "a number to base 60 to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?[0-9.]*_[0-9_.]*(?:[eE][-+]?[0-9]+)?$`), "a number to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?(?:[0-9]+|[0-9]*\.[0-9]*)[eE][-+]?[0-9]+$`), "a number to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?(?:\.[0-9]+|[0-9]+\.)$`), "a number to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?$`), "a date to some YAML readers and a string to others"},
	{numeric, regexp.MustCompile(`^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$|^=$`), "read differently by different YAML readers"},
}

func (r *reader) scalar(n *yaml.Node) (any, error) {
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return n.Value, nil
	}
	for _, t := range traps {
		if n.Value != "" && strings.IndexByte(t.begin, n.Value[0]) >= 0 && t.re.MatchString(n.Value) {
			return nil, r.file.Fault(n, n.Value+" is "+t.what, "quote it")
		}
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	case "!!int":
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil {
			return nil, r.file.Fault(n, n.Value+" is too large for a 64-bit integer", "quote it")
		}
		return i, nil
	case "!!float":
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || math.IsInf(f, 0) {
			return nil, r.file.Fault(n, n.Value+" is not a number that can be kept exactly", "quote it")
		}
		return f, nil
	case "!!str":
		return n.Value, nil
	}
	return nil, r.file.Fault(n, n.Value+" is read as "+n.ShortTag(), "quote it")
}
