package jinja

import (
	"fmt"
	"strconv"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Template is a parsed template.
type Template struct {
	file string
	src  string // without the last newline
	body []any
	// newline is whether there was one: Salt takes it off before rendering and
	// puts it back after (salt/utils/templates.py, render_jinja_tmpl).
	newline bool
}

// Parse parses a template. file is its name in errors, which are
// [strictyaml.Error] values with a line.
func Parse(file string, src []byte) (*Template, error) {
	if err := strictyaml.CheckText(file, src); err != nil {
		return nil, err
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(src), "\r\n", "\n"), "\r", "\n")
	text, newline := strings.CutSuffix(text, "\n")
	pieces, err := scan(file, text)
	if err != nil {
		return nil, err
	}
	p := &parser{file: file, src: text, pieces: pieces}
	body, end, err := p.block(nil)
	if err != nil {
		return nil, err
	}
	if end != nil {
		return nil, p.fault(end.line, "{% "+end.words[0].val+" %} closes nothing", "remove it, or add what it closes")
	}
	return &Template{file: file, src: text, body: body, newline: newline}, nil
}

// parser builds the tree of one template.
type parser struct {
	file, src string
	pieces    []piece
	next      int
	words     []token // of the tag at work
	depth     int
}

func (p *parser) fault(line int, msg, hint string) error {
	return fault(p.file, p.src, line, msg, hint)
}

func (p *parser) deeper(line int) error {
	p.depth++
	if p.depth > maxDepth {
		return p.fault(line, fmt.Sprintf("nested deeper than %d levels", maxDepth), "simplify it")
	}
	return nil
}

const known = "known are if, for, set and raw"

// block parses statements up to a tag that closes or continues a block, which
// it returns; nil at the end of the template.
func (p *parser) block(opener *piece) ([]any, *piece, error) {
	var body []any
	for p.next < len(p.pieces) {
		pc := &p.pieces[p.next]
		p.next++
		if pc.tag == 0 {
			body = append(body, textNode{pc.text, pc.line})
			continue
		}
		p.words = pc.words
		if pc.tag == '{' {
			e, err := p.wholeExpr(pc.line)
			if err != nil {
				return nil, nil, err
			}
			body = append(body, outputNode{e, pc.line})
			continue
		}
		switch word := p.peek(); {
		case word.kind != kindName:
			return nil, nil, p.fault(pc.line, "a statement begins with a name, not "+word.describe(), known)
		case word.val == "elif", word.val == "else", word.val == "endif", word.val == "endfor":
			return body, pc, nil
		}
		node, err := p.statement(pc)
		if err != nil {
			return nil, nil, err
		}
		body = append(body, node)
	}
	if opener != nil {
		name := opener.words[0].val
		return nil, nil, p.fault(opener.line, "{% "+name+" %} is not closed", "add {% end"+name+" %}")
	}
	return body, nil, nil
}

func (p *parser) statement(pc *piece) (any, error) {
	if err := p.deeper(pc.line); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	switch word := p.pop(); word.val {
	case "if":
		return p.ifStatement(pc)
	case "for":
		return p.forStatement(pc)
	case "set":
		return p.setStatement(pc)
	default:
		return nil, p.fault(pc.line, fmt.Sprintf("the statement %q is not supported", word.val), known)
	}
}

func (p *parser) ifStatement(pc *piece) (any, error) {
	node := ifNode{}
	for tag := pc; ; {
		cond, err := p.wholeExpr(tag.line)
		if err != nil {
			return nil, err
		}
		body, end, err := p.block(pc)
		if err != nil {
			return nil, err
		}
		node.branches = append(node.branches, branch{cond, tag.line, body})
		p.pop()
		switch end.words[0].val {
		case "elif":
			tag = end
			continue
		case "else":
			if err := p.end(end); err != nil {
				return nil, err
			}
			if node.orElse, end, err = p.block(pc); err != nil {
				return nil, err
			}
			p.pop()
		}
		return node, p.close(end, "endif")
	}
}

