package jinja

// Statements.
type (
	textNode struct {
		text string
		line int
	}
	outputNode struct {
		value expr
		line  int
	}
	ifNode struct {
		branches []branch
		orElse   []any
	}
	branch struct {
		cond expr
		line int
		body []any
	}
	forNode struct {
		names  []string
		iter   expr
		cond   expr // may be nil
		body   []any
		orElse []any
		line   int
	}
	setNode struct {
		name  string
		value expr
		line  int
	}
)

// expr is an expression; at is the line it begins in.
type expr interface{ at() int }

type place int

func (p place) at() int { return int(p) }

// Expressions.
type (
	literal struct {
		place
		value any
	}
	nameExpr struct {
		place
		name string
	}
	listExpr struct {
		place
		items []expr
	}
	dictExpr struct {
		place
		keys, values []expr
	}
	attrExpr struct {
		place
		target expr
		name   string
	}
	itemExpr struct {
		place
		target, key expr
	}
	callExpr struct {
		place
		fn   expr
		args arguments
	}
	filterExpr struct {
		place
		target expr
		name   string
		args   arguments
	}
	testExpr struct {
		place
		target expr
		name   string
		negate bool
	}
	unaryExpr struct {
		place
		op      string // "-", "+", "not"
		operand expr
	}
	binaryExpr struct {
		place
		op          string
		left, right expr
	}
	condExpr struct {
		place
		then, cond, orElse expr // orElse may be nil
	}
)

// arguments of a call or filter.
type arguments struct {
	positional []expr
	names      []string // of named, in order
	named      []expr
}
