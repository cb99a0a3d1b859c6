package jinja

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"strings"
)

func is[T any](v any) bool { _, ok := v.(T); return ok }

func (r *run) unary(e unaryExpr) (any, error) {
	if e.op == "not" {
		ok, err := r.cond(e.operand)
		return !ok, err
	}
	v, err := r.defined(e.operand)
	if err != nil {
		return nil, err
	}
	if f, ok := v.(float64); ok {
		if e.op == "-" {
			f = -f
		}
		return f, nil
	}
	n, ok := asBig(v)
	if !ok {
		return nil, r.fault(e.at(), fmt.Sprintf("%q before %s", e.op, typeName(v)), "use a number")
	}
	if e.op == "-" {
		n = new(big.Int).Neg(n)
	}
	return normal(n), nil
}

func (r *run) binary(e binaryExpr) (any, error) {
	if e.op == "and" || e.op == "or" {
		left, err := r.defined(e.left)
		if err != nil {
			return nil, err
		}
		ok, err := truth(left)
		if err != nil {
			return nil, r.place(e.left.at(), err)
		}
		if ok == (e.op == "or") {
			return left, nil
		}
		return r.eval(e.right)
	}
	left, err := r.defined(e.left)
	if err != nil {
		return nil, err
	}
	right, err := r.defined(e.right)
	if err != nil {
		return nil, err
	}
	if e.op == "~" {
		v, err := r.concat(left, right)
		return v, r.place(e.at(), err)
	}
	v, err := operate(e.op, left, right)
	return v, r.place(e.at(), err)
}

func (r *run) compare(e compareExpr) (any, error) {
	left, err := r.defined(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := r.defined(e.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := compare(op, left, right)
		if err != nil {
			return nil, r.place(e.at(), err)
		}
		if !ok {
			return false, nil
		}
		left = right
	}
	return true, nil
}

func contains(all, one any) (bool, error) {
	if s, ok := asText(all); ok {
		part, ok := asText(one)
		if !ok {
			return false, faultf("looks for %s in a string", typeName(one))
		}
		return strings.Contains(s, part), nil
	}
	switch all := all.(type) {
	case *Map:
		return hasKey(all, one)
	case *Set:
		return hasKey(&all.m, one)
	case *view:
		if all.kind == "keys" {
			return hasKey(all.m, one)
		}
	case interface{ Contains(key any) (bool, error) }:
		return all.Contains(one)
	case Object:
		if _, ok := all.(iterable); !ok {
			return false, faultf("looks for %s in %s", typeName(one), typeName(all))
		}
	}
	items, err := iterate(all)
	if err != nil {
		return false, faultf("looks for %s in %s", typeName(one), typeName(all))
	}
	for _, item := range items {
		if equal(item, one) {
			return true, nil
		}
	}
	return false, nil
}

func hasKey(m *Map, k any) (bool, error) {
	if _, ok := hashKey(k); !ok {
		return false, faultf("%s cannot be a dict's key", typeName(k))
	}
	_, ok := m.entry(k)
	return ok, nil
}

// compare is one of Python's comparison operators.
func compare(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(b, a)
	case "not in":
		ok, err := contains(b, a)
		return !ok, err
	}
	if x, ok := number(a); ok {
		if y, ok := number(b); ok && (math.IsNaN(x) || math.IsNaN(y)) {
			return false, nil
		}
	}
	c, err := order(a, b)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

// order is Python's ordering of two values: numbers, strings, and lists or tuples of them.
func order(a, b any) (int, error) {
	if x, ok := asText(a); ok {
		if y, ok := asText(b); ok {
			return strings.Compare(x, y), nil
		}
	}
	if x, ok := asBig(a); ok {
		if y, ok := asBig(b); ok {
			return x.Cmp(y), nil
		}
	}
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return cmp.Compare(x, y), nil
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(*undefined); ok {
			return 0, u.fault()
		}
	}
	wrong := Fault(fmt.Sprintf("compares %s with %s", typeName(a), typeName(b)), "compare two numbers or two strings")
	switch a := a.(type) {
	case *List:
		if b, ok := b.(*List); ok {
			return orderAll(a.Items, b.Items)
		}
	case Tuple:
		if b, ok := b.(Tuple); ok {
			return orderAll(a, b)
		}
	case Bytes:
		if b, ok := b.(Bytes); ok {
			return strings.Compare(string(a), string(b)), nil
		}
	}
	return 0, wrong
}

