package kernel

import (
	"regexp/syntax"
	"slices"
	"unicode"
)

const (
	leastFirst   = pieceSize + step - 1 // bytes of a string in the first set, see literals
	mostLiterals = 64                   // strings of one set
)

// requirement is what every text has that matches an expression, so that most of the
// table need not be tried on most lines.
type requirement struct {
	// first is a set of strings of which it has one; none of other lines has many.
	first []string
	// begin is a set of which it begins with one; nil when unknown.
	begin []string
	// rest are further sets, of each of which it has a string.
	rest [][]string
}

// required finds what an expression requires. The first set is nil when there is
// nothing of use.
func required(expr string, habits map[uint64]int) (r requirement, err error) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return r, err
	}
	sets := runs(re)
	first, least := -1, 0
	for i, set := range sets {
		if shortest(set) >= leastFirst {
			if c := cost(set, habits); first < 0 || c < least {
				first, least = i, c
			}
		}
	}
	if first < 0 {
		return r, nil
	}
	r.first = slices.Compact(slices.Sorted(slices.Values(sets[first])))
	if begins := start(re); re.Op == syntax.OpConcat && re.Sub[0].Op == syntax.OpBeginText && shortest(begins) > 0 {
		r.begin = begins
	}
	for i, set := range sets {
		if i != first && shortest(set) > 1 { // a byte is in every other line
			r.rest = append(r.rest, set)
		}
	}
	return r, nil
}

// runs are sets of strings, of each of which every text that matches has one.
func runs(re *syntax.Regexp) (sets [][]string) {
	if set := exact(re); set != nil {
		return [][]string{set}
	}
	switch re.Op {
	case syntax.OpCapture, syntax.OpPlus:
		return runs(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return runs(re.Sub[0])
		}
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			set := best(runs(sub))
			if set == nil {
				return nil
			}
			all = append(all, set...)
		}
		if len(all) <= mostLiterals {
			return [][]string{all}
		}
	case syntax.OpConcat:
		run := []string{""}
		end := func(next []string) {
			sets = append(sets, run)
			run = next
		}
		for _, sub := range re.Sub {
			set := exact(sub)
			if set == nil {
				longer, open := product(run, start(sub)), []string{""}
				if longer != nil {
					run = longer
				}
				end(open)
				sets = append(sets, runs(sub)...)
			} else if longer := product(run, set); longer != nil {
				run = longer
			} else {
				end(set)
			}
		}
		end(nil)
	}
	return sets
}

// exact are all strings that match; nil when they are too many.
func exact(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return []string{""}
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return []string{string(re.Rune)}
		}
		all := []string{""}
		for _, c := range re.Rune {
			cases := []string{string(c)}
			for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
				cases = append(cases, string(f))
			}
			all = product(all, cases)
		}
		return all
	case syntax.OpCharClass:
		var out []string
		for i := 0; i+1 < len(re.Rune); i += 2 {
			for c := re.Rune[i]; c <= re.Rune[i+1]; c++ {
				if out = append(out, string(c)); len(out) > mostLiterals/4 {
					return nil
				}
			}
		}
		return out
	case syntax.OpCapture:
		return exact(re.Sub[0])
	case syntax.OpQuest:
		if set := exact(re.Sub[0]); set != nil {
			return append([]string{""}, set...)
		}
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			set := exact(sub)
			if set == nil || len(all)+len(set) > mostLiterals {
				return nil
			}
			all = append(all, set...)
		}
		return all
	case syntax.OpConcat:
		all := []string{""}
		for _, sub := range re.Sub {
			if all = product(all, exact(sub)); all == nil {
				return nil
			}
		}
		return all
	}
	return nil
}

// start are strings with one of which whatever matches begins; nil when unknown.
func start(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpCapture, syntax.OpPlus:
		return start(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return start(re.Sub[0])
		}
	case syntax.OpConcat:
		all := []string{""}
		for _, sub := range re.Sub {
			set := exact(sub)
			if set == nil {
				if longer := product(all, start(sub)); longer != nil {
					return longer
				}
				return all
			}
			longer := product(all, set)
			if longer == nil {
				return all
			}
			all = longer
		}
		return all
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			set := start(sub)
			if set == nil || len(all)+len(set) > mostLiterals {
				return nil
			}
			all = append(all, set...)
		}
		return all
	}
	return exact(re)
}

// product are the strings of a, each with each of b behind it; nil when they are too
// many, or one of the sets is nil.
func product(a, b []string) []string {
	if a == nil || b == nil || len(a)*len(b) > mostLiterals {
		return nil
	}
	out := make([]string, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			out = append(out, x+y)
		}
	}
	return out
}

// best is the set whose shortest string is the longest.
func best(sets [][]string) (b []string) {
	for _, set := range sets {
		if shortest(set) > shortest(b) {
			b = set
		}
	}
	return b
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
