package secretscan

import (
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
		return byLines(text)
	default:
		s := search{sealed: sealed, within: within, known: map[*yaml.Node]fields{}}
		s.walk(root)
		lines = s.lines
	}
	slices.Sort(lines)
	return lines
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
	lines  []int
}

// fields is what a mapping has, merged into it or its own. Of a key that is there twice,
// and of several kinds, nobody knows which one a reader takes.
type fields struct {
	secret, secrets bool         // of kind Secret, or SecretList
	data            []*yaml.Node // keys that have data, one of each name
	items           *yaml.Node
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
			s.found(f.data)
		}
		if f.secrets && f.items != nil {
			for _, item := range f.items.Content {
				s.found(s.fieldsOf(item).data)
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

func (s *search) found(keys []*yaml.Node) {
	for _, k := range keys {
		s.lines = append(s.lines, k.Line)
	}
}

// fieldsOf collects them once for each mapping, so that neither a mapping that merges
// itself nor a long chain of merges takes longer than others.
func (s *search) fieldsOf(n *yaml.Node) fields {
	n = resolved(n)
	f, ok := s.known[n]
	if ok || n.Kind != yaml.MappingNode {
		return f
	}
	s.known[n] = f
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolved(n.Content[i+1])
		switch resolved(key).Value {
		case "kind":
			f.secret = f.secret || value.Value == "Secret"
			f.secrets = f.secrets || value.Value == "SecretList"
		case "data", "stringData":
			if len(value.Content) > 0 || value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
				f.data = append(f.data, key)
			}
		case "items":
			f.items = value
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		switch from := resolved(n.Content[i+1]); from.Kind {
		case yaml.MappingNode:
			f.merge(s.fieldsOf(from))
		case yaml.SequenceNode:
			for _, one := range from.Content {
				f.merge(s.fieldsOf(one))
			}
		}
	}
	s.known[n] = f
	return f
}

// merge takes over what a mapping lacks.
func (f *fields) merge(from fields) {
	f.secret = f.secret || from.secret
	f.secrets = f.secrets || from.secrets
	for _, key := range from.data {
		if !slices.ContainsFunc(f.data, func(k *yaml.Node) bool { return k.Value == key.Value }) {
			f.data = append(f.data, key)
		}
	}
	if f.items == nil {
		f.items = from.items
	}
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

// byLines finds a line with the kind, and those with data, anywhere in a text.
func byLines(text string) (lines []int) {
	n, isSecret := 0, false
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		isSecret = isSecret || secretKindRE.MatchString(line)
		for _, m := range secretDataRE.FindAllStringSubmatch(line, -1) {
			if m[1] == "" {
				lines = append(lines, n)
			}
		}
	}
	if !isSecret {
		return nil
	}
	return lines
}
