// Package strictyaml decodes the YAML that people write: one document, UTF-8,
// bounded in size, no unknown field, no duplicate key, no wrong type. Anything
// else is one error that names file and line.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest file that is read, in bytes. The largest file that
// people write by hand is a few kilobytes.
const MaxSize = 1 << 20

// Error is a fault at one place of a file.
type Error struct {
	File string
	Line int // from 1; 0 when the fault is of the whole file
	Msg  string
	Hint string // what to do next; may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	b.WriteString(": " + e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// CheckText refuses what no YAML file of ours can be: too large, or not UTF-8.
func CheckText(file string, data []byte) error {
	if len(data) > MaxSize {
		return &Error{File: file, Msg: fmt.Sprintf("%d bytes is too large, the limit is %d", len(data), MaxSize), Hint: "split the file"}
	}
	for line, rest := 1, data; len(rest) > 0; line++ {
		var l []byte
		l, rest, _ = bytes.Cut(rest, []byte("\n"))
		if !utf8.Valid(l) {
			return &Error{File: file, Line: line, Msg: "not valid UTF-8", Hint: "save the file as UTF-8"}
		}
		if bytes.IndexByte(l, 0) >= 0 {
			return &Error{File: file, Line: line, Msg: "has a NUL byte", Hint: "this is not a text file"}
		}
	}
	return nil
}

// Node parses one document into a tree, for callers that need line numbers.
// Duplicate keys are an error at any depth. An empty document is an error.
func Node(file string, data []byte) (*yaml.Node, error) {
	if err := CheckText(file, data); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{File: file, Msg: "the file is empty"}
		}
		return nil, wrap(file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, wrap(file, err)
		}
		return nil, &Error{File: file, Msg: "has more than one YAML document", Hint: "keep one, without ---"}
	}
	root := doc.Content[0]
	if err := checkDuplicates(file, root); err != nil {
		return nil, err
	}
	return root, nil
}

// Decode decodes one document into v, strictly.
func Decode(file string, data []byte, v any) error {
	if _, err := Node(file, data); err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		return wrap(file, err)
	}
	return nil
}

func checkDuplicates(file string, n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if first, dup := seen[k.Value]; dup && k.Kind == yaml.ScalarNode {
				return &Error{File: file, Line: k.Line, Msg: fmt.Sprintf("key %q is there twice, first in line %d", k.Value, first), Hint: "remove one"}
			}
			seen[k.Value] = k.Line
		}
	}
	for _, c := range n.Content {
		if err := checkDuplicates(file, c); err != nil {
			return err
		}
	}
	return nil
}

var (
	lineRE    = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)`)
	unknownRE = regexp.MustCompile(`^field (.+) not found in type .*$`)
)

// wrap turns the decoder's error into one Error: the first of several.
func wrap(file string, err error) error {
	var fault *Error
	if errors.As(err, &fault) {
		return err
	}
	msg := err.Error()
	var te *yaml.TypeError
	if errors.As(err, &te) && len(te.Errors) > 0 {
		msg = te.Errors[0]
	}
	e := &Error{File: file, Msg: strings.TrimPrefix(msg, "yaml: ")}
	if m := lineRE.FindStringSubmatch(msg); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Msg = m[2]
	}
	if m := unknownRE.FindStringSubmatch(e.Msg); m != nil {
		e.Msg, e.Hint = fmt.Sprintf("unknown field %q", m[1]), "check its spelling and indentation"
	}
	e.Msg = strings.ReplaceAll(e.Msg, "!!", "")
	return e
}
