package salt

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// matches tells whether the cluster is one that a top file's target means.
func (e *engine) matches(target, matcher string) (bool, error) {
	switch matcher {
	case "", "compound":
		return e.compound(target)
	case "glob":
		return glob(target, e.minion)
	case "pcre":
		return startsMatch(target, e.minion)
	case "list":
		return slices.Contains(strings.Split(target, ","), e.minion), nil
	case "grain", "grain_pcre", "pillar", "pillar_pcre", "pillar_exact":
		return e.dictMatch(matcher, target, ":")
	case "ipcidr":
		return e.ipMatch(target)
	}
	return false, jinja.Fault(fmt.Sprintf("match: %s is not supported", matcher), "known are compound, glob, list, pcre, grain, grain_pcre, pillar, pillar_pcre, pillar_exact and ipcidr")
}

func (e *engine) dictMatch(matcher, target, delimiter string) (bool, error) {
	kind, how, _ := strings.Cut(matcher, "_")
	if kind == "pillar" && e.strict {
		return false, jinja.Fault(fmt.Sprintf("the target %q needs the pillar, which the fleet's top files do not see", target), "match on a grain: label the cluster in fleet.yaml")
	}
	key, pattern, ok := strings.Cut(target, delimiter)
	if !ok || e.strict && (key == "" || pattern == "") {
		return false, jinja.Fault(fmt.Sprintf("the target %q has no %s and glob", target, kind), "write key:glob, in a compound target G@key:glob")
	}
	m := e.grains
	if kind == "pillar" {
		m = e.pillar
		e.trace.note("pillar:")
	} else {
		e.trace.note("grains:")
	}
	return subdictMatch(m, target, delimiter, how)
}

// subdictMatch is salt/utils/data.py, subdict_match. how is "", "pcre" or "exact".
func subdictMatch(data any, expr, delimiter, how string) (bool, error) {
	parts := strings.Split(expr, delimiter)
	for i := len(parts) - 1; i > 0; i-- {
		key, pattern := strings.Join(parts[:i], delimiter), strings.Join(parts[i:], delimiter)
		v := data
		if key == "*" {
			pattern = expr
		} else if found, ok := jinja.Traverse(data, key, delimiter); ok {
			v = found
		} else {
			continue
		}
		hit, err := valueMatch(v, pattern, how)
		if hit || err != nil {
			return hit, err
		}
	}
	return false, nil
}

func valueMatch(v any, pattern, how string) (bool, error) {
	switch v := v.(type) {
	case *jinja.Map:
		return mapMatch(v, pattern, how)
	case *jinja.List:
		for _, item := range v.Items {
			if m, ok := item.(*jinja.Map); ok {
				if hit, err := mapMatch(m, pattern, how); hit || err != nil {
					return hit, err
				}
				continue
			}
			if hit, err := textMatch(item, pattern, how); hit || err != nil {
				return hit, err
			}
		}
		return false, nil
	}
	return textMatch(v, pattern, how)
}

func mapMatch(m *jinja.Map, pattern, how string) (bool, error) {
	pattern, wild := strings.CutPrefix(pattern, "*:")
	if _, ok := m.Get(pattern); ok || pattern == "*" {
		return true, nil
	}
	for _, k := range m.All() {
		if hit, err := textMatch(k, pattern, how); hit || err != nil {
			return hit, err
		}
	}
	if hit, err := subdictMatch(m, pattern, ":", how); hit || err != nil || !wild {
		return hit, err
	}
	for _, k := range m.All() {
		v, _ := m.At(k)
		if hit, err := valueMatch(v, pattern, how); hit || err != nil {
			return hit, err
		}
	}
	return false, nil
}

// textMatch compares without case.
func textMatch(v any, pattern, how string) (bool, error) {
	s, pattern := strings.ToLower(jinja.Str(v)), strings.ToLower(pattern)
	switch how {
	case "exact":
		return s == pattern, nil
	case "pcre":
		return startsMatch(pattern, s)
	}
	return glob(pattern, s)
}

// startsMatch is Python's re.match.
func startsMatch(pattern, s string) (bool, error) {
	re, err := jinja.Regexp(`\A(?:` + pattern + `)`)
	if err != nil {
		return false, err
	}
	return re.MatchString(s), nil
}

// glob is Python's fnmatch.
func glob(pattern, s string) (bool, error) {
	if !strings.ContainsAny(pattern, "*?[") {
		return pattern == s, nil
	}
	re, err := jinja.GlobRegexp(pattern)
	if err != nil {
		return false, err
	}
	return re.MatchString(s), nil
}

func (e *engine) ipMatch(target string) (bool, error) {
	net, err := netip.ParsePrefix(target)
	if err != nil {
		addr, err := netip.ParseAddr(target)
		if err != nil {
			return false, jinja.Fault(fmt.Sprintf("%q is neither an address nor a network", target), "write S@10.0.0.0/8")
		}
		net = netip.PrefixFrom(addr, addr.BitLen())
	}
	grain := "ipv6"
	if net.Addr().Is4() {
		grain = "ipv4"
	}
	e.trace.note("grains:" + grain)
	list, ok := e.grains.Get(grain)
	if !ok {
		return false, nil
	}
	items, err := jinja.Iterate(list)
	if err != nil {
		return false, err
	}
	for _, item := range items {
		if addr, err := netip.ParseAddr(jinja.Str(item)); err == nil && net.Contains(addr) {
			return true, nil
		}
	}
	return false, nil
}

