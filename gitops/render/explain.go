package render

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/addons"
	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
)

// Explanation is what one unit's output depends on. Files and Values are the
// record that the cache goes by: a change of anything else renders nothing anew.
type Explanation struct {
	Cluster string `json:"cluster"`
	Addon   string `json:"addon"`
	Version string `json:"version"`
	// Files whose change renders the unit anew.
	Files []ExplainedFile `json:"files"`
	// Values that were read of pillar and grains.
	Values []ExplainedValue `json:"values"`
	// Objects in order of their paths.
	Objects []ExplainedObject `json:"objects"`
}

// ExplainedFile is one file that counts.
type ExplainedFile struct {
	Path string `json:"path"`
	// Use is read, kustomize, addon, or counted: in a folder of the unit, and not read this time.
	Use string `json:"use"`
	// At are the lines that read it, as file:line.
	At []string `json:"at,omitempty"`
}

// ExplainedValue is one value of the pillar or the grains.
type ExplainedValue struct {
	// Path is pillar:<key>:… or grains:<key>; without a key it is the whole.
	Path string `json:"path"`
	// Absent is true when there was none: to set it renders the unit anew.
	Absent bool `json:"absent,omitempty"`
	// SetAt is where the value is written; empty for grains, which are of fleet.yaml,
	// and for what is put together of several places.
	SetAt string   `json:"setAt,omitempty"`
	At    []string `json:"at,omitempty"`
}

// ExplainedObject is one object of the unit.
type ExplainedObject struct {
	ID   string `json:"id"`
	Path string `json:"path"` // in the bundle
	// Source is where the object begins, as file:line.
	Source string `json:"source"`
	// Reads reach the whole object, or may: what state files, variables, macros and
	// imports read, and what decides whether the object is there.
	Reads []string `json:"reads,omitempty"`
	// Fields are the leaves of the object, in order; together their bytes are the
	// whole file.
	Fields []ExplainedField `json:"fields"`
}

// ExplainedField is one leaf of an object.
type ExplainedField struct {
	Path string `json:"path"`
	// From and To are the bytes of the bundle's file that are the field, To excluded;
	// the keys that lead to it, and to no field before, are among them.
	From int `json:"from"`
	To   int `json:"to"`
	// By is who set it: the template's file:line, kustomize (with its folders), or
	// holdfast, for the labels that it adds.
	By string `json:"by"`
	// Reads are the values on that line, and those of the ifs and fors around it.
	Reads []string `json:"reads,omitempty"`
}

// Explain renders one unit and tells what its output depends on.
func Explain(ctx context.Context, tree Tree, cluster, addon string) (*Explanation, error) {
	if _, err := Fleet(ctx, tree, "explain", nil); err != nil {
		return nil, err // whole fleets are rendered, or nothing
	}
	data, _ := tree.File(fleet.File)
	f, err := fleet.Compile(fleet.File, data)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(f.Clusters, func(c fleet.Cluster) bool { return c.Name == cluster })
	if i < 0 {
		return nil, fmt.Errorf("there is no cluster %q in %s", cluster, fleet.File)
	}
	catalogue, _ := loadAddons(tree)
	list, err := units(tree, &f.Clusters[i], catalogue, &shared{})
	if err != nil {
		return nil, err
	}
	j := slices.IndexFunc(list, func(u *unit) bool { return u.addon.Name == addon })
	if j < 0 {
		return nil, fmt.Errorf("the cluster %s has no addon %q (holdfast render lists them)", cluster, addon)
	}
	return list[j].explain(tree)
}

func (u *unit) explain(t Tree) (*Explanation, error) {
	u.in.Explain = true
	rendered, before, after, err := u.build(t)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Cluster: u.cluster.Name, Addon: u.addon.Name, Version: u.addon.Version.String()}
	x.Files = u.explainFiles(t, rendered)
	for _, r := range rendered.Reads {
		if strings.HasPrefix(r.Path, "file:") {
			continue
		}
		x.Values = append(x.Values, ExplainedValue{Path: r.Path, Absent: r.Hash == "", SetAt: u.setAt(r.Path), At: rendered.Explained.Places[r.Path]})
	}
	readings := map[*jinja.Output]*salt.Reading{}
	for _, m := range rendered.Files {
		readings[m.Output] = m.Reading
	}
	for _, o := range after {
		e, err := u.explainObject(t, o, before, readings, rendered.Explained.Shared)
		if err != nil {
			return nil, err
		}
		x.Objects = append(x.Objects, *e)
	}
	slices.SortFunc(x.Objects, func(a, b ExplainedObject) int { return cmp.Compare(a.Path, b.Path) })
	return x, nil
}

// explainFiles lists the files of the cache's record: those of the static key,
// and those outside of the unit's folders that were read.
func (u *unit) explainFiles(t Tree, rendered *salt.Rendered) []ExplainedFile {
	read := map[string]bool{}
	paths := slices.Clone(rendered.Explained.Shared)
	for _, m := range rendered.Files {
		read[m.Name] = true
		if m.Reading != nil {
			paths = append(paths, m.Reading.Wide()...)
		}
	}
	all := u.files(t)
	for path := range rendered.Explained.Places {
		paths = append(paths, path)
	}
	for _, r := range rendered.Reads {
		if file, ok := strings.CutPrefix(r.Path, "file:"); ok {
			all = append(all, file)
		}
	}
	for _, path := range paths {
		if file, ok := strings.CutPrefix(path, "file:"); ok {
			read[file] = true
		}
	}
	var out []ExplainedFile
	slices.Sort(all)
	inputs := u.kustomizeUnit().Inputs(t)
	for _, p := range slices.Compact(all) {
		use := "counted"
		switch {
		case p == addons.File(u.addon.Name):
			use = "addon"
		case read[p]:
			use = "read"
		case slices.Contains(inputs, p):
			use = "kustomize"
		}
		if _, there := t.File(p); !there {
			use = "absent"
		}
		out = append(out, ExplainedFile{Path: p, Use: use, At: rendered.Explained.Places["file:"+p]})
	}
	return out
}

