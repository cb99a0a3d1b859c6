package jinja

import (
	"math/big"
	"strconv"
	"strings"
	"unicode"
)

// testFunc is a test. v may be undefined.
type testFunc func(r *run, v any, a *Args) (bool, error)

// tests are all that are known but filter and test: those of Jinja2's tests.py, and Salt's.
var tests = map[string]testFunc{
	"boolean": typed(is[bool]),
	"callable": typed(func(v any) bool {
		_, ok := v.(callable)
		return ok || is[Func](v) || is[contextFunc](v)
	}),
	"defined":   func(_ *run, v any, _ *Args) (bool, error) { return !IsUndefined(v), nil },
	"undefined": func(_ *run, v any, _ *Args) (bool, error) { return IsUndefined(v), nil },
	"divisibleby": func(_ *run, v any, a *Args) (bool, error) {
		m, err := operate("%", v, a.Take("num", nil))
		if err != nil {
			return false, err
		}
		return equal(m, int64(0)), nil
	},
	"even":     parity(0),
	"odd":      parity(1),
	"escaped":  typed(is[Markup]),
	"false":    typed(func(v any) bool { return v == false }),
	"true":     typed(func(v any) bool { return v == true }),
	"float":    typed(is[float64]),
	"integer":  typed(func(v any) bool { return is[int64](v) || is[*big.Int](v) }),
	"in":       func(_ *run, v any, a *Args) (bool, error) { return compareDefined("in", v, a.Take("seq", nil)) },
	"iterable": typed(isIterable),
	"list":     typed(is[*List]),
	"lower": func(_ *run, v any, _ *Args) (bool, error) {
		s, err := text(v)
		return isCased(s, unicode.IsLower, unicode.IsUpper), err
	},
	"upper": func(_ *run, v any, _ *Args) (bool, error) {
		s, err := text(v)
		return isCased(s, unicode.IsUpper, unicode.IsLower), err
	},
	"mapping": typed(is[*Map]),
	"match": func(_ *run, v any, a *Args) (bool, error) {
		re, err := flaggedRegexp(a)
		if err != nil {
			return false, err
		}
		s, ok := asText(v)
		if !ok {
			return false, faultf("match needs a string, not %s", typeName(v))
		}
		m := re.FindStringIndex(s)
		return m != nil && m[0] == 0, nil
	},
	"none":     typed(func(v any) bool { return v == nil }),
	"number":   typed(func(v any) bool { _, ok := number(v); return ok }),
	"sameas":   func(_ *run, v any, a *Args) (bool, error) { return same(v, a.Take("other", nil)), nil },
	"sequence": typed(func(v any) bool { _, ok := sequence(v); return ok || is[*Map](v) || is[group](v) }),
	"string":   typed(func(v any) bool { _, ok := asText(v); return ok }),
	"==":       compares("=="), "eq": compares("=="), "equalto": compares("=="),
	"!=": compares("!="), "ne": compares("!="),
	"<": compares("<"), "lt": compares("<"), "lessthan": compares("<"),
	"<=": compares("<="), "le": compares("<="),
	">": compares(">"), "gt": compares(">"), "greaterthan": compares(">"),
	">=": compares(">="), "ge": compares(">="),
}

// testOf is the test of a name, nil if there is none.
func testOf(name string) testFunc {
	switch name { // in no map: they reach back to it
	case "filter":
		return typed(func(v any) bool { s, _ := asText(v); return filterOf(s) != nil })
	case "test":
		return typed(func(v any) bool { s, _ := asText(v); return testOf(s) != nil })
	}
	return tests[name]
}

func compares(op string) testFunc {
	return func(_ *run, v any, a *Args) (bool, error) {
		other, err := a.Need("other")
		if err != nil {
			return false, err
		}
		return compareDefined(op, v, other)
	}
}

// TestNames are the names of all tests.
func TestNames() map[string]bool {
	out := map[string]bool{"filter": true, "test": true}
	for name := range tests {
		out[name] = true
	}
	return out
}

func isIterable(v any) bool {
	if is[*iterator](v) {
		return true
	}
	_, err := iterate(v)
	return err == nil
}

func compareDefined(op string, a, b any) (bool, error) {
	for _, v := range []any{a, b} {
		if u, ok := v.(*undefined); ok {
			return false, u.fault()
		}
	}
	return compare(op, a, b)
}

// typed is a test of a value's type: what is not defined has none of them.
func typed(f func(v any) bool) testFunc {
	return func(_ *run, v any, _ *Args) (bool, error) {
		return f(v), nil
	}
}

func parity(want int64) testFunc {
	return func(_ *run, v any, _ *Args) (bool, error) {
		m, err := operate("%", v, int64(2))
		if err != nil {
			return false, err
		}
		return equal(m, want), nil
	}
}

// isCased is Python's islower and isupper.
func isCased(s string, want, other func(rune) bool) bool {
	found := false
	for _, r := range s {
		if other(r) {
			return false
		}
		found = found || want(r)
	}
	return found
}

// same is Python's "is": small values are one, lists and dicts are those that were made.
func same(a, b any) bool {
	switch a := a.(type) {
	case Tuple, rangeValue, Func:
		return false
	case string:
		s, ok := b.(string)
		return ok && a == s
	}
	switch b.(type) {
	case Tuple, rangeValue, Func, contextFunc:
		return false
	}
	return a == b
}

func (r *run) test(e testExpr) (any, error) {
	v, err := r.eval(e.target)
	if err != nil {
		return nil, err
	}
	args, err := r.arguments("the test "+strconv.Quote(e.name), e.args)
	if err != nil {
		return nil, err
	}
	ok, err := testOf(e.name)(r, v, args)
	if err == nil {
		err = args.Done()
	}
	return ok != e.negate, r.place(e.at(), err)
}

// hasPrefixAny tells whether s begins with one of a string or a tuple of strings.
func hasPrefixAny(v any, has func(part string) bool) (bool, error) {
	if s, ok := asText(v); ok {
		return has(s), nil
	}
	t, ok := v.(Tuple)
	if !ok {
		return false, faultf("needs a string or a tuple of strings, not %s", typeName(v))
	}
	for _, item := range t {
		s, ok := asText(item)
		if !ok {
			return false, faultf("needs strings, not %s", typeName(item))
		}
		if has(s) {
			return true, nil
		}
	}
	return false, nil
}

func stripChars(s string, chars any, left, right bool) (any, error) {
	cut := unicode.IsSpace
	if chars != nil {
		set, ok := asText(chars)
		if !ok {
			return nil, faultf("strips characters of a string, not of %s", typeName(chars))
		}
		cut = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, cut)
	}
	if right {
		s = strings.TrimRightFunc(s, cut)
	}
	return s, nil
}
