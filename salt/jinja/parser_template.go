package jinja

import (
	"encoding/json"
	"strings"
)

// The statements that define macros and blocks, and that reach other templates.

// mentions notes a name that stands in the macro's body.
func (m *macroNode) mentions(name string) {
	switch name {
	case "varargs":
		m.usesVarargs = true
	case "kwargs":
		m.usesKwargs = true
	case "caller":
		m.usesCaller = true
	}
}

// signature parses "(a, b=1)".
func (p *parser) signature(m *macroNode) error {
	if !p.accept("(") {
		return p.fault(m.line(), "\"(\" is needed, not "+p.peek().describe(), "write {% macro name(a, b='default') %}")
	}
	for n := 0; !p.accept(")"); n++ {
		if n > 0 && !p.accept(",") {
			return p.fault(m.line(), "\",\" or \")\" is needed, not "+p.peek().describe(), "")
		}
		if n > 0 && p.accept(")") {
			break
		}
		w := p.peek()
		if w.kind != kindName || constants[w.val] {
			return p.fault(m.line(), "a parameter's name is needed, not "+w.describe(), "")
		}
		p.pop()
		m.params = append(m.params, w.val)
		if w.val == "caller" {
			m.definesCaller = true
		}
		if p.accept("=") {
			e, err := p.expr()
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, e)
		} else if len(m.defaults) > 0 {
			return p.fault(m.line(), "the parameter "+w.describe()+" has no default and follows one that has", "")
		}
	}
	return nil
}

func (p *parser) macroStatement(pc *piece) (stmt, error) {
	name := p.pop()
	if name.kind != kindName || constants[name.val] {
		return nil, p.fault(pc.line, "macro needs a name, not "+name.describe(), "write {% macro name() %}")
	}
	m := &macroNode{row: row(pc.line), name: name.val}
	if err := p.signature(m); err != nil {
		return nil, err
	}
	if err := p.end(pc); err != nil {
		return nil, err
	}
	return m, p.macroBody(pc, m, "endmacro")
}

// macroBody parses the body and notes which of the special names it uses, inner
// macros included (jinja2/compiler.py, find_undeclared).
func (p *parser) macroBody(pc *piece, m *macroNode, end string) (err error) {
	loops := p.loops
	p.loops = 0
	p.macros = append(p.macros, m)
	m.body, err = p.closed(pc, end)
	p.macros = p.macros[:len(p.macros)-1]
	p.loops = loops
	return err
}

func (p *parser) callStatement(pc *piece) (stmt, error) {
	caller := &macroNode{row: row(pc.line)}
	if p.peek().kind == kindOp && p.peek().val == "(" {
		if err := p.signature(caller); err != nil {
			return nil, err
		}
	}
	call, err := p.expr()
	if err != nil {
		return nil, err
	}
	if _, ok := call.(callExpr); !ok {
		return nil, p.fault(pc.line, "call needs a call", "write {% call name() %}")
	}
	if err := p.end(pc); err != nil {
		return nil, err
	}
	return callBlockNode{row(pc.line), call, caller}, p.macroBody(pc, caller, "endcall")
}

func (p *parser) blockStatement(pc *piece) (stmt, error) {
	name := p.pop()
	if name.kind != kindName {
		return nil, p.fault(pc.line, "block needs a name, not "+name.describe(), "write {% block name %}")
	}
	node := &blockNode{row: row(pc.line), name: name.val}
	node.scoped = p.acceptName("scoped")
	node.required = p.acceptName("required")
	node.scoped = node.scoped || p.acceptName("scoped")
	if err := p.end(pc); err != nil {
		return nil, err
	}
	if _, twice := p.blocks[node.name]; twice {
		return nil, p.fault(pc.line, "the block "+name.describe()+" is there twice", "rename one")
	}
	p.blocks[node.name] = node
	loops := p.loops
	p.loops = 0
	var err error
	node.body, err = p.closed(pc, "endblock")
	p.loops = loops
	if err == nil && node.required {
		for _, s := range node.body {
			if t, ok := s.(textNode); !ok || strings.TrimSpace(t.text) != "" {
				return nil, p.fault(s.line(), "a required block has content", "leave it empty")
			}
		}
	}
	return node, err
}

func (p *parser) extendsStatement(pc *piece) (stmt, error) {
	e, err := p.expr()
	if err == nil {
		err = p.end(pc)
	}
	return extendsNode{row(pc.line), e}, err
}

// context parses "with context" and "without context"; ok is false for neither.
func (p *parser) context() (with, ok bool) {
	w := p.peek()
	if w.kind == kindName && (w.val == "with" || w.val == "without") && len(p.words) > 1 && p.words[1].kind == kindName && p.words[1].val == "context" {
		p.pop()
		p.pop()
		return w.val == "with", true
	}
	return false, false
}

