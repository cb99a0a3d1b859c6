package salt

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// watchers are the state modules that react to watch; for the others it is require.
var watchers = []string{"at", "cmd", "etcd", "mount", "pkg", "service", "test"}

// chunk is one state of the low state.
type chunk struct {
	m        *jinja.Map
	origin   jinja.Origin
	id       string
	module   string
	name     string
	fun      string
	sls      string
	included []string
}

func (c *chunk) tag() string {
	return c.module + "_|-" + c.id + "_|-" + c.name + "_|-" + c.fun
}

// low compiles the high state to chunks in the order they would run
// (salt/state.py, compile_high_data).
func (h *high) low() ([]*chunk, error) {
	var chunks []*chunk
	for _, id := range h.ids.All() {
		body, _ := h.body(id)
		modules, lists := statesOf(body)
		for i, module := range modules {
			chunks = append(chunks, h.chunks(jinja.Str(id), body, module, lists[i])...)
		}
	}
	return arrange(chunks)
}

// chunks compiles one state: several if it has names.
func (h *high) chunks(id string, body *jinja.Map, module string, args *jinja.List) []*chunk {
	m := jinja.NewMap()
	set := func(k string, v any) { m.Set(k, v, jinja.Origin{}) }
	set("state", module)
	set("name", id)
	for _, k := range []string{"__sls__", "__env__", "__sls_included_from__"} {
		if v, ok := body.Get(k); ok {
			set(k, v)
		}
	}
	set("__id__", id)
	fun := ""
	var names []any
	for _, arg := range args.Items {
		if s, ok := arg.(string); ok {
			fun = s
			continue
		}
		one, ok := arg.(*jinja.Map)
		if !ok {
			continue
		}
		for _, key := range one.All() {
			v, _ := one.At(key)
			switch {
			case key == "names":
				list, _ := v.(*jinja.List)
				for _, n := range list.Items {
					if !slices.ContainsFunc(names, func(x any) bool { return jinja.Equal(x, n) }) {
						names = append(names, n)
					}
				}
			case key == "state":
			case key == "name" && !isText(v):
				set("name", id)
			default:
				put(m, key, v, one.OriginOf(key))
			}
		}
	}
	if fun == "" {
		return nil
	}
	var out []*chunk
	add := func(m *jinja.Map) {
		m.Set("fun", fun, jinja.Origin{})
		out = append(out, newChunk(m, h.ids.Origin(id)))
	}
	if len(names) == 0 {
		add(jinja.Import(m).(*jinja.Map))
		return out
	}
	for i, n := range names {
		live := jinja.Import(m).(*jinja.Map)
		if one, ok := n.(*jinja.Map); ok && one.Len() > 0 {
			name := one.All()[0]
			live.Set("name", name, jinja.Origin{})
			more, _ := one.At(name)
			items, err := jinja.Iterate(more)
			for _, item := range items {
				if args, ok := item.(*jinja.Map); ok && err == nil {
					for _, k := range args.All() {
						v, _ := args.At(k)
						put(live, k, v, args.OriginOf(k))
					}
				}
			}
		} else {
			live.Set("name", n, jinja.Origin{})
		}
		live.Set("name_order", int64(i+1), jinja.Origin{})
		add(live)
	}
	return out
}

func isText(v any) bool { _, ok := jinja.Text(v); return ok }

func newChunk(m *jinja.Map, o jinja.Origin) *chunk {
	text := func(k string) string { v, _ := m.Get(k); return jinja.Str(v) }
	c := &chunk{m: m, origin: o, id: text("__id__"), module: text("state"), name: text("name"), fun: text("fun"), sls: text("__sls__")}
	if v, ok := m.Get("__sls_included_from__"); ok {
		items, err := jinja.Iterate(v)
		for _, item := range items {
			if err == nil {
				c.included = append(c.included, jinja.Str(item))
			}
		}
	}
	return c
}

// node is a chunk in the graph of requisites.
type node struct {
	c        *chunk
	tag      string
	out      []edge
	in       int
	childMin float64
	asked    bool
	key      orderKey
}

type edge struct {
	to     *node
	weight int
}

