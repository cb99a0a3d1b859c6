package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// filterFunc is a filter. v may be undefined; the functions that read a value
// refuse that.
type filterFunc func(r *run, v any, a *Args) (any, error)

// filterOf is the filter of a name, nil if there is none: those of Jinja2's
// filters.py, and Salt's.
func filterOf(name string) filterFunc {
	for _, part := range filterParts {
		if f, ok := part[name]; ok {
			return f
		}
	}
	return selectFilter(name)
}

// filterParts are all filters but those that name another one.
var filterParts = []map[string]filterFunc{valueFilters, textFilters, sequenceFilters, saltFilters, saltListFilters, saltDictFilters, serialFilters, networkFilters, machineFilters}

// FilterNames are the names of all filters.
func FilterNames() map[string]bool {
	out := map[string]bool{}
	for _, name := range selectFilterNames {
		out[name] = true
	}
	for _, part := range filterParts {
		for name := range part {
			out[name] = true
		}
	}
	return out
}

func (r *run) filter(e filterExpr) (any, error) {
	v, err := r.eval(e.target)
	if err != nil {
		return nil, err
	}
	args, err := r.arguments("the filter "+e.name, e.args)
	if err != nil {
		return nil, err
	}
	out, err := r.applyFilter(e.name, v, args)
	return out, r.place(e.at(), err)
}

func (r *run) applyFilter(name string, v any, args *Args) (any, error) {
	f := filterOf(name)
	if f == nil {
		return nil, Fault("the filter "+strconv.Quote(name)+" is not known", "see salt/README.md for those that are")
	}
	args.What = "the filter " + name
	out, err := f(r, v, args)
	if err == nil {
		err = args.Done()
	}
	return out, err
}

// given refuses an undefined value before the filter sees it.
func given(f filterFunc) filterFunc {
	return func(r *run, v any, a *Args) (any, error) {
		if u, ok := v.(*undefined); ok && !u.lenient {
			return nil, u.fault()
		}
		return f(r, v, a)
	}
}

var valueFilters = map[string]filterFunc{
	"d":       filterDefault,
	"default": filterDefault,
	"abs":     given(filterAbs),
	"attr":    given(filterAttr),
	"float":   given(filterFloat),
	"int":     given(filterInt),
	"round":   given(filterRound),
	"count":   given(filterLength),
	"length":  given(filterLength),
	"string":  onText(func(s string) string { return s }),
	"pprint":  given(func(_ *run, v any, _ *Args) (any, error) { return pformat(v) }),
	"filesizeformat": given(func(_ *run, v any, a *Args) (any, error) {
		f, ok := toFloat(v)
		binary, err := a.Flag("binary", false)
		if !ok {
			return nil, faultf("filesizeformat needs a number, not %s", typeName(v))
		}
		return fileSize(f, binary), err
	}),
	"escape":      filterEscape,
	"e":           filterEscape,
	"forceescape": func(_ *run, v any, _ *Args) (any, error) { s, err := text(v); return Markup(escapeHTML(s)), err },
	"safe":        func(_ *run, v any, _ *Args) (any, error) { s, err := text(v); return Markup(s), err },
}

func filterEscape(_ *run, v any, _ *Args) (any, error) {
	if m, ok := v.(Markup); ok {
		return m, nil
	}
	s, err := text(v)
	return Markup(escapeHTML(s)), err
}

func filterDefault(_ *run, v any, a *Args) (any, error) {
	def, falsy := a.Take("default_value", ""), a.Take("boolean", false)
	if IsUndefined(v) {
		return def, nil
	}
	if on, err := truth(falsy); err != nil || on {
		ok, err2 := truth(v)
		if err != nil || err2 != nil || !ok {
			return def, err2
		}
	}
	return v, nil
}

func filterAbs(_ *run, v any, _ *Args) (any, error) {
	if f, ok := v.(float64); ok {
		return math.Abs(f), nil
	}
	n, ok := asBig(v)
	if !ok {
		return nil, faultf("abs needs a number, not %s", typeName(v))
	}
	return normal(new(big.Int).Abs(n)), nil
}

// filterAttr is x|attr('name'): an attribute, never an item.
func filterAttr(_ *run, v any, a *Args) (any, error) {
	name, err := a.Text("name")
	if err != nil {
		return nil, err
	}
	if o, ok := v.(Object); ok {
		return o.Attr(name)
	}
	if f := method(v, name); f != nil {
		return f, nil
	}
	return &undefined{what: fmt.Sprintf("%q of %s", name, typeName(v)), hint: "use ['" + name + "'] for an item"}, nil
}

func filterFloat(_ *run, v any, a *Args) (any, error) {
	def := a.Take("default", 0.0)
	if f, ok := toFloat(v); ok {
		return f, nil
	}
	return def, nil
}

func filterInt(_ *run, v any, a *Args) (any, error) {
	def := a.Take("default", int64(0))
	base, err := a.Int("base", 10)
	if err != nil {
		return nil, err
	}
	if base != 0 && (base < 2 || base > 36) {
		return nil, Fault("the base is between 2 and 36", "")
	}
	if n, ok := toInt(v, int(base)); ok {
		return n, nil
	}
	if f, ok := toFloat(v); ok {
		if n, ok := toInt(f, 10); ok {
			return n, nil
		}
		if math.IsInf(f, 0) {
			return nil, Fault("an infinite number has no integer", "")
		}
	}
	return def, nil
}