func (p *parser) forStatement(pc *piece) (any, error) {
	node := forNode{line: pc.line}
	for {
		name := p.pop()
		if name.kind != kindName || keywords[name.val] {
			return nil, p.fault(pc.line, "for needs a name, not "+name.describe(), "write {% for item in list %}")
		}
		node.names = append(node.names, name.val)
		if !p.accept(",") {
			break
		}
	}
	if in := p.pop(); in.kind != kindName || in.val != "in" {
		return nil, p.fault(pc.line, "for needs \"in\", not "+in.describe(), "write {% for item in list %}")
	}
	var err error
	if node.iter, err = p.or(); err != nil {
		return nil, err
	}
	if p.acceptName("if") {
		if node.cond, err = p.expr(); err != nil {
			return nil, err
		}
	}
	if err := p.end(pc); err != nil {
		return nil, err
	}
	var end *piece
	if node.body, end, err = p.block(pc); err != nil {
		return nil, err
	}
	p.pop()
	if end.words[0].val == "else" {
		if err := p.end(end); err != nil {
			return nil, err
		}
		if node.orElse, end, err = p.block(pc); err != nil {
			return nil, err
		}
		p.pop()
	}
	return node, p.close(end, "endfor")
}

func (p *parser) setStatement(pc *piece) (any, error) {
	name := p.pop()
	if name.kind != kindName || keywords[name.val] {
		return nil, p.fault(pc.line, "set needs a name, not "+name.describe(), "write {% set name = value %}")
	}
	if !p.accept("=") {
		return nil, p.fault(pc.line, "set needs \"=\", not "+p.peek().describe(), "write {% set name = value %}")
	}
	value, err := p.wholeExpr(pc.line)
	if err != nil {
		return nil, err
	}
	return setNode{name.val, value, pc.line}, nil
}

// close checks that tag is the bare word that closes a block.
func (p *parser) close(tag *piece, word string) error {
	if got := tag.words[0].val; got != word {
		return p.fault(tag.line, "{% "+got+" %} stands where {% "+word+" %} is needed", "check how the blocks nest")
	}
	return p.end(tag)
}

// end checks that no word of the tag is left.
func (p *parser) end(tag *piece) error {
	if w := p.peek(); w.kind != kindEnd {
		return p.fault(w.line, "unexpected "+w.describe(), "")
	}
	return nil
}

func (p *parser) peek() token { return p.words[0] }

func (p *parser) pop() token {
	w := p.words[0]
	if w.kind != kindEnd {
		p.words = p.words[1:]
	}
	return w
}

// accept takes the operator if it is next.
func (p *parser) accept(op string) bool {
	if w := p.peek(); w.kind == kindOp && w.val == op {
		p.pop()
		return true
	}
	return false
}

// acceptName takes the keyword if it is next.
func (p *parser) acceptName(name string) bool {
	if w := p.peek(); w.kind == kindName && w.val == name {
		p.pop()
		return true
	}
	return false
}

// wholeExpr parses an expression that fills the rest of its tag.
func (p *parser) wholeExpr(line int) (expr, error) {
	if p.peek().kind == kindEnd {
		return nil, p.fault(line, "the tag is empty", "write an expression")
	}
	e, err := p.expr()
	if err != nil {
		return nil, err
	}
	if w := p.peek(); w.kind != kindEnd {
		return nil, p.fault(w.line, "unexpected "+w.describe(), "")
	}
	return e, nil
}

var keywords = map[string]bool{
	"and": true, "or": true, "not": true, "in": true, "is": true, "if": true, "else": true,
	"true": true, "True": true, "false": true, "False": true, "none": true, "None": true,
}

func parseInt(p *parser, w token) (expr, error) {
	n, err := strconv.ParseInt(w.val, 10, 64)
	if err != nil {
		return nil, p.fault(w.line, w.val+" is too large for a 64-bit integer", "quote it")
	}
	return literal{place(w.line), n}, nil
}
