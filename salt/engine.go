package salt

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// engine renders for one cluster.
type engine struct {
	files     Files
	stateRoot string // the folder of the states, "" or with a slash at its end
	pillRoot  string // that of the pillar
	minion    string
	grains    *jinja.Map
	pillar    *jinja.Map
	opts      *jinja.Map
	// strict is how the fleet renders: what Salt would pass over in silence is an
	// error. See salt/README.md.
	strict bool
	trace  *tracer // may be nil
	texts  *Texts  // may be nil
	depth  int     // renderings inside renderings: slsutil.renderer
}

func folder(dir string) string {
	if dir == "" || dir == "." {
		return ""
	}
	return strings.TrimSuffix(dir, "/") + "/"
}

func (e *engine) file(p string) ([]byte, bool) {
	e.trace.noteFile(p)
	return e.files.File(p)
}

// under lists the paths below a folder, without it.
func (e *engine) under(root, dir string) ([]string, error) {
	l, ok := e.files.(Lister)
	if !ok {
		return nil, jinja.Fault("folders cannot be listed here", "name the files one by one")
	}
	if e.trace != nil && !strings.HasPrefix(root+folder(dir), e.trace.own) {
		return nil, jinja.Fault("the folder "+root+dir+" is not the addon's own", "name the files one by one, or move them")
	}
	var out []string
	for _, p := range l.Under(strings.TrimSuffix(root+folder(dir), "/")) {
		out = append(out, strings.TrimPrefix(p, root+folder(dir)))
	}
	slices.Sort(out)
	return out, nil
}

// source is one text to render.
type source struct {
	path string // in the repository
	root string // of the tree that it is in
	text []byte
	sls  string // its name as an SLS; "" for other files
	// context are names of its own.
	context *jinja.Map
	pillar  bool // it is a file of the pillar
	top     bool // it is a top file
}

// fault is an error at a line of the source, or of all of it.
func (s source) fault(line int, msg, hint string) error {
	return &strictyaml.Error{File: s.path, Line: line, Msg: msg, Hint: hint}
}

// at gives an error without a place the origin's.
func at(o jinja.Origin, err error) error {
	var e *strictyaml.Error
	if errors.As(err, &e) && e.File == "" {
		return &strictyaml.Error{File: o.File, Line: o.Line, Msg: e.Msg, Hint: e.Hint}
	}
	return err
}

const defaultPipe = "jinja|yaml"

// pipe reads the shebang line: the renderers, in order.
func (s source) pipe(def string) ([]string, error) {
	first, _, _ := strings.Cut(string(s.text), "\n")
	line, ok := strings.CutPrefix(first, "#!")
	if !ok || strings.HasPrefix(line, "/") {
		line = def
	}
	var out []string
	for part := range strings.SplitSeq(line, "|") {
		words := strings.Fields(part)
		if len(words) == 0 {
			return nil, s.fault(1, fmt.Sprintf("the renderer line %q names none", first), "write #!jinja|yaml")
		}
		switch words[0] {
		case "jinja", "yaml", "json":
			out = append(out, words[0])
		default:
			return nil, s.fault(1, fmt.Sprintf("the renderer %q is not supported", words[0]), "known are jinja, yaml and json")
		}
	}
	return out, nil
}

// render renders a source through its pipe.
func (e *engine) render(s source, def string) (any, error) {
	if len(strings.TrimSpace(string(s.text))) == 0 {
		return nil, nil
	}
	pipe, err := s.pipe(def)
	if err != nil {
		return nil, err
	}
	out := jinja.Plain(s.text)
	for i, renderer := range pipe {
		last := i == len(pipe)-1
		switch renderer {
		case "jinja":
			if out, err = e.template(source{path: s.path, root: s.root, text: out.Text, sls: s.sls, context: s.context, pillar: s.pillar}); err != nil {
				return nil, err
			}
			if last {
				return string(out.Text), nil
			}
		case "yaml", "json":
			if !last {
				return nil, s.fault(1, "the renderer "+renderer+" is not the last", "write #!jinja|yaml")
			}
			if s.top || s.pillar {
				return e.texts.parse(renderer, s, out, e.parse)
			}
			return e.parse(renderer, s, out)
		}
	}
	return nil, nil
}

func (e *engine) parse(renderer string, s source, out *jinja.Output) (any, error) {
	if renderer == "yaml" {
		f := &pyyaml.File{Name: s.path, Output: out}
		if e.strict {
			m, err := pyyaml.One(f)
			if err != nil {
				return nil, err
			}
			return m, nil
		}
		return pyyaml.Load(f, true)
	}
	text := string(out.Text)
	if strings.HasPrefix(text, "#!") {
		_, text, _ = strings.Cut(text, "\n")
	}
	v, err := jinja.ParseJSON([]byte(text))
	return v, at(jinja.Origin{File: s.path}, err)
}

