package jinja

import (
	"math/big"
	"strconv"
	"strings"
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
	for err == nil && p.acceptName("if") {
		c := condExpr{place: place(e.at()), then: e}
		if c.cond, err = p.or(); err != nil {
			return nil, err
		}
		if p.acceptName("else") {
			if c.orElse, err = p.expr(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, err
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
	c := compareExpr{place: place(left.at()), first: left}
	for {
		op := p.comparison()
		if op == "" {
			break
		}
		right, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, right)
	}
	if len(c.ops) == 0 {
		return left, nil
	}
	return c, nil
}

func (p *parser) sum() (expr, error)     { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() (expr, error)  { return p.binary(p.product, "~") }
func (p *parser) product() (expr, error) { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.binary(func() (expr, error) { return p.unary(true) }, "**")
}

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

func (p *parser) unary(filtered bool) (expr, error) {
	w := p.peek()
	var e expr
	var err error
	if p.accept("-") || p.accept("+") {
		if err := p.deeper(w.line); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		if e, err = p.unary(false); err == nil {
			e = unaryExpr{place(w.line), w.val, e}
		}
	} else {
		e, err = p.primary()
	}
	if err != nil {
		return nil, err
	}
	if e, err = p.postfix(e); err != nil || !filtered {
		return e, err
	}
	return p.filtered(e)
}

// filtered parses the filters, tests and calls that follow an operand.
func (p *parser) filtered(e expr) (expr, error) {
	var err error
	for err == nil {
		switch w := p.peek(); {
		case p.accept("|"):
			e, err = p.filter(e)
		case p.acceptName("is"):
			e, err = p.test(e)
		case p.accept("("):
			c := callExpr{place: place(w.line), fn: e}
			c.args, err = p.arguments()
			e = c
		default:
			return e, nil
		}
	}
	return nil, err
}

// dotted takes the name of a filter or test.
func (p *parser) dotted(what string) (string, error) {
	w := p.pop()
	if w.kind != kindName {
		return "", p.fault(w.line, "a "+what+"'s name is needed, not "+w.describe(), "")
	}
	name := w.val
	for p.accept(".") {
		w := p.pop()
		if w.kind != kindName {
			return "", p.fault(w.line, "a name is needed after \".\", not "+w.describe(), "")
		}
		name += "." + w.val
	}
	return name, nil
}

func (p *parser) filter(target expr) (expr, error) {
	line := p.peek().line
	name, err := p.dotted("filter")
	if err != nil {
		return nil, err
	}
	if filterOf(name) == nil {
		return nil, p.fault(line, "the filter "+strconv.Quote(name)+" is not known", "see salt/README.md for those that are")
	}
	f := filterExpr{place: place(line), target: target, name: name}
	if p.accept("(") {
		f.args, err = p.arguments()
	}
	return f, err
}

func (p *parser) test(target expr) (expr, error) {
	t := testExpr{place: place(target.at()), target: target, negate: p.acceptName("not")}
	w := p.peek()
	var err error
	if t.name, err = p.dotted("test"); err != nil {
		return nil, err
	}
	if testOf(t.name) == nil {
		return nil, p.fault(w.line, "the test "+strconv.Quote(t.name)+" is not known", "see salt/README.md for those that are")
	}
	next := p.peek()
	switch {
	case p.accept("("):
		t.args, err = p.arguments()
	case next.kind == kindName && next.val != "else" && next.val != "or" && next.val != "and",
		next.kind == kindString, next.kind == kindInt, next.kind == kindFloat,
		next.kind == kindOp && (next.val == "[" || next.val == "{"):
		if next.kind == kindName && next.val == "is" {
			return nil, p.fault(next.line, "tests cannot be chained with is", "join them with and")
		}
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg)
		}
		t.args.positional = []expr{arg}
	}
	return t, err
}

func (p *parser) postfix(e expr) (expr, error) {
	for {
		w := p.peek()
		switch {
		case p.accept("."):
			name := p.pop()
			switch name.kind {
			case kindName:
				e = attrExpr{place(w.line), e, name.val}
			case kindInt:
				n, err := parseInt(p, name)
				if err != nil {
					return nil, err
				}
				e = itemExpr{place(w.line), e, n}
			default:
				return nil, p.fault(w.line, "a name is needed after \".\", not "+name.describe(), "")
			}
		case p.accept("["):
			key, err := p.subscript(place(w.line))
			if err != nil {
				return nil, err
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

// subscript parses what follows "[": an index, a slice, or several of them.
func (p *parser) subscript(at place) (expr, error) {
	var keys []expr
	for !p.accept("]") {
		if len(keys) > 0 && !p.accept(",") {
			return nil, p.fault(p.peek().line, "\"]\" is needed, not "+p.peek().describe(), "")
		}
		k, err := p.oneSubscript(at)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	switch len(keys) {
	case 0:
		return nil, p.fault(int(at), "the subscript is empty", "write x[key]")
	case 1:
		return keys[0], nil
	}
	return listExpr{at, keys, true}, nil
}

func (p *parser) oneSubscript(at place) (expr, error) {
	s := sliceExpr{place: at}
	ends := func() bool {
		w := p.peek()
		return w.kind == kindOp && (w.val == ":" || w.val == "]" || w.val == ",") || w.kind == kindEnd
	}
	var err error
	if !ends() {
		if s.start, err = p.expr(); err != nil {
			return nil, err
		}
	}
	if !p.accept(":") {
		if s.start == nil {
			return nil, p.fault(int(at), "a value is needed, not "+p.peek().describe(), "")
		}
		return s.start, nil
	}
	if !ends() {
		if s.stop, err = p.expr(); err != nil {
			return nil, err
		}
	}
	if p.accept(":") && !ends() {
		if s.step, err = p.expr(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// arguments parses what follows "(".
func (p *parser) arguments() (arguments, error) {
	var a arguments
	for n := 0; !p.accept(")"); n++ {
		if n > 0 && !p.accept(",") {
			return a, p.fault(p.peek().line, "\",\" or \")\" is needed, not "+p.peek().describe(), "")
		}
		if n > 0 && p.accept(")") {
			break
		}
		if err := p.argument(&a); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (p *parser) argument(a *arguments) (err error) {
	w := p.peek()
	misplaced := func() error {
		return p.fault(w.line, "the arguments are in the wrong order", "first f(a), then f(name=a), f(*list), f(**dict)")
	}
	switch {
	case p.accept("*"):
		if a.star != nil || a.stars != nil {
			return misplaced()
		}
		a.star, err = p.expr()
	case p.accept("**"):
		if a.stars != nil {
			return misplaced()
		}
		a.stars, err = p.expr()
	case w.kind == kindName && len(p.words) > 1 && p.words[1].kind == kindOp && p.words[1].val == "=":
		if a.stars != nil {
			return misplaced()
		}
		p.pop()
		p.pop()
		var e expr
		e, err = p.expr()
		a.names, a.named = append(a.names, w.val), append(a.named, e)
	default:
		if a.star != nil || a.stars != nil || len(a.named) > 0 {
			return misplaced()
		}
		var e expr
		e, err = p.expr()
		a.positional = append(a.positional, e)
	}
	return err
}

func (p *parser) primary() (expr, error) {
	w := p.pop()
	at := place(w.line)
	switch w.kind {
	case kindString:
		s := w.val
		for p.peek().kind == kindString {
			s += p.pop().val
		}
		return literal{at, s}, nil
	case kindInt:
		return parseInt(p, w)
	case kindFloat:
		f, err := strconv.ParseFloat(strings.ReplaceAll(w.val, "_", ""), 64)
		if err != nil && f == 0 {
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
		return nameExpr{at, w.val}, nil
	case kindOp:
		switch w.val {
		case "(":
			return p.parenthesis(at)
		case "[":
			items, _, err := p.items("]")
			return listExpr{at, items, false}, err
		case "{":
			return p.dict(at)
		}
	}
	return nil, p.fault(w.line, "a value is needed, not "+w.describe(), "")
}

func parseInt(p *parser, w token) (expr, error) {
	text := strings.ReplaceAll(w.val, "_", "")
	if len(text) > 4300 { // Python's own limit
		return nil, p.fault(w.line, "the integer is too large", "")
	}
	n, ok := new(big.Int).SetString(text, 0)
	if !ok {
		if n, ok = new(big.Int).SetString(text, 10); !ok {
			return nil, p.fault(w.line, w.val+" is not a number", "")
		}
	}
	return literal{place(w.line), normal(n)}, nil
}

// parenthesis parses a group or a tuple.
func (p *parser) parenthesis(at place) (expr, error) {
	items, comma, err := p.items(")")
	if err != nil {
		return nil, err
	}
	if len(items) == 1 && !comma {
		return items[0], nil
	}
	return listExpr{at, items, true}, nil
}

// items parses expressions up to closing; comma tells whether there was any.
func (p *parser) items(closing string) (items []expr, comma bool, err error) {
	for !p.accept(closing) {
		if len(items) > 0 {
			if !p.accept(",") {
				return nil, false, p.fault(p.peek().line, "\",\" or "+strconv.Quote(closing)+" is needed, not "+p.peek().describe(), "")
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

// tuple parses one or more values without parentheses around them, each with one.
func (p *parser) tuple(one func() (expr, error), ends func() bool) (expr, error) {
	at := place(p.peek().line)
	var items []expr
	for {
		e, err := one()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.accept(",") {
			if len(items) == 1 {
				return e, nil
			}
			break
		}
		if ends() {
			break
		}
	}
	return listExpr{at, items, true}, nil
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
