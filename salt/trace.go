package salt

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// Files gives the fleet repository's files by slash-separated path.
type Files interface {
	File(path string) ([]byte, bool)
}

// Lister is what [Files] can do as well: list the paths below a folder. File
// states that copy folders, and names of SLS with globs, need it.
type Lister interface {
	Under(dir string) []string
}

// Grains are a cluster's facts: cluster, id, az, kubernetes and its labels.
type Grains map[string]string

// Map is the grains as templates see them.
func (g Grains) Map() *jinja.Map {
	m := jinja.NewMap()
	keys := make([]string, 0, len(g))
	for k := range g {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		m.Set(k, g[k], jinja.Origin{})
	}
	return m
}

// Read is one value that a rendering depended on.
type Read struct {
	// Path is "pillar:<key>:<key>…" or "grains:<key>", both without a key for the
	// whole, or "file:<path>" for a file outside the addon's own states.
	Path string `json:"path"`
	// Hash is of the value; empty when there was none.
	Hash string `json:"hash,omitempty"`
}

// Inputs are what a state can read.
type Inputs struct {
	Grains Grains
	Pillar *jinja.Map
	// Files is the repository, for states that reach files outside their own folder.
	Files Files
	// Explain makes the rendering note where it reads what: [Rendered.Explained].
	Explain bool
}

// Hash is the hash of what a rendering with these inputs would read at path.
func (in Inputs) Hash(path string) string {
	kind, key, _ := strings.Cut(path, ":")
	switch {
	case kind == "grains" && key == "":
		return jinja.Hash(in.Grains.Map())
	case kind == "grains":
		if v, ok := in.Grains[key]; ok {
			return jinja.Hash(v)
		}
	case kind == "pillar" && key == "":
		return jinja.Hash(in.Pillar)
	case kind == "pillar":
		if v, ok := lookup(in.Pillar, key); ok {
			return jinja.Hash(v)
		}
	case kind == "file" && in.Files != nil:
		if data, ok := in.Files.File(key); ok {
			sum := sha256.Sum256(data)
			return hex.EncodeToString(sum[:])
		}
	}
	return ""
}

// lookup finds a:b:c, as Salt's pillar.get traverses a pillar.
func lookup(m *jinja.Map, path string) (any, bool) {
	var v any = m
	for rest, more := path, true; more; {
		below, ok := v.(*jinja.Map)
		if !ok { // a list: only few paths lead into one
			return jinja.Traverse(jinja.Import(v), rest, ":")
		}
		var key string
		key, rest, more = strings.Cut(rest, ":")
		if v, ok = below.Get(key); !ok {
			return nil, false
		}
	}
	return v, true
}

// tracer notes each read of a rendering.
type tracer struct {
	in    Inputs
	reads map[string]string
	// own is the folder whose files need not be noted.
	own string
	// explain is nil unless somebody asks.
	explain *explainer
}

func newTracer(in Inputs, own string) *tracer {
	t := &tracer{in: in, reads: map[string]string{}, own: own}
	if in.Explain {
		t.explain = newExplainer()
	}
	return t
}

func (t *tracer) note(path string) {
	if t == nil {
		return
	}
	if t.explain != nil {
		t.explain.note(path)
	}
	if _, ok := t.reads[path]; !ok {
		t.reads[path] = t.in.Hash(path)
	}
}

func (t *tracer) noteFile(path string) {
	switch {
	case t == nil:
	case !strings.HasPrefix(path, t.own):
		t.note("file:" + path)
	case t.explain != nil:
		t.explain.note("file:" + path) // the folder's files are in the static key
	}
}

// sorted returns the reads in order of their paths.
func (t *tracer) sorted() []Read {
	out := make([]Read, 0, len(t.reads))
	for path, hash := range t.reads {
		out = append(out, Read{path, hash})
	}
	slices.SortFunc(out, func(a, b Read) int { return strings.Compare(a.Path, b.Path) })
	return out
}