// graph orders chunks (salt/utils/requisite.py, DependencyGraph).
type graph struct {
	nodes []*node
	byTag map[string]*node
	edges map[string]bool
	cap   float64
}

func (g *graph) node(tag string, c *chunk) *node {
	if n, ok := g.byTag[tag]; ok {
		n.c = c
		return n
	}
	n := &node{c: c, tag: tag}
	g.byTag[tag] = n
	g.nodes = append(g.nodes, n)
	return n
}

func (g *graph) edge(from, to *node, kind string) {
	key := from.tag + "\x00" + to.tag + "\x00" + kind
	if g.edges[key] {
		return
	}
	g.edges[key] = true
	from.out = append(from.out, edge{to, slices.Index(requisites, kind)})
	to.in++
}

func arrange(chunks []*chunk) ([]*chunk, error) {
	g := &graph{byTag: map[string]*node{}, edges: map[string]bool{}, cap: 1}
	for _, c := range chunks {
		g.node(c.tag(), c)
	}
	for _, c := range chunks {
		c.watchToRequire()
		if err := g.require(c); err != nil {
			return nil, at(c.origin, err)
		}
		if order, ok := c.m.Get("order"); ok {
			if n, isInt := order.(int64); isInt && float64(n) > g.cap-1 && n > 0 {
				g.cap = float64(n) + 100
			}
		}
	}
	return g.sort()
}

func (c *chunk) watchToRequire() {
	if slices.Contains(watchers, c.module) {
		return
	}
	for _, kinds := range [][2]string{{"watch", "require"}, {"watch_any", "require_any"}} {
		v, ok := c.m.Get(kinds[0])
		if !ok {
			continue
		}
		watch, _ := v.(*jinja.List)
		c.m.Delete(kinds[0])
		old, _ := c.m.Get(kinds[1])
		l, ok := old.(*jinja.List)
		if !ok {
			l = jinja.NewList()
			c.m.Set(kinds[1], l, jinja.Origin{})
		}
		if watch != nil {
			l.Items = append(l.Items, watch.Items...)
		}
	}
}

// linked are the requisites that order states; listen does not.
var linked = []string{"require", "require_any", "watch", "watch_any", "prereq", "onfail", "onfail_any", "onfail_all", "onchanges", "onchanges_any"}

// require adds the edges of a chunk's requisites.
func (g *graph) require(c *chunk) error {
	for _, kind := range linked {
		v, ok := c.m.Get(kind)
		l, isList := v.(*jinja.List)
		if !ok || !isList {
			continue
		}
		for _, req := range l.Items {
			key, val := "id", req
			if m, ok := req.(*jinja.Map); ok && m.Len() > 0 {
				key = jinja.Str(m.All()[0])
				val, _ = m.At(m.All()[0])
			}
			key, _, _ = strings.Cut(key, ".")
			if val == nil {
				continue
			}
			name, ok := val.(string)
			if !ok {
				return jinja.Fault(fmt.Sprintf("%s of the state %q names something that is not a string", kind, c.id), "quote it")
			}
			targets := g.find(key, name)
			if len(targets) == 0 && (key != "sls" || !strings.ContainsAny(name, "*?[]")) {
				return jinja.Fault(fmt.Sprintf("%s of the state %q names %s: %s, which does not exist", kind, c.id, key, name), "include its SLS, or correct the name")
			}
			for _, t := range targets {
				g.link(c, t, kind)
			}
		}
	}
	return nil
}

func (g *graph) find(key, name string) []*node {
	match := func(s string) bool { return s == name }
	if strings.ContainsAny(name, "*?[]") {
		match = func(s string) bool { hit, err := glob(name, s); return err == nil && hit }
	}
	var out []*node
	for _, n := range g.nodes {
		if strings.HasSuffix(n.tag, prereqSuffix) {
			continue
		}
		hit := false
		switch key {
		case "sls":
			hit = match(n.c.sls) || slices.ContainsFunc(n.c.included, match)
		case "id", n.c.module:
			hit = match(n.c.id) || match(n.c.name)
		}
		if hit {
			out = append(out, n)
		}
	}
	return out
}

const prereqSuffix = "_|-__prereq_test__"