// template renders Jinja.
func (e *engine) template(s source) (*jinja.Output, error) {
	tpl, err := jinja.Parse(s.path, s.text)
	if err != nil {
		return nil, err
	}
	o := jinja.Options{
		Names:    e.names(s),
		Strict:   e.strict,
		LoadYAML: loadYAML,
		Load: func(name string, names map[string]any) (*jinja.Template, error) {
			return e.load(s.root, name, names)
		},
	}
	if e.trace == nil || e.trace.explain == nil {
		return tpl.RenderWith(o)
	}
	done := e.trace.explain.begin(s.path)
	o.At = e.trace.explain.at
	out, err := tpl.RenderWith(o)
	done(out)
	return out, err
}

// loadYAML is the parser of load_yaml and import_yaml.
func loadYAML(text string) (any, error) {
	v, err := pyyaml.Load(&pyyaml.File{Name: "the text", Output: jinja.Plain([]byte(text))}, false)
	var e *strictyaml.Error
	if errors.As(err, &e) {
		return nil, jinja.Fault(fmt.Sprintf("line %d of the YAML: %s", e.Line, e.Msg), e.Hint)
	}
	return v, err
}

// load finds an imported template, as Salt's SaltCacheLoader does: below the root,
// or relative to the template that was loaded last. It sets the names that tell a
// template where it is.
func (e *engine) load(root, name string, names map[string]any) (*jinja.Template, error) {
	rel := name
	first, _, _ := strings.Cut(name, "/")
	relative := first == "." || first == ".."
	dir, _ := jinja.Text(names["tpldir"])
	if relative {
		rel = path.Join(dir, name)
		if rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, nil
		}
	}
	rel = path.Clean(rel)
	if strings.HasPrefix(rel, "../") || strings.HasPrefix(rel, "/") {
		return nil, nil
	}
	text, ok := e.file(root + rel)
	if !ok {
		return nil, nil
	}
	if !relative {
		if dir = path.Dir(rel); dir == "" {
			dir = "."
		}
	}
	names["tplfile"], names["tpldir"] = rel, dir
	if relative {
		names["tplfile"] = name
	}
	names["tpldot"] = strings.ReplaceAll(strings.TrimPrefix(dir, "."), "/", ".")
	return jinja.Parse(root+rel, text)
}

// slsContext is salt/utils/templates.py, generate_sls_context.
func slsContext(names map[string]any, sls, rel string) {
	names["tplpath"] = "/var/cache/salt/minion/files/base/" + rel
	slspath := strings.TrimRight(strings.ReplaceAll(sls, ".", "/"), "/")
	if !strings.HasSuffix(rel, slspath+".sls") && !strings.HasSuffix(rel, slspath+"/init.sls") {
		names["tplfile"], names["tpldir"] = sls, path.Dir(sls)
		return
	}
	dir := ""
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		dir = rel[:i]
	}
	names["tplfile"], names["tpldir"] = rel, dir
	if dir == "" {
		names["tpldir"] = "."
	}
	for name, sep := range map[string]string{"tpldot": ".", "slsdotpath": ".", "slscolonpath": ":", "sls_path": "_", "slspath": "/"} {
		names[name] = strings.ReplaceAll(dir, "/", sep)
	}
}

// findSLS finds the file of a dotted name, as Salt does.
func (e *engine) findSLS(root, name string) (source, bool) {
	p := strings.ReplaceAll(name, ".", "/")
	for _, file := range []string{p + ".sls", p + "/init.sls"} {
		if text, ok := e.file(root + file); ok {
			return source{path: root + file, root: root, text: text, sls: name}, true
		}
	}
	return source{}, false
}

// available lists the names of all SLS below a root that a glob matches, sorted.
// A name without a glob need not be listed.
func (e *engine) available(root, glob string) ([]string, error) {
	if !strings.ContainsAny(glob, "*?[") {
		if _, ok := e.findSLS(root, glob); ok {
			return []string{glob}, nil
		}
		return nil, nil
	}
	re, err := jinja.GlobRegexp(glob)
	if err != nil {
		return nil, err
	}
	paths, err := e.under(root, "")
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, p := range paths {
		name, ok := strings.CutSuffix(p, ".sls")
		if !ok {
			continue
		}
		name = strings.ReplaceAll(strings.TrimSuffix(name, "/init"), "/", ".")
		if re.MatchString(name) {
			found[name] = true
		}
	}
	out := make([]string, 0, len(found))
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}
