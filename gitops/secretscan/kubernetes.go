package secretscan

import (
	"cmp"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// secretsIn returns the lines of a text, from 1 and in order, in which a Secret of
// Kubernetes has data. What YAML takes is judged by its root, in whatever style it is
// written; what it does not, a template or a script, by its lines. Of a document that SOPS
// encrypted only the texts in its values are looked at: the rest is [Sealed]'s. The text
// stands within so many others.
func secretsIn(text string, root *yaml.Node, sealed bool, within int) (lines []int) {
	switch {
	case !mayHaveSecret(text):
	case root == nil || root.Kind == yaml.ScalarNode:
		lines = byLines(text)
	default:
		s := search{sealed: sealed, within: within, known: map[*yaml.Node]fields{}, listed: map[*yaml.Node]bool{}}
		s.walk(root)
		lines = s.lines
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// maxWithin is how many texts one within the other are parsed; what is deeper is judged by
// its lines. Each takes as long as the whole file.
const maxWithin = 4

// mayHaveSecret asks for less than parsing does: most documents have no such words.
func mayHaveSecret(text string) bool {
	return strings.Contains(text, "Secret") && strings.Contains(text, "kind") && strings.Contains(text, "ata")
}

// parse returns the root of the one document of a text; nil when it is no YAML, empty, or more.
func parse(text string) *yaml.Node {
	d := yaml.NewDecoder(strings.NewReader(text))
	var n, more yaml.Node
	if d.Decode(&n) != nil || len(n.Content) == 0 || !errors.Is(d.Decode(&more), io.EOF) {
		return nil
	}
	return n.Content[0]
}

// search looks for Secrets in the nodes of a document.
type search struct {
	sealed bool
	within int
	known  map[*yaml.Node]fields
	listed map[*yaml.Node]bool // items that were looked at
	lines  []int
}

// fields is what a mapping has, merged into it or its own. Of several kinds nobody knows
// which one a reader takes; of another key that is there twice it is the last. It has a
// size of its own, for aliases can have many mappings share a long one.
type fields struct {
	secret, secrets  bool       // of kind Secret, or SecretList
	data, stringData *yaml.Node // the keys, when they have data
	items            *yaml.Node
}

// walk looks at a node and all below it. What an alias stands for is looked at where it is.
func (s *search) walk(n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		if s.sealed {
			break
		}
		f := s.fieldsOf(n)
		if f.secret {
			s.found(f)
		}
		if f.secrets && f.items != nil && !s.listed[f.items] {
			s.listed[f.items] = true
			for _, item := range f.items.Content {
				if resolved(item).Kind == yaml.MappingNode {
					s.found(s.fieldsOf(item))
				}
			}
		}
	case yaml.ScalarNode:
		s.text(n)
	}
	for _, c := range n.Content {
		s.walk(c)
	}
}

// text looks at what a value holds: a file that a ConfigMap brings, a patch, a script.
func (s *search) text(n *yaml.Node) {
	if !mayHaveSecret(n.Value) {
		return
	}
	before := 0
	for _, doc := range documents(n.Value) {
		root := (*yaml.Node)(nil)
		if s.within < maxWithin {
			root = parse(doc)
		}
		for _, line := range secretsIn(doc, root, false, s.within+1) {
			at := n.Line
			if n.Style&yaml.LiteralStyle != 0 {
				at += before + line // it begins below its indicator
			}
			s.lines = append(s.lines, at)
		}
		before += strings.Count(doc, "\n")
	}
}

func (s *search) found(f fields) {
	for _, key := range []*yaml.Node{f.data, f.stringData} {
		if key != nil {
			s.lines = append(s.lines, key.Line)
		}
	}
}

// fieldsOf collects them once for each mapping, and for each list of mappings to merge, so
// that neither a mapping that merges itself nor a long chain of merges takes longer than others.
func (s *search) fieldsOf(n *yaml.Node) fields {
	n = resolved(n)
	f, ok := s.known[n]
	if ok {
		return f
	}
	s.known[n] = f
	switch n.Kind {
	case yaml.SequenceNode:
		for _, one := range n.Content {
			f.merge(s.fieldsOf(one))
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.add(n.Content[i], resolved(n.Content[i+1]))
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "<<" {
				f.merge(s.fieldsOf(n.Content[i+1]))
			}
		}
	}
	s.known[n] = f
	return f
}

func (f *fields) add(key, value *yaml.Node) {
	hasData := len(value.Content) > 0 || value.Kind == yaml.ScalarNode && value.Tag != "!!null"
	switch name := resolved(key).Value; {
	case name == "kind":
		f.secret = f.secret || value.Value == "Secret"
		f.secrets = f.secrets || value.Value == "SecretList"
	case name == "data" && hasData:
		f.data = key
	case name == "stringData" && hasData:
		f.stringData = key
	case name == "items":
		f.items = value
	}
}

// merge takes over what a mapping lacks.
func (f *fields) merge(from fields) {
	f.secret = f.secret || from.secret
	f.secrets = f.secrets || from.secrets
	f.data = cmp.Or(f.data, from.data)
	f.stringData = cmp.Or(f.stringData, from.stringData)
	f.items = cmp.Or(f.items, from.items)
}

func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// What stands at the beginning of a line or of an entry in flow style, perhaps in quotes
// that another text escapes.
const (
	begins = `(?:^\s*(?:-\s+)*|[{,]\s*)\\?["']?`
	colon  = `\\?["']?\s*:\s*(?:&[\w-]+\s+)?`
)

var (
	secretKindRE = regexp.MustCompile(begins + `kind` + colon + `\\?["']?Secret\\?["']?\s*(?:[,}#]|$)`)
	// secretDataRE has what says that there is none, if anything does.
	secretDataRE = regexp.MustCompile(begins + `(?:data|stringData)` + colon + `(\{\s*\}|null\b|~)?`)
)

// beforeKeyRE is what a line in block style has before its first key.
var beforeKeyRE = regexp.MustCompile(`^\s*(?:-\s+)*`)

// mapping is one that has not ended yet.
type mapping struct {
	column int // of its keys, in block style
	secret bool
	data   []int // lines
}

func (m *mapping) add(isKind bool, line int) {
	if isKind {
		m.secret = true
	} else {
		m.data = append(m.data, line)
	}
}

// byLines finds the lines with data that are part of the same mapping as the kind: in block
// style by the column, in flow style by the braces. The braces of a template are in pairs,
// too. As those in a text may not be, what is in flow style in one line is taken together.
func byLines(text string) (lines []int) {
	var block, flow []mapping // the innermost last
	end := func(open *[]mapping) {
		last := len(*open) - 1
		if m := (*open)[last]; m.secret {
			lines = append(lines, m.data...)
		}
		*open = (*open)[:last]
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, " \t\n")
		keys := map[int]bool{} // where the kind, true, or data, false, begins
		for _, m := range secretKindRE.FindAllStringIndex(line, -1) {
			keys[m[0]] = true
		}
		for _, m := range secretDataRE.FindAllStringSubmatchIndex(line, -1) {
			if m[2] < 0 {
				keys[m[0]] = false
			}
		}
		if content := strings.TrimLeft(line, " \t"); !between(content) {
			indent, column := len(line)-len(content), len(beforeKeyRE.FindString(line))
			for len(block) > 0 && (block[len(block)-1].column > indent || strings.HasPrefix(content+" ", "--- ") && block[len(block)-1].column == indent) {
				end(&block)
			}
			if len(block) == 0 || block[len(block)-1].column < column {
				block = append(block, mapping{column: column})
			}
		}
		here := []mapping{{}}
		for i, c := range line {
			switch {
			case c == '{':
				flow = append(flow, mapping{})
			case c == '}' && len(flow) > 0:
				end(&flow)
			}
			isKind, is := keys[i]
			if !is {
				continue
			}
			if c == '{' || c == ',' {
				here[0].add(isKind, n)
			} else {
				block[len(block)-1].add(isKind, n)
			}
			if len(flow) > 0 {
				flow[len(flow)-1].add(isKind, n)
			}
		}
		end(&here)
	}
	for len(block) > 0 {
		end(&block)
	}
	for len(flow) > 0 {
		end(&flow)
	}
	return lines
}

// between is true for a line that may stand in a mapping with any indentation: an empty one,
// a comment, or what a template does.
func between(content string) bool {
	return content == "" || slices.ContainsFunc([]string{"#", "{{", "{%", "{#"}, func(p string) bool { return strings.HasPrefix(content, p) })
}