// compound evaluates a compound target: words joined by and, or, not and
// parentheses that stand alone (salt/matchers/compound_match.py).
func (e *engine) compound(target string) (bool, error) {
	c := compound{words: strings.Fields(target), e: e}
	ok, err := c.or()
	if err == nil && c.next < len(c.words) {
		err = jinja.Fault(fmt.Sprintf("unexpected %q in the target %q", c.words[c.next], target), "join its parts with and, or, not")
	}
	return ok, err
}

// compound is a recursive descent over the words of a target.
type compound struct {
	words []string
	next  int
	depth int
	e     *engine
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
	for err == nil && (c.accept("and") || c.next < len(c.words) && c.words[c.next] == "not") { // Salt puts the and in
		var right bool
		right, err = c.not()
		ok = ok && right
	}
	return ok, err
}

func (c *compound) not() (bool, error) {
	negate := c.accept("not")
	if negate && c.accept("not") { // to Salt this matches nothing
		return false, jinja.Fault("the target says not twice", "leave both out")
	}
	ok, err := c.term()
	return ok != negate, err
}

const maxParentheses = 100

func (c *compound) term() (bool, error) {
	if c.next == len(c.words) {
		return false, jinja.Fault("the target ends where a name is needed", "write a glob or G@grain:glob")
	}
	if c.accept("(") {
		if c.depth++; c.depth > maxParentheses {
			return false, jinja.Fault("the target nests too deep", "")
		}
		ok, err := c.or()
		if err == nil && !c.accept(")") {
			err = jinja.Fault("the target has an open parenthesis", "close it, with spaces around it")
		}
		return ok, err
	}
	word := c.words[c.next]
	c.next++
	switch word {
	case "and", "or", ")":
		return false, jinja.Fault(fmt.Sprintf("%q stands where the target needs a name", word), "write a glob or G@grain:glob")
	}
	return c.e.word(word)
}

// engines are the letters of a compound target.
var engines = map[byte]string{'G': "grain", 'P': "grain_pcre", 'I': "pillar", 'J': "pillar_pcre", 'L': "list", 'S': "ipcidr", 'E': "pcre"}

func (e *engine) word(word string) (bool, error) {
	head, pattern, ok := strings.Cut(word, "@")
	if !ok || len(head) > 2 || head == "" || head[0] < 'A' || head[0] > 'Z' {
		return glob(word, e.minion)
	}
	matcher, ok := engines[head[0]]
	if !ok {
		return false, jinja.Fault(fmt.Sprintf("the target %q is not supported", word), "known are globs and G@, P@, I@, J@, L@, S@ and E@")
	}
	delimiter := ":"
	if len(head) == 2 {
		delimiter = head[1:]
	}
	if delimiter != ":" {
		return e.dictMatch(matcher, pattern, delimiter)
	}
	return e.matches(pattern, matcher)
}

var matchFunctions = func() map[string]function {
	out := map[string]function{}
	for _, name := range []string{"compound", "glob", "pcre", "list", "grain", "grain_pcre", "pillar", "pillar_pcre", "ipcidr"} {
		out["match."+name] = func(e *engine, a *jinja.Args) (any, error) {
			target, err := a.Text("tgt")
			if err != nil {
				return nil, err
			}
			return e.matches(target, name)
		}
	}
	out["match.ifelse"] = ifElse
	out["match.filter_by"] = func(e *engine, a *jinja.Args) (any, error) {
		table, ok := a.Take("lookup", nil).(*jinja.Map)
		if !ok {
			return nil, jinja.Fault("match.filter_by needs a dict", "")
		}
		matcher, _ := jinja.Text(a.Take("tgt_type", "compound"))
		a.Take("minion_id", nil)
		over, _ := a.Take("merge", nil).(*jinja.Map)
		lists, err := a.Flag("merge_lists", false)
		if err != nil {
			return nil, err
		}
		def := a.Take("default", "default")
		for _, k := range table.All() {
			hit, err := e.matches(jinja.Str(k), matcher)
			if err != nil {
				return nil, err
			}
			if !hit {
				continue
			}
			v, _ := table.At(k)
			if m, ok := v.(*jinja.Map); ok && over != nil {
				update(m, jinja.Import(over).(*jinja.Map), true, lists)
			}
			return v, nil
		}
		v, _ := table.At(def)
		return v, nil
	}
	return out
}()

// ifElse is salt/modules/match.py, ifelse: targets and values in turn, then a default.
func ifElse(e *engine, a *jinja.Args) (any, error) {
	matcher := "compound"
	if v, ok := a.Named("tgt_type"); ok {
		matcher = jinja.Str(v)
	}
	a.Keywords()
	args := a.Rest()
	for len(args) > 1 {
		hit, err := e.matches(jinja.Str(args[0]), matcher)
		if err != nil {
			return nil, err
		}
		if hit {
			return args[1], nil
		}
		args = args[2:]
	}
	if len(args) == 1 {
		return args[0], nil
	}
	return nil, nil
}