func filterRound(_ *run, v any, a *Args) (any, error) {
	precision, err := a.Int("precision", 0)
	if err != nil {
		return nil, err
	}
	how := a.Take("method", "common")
	if _, ok := number(v); !ok || precision > 300 || precision < -300 {
		return nil, faultf("round needs a number, not %s", typeName(v))
	}
	switch how {
	case "common":
		if n, ok := asBig(v); ok {
			return roundInt(n, precision), nil
		}
		return roundFloat(v.(float64), int(precision)), nil
	case "ceil", "floor":
		f, _ := number(v)
		p := math.Pow10(int(precision))
		f *= p
		if how == "ceil" {
			f = math.Ceil(f)
		} else {
			f = math.Floor(f)
		}
		if precision >= 0 { // an int over an int, or over 1.0
			return f / p, nil
		}
		return f / p, nil
	}
	return nil, Fault("round knows the methods common, ceil and floor", "")
}

// roundFloat is Python's round(f, precision): halves go to the even digit, of the
// float's exact value.
func roundFloat(f float64, precision int) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return f
	}
	if precision >= 0 {
		out, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
		if err != nil {
			return f
		}
		return out
	}
	p := math.Pow10(-precision)
	return math.RoundToEven(f/p) * p
}

func roundInt(n *big.Int, precision int64) any {
	if precision >= 0 {
		return normal(n)
	}
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(-precision), nil)
	q, m := new(big.Int), new(big.Int)
	q.DivMod(n, p, m)
	if twice := new(big.Int).Lsh(m, 1).Cmp(p); twice > 0 || twice == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return normal(q.Mul(q, p))
}

func filterLength(_ *run, v any, _ *Args) (any, error) {
	n, ok := length(v)
	if !ok {
		return nil, Fault(typeName(v)+" has no length", "| list makes a list of a generator")
	}
	return int64(n), nil
}

// fileSize is jinja2.filters.do_filesizeformat.
func fileSize(f float64, binary bool) string {
	base, units := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if binary {
		base, units = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	if f == 1 {
		return "1 Byte"
	}
	if f < base {
		return strconv.FormatFloat(math.Trunc(f), 'f', 0, 64) + " Bytes"
	}
	unit := base
	for i, u := range units {
		unit = math.Pow(base, float64(i+2))
		if f < unit {
			return strconv.FormatFloat(base*f/unit, 'f', 1, 64) + " " + u
		}
	}
	return strconv.FormatFloat(base*f/unit, 'f', 1, 64) + " " + units[len(units)-1]
}

// pformat is Python's pprint.pformat(v) of what fits in 80 columns, and of lists
// and dicts that do not.
func pformat(v any) (string, error) { return pprint(v, 0, 0) }

func pprint(v any, indent, allowance int) (string, error) {
	s, err := pprintLine(v)
	if err != nil || len([]rune(s)) <= 80-indent-allowance {
		return s, err
	}
	open, end := "[", "]"
	var parts []string
	switch v := v.(type) {
	case *List:
		parts, err = pprintItems(v.Items, indent+1, allowance)
	case Tuple:
		open, end = "(", ")"
		if len(v) == 1 {
			end = ",)"
		}
		parts, err = pprintItems(v, indent+1, allowance)
	case *Map:
		open, end = "{", "}"
		keys, sortErr := sorted(v.keys, nil)
		if sortErr != nil {
			keys = v.keys
		}
		for i, k := range keys {
			name, err := repr(k)
			if err != nil {
				return "", err
			}
			value, _ := v.At(k)
			more := 1
			if i == len(keys)-1 {
				more = allowance + 1
			}
			s, err := pprint(value, indent+len([]rune(name))+3, more)
			if err != nil {
				return "", err
			}
			parts = append(parts, name+": "+s)
		}
	default:
		return s, nil
	}
	return open + strings.Join(parts, ",\n"+strings.Repeat(" ", indent+1)) + end, err
}

func pprintItems(items []any, indent, allowance int) ([]string, error) {
	var out []string
	for i, item := range items {
		more := 1
		if i == len(items)-1 {
			more = allowance + 1
		}
		s, err := pprint(item, indent, more)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// pprintLine is repr(v) with the keys of dicts sorted.
func pprintLine(v any) (string, error) { return repr(sortKeys(v)) }

func sortKeys(v any) any {
	switch v := v.(type) {
	case *List:
		out := &List{}
		for _, item := range v.Items {
			out.Items = append(out.Items, sortKeys(item))
		}
		return out
	case Tuple:
		out := Tuple{}
		for _, item := range v {
			out = append(out, sortKeys(item))
		}
		return out
	case *Map:
		keys, err := sorted(v.keys, nil)
		if err != nil {
			keys = v.keys
		}
		out := NewMap()
		for _, k := range keys {
			value, _ := v.At(k)
			out.put(k, entry{value: sortKeys(value)})
		}
		return out
	}
	return v
}