// setAt is where the value at a path of the pillar is written.
func (u *unit) setAt(path string) string {
	key, ok := strings.CutPrefix(path, "pillar:")
	if !ok || key == "" {
		return ""
	}
	m := u.in.Pillar
	for {
		name, rest, more := strings.Cut(key, ":")
		if !more {
			if o := m.Origin(name); o.File != "" {
				return fmt.Sprintf("%s:%d", o.File, o.Line)
			}
			return ""
		}
		v, _ := m.Get(name)
		below, isMap := v.(*jinja.Map)
		if !isMap {
			return ""
		}
		m, key = below, rest
	}
}

func (u *unit) explainObject(t Tree, o *object, before []*object, readings map[*jinja.Output]*salt.Reading, shared []string) (*ExplainedObject, error) {
	r, err := o.canonical(u.addon)
	if err != nil {
		return nil, err
	}
	x := &ExplainedObject{ID: r.ID, Path: r.Path, Source: fmt.Sprintf("%s:%d", r.File, r.Line)}
	reads := map[string]bool{}
	note := func(paths []string) {
		for _, p := range paths {
			reads[p] = true
		}
	}
	note(shared)
	// Where the object was written; nil when kustomize made it.
	var source *object
	if i := slices.IndexFunc(before, func(b *object) bool { return b.id() == o.id() }); i >= 0 {
		source = before[i]
	}
	var reading *salt.Reading
	if source != nil {
		if reading = readings[source.file.Output]; reading != nil {
			note(reading.Wide())
			note(reading.Line(source.line(nil))) // an if around it decides whether it is there
		}
	}
	x.Reads = slices.Sorted(maps.Keys(reads))
	folders := strings.Join(u.kustomizeUnit().Folders(t), ", ")
	leaves, err := leavesOf(r.Text)
	if err != nil {
		return nil, err
	}
	written := map[string]*yaml.Node{}
	if source != nil {
		walk(source.doc.Root, nil, func(path []string, _, value *yaml.Node) { written[strings.Join(path, "\x00")] = value })
	}
	for _, l := range leaves {
		f := ExplainedField{Path: strings.Join(l.path, "."), From: l.from, To: l.to, By: "kustomize (" + folders + ")"}
		n := written[strings.Join(l.path, "\x00")]
		switch {
		case n != nil && sameValue(n, l.value):
			line := source.line(n)
			f.By = fmt.Sprintf("%s:%d", source.file.Name, line)
			if reading != nil {
				f.Reads = reading.Line(line)
			}
		case len(l.path) == 3 && l.path[0] == "metadata" && slices.Contains(ownLabels, l.path[2]):
			f.By = "holdfast (" + addons.File(u.addon.Name) + ")"
		}
		x.Fields = append(x.Fields, f)
	}
	return x, nil
}

// ownLabels are those that the renderer adds.
var ownLabels = []string{v1alpha1.LabelAddon, v1alpha1.LabelAddonVersion, v1alpha1.LabelAddonMode}

// sameValue is true when two nodes mean the same.
func sameValue(a, b *yaml.Node) bool {
	var x, y any
	return a.Decode(&x) == nil && b.Decode(&y) == nil && reflect.DeepEqual(x, y)
}

// leaf is one field of a canonical text.
type leaf struct {
	path     []string
	value    *yaml.Node
	from, to int
}

// leavesOf takes a canonical text apart, into leaves whose bytes are all of it.
func leavesOf(text []byte) ([]leaf, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read rendered object: %w", err)
	}
	starts := []int{0} // of each line
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	var out []leaf
	walk(doc.Content[0], nil, func(path []string, at, value *yaml.Node) {
		l := leaf{path: path, value: value, from: starts[at.Line-1]}
		if n := len(out); n > 0 {
			out[n-1].to = l.from
		} else {
			l.from = 0
		}
		out = append(out, l)
	})
	if n := len(out); n > 0 {
		out[n-1].to = len(text)
	}
	return out, nil
}

// walk calls visit for every leaf: at is the node that begins it, which is the
// outermost key that leads to it and to no leaf before.
func walk(root *yaml.Node, path []string, visit func(path []string, at, value *yaml.Node)) {
	var first *yaml.Node
	var below func(path []string, at, n *yaml.Node)
	below = func(path []string, at, n *yaml.Node) {
		if first == nil {
			first = at
		}
		next := func(key string) []string { return append(slices.Clone(path), key) }
		switch {
		case n.Kind == yaml.AliasNode:
			below(path, at, n.Alias)
		case len(n.Content) == 0:
			visit(path, first, n)
			first = nil
		case n.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				below(next(n.Content[i].Value), n.Content[i], n.Content[i+1])
			}
		case n.Kind == yaml.SequenceNode:
			for i, item := range n.Content {
				below(next(fmt.Sprint(i)), item, item)
			}
		}
	}
	below(path, root, root)
}
