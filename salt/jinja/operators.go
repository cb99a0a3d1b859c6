package jinja

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

func (r *run) unary(e unaryExpr) (any, error) {
	if e.op == "not" {
		ok, err := r.cond(e.operand)
		return !ok, err
	}
	v, err := r.defined(e.operand)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case int64:
		if e.op == "-" {
			if v == math.MinInt64 {
				return nil, r.fault(e.at(), "the integer is too large", "")
			}
			return -v, nil
		}
		return v, nil
	case float64:
		if e.op == "-" {
			return -v, nil
		}
		return v, nil
	}
	return nil, r.fault(e.at(), fmt.Sprintf("%q before %s", e.op, typeName(v)), "use a number")
}

func (r *run) binary(e binaryExpr) (any, error) {
	left, err := r.defined(e.left)
	if err != nil {
		return nil, err
	}
	if e.op == "and" || e.op == "or" {
		ok, err := truth(left)
		if err != nil {
			return nil, r.place(e.left.at(), err)
		}
		if ok == (e.op == "or") {
			return left, nil
		}
		return r.defined(e.right)
	}
	right, err := r.defined(e.right)
	if err != nil {
		return nil, err
	}
	var v any
	switch e.op {
	case "==":
		return equal(left, right), nil
	case "!=":
		return !equal(left, right), nil
	case "in", "not in":
		v, err = contains(right, left, e.op == "not in")
	case "<", "<=", ">", ">=":
		v, err = compare(e.op, left, right)
	case "~":
		v, err = concat(left, right)
	default:
		v, err = arithmetic(e.op, left, right)
	}
	if err != nil {
		return nil, r.place(e.at(), err)
	}
	return v, nil
}

func contains(all, one any, negate bool) (any, error) {
	switch all := all.(type) {
	case string:
		if s, ok := one.(string); ok {
			return strings.Contains(all, s) != negate, nil
		}
	case []any:
		for _, item := range all {
			if equal(item, one) {
				return !negate, nil
			}
		}
		return negate, nil
	case *Map:
		if k, ok := one.(string); ok {
			_, found := all.Get(k)
			return found != negate, nil
		}
		return negate, nil
	}
	return nil, Fault(fmt.Sprintf("looks for %s in %s", typeName(one), typeName(all)), "")
}

func compare(op string, a, b any) (any, error) {
	var c int
	if x, ok := a.(string); ok && is[string](b) {
		c = strings.Compare(x, b.(string))
	} else if x, ok := a.(int64); ok && is[int64](b) {
		c = cmp.Compare(x, b.(int64))
	} else {
		x, ok1 := number(a)
		y, ok2 := number(b)
		if !ok1 || !ok2 {
			return nil, Fault(fmt.Sprintf("compares %s with %s", typeName(a), typeName(b)), "compare two numbers or two strings")
		}
		c = cmp.Compare(x, y)
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

func concat(a, b any) (any, error) {
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
	return x + y, nil
}

func arithmetic(op string, a, b any) (any, error) {
	wrong := Fault(fmt.Sprintf("%q between %s and %s", op, typeName(a), typeName(b)), "use two numbers; ~ joins strings")
	if op == "+" {
		switch a := a.(type) {
		case string:
			if b, ok := b.(string); ok {
				return concat(a, b)
			}
			return nil, wrong
		case []any:
			if b, ok := b.([]any); ok {
				if len(a)+len(b) > MaxSteps {
					return nil, Fault("the list is too long", "")
				}
				return append(append([]any{}, a...), b...), nil
			}
			return nil, wrong
		}
	}
	if _, isBool := a.(bool); isBool {
		return nil, wrong
	}
	if _, isBool := b.(bool); isBool {
		return nil, wrong
	}
	x, ok1 := number(a)
	y, ok2 := number(b)
	if !ok1 || !ok2 {
		return nil, wrong
	}
	if y == 0 && op != "+" && op != "-" && op != "*" {
		return nil, Fault("divides by zero", "")
	}
	i, ok1 := a.(int64)
	j, ok2 := b.(int64)
	if ok1 && ok2 && op != "/" {
		return integers(op, i, j)
	}
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	}
	return nil, Fault(fmt.Sprintf("%q between floats is not supported", op), "use two integers")
}

// integers computes as Python does: // and % round towards minus infinity. What
// leaves 64 bits is an error.
func integers(op string, i, j int64) (any, error) {
	over := Fault("the integer is too large", "")
	switch op {
	case "+":
		if s := i + j; (s > i) == (j > 0) {
			return s, nil
		}
		return nil, over
	case "-":
		if s := i - j; (s < i) == (j > 0) {
			return s, nil
		}
		return nil, over
	case "*":
		if i == 0 || j == 0 {
			return int64(0), nil
		}
		if p := i * j; p/j == i && (i != math.MinInt64 || j != -1) && (j != math.MinInt64 || i != -1) {
			return p, nil
		}
		return nil, over
	}
	if i == math.MinInt64 && j == -1 {
		return nil, over
	}
	q, m := i/j, i%j
	if m != 0 && (m < 0) != (j < 0) {
		q, m = q-1, m+j
	}
	if op == "//" {
		return q, nil
	}
	return m, nil
}
