package jinja

import (
	"fmt"
	"strconv"
)

// The grammar's levels, loosest first, are Jinja2's own
// (jinja2/parser.py, parse_condexpr and below).

// expr parses an inline if, or anything tighter.
func (p *parser) expr() (expr, error) {
	if err := p.deeper(p.peek().line); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if !p.acceptName("if") {
		return e, nil
	}
	c := condExpr{place: place(e.at()), then: e}
	if c.cond, err = p.or(); err != nil {
		return nil, err
	}
	if p.acceptName("else") {
		if c.orElse, err = p.expr(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (p *parser) or() (expr, error)  { return p.logical("or", p.and) }
func (p *parser) and() (expr, error) { return p.logical("and", p.not) }

func (p *parser) logical(word string, tighter func() (expr, error)) (expr, error) {
	left, err := tighter()
	for err == nil && p.acceptName(word) {
		var right expr
		right, err = tighter()
		if err == nil {
			left = binaryExpr{place(left.at()), word, left, right}
		}
	}
	return left, err
}

func (p *parser) not() (expr, error) {
	if w := p.peek(); p.acceptName("not") {
		if err := p.deeper(w.line); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		e, err := p.not()
		return unaryExpr{place(w.line), "not", e}, err
	}
	return p.compare()
}

// comparison takes a comparison operator, "" if there is none.
func (p *parser) comparison() string {
	switch w := p.peek(); {
	case w.kind == kindOp:
		switch w.val {
		case "==", "!=", "<", "<=", ">", ">=":
			return p.pop().val
		}
	case w.kind == kindName && w.val == "in":
		p.pop()
		return "in"
	case w.kind == kindName && w.val == "not" && len(p.words) > 1 && p.words[1].kind == kindName && p.words[1].val == "in":
		p.pop()
		p.pop()
		return "not in"
	}
	return ""
}

func (p *parser) compare() (expr, error) {
	left, err := p.sum()
	if err != nil {
		return nil, err
	}
	op := p.comparison()
	if op == "" {
		return left, nil
	}
	right, err := p.sum()
	if err != nil {
		return nil, err
	}
	line := p.peek().line
	if p.comparison() != "" {
		return nil, p.fault(line, "a chain of comparisons is not supported", `join two comparisons with "and"`)
	}
	return binaryExpr{place(left.at()), op, left, right}, nil
}

func (p *parser) sum() (expr, error) { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() (expr, error) { return p.binary(p.product, "~") }

func (p *parser) product() (expr, error) { return p.binary(p.unaryFiltered, "*", "/", "//", "%") }

func (p *parser) binary(tighter func() (expr, error), ops ...string) (expr, error) {
	left, err := tighter()
next:
	for err == nil {
		for _, op := range ops {
			if p.accept(op) {
				var right expr
				if right, err = tighter(); err == nil {
					left = binaryExpr{place(left.at()), op, left, right}
				}
				continue next
			}
		}
		break
	}
	return left, err
}

func (p *parser) unaryFiltered() (expr, error) {
	e, err := p.unary()
	if err != nil {
		return nil, err
	}
	if w := p.peek(); p.accept("**") {
		return nil, p.fault(w.line, `the operator "**" is not supported`, "")
	}
	for {
		switch w := p.peek(); {
		case p.accept("|"):
			if e, err = p.filter(e); err != nil {
				return nil, err
			}
		case p.acceptName("is"):
			if e, err = p.test(e); err != nil {
				return nil, err
			}
		case w.kind == kindOp && (w.val == "." || w.val == "["):
			if e, err = p.postfix(e); err != nil {
				return nil, err
			}
		default:
			return e, nil
		}
	}
}

func (p *parser) unary() (expr, error) {
	w := p.peek()
	for _, op := range []string{"-", "+"} {
		if p.accept(op) {
			if err := p.deeper(w.line); err != nil {
				return nil, err
			}
			defer func() { p.depth-- }()
			e, err := p.unary()
			return unaryExpr{place(w.line), op, e}, err
		}
	}
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	return p.postfix(e)
}

func (p *parser) filter(target expr) (expr, error) {
	w := p.pop()
	if w.kind != kindName {
		return nil, p.fault(w.line, "a filter's name is needed after \"|\", not "+w.describe(), "")
	}
	if _, ok := filters[w.val]; !ok {
		return nil, p.fault(w.line, fmt.Sprintf("the filter %q is not supported", w.val), "known are "+filterNames)
	}
	f := filterExpr{place: place(w.line), target: target, name: w.val}
	var err error
	if p.accept("(") {
		f.args, err = p.arguments()
	}
	return f, err
}

func (p *parser) test(target expr) (expr, error) {
	t := testExpr{place: place(target.at()), target: target, negate: p.acceptName("not")}
	w := p.pop()
	if w.kind != kindName {
		return nil, p.fault(w.line, "a test's name is needed after \"is\", not "+w.describe(), "")
	}
	if _, ok := tests[w.val]; !ok {
		return nil, p.fault(w.line, fmt.Sprintf("the test %q is not supported", w.val), "known are "+testNames)
	}
	t.name = w.val
	return t, nil
}

func (p *parser) postfix(e expr) (expr, error) {
	for {
		w := p.peek()
		switch {
		case p.accept("."):
			name := p.pop()
			if name.kind != kindName {
				return nil, p.fault(w.line, "a name is needed after \".\", not "+name.describe(), "")
			}
			e = attrExpr{place(w.line), e, name.val}
		case p.accept("["):
			key, err := p.expr()
			if err != nil {
				return nil, err
			}
			if p.accept(":") {
				return nil, p.fault(w.line, "slices are not supported", "")
			}
			if !p.accept("]") {
				return nil, p.fault(w.line, "\"]\" is needed, not "+p.peek().describe(), "")
			}
			e = itemExpr{place(w.line), e, key}
		case p.accept("("):
			args, err := p.arguments()
			if err != nil {
				return nil, err
			}
			e = callExpr{place(w.line), e, args}
		default:
			return e, nil
		}
	}
}

// arguments parses what follows "(".
func (p *parser) arguments() (arguments, error) {
	var a arguments
	for !p.accept(")") {
		if n := len(a.positional) + len(a.named); n > 0 && !p.accept(",") {
			return a, p.fault(p.peek().line, "\",\" or \")\" is needed, not "+p.peek().describe(), "")
		}
		if p.accept(")") {
			break
		}
		w := p.peek()
		if w.kind == kindName && len(p.words) > 1 && p.words[1].kind == kindOp && p.words[1].val == "=" {
			p.pop()
			p.pop()
			e, err := p.expr()
			if err != nil {
				return a, err
			}
			a.names, a.named = append(a.names, w.val), append(a.named, e)
			continue
		}
		if len(a.named) > 0 {
			return a, p.fault(w.line, "an argument without a name follows one with a name", "")
		}
		e, err := p.expr()
		if err != nil {
			return a, err
		}
		a.positional = append(a.positional, e)
	}
	return a, nil
}

func (p *parser) primary() (expr, error) {
	w := p.pop()
	at := place(w.line)
	switch w.kind {
	case kindString:
		return literal{at, w.val}, nil
	case kindInt:
		return parseInt(p, w)
	case kindFloat:
		f, err := strconv.ParseFloat(w.val, 64)
		if err != nil {
			return nil, p.fault(w.line, w.val+" is not a number", "")
		}
		return literal{at, f}, nil
	case kindName:
		switch w.val {
		case "true", "True":
			return literal{at, true}, nil
		case "false", "False":
			return literal{at, false}, nil
		case "none", "None":
			return literal{at, nil}, nil
		}
		if !keywords[w.val] {
			return nameExpr{at, w.val}, nil
		}
	case kindOp:
		switch w.val {
		case "(":
			return p.parenthesis(at)
		case "[":
			items, _, err := p.items("]")
			return listExpr{at, items}, err
		case "{":
			return p.dict(at)
		}
	}
	return nil, p.fault(w.line, "a value is needed, not "+w.describe(), "")
}

// parenthesis parses a group or a tuple; a tuple is a list here.
func (p *parser) parenthesis(at place) (expr, error) {
	items, comma, err := p.items(")")
	if err != nil {
		return nil, err
	}
	if len(items) == 1 && !comma {
		return items[0], nil
	}
	return listExpr{at, items}, nil
}

// items parses expressions up to closing; comma tells whether there was any.
func (p *parser) items(closing string) (items []expr, comma bool, err error) {
	for !p.accept(closing) {
		if len(items) > 0 {
			if !p.accept(",") {
				return nil, false, p.fault(p.peek().line, fmt.Sprintf("\",\" or %q is needed, not %s", closing, p.peek().describe()), "")
			}
			comma = true
			if p.accept(closing) {
				break
			}
		}
		e, err := p.expr()
		if err != nil {
			return nil, false, err
		}
		items = append(items, e)
	}
	return items, comma, nil
}

func (p *parser) dict(at place) (expr, error) {
	d := dictExpr{place: at}
	for !p.accept("}") {
		if len(d.keys) > 0 {
			if !p.accept(",") {
				return nil, p.fault(p.peek().line, "\",\" or \"}\" is needed, not "+p.peek().describe(), "")
			}
			if p.accept("}") {
				break
			}
		}
		k, err := p.expr()
		if err != nil {
			return nil, err
		}
		if !p.accept(":") {
			return nil, p.fault(p.peek().line, "\":\" is needed, not "+p.peek().describe(), "")
		}
		v, err := p.expr()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, k), append(d.values, v)
	}
	return d, nil
}