func orderAll(a, b []any) (int, error) {
	for i := range min(len(a), len(b)) {
		if equal(a[i], b[i]) {
			continue
		}
		return order(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b)), nil
}

func (r *run) concat(a, b any) (any, error) {
	for _, v := range []any{a, b} {
		if err := r.printable(v); err != nil {
			return nil, err
		}
	}
	x, err := text(a)
	if err != nil {
		return nil, err
	}
	y, err := text(b)
	if err != nil {
		return nil, err
	}
	if len(x)+len(y) > MaxOutput {
		return nil, Fault("the string is too long", "")
	}
	if r.autoescape {
		if !is[Markup](a) {
			x = escapeHTML(x)
		}
		if !is[Markup](b) {
			y = escapeHTML(y)
		}
		return Markup(x + y), nil
	}
	return x + y, nil
}

// operate is one of Python's arithmetic operators.
func operate(op string, a, b any) (any, error) {
	if v, ok, err := arithmetic(op, a, b); ok {
		return v, err
	}
	switch op {
	case "+":
		return add(a, b)
	case "*":
		if n, ok := integer(a); ok {
			return repeat(b, n)
		}
		if n, ok := integer(b); ok {
			return repeat(a, n)
		}
	case "%":
		if s, ok := asText(a); ok {
			return percent(s, b, is[Markup](a))
		}
	case "-":
		if x, ok := a.(*Set); ok {
			if y, ok := b.(*Set); ok {
				return subtract(x, y), nil
			}
		}
	}
	return nil, Fault(fmt.Sprintf("%q between %s and %s", op, typeName(a), typeName(b)), "use two numbers; ~ joins strings")
}

func subtract(a, b *Set) *Set {
	out := &Set{}
	for _, k := range a.m.keys {
		if _, ok := b.m.entry(k); !ok {
			_ = out.m.Put(k, nil) // it is hashable: it was in a set
		}
	}
	return out
}

func add(a, b any) (any, error) {
	wrong := Fault(fmt.Sprintf("\"+\" between %s and %s", typeName(a), typeName(b)), "use two numbers; ~ joins strings")
	if x, ok := asText(a); ok {
		y, ok := asText(b)
		if !ok {
			return nil, wrong
		}
		if len(x)+len(y) > MaxOutput {
			return nil, Fault("the string is too long", "")
		}
		if is[Markup](a) || is[Markup](b) {
			if !is[Markup](a) {
				x = escapeHTML(x)
			}
			if !is[Markup](b) {
				y = escapeHTML(y)
			}
			return Markup(x + y), nil
		}
		return x + y, nil
	}
	switch a := a.(type) {
	case *List:
		if b, ok := b.(*List); ok {
			if len(a.Items)+len(b.Items) > MaxSteps {
				return nil, Fault("the list is too long", "")
			}
			return &List{append(append([]any{}, a.Items...), b.Items...)}, nil
		}
	case Tuple:
		if b, ok := b.(Tuple); ok {
			if len(a)+len(b) > MaxSteps {
				return nil, Fault("the list is too long", "")
			}
			return append(append(Tuple{}, a...), b...), nil
		}
	case Bytes:
		if b, ok := b.(Bytes); ok && len(a)+len(b) <= MaxOutput {
			return a + b, nil
		}
	}
	return nil, wrong
}

func repeat(v any, n int64) (any, error) {
	n = max(n, 0)
	size, _ := length(v)
	if s, ok := asText(v); ok {
		size = len(s)
	}
	if size > 0 && n > MaxSteps/int64(size) {
		return nil, Fault("the repeated value is too long", "")
	}
	if size == 0 {
		n = min(n, 1)
	}
	if s, ok := asText(v); ok {
		if is[Markup](v) {
			return Markup(strings.Repeat(s, int(n))), nil
		}
		return strings.Repeat(s, int(n)), nil
	}
	var items, out []any
	switch v := v.(type) {
	case *List:
		items = v.Items
	case Tuple:
		items = v
	default:
		return nil, faultf("\"*\" between an int and %s", typeName(v))
	}
	out = make([]any, 0, len(items)*int(n))
	for range n {
		out = append(out, items...)
	}
	if is[Tuple](v) {
		return Tuple(out), nil
	}
	return &List{out}, nil
}
