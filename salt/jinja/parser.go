package jinja

import (
	"fmt"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Template is a parsed template.
type Template struct {
	file string
	src  string // without the last newline
	body []stmt
	// blocks are the template's {% block %}s, by name.
	blocks map[string]*blockNode
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
	body, l, header := cutHeader(text)
	pieces, err := scan(file, body, l)
	if err != nil {
		return nil, err
	}
	if header { // the lines are those of the file
		for i := range pieces {
			shift(&pieces[i], body, text)
		}
	}
	p := &parser{file: file, src: text, pieces: pieces, blocks: map[string]*blockNode{}}
	nodes, end, err := p.block(nil)
	if err != nil {
		return nil, err
	}
	if end != nil {
		return nil, p.fault(end.line, "{% "+end.words[0].val+" %} closes nothing", "remove it, or add what it closes")
	}
	return &Template{file: file, src: text, body: nodes, blocks: p.blocks, newline: newline}, nil
}

// parser builds the tree of one template.
type parser struct {
	file, src string
	pieces    []piece
	next      int
	words     []token // of the tag at work
	depth     int
	loops     int // for blocks around, for break and continue
	macros    []*macroNode
	blocks    map[string]*blockNode
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

// enders are the words that close or continue a block.
var enders = map[string]bool{
	"elif": true, "else": true, "endif": true, "endfor": true, "endset": true, "endfilter": true, "endmacro": true,
	"endcall": true, "endwith": true, "endblock": true, "endload": true, "endautoescape": true, "endprofile": true,
}

// block parses statements up to a tag that closes or continues a block, which
// it returns; nil at the end of the template.
func (p *parser) block(opener *piece) ([]stmt, *piece, error) {
	var body []stmt
	for p.next < len(p.pieces) {
		pc := &p.pieces[p.next]
		p.next++
		if pc.tag == 0 {
			body = append(body, textNode{row(pc.line), pc.text})
			continue
		}
		p.words = pc.words
		if pc.tag == '{' {
			e, err := p.wholeTuple(pc.line)
			if err != nil {
				return nil, nil, err
			}
			body = append(body, outputNode{row(pc.line), e})
			continue
		}
		switch word := p.peek(); {
		case word.kind != kindName:
			return nil, nil, p.fault(pc.line, "a statement begins with a name, not "+word.describe(), "")
		case enders[word.val]:
			return body, pc, nil
		}
		nodes, err := p.statement(pc)
		if err != nil {
			return nil, nil, err
		}
		body = append(body, nodes...)
	}
	if opener != nil {
		name := opener.words[0].val
		end := "end" + name
		if strings.HasPrefix(name, "load_") {
			end = "endload"
		}
		return nil, nil, p.fault(opener.line, "{% "+name+" %} is not closed", "add {% "+end+" %}")
	}
	return body, nil, nil
}

// closed parses the statements up to the tag that ends the block.
func (p *parser) closed(pc *piece, end string) ([]stmt, error) {
	body, tag, err := p.block(pc)
	if err != nil {
		return nil, err
	}
	p.pop()
	if tag.words[0].val == "endblock" && end == "endblock" && p.peek().kind == kindName && p.peek().val == pc.words[1].val {
		p.pop()
	}
	return body, p.close(tag, end)
}

func (p *parser) statement(pc *piece) ([]stmt, error) {
	if err := p.deeper(pc.line); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	parse, ok := p.statements()[p.peek().val]
	if !ok {
		return nil, p.fault(pc.line, fmt.Sprintf("the statement %q is not known", p.peek().val), "")
	}
	word := p.pop()
	if word.val == "print" {
		return p.printStatement(pc)
	}
	node, err := parse(pc)
	if err != nil {
		return nil, err
	}
	return []stmt{node}, nil
}

func (p *parser) statements() map[string]func(*piece) (stmt, error) {
	return map[string]func(*piece) (stmt, error){
		"if": p.ifStatement, "for": p.forStatement, "set": p.setStatement, "do": p.doStatement, "with": p.withStatement,
		"filter": p.filterStatement, "macro": p.macroStatement, "call": p.callStatement, "block": p.blockStatement,
		"extends": p.extendsStatement, "include": p.includeStatement, "import": p.importStatement, "from": p.fromStatement,
		"break": p.jumpStatement, "continue": p.jumpStatement, "autoescape": p.autoescapeStatement, "print": nil,
		"load_yaml": p.loadStatement, "load_json": p.loadStatement, "load_text": p.loadStatement,
		"import_yaml": p.importStatement, "import_json": p.importStatement, "import_text": p.importStatement, "profile": p.profileStatement,
	}
}

func (p *parser) printStatement(pc *piece) ([]stmt, error) {
	var out []stmt
	for p.peek().kind != kindEnd {
		if len(out) > 0 && !p.accept(",") {
			return nil, p.fault(pc.line, "unexpected "+p.peek().describe(), "")
		}
		e, err := p.expr()
		if err != nil {
			return nil, err
		}
		out = append(out, outputNode{row(pc.line), e})
	}
	return out, nil
}

func (p *parser) ifStatement(pc *piece) (stmt, error) {
	node := ifNode{row: row(pc.line)}
	for tag := pc; ; {
		cond, err := p.wholeTuple(tag.line)
		if err != nil {
			return nil, err
		}
		body, end, err := p.block(pc)
		if err != nil {
			return nil, err
		}
		node.branches = append(node.branches, branch{cond, body})
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

func (p *parser) forStatement(pc *piece) (stmt, error) {
	node := forNode{row: row(pc.line)}
	var err error
	if node.target, err = p.target(false); err != nil {
		return nil, err
	}
	if n, ok := node.target.(nameExpr); ok && n.name == "loop" {
		return nil, p.fault(pc.line, "loop is the loop's own name", "use another")
	}
	if in := p.pop(); in.kind != kindName || in.val != "in" {
		return nil, p.fault(pc.line, "for needs \"in\", not "+in.describe(), "write {% for item in list %}")
	}
	ends := func() bool {
		w := p.peek()
		return w.kind == kindEnd || w.kind == kindName && (w.val == "if" || w.val == "recursive")
	}
	if node.iter, err = p.tuple(p.or, ends); err != nil {
		return nil, err
	}
	if p.acceptName("if") {
		if node.cond, err = p.expr(); err != nil {
			return nil, err
		}
	}
	node.recursive = p.acceptName("recursive")
	if err := p.end(pc); err != nil {
		return nil, err
	}
	p.loops++
	var end *piece
	node.body, end, err = p.block(pc)
	p.loops--
	if err != nil {
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

// target parses what is assigned to: a name, namespace.name if that is allowed,
// or several of them, in parentheses or not.
func (p *parser) target(attributes bool) (expr, error) {
	at := place(p.peek().line)
	var items []expr
	comma := false
	for {
		if w := p.peek(); len(items) > 0 && (w.kind == kindEnd || w.kind == kindOp && w.val != "(" || w.kind == kindName && w.val == "in") {
			break
		}
		one, err := p.oneTarget(attributes)
		if err != nil {
			return nil, err
		}
		items = append(items, one)
		if !p.accept(",") {
			break
		}
		comma = true
	}
	if !comma {
		return items[0], nil
	}
	return listExpr{at, items, true}, nil
}

func (p *parser) oneTarget(attributes bool) (expr, error) {
	w := p.pop()
	if w.kind == kindOp && w.val == "(" {
		if err := p.deeper(w.line); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		inner, err := p.target(attributes)
		if err == nil && !p.accept(")") {
			err = p.fault(w.line, "\")\" is needed, not "+p.peek().describe(), "")
		}
		return inner, err
	}
	if w.kind != kindName || constants[w.val] {
		return nil, p.fault(w.line, "a name is needed to assign to, not "+w.describe(), "write {% set name = value %}, or {% for item in list %}")
	}
	if attributes && p.accept(".") {
		name := p.pop()
		if name.kind != kindName {
			return nil, p.fault(w.line, "a name is needed after \".\", not "+name.describe(), "")
		}
		return attrExpr{place(w.line), nameExpr{place(w.line), w.val}, name.val}, nil
	}
	return nameExpr{place(w.line), w.val}, nil
}

var constants = map[string]bool{"true": true, "True": true, "false": true, "False": true, "none": true, "None": true}

func (p *parser) setStatement(pc *piece) (stmt, error) {
	target, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.accept("=") {
		value, err := p.wholeTuple(pc.line)
		return setNode{row(pc.line), target, value}, err
	}
	node := setBlockNode{row: row(pc.line), target: target}
	if p.accept("|") {
		if node.filter, err = p.filterChain(pc); err != nil {
			return nil, err
		}
	}
	if err := p.end(pc); err != nil {
		return nil, err
	}
	node.body, err = p.closed(pc, "endset")
	return node, err
}

// filterChain parses filters that are applied to what a block renders.
func (p *parser) filterChain(pc *piece) (expr, error) {
	e, err := p.filter(captured{place(pc.line)})
	for err == nil && p.accept("|") {
		e, err = p.filter(e)
	}
	return e, err
}

func (p *parser) filterStatement(pc *piece) (stmt, error) {
	chain, err := p.filterChain(pc)
	if err == nil {
		err = p.end(pc)
	}
	if err != nil {
		return nil, err
	}
	body, err := p.closed(pc, "endfilter")
	return filterBlockNode{row(pc.line), chain, body}, err
}

func (p *parser) doStatement(pc *piece) (stmt, error) {
	e, err := p.wholeTuple(pc.line)
	return doNode{row(pc.line), e}, err
}

func (p *parser) withStatement(pc *piece) (stmt, error) {
	node := withNode{row: row(pc.line)}
	for p.peek().kind != kindEnd {
		if len(node.targets) > 0 && !p.accept(",") {
			return nil, p.fault(pc.line, "unexpected "+p.peek().describe(), "")
		}
		target, err := p.oneTarget(false)
		if err != nil {
			return nil, err
		}
		if !p.accept("=") {
			return nil, p.fault(pc.line, "\"=\" is needed, not "+p.peek().describe(), "write {% with name = value %}")
		}
		value, err := p.expr()
		if err != nil {
			return nil, err
		}
		node.targets, node.values = append(node.targets, target), append(node.values, value)
	}
	var err error
	node.body, err = p.closed(pc, "endwith")
	return node, err
}

func (p *parser) autoescapeStatement(pc *piece) (stmt, error) {
	on, err := p.wholeTuple(pc.line)
	if err != nil {
		return nil, err
	}
	body, err := p.closed(pc, "endautoescape")
	return autoescapeNode{row(pc.line), on, body}, err
}

func (p *parser) profileStatement(pc *piece) (stmt, error) {
	if !p.acceptName("as") {
		return nil, p.fault(pc.line, "\"as\" is needed, not "+p.peek().describe(), "write {% profile as 'label' %}")
	}
	if _, err := p.wholeTuple(pc.line); err != nil {
		return nil, err
	}
	body, err := p.closed(pc, "endprofile")
	return scopeNode{row(pc.line), body}, err
}

func (p *parser) jumpStatement(pc *piece) (stmt, error) {
	if p.loops == 0 {
		return nil, p.fault(pc.line, pc.words[0].val+" stands outside a loop", "")
	}
	to := errBreak
	if pc.words[0].val == "continue" {
		to = errContinue
	}
	return jumpNode{row(pc.line), to}, p.end(pc)
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
	if w.kind == kindName {
		for _, m := range p.macros {
			m.mentions(w.val)
		}
	}
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

// wholeTuple parses an expression that fills the rest of its tag; commas make a
// tuple of it.
func (p *parser) wholeTuple(line int) (expr, error) {
	if p.peek().kind == kindEnd {
		return nil, p.fault(line, "the tag is empty", "write an expression")
	}
	e, err := p.tuple(p.expr, func() bool { return p.peek().kind == kindEnd })
	if err != nil {
		return nil, err
	}
	if w := p.peek(); w.kind != kindEnd {
		return nil, p.fault(w.line, "unexpected "+w.describe(), "")
	}
	return e, nil
}
