package kernel

import (
	"regexp/syntax"
	"slices"
)

// A line matches an expression only if it has certain strings: most of the table
// need not be tried on most lines.
const (
	leastLiteral = 3  // bytes; shorter ones are in every other line
	mostLiteral  = 12 // bytes; the last ones, which tell more: "failed to" begins many
	mostLiterals = 64 // of one expression
)

// requirement is two sets of strings: every text that matches an expression has
// one of each. The second may be nil.
type requirement [2][]string

// required finds what an expression requires. The first set is nil when there is
// nothing of use.
func required(expr string) (r requirement, err error) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return r, err
	}
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	for _, part := range parts {
		set := literalsOf(part)
		switch {
		case shortest(set) < leastLiteral || len(set) > mostLiterals:
		case shortest(set) > shortest(r[0]):
			r[0], r[1] = set, r[0]
		case shortest(set) > shortest(r[1]):
			r[1] = set
		}
	}
	for i, set := range r {
		for j, s := range set {
			set[j] = s[max(0, len(s)-mostLiteral):]
		}
		slices.Sort(set)
		r[i] = slices.Compact(set)
	}
	return r, nil
}

func literalsOf(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return []string{string(re.Rune)}
		}
	case syntax.OpCapture, syntax.OpPlus:
		return literalsOf(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return literalsOf(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []string
		for _, sub := range re.Sub {
			if set := literalsOf(sub); len(set) <= mostLiterals && shortest(set) > shortest(best) {
				best = set
			}
		}
		return best
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			set := literalsOf(sub)
			if len(set) == 0 {
				return nil
			}
			all = append(all, set...)
		}
		return all
	}
	return nil
}

// shortest is the length of the shortest string, 0 of none.
func shortest(set []string) int {
	if len(set) == 0 {
		return 0
	}
	n := len(set[0])
	for _, s := range set {
		n = min(n, len(s))
	}
	return n
}
