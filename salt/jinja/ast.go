package jinja

// stmt is a statement.
type stmt interface{ line() int }

// row is the template line that a statement begins in.
type row int

func (r row) line() int { return int(r) }

// Statements.
type (
	textNode struct {
		row
		text string
	}
	outputNode struct {
		row
		value expr
	}
	ifNode struct {
		row
		branches []branch
		orElse   []stmt
	}
	branch struct {
		cond expr
		body []stmt
	}
	forNode struct {
		row
		target    expr
		iter      expr
		cond      expr // may be nil
		recursive bool
		body      []stmt
		orElse    []stmt
	}
	setNode struct {
		row
		target expr
		value  expr
	}
	setBlockNode struct {
		row
		target expr
		filter expr // applied to captured; may be nil
		body   []stmt
	}
	filterBlockNode struct {
		row
		filter expr
		body   []stmt
	}
	withNode struct {
		row
		targets, values []expr
		body            []stmt
	}
	macroNode struct {
		row
		name     string // "" for a call block
		params   []string
		defaults []expr // of the last parameters
		body     []stmt
		// Whether the body names them: without, too many arguments are an error.
		usesVarargs, usesKwargs, usesCaller bool
		definesCaller                       bool
	}
	callBlockNode struct {
		row
		call   expr
		caller *macroNode
	}
	doNode struct {
		row
		value expr
	}
	blockNode struct {
		row
		name             string
		scoped, required bool
		body             []stmt
	}
	extendsNode struct {
		row
		template expr
	}
	includeNode struct {
		row
		template       expr
		ignoreMissing  bool
		withoutContext bool
	}
	importNode struct {
		row
		template    expr
		target      string
		withContext bool
		convert     string // "yaml", "json", "text" or ""
	}
	fromNode struct {
		row
		template    expr
		names, as   []string
		withContext bool
	}
	loadNode struct {
		row
		target expr
		sort   string // "yaml", "json" or "text"
		body   []stmt
	}
	autoescapeNode struct {
		row
		on   expr
		body []stmt
	}
	scopeNode struct { // a profile block: only its body
		row
		body []stmt
	}
	jumpNode struct { // break or continue
		row
		to error
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
		tuple bool
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
	sliceExpr struct { // a key of itemExpr
		place
		start, stop, step expr // may be nil
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
		args   arguments
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
	compareExpr struct {
		place
		first expr
		ops   []string
		rest  []expr
	}
	condExpr struct {
		place
		then, cond, orElse expr // orElse may be nil
	}
	captured struct { // what a block rendered, in a filter that is applied to it
		place
	}
)

// arguments of a call, filter or test.
type arguments struct {
	positional  []expr
	names       []string // of named, in order
	named       []expr
	star, stars expr // *args and **kwargs, may be nil
}