// link makes c run after t; with prereq, t runs after c but is tried before.
func (g *graph) link(c *chunk, t *node, kind string) {
	n := g.byTag[c.tag()]
	if kind != "prereq" {
		if _, ok := c.m.Get("__prereq__"); ok {
			if p, ok := g.byTag[n.tag+prereqSuffix]; ok {
				g.edge(t, p, kind)
			}
		}
		g.edge(t, n, kind)
		return
	}
	c.m.Set("__prerequiring__", true, jinja.Origin{})
	t.c.m.Set("__prereq__", true, jinja.Origin{})
	tag := t.tag + prereqSuffix
	check, ok := g.byTag[tag]
	if !ok {
		check = g.node(tag, t.c)
		for _, from := range g.nodes {
			for _, e := range slices.Clone(from.out) {
				if e.to == t && requisites[e.weight] != "prereq" {
					g.edge(from, check, requisites[e.weight])
				}
			}
		}
	}
	g.edge(check, n, "prereq")
	g.edge(n, t, "require")
	if own, ok := g.byTag[n.tag+prereqSuffix]; ok {
		g.edge(check, own, "prereq")
	}
}

// orderKey is what chunks are sorted by among those that may run.
type orderKey struct {
	order, own float64
	label, tag string
}

func (k orderKey) less(o orderKey) bool {
	switch {
	case k.order != o.order:
		return k.order < o.order
	case k.own != o.own:
		return k.own < o.own
	case k.label != o.label:
		return k.label < o.label
	}
	return k.tag < o.tag
}

// number is a chunk's order; words are first and last.
func (g *graph) number(v any) float64 {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	case bool:
		if v {
			return 1
		}
		return 0
	case string:
		switch v {
		case "last":
			return g.cap + 1000000
		case "first":
			return 0
		}
	}
	return g.cap
}

func isNumber(v any) bool {
	switch v.(type) {
	case int64, float64, bool:
		return true
	}
	return false
}

func setOrder(c *chunk, f float64) {
	var v any = f
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		v = int64(f)
	}
	c.m.Set("order", v, jinja.Origin{})
}

// keyOf is DependencyGraph._get_chunk_order.
func (g *graph) keyOf(n *node) orderKey {
	c := n.c
	raw, _ := c.m.Get("order")
	order := g.number(raw)
	if !isNumber(raw) {
		setOrder(c, order)
	}
	if v, ok := c.m.Get("name_order"); ok {
		c.m.Delete("name_order")
		if i, ok := v.(int64); ok && i > 0 {
			order += float64(i) / 10000
			setOrder(c, order)
		}
	}
	if order < 0 {
		order += g.cap + 1000000
		setOrder(c, order)
	}
	own := order
	if !n.asked {
		n.asked, n.childMin = true, math.Inf(1)
		weight := -1
		for _, e := range n.out {
			if weight > e.weight {
				continue
			}
			weight = e.weight
			raw, ok := e.to.c.m.Get("order")
			child := g.number(raw)
			if !ok || !isNumber(raw) {
				setOrder(e.to.c, child)
			}
			n.childMin = min(n.childMin, child)
		}
	}
	return orderKey{min(order, n.childMin), own, c.module + c.name + c.fun, n.tag}
}

type queue []*node

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].key.less(q[j].key) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*node)) }
func (q *queue) Pop() any {
	old := *q
	n := old[len(old)-1]
	*q = old[:len(old)-1]
	return n
}

func (g *graph) sort() ([]*chunk, error) {
	q := &queue{}
	push := func(n *node) {
		n.key = g.keyOf(n)
		heap.Push(q, n)
	}
	for _, n := range g.nodes {
		if n.in == 0 {
			push(n)
		}
	}
	var out []*chunk
	done := 0
	for q.Len() > 0 {
		n := heap.Pop(q).(*node)
		done++
		out = append(out, n.c) // what prereq tries first is there twice, as in Salt
		for _, e := range n.out {
			if e.to.in--; e.to.in == 0 {
				push(e.to)
			}
		}
	}
	if done == len(g.nodes) {
		return out, nil
	}
	for _, n := range g.nodes {
		if n.in > 0 {
			return nil, at(n.c.origin, jinja.Fault(fmt.Sprintf("the requisites of the state %q run in a circle", n.c.id), "take one out"))
		}
	}
	return out, nil
}
