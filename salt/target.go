package salt

import (
	"fmt"
	"regexp"
	"strings"

	"holdfast.dev/salt/jinja"
)

// matches tells whether a cluster is one that a top file's target means: a
// compound expression, Salt's default matcher. Known are globs of the cluster's
// name, G@grain:glob, and, or, not and parentheses that stand alone.
func matches(target, matcher string, grains Grains) (bool, error) {
	switch matcher {
	case "", "compound":
		c := compound{words: strings.Fields(target), grains: grains}
		ok, err := c.or()
		if err == nil && c.next < len(c.words) {
			err = jinja.Fault(fmt.Sprintf("unexpected %q in the target %q", c.words[c.next], target), "join its parts with and, or, not")
		}
		return ok, err
	case "glob":
		return glob(target, grains["id"])
	case "grain":
		return grainGlob(target, grains)
	}
	return false, jinja.Fault(fmt.Sprintf("match: %s is not supported", matcher), "known are compound, glob and grain")
}

// compound is a recursive descent over the words of a target.
type compound struct {
	words  []string
	next   int
	grains Grains
}

func (c *compound) accept(word string) bool {
	if c.next < len(c.words) && c.words[c.next] == word {
		c.next++
		return true
	}
	return false
}

func (c *compound) or() (bool, error) {
	ok, err := c.and()
	for err == nil && c.accept("or") {
		var right bool
		right, err = c.and()
		ok = ok || right
	}
	return ok, err
}

func (c *compound) and() (bool, error) {
	ok, err := c.not()
	for err == nil && c.accept("and") {
		var right bool
		right, err = c.not()
		ok = ok && right
	}
	return ok, err
}

func (c *compound) not() (bool, error) {
	negate := false
	for c.accept("not") {
		negate = !negate
	}
	ok, err := c.term()
	return ok != negate, err
}

func (c *compound) term() (bool, error) {
	if c.next == len(c.words) {
		return false, jinja.Fault("the target ends where a name is needed", "write a glob or G@grain:glob")
	}
	if c.accept("(") {
		ok, err := c.or()
		if err == nil && !c.accept(")") {
			err = jinja.Fault("the target has an open parenthesis", "close it, with spaces around it")
		}
		return ok, err
	}
	word := c.words[c.next]
	c.next++
	switch {
	case word == "and", word == "or", word == ")":
		return false, jinja.Fault(fmt.Sprintf("%q stands where the target needs a name", word), "write a glob or G@grain:glob")
	case strings.HasPrefix(word, "G@"):
		return grainGlob(word[2:], c.grains)
	case len(word) > 1 && word[1] == '@':
		return false, jinja.Fault(fmt.Sprintf("the target %q is not supported", word), "known are globs and G@grain:glob")
	}
	return glob(word, c.grains["id"])
}

func grainGlob(target string, grains Grains) (bool, error) {
	key, pattern, ok := strings.Cut(target, ":")
	if !ok || key == "" || pattern == "" {
		return false, jinja.Fault(fmt.Sprintf("the target %q has no grain and glob", target), "write G@grain:glob")
	}
	value, ok := grains[key]
	if !ok {
		return false, nil
	}
	return glob(pattern, value)
}

// glob is Python's fnmatch.
func glob(pattern, s string) (bool, error) {
	if !strings.ContainsAny(pattern, "*?[") {
		return pattern == s, nil
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '[':
			end := strings.IndexByte(pattern[i+1:], ']')
			if end <= 0 {
				return false, jinja.Fault(fmt.Sprintf("the glob %q has an open bracket", pattern), "close it")
			}
			set := strings.ReplaceAll(pattern[i+1:i+1+end], `\`, `\\`)
			if rest, ok := strings.CutPrefix(set, "!"); ok {
				set = "^" + rest
			} else if strings.HasPrefix(set, "^") {
				set = `\` + set
			}
			b.WriteString("[" + set + "]")
			i += end + 1
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	re, err := regexp.Compile(b.String() + `\z`)
	if err != nil {
		return false, jinja.Fault(fmt.Sprintf("the glob %q is not valid", pattern), "")
	}
	return re.MatchString(s), nil
}