func (p *parser) includeStatement(pc *piece) (stmt, error) {
	node := includeNode{row: row(pc.line)}
	var err error
	if node.template, err = p.expr(); err != nil {
		return nil, err
	}
	if w := p.peek(); w.kind == kindName && w.val == "ignore" && len(p.words) > 1 && p.words[1].val == "missing" {
		p.pop()
		p.pop()
		node.ignoreMissing = true
	}
	if with, ok := p.context(); ok {
		node.withoutContext = !with
	}
	return node, p.end(pc)
}

func (p *parser) importStatement(pc *piece) (stmt, error) {
	node := importNode{row: row(pc.line)}
	_, node.convert, _ = strings.Cut(pc.words[0].val, "_")
	var err error
	if node.template, err = p.expr(); err != nil {
		return nil, err
	}
	if !p.acceptName("as") {
		return nil, p.fault(pc.line, "\"as\" is needed, not "+p.peek().describe(), "write {% "+pc.words[0].val+" 'file' as name %}")
	}
	name := p.pop()
	if name.kind != kindName || constants[name.val] {
		return nil, p.fault(pc.line, "a name is needed after \"as\", not "+name.describe(), "")
	}
	node.target = name.val
	node.withContext, _ = p.context()
	return node, p.end(pc)
}

func (p *parser) fromStatement(pc *piece) (stmt, error) {
	node := fromNode{row: row(pc.line)}
	var err error
	if node.template, err = p.expr(); err != nil {
		return nil, err
	}
	if !p.acceptName("import") {
		return nil, p.fault(pc.line, "\"import\" is needed, not "+p.peek().describe(), "write {% from 'file' import name %}")
	}
	for {
		if len(node.names) > 0 {
			if with, ok := p.context(); ok {
				node.withContext = with
				break
			}
			if !p.accept(",") {
				break
			}
			if with, ok := p.context(); ok { // a comma at the end
				node.withContext = with
				break
			}
			if p.peek().kind == kindEnd {
				break
			}
		}
		name := p.pop()
		if name.kind != kindName {
			return nil, p.fault(pc.line, "a name is needed to import, not "+name.describe(), "write {% from 'file' import name %}")
		}
		if strings.HasPrefix(name.val, "_") {
			return nil, p.fault(pc.line, "names that begin with an underscore cannot be imported", "rename it")
		}
		as := name
		if p.acceptName("as") {
			if as = p.pop(); as.kind != kindName {
				return nil, p.fault(pc.line, "a name is needed after \"as\", not "+as.describe(), "")
			}
		}
		node.names, node.as = append(node.names, name.val), append(node.as, as.val)
	}
	return node, p.end(pc)
}

func (p *parser) loadStatement(pc *piece) (stmt, error) {
	node := loadNode{row: row(pc.line)}
	_, node.sort, _ = strings.Cut(pc.words[0].val, "_")
	if !p.acceptName("as") {
		return nil, p.fault(pc.line, "\"as\" is needed, not "+p.peek().describe(), "write {% "+pc.words[0].val+" as name %}")
	}
	var err error
	if node.target, err = p.target(false); err != nil {
		return nil, err
	}
	if err := p.end(pc); err != nil {
		return nil, err
	}
	node.body, err = p.closed(pc, "endload")
	return node, err
}

// cutHeader takes off Salt's header line "#jinja2: {options}", which stands first
// or below a shebang (salt/utils/templates.py, parse_jinja_file_opts).
func cutHeader(text string) (body string, l layout, found bool) {
	before, rest := "", text
	if strings.HasPrefix(text, "#!") && !strings.HasPrefix(text, "#!/") {
		first, _, _ := strings.Cut(text, "\n")
		before, rest = text[:min(len(first)+1, len(text))], text[min(len(first)+1, len(text)):]
	}
	header, after, _ := strings.Cut(rest, "\n")
	options, ok := strings.CutPrefix(header, "#jinja2:")
	if !ok {
		return text, l, false
	}
	var o struct {
		Trim   bool `json:"trim_blocks"`
		Lstrip bool `json:"lstrip_blocks"`
	}
	if json.Unmarshal([]byte(options), &o) != nil {
		return text, l, false
	}
	return before + after, layout{o.Trim, o.Lstrip}, true
}

// shift moves a piece of a text without its header to its line in the file.
func shift(pc *piece, body, text string) {
	first, _, _ := strings.Cut(text, "\n")
	header := 1
	if !strings.HasPrefix(first, "#jinja2:") {
		header = 2
	}
	if body == "" || pc.line < header {
		return
	}
	pc.line++
	for i := range pc.words {
		pc.words[i].line++
	}
}
