package salt

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// Rendering is one file that a state writes.
type Rendering struct {
	Path string
	// File is the text and the template it came from; nil for folders and links.
	*pyyaml.File
	Mode, User, Group string
	// Dir tells that it is a folder, Target that it is a link.
	Dir    bool
	Target string
}

// fileStates applies file states to a file system that begins empty.
type fileStates struct {
	e     *engine
	files map[string]*Rendering
	// foldersExist: a folder that no state makes is on the machine.
	foldersExist bool
}

func newFileStates(e *engine) *fileStates {
	return &fileStates{e: e, files: map[string]*Rendering{}}
}

func (f *fileStates) list() []*Rendering {
	var out []*Rendering
	for _, p := range sortedKeys(f.files) {
		out = append(out, f.files[p])
	}
	return out
}

// state is a chunk's arguments at work.
type state struct {
	*chunk
	fs *fileStates
}

func (s *state) arg(name string) (any, bool) {
	v, ok := s.m.Get(name)
	return v, ok && v != nil
}

func (s *state) text(name, def string) string {
	if v, ok := s.arg(name); ok {
		return jinja.Str(v)
	}
	return def
}

func (s *state) flag(name string, def bool) bool {
	v, ok := s.arg(name)
	if !ok {
		return def
	}
	on, err := jinja.Truth(v)
	return err == nil && on
}

var modeRE = regexp.MustCompile(`^0*([0-7]{3,4})$`)

// mode reads a mode: YAML has made 644 of 0644, which Salt takes for octal.
func (s *state) mode(names ...string) string {
	for _, name := range names {
		if v, ok := s.arg(name); ok {
			if m := modeRE.FindStringSubmatch(jinja.Str(v)); m != nil {
				return strings.TrimPrefix(m[1], "0")
			}
			return jinja.Str(v)
		}
	}
	return ""
}

func (f *fileStates) apply(c *chunk) error {
	s := &state{c, f}
	apply, ok := fileFunctionStates()[c.fun]
	if !ok {
		return jinja.Fault("the state file."+c.fun+" is not supported", "known are "+strings.Join(sortedNames(fileFunctionStates()), ", "))
	}
	return s.checked(apply)
}

func (s *state) checked(apply func(*state) error) error {
	if !strings.HasPrefix(s.name, "/") {
		return jinja.Fault(fmt.Sprintf("%q is not an absolute path", s.name), "write the whole path as the ID or name")
	}
	if path.Clean(s.name) != strings.TrimSuffix(s.name, "/") {
		return jinja.Fault(fmt.Sprintf("%q is not a plain path", s.name), "write it without . and ..")
	}
	for _, key := range []string{"onlyif", "unless", "check_cmd", "creates"} {
		if _, ok := s.arg(key); ok {
			return jinja.Fault(key+" depends on the machine", "decide with {% if %} and the pillar")
		}
	}
	return apply(s)
}

func sortedNames[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// fileFunctionStates are the functions of the state module file that are known.
func fileFunctionStates() map[string]func(*state) error {
	return map[string]func(*state) error{
		"managed": (*state).managed, "recurse": (*state).recurse, "directory": (*state).directory, "absent": (*state).absent,
		"symlink": (*state).symlink, "append": (*state).appendText, "prepend": (*state).prependText, "serialize": (*state).serialize, "touch": (*state).touch,
	}
}

// write puts a file where its folder is, or makes the folder if that is allowed.
func (s *state) write(name string, r *Rendering, makedirs bool) error {
	dir := path.Dir(name)
	if !s.fs.hasDir(dir) {
		if !makedirs {
			return jinja.Fault("the folder "+dir+" does not exist", "add makedirs: true")
		}
		mode := s.mode("dir_mode")
		if mode == "" {
			mode = searchable(s.mode("mode", "file_mode"))
		}
		s.fs.mkdirs(dir, mode)
	}
	if old, ok := s.fs.files[name]; ok && old.Dir && !r.Dir {
		return jinja.Fault(name+" is a folder", "use another name")
	}
	r.Path = name
	s.fs.files[name] = r
	return nil
}

// searchable is a file's mode for its folder: who may read may search.
func searchable(mode string) string {
	out := []byte(mode)
	for i, c := range out {
		if c < '0' || c > '7' {
			return ""
		}
		if c&4 != 0 {
			out[i] = c | 1
		}
	}
	return string(out)
}

func (f *fileStates) hasDir(dir string) bool {
	if dir == "/" {
		return true
	}
	r, ok := f.files[dir]
	return ok && r.Dir || !ok && f.foldersExist
}

func (f *fileStates) mkdirs(dir, mode string) {
	for ; dir != "/" && !f.hasDir(dir); dir = path.Dir(dir) {
		m := mode
		if m == "" {
			m = "755"
		}
		f.files[dir] = &Rendering{Path: dir, Dir: true, Mode: m}
	}
}

func (s *state) owned(r *Rendering) *Rendering {
	r.User, r.Group = s.text("user", ""), s.text("group", "")
	return r
}

func (s *state) managed() error {
	mode := s.mode("mode")
	keep := strings.EqualFold(mode, "keep")
	if keep || mode == "" {
		mode = "644"
	}
	file, err := s.content()
	if err != nil {
		return err
	}
	if !s.flag("create", true) {
		if _, ok := s.fs.files[s.name]; !ok {
			return nil
		}
	}
	if old, ok := s.fs.files[s.name]; ok && !old.Dir && (!s.flag("replace", true) || file == nil) {
		if _, given := s.arg("mode"); given {
			old.Mode = mode
		}
		return nil
	}
	if file == nil {
		file = &pyyaml.File{Name: s.origin.File, Output: jinja.Plain(nil)}
	}
	return s.write(s.name, s.owned(&Rendering{File: file, Mode: mode}), s.flag("makedirs", false))
}

// content is what file.managed writes; nil if nothing says so.
func (s *state) content() (*pyyaml.File, error) {
	var given []string
	for _, k := range []string{"source", "contents", "contents_pillar", "contents_grains"} {
		v, ok := s.arg(k)
		if on, err := jinja.Truth(v); ok && (k != "source" || err == nil && on) {
			given = append(given, k)
		}
	}
	if len(given) > 1 {
		return nil, jinja.Fault("file.managed has "+strings.Join(given, " and "), "keep one")
	}
	if len(given) == 0 {
		return nil, nil
	}
	v, _ := s.arg(given[0])
	if given[0] == "source" {
		return s.fromSource(v)
	}
	if given[0] != "contents" {
		kind := strings.TrimPrefix(given[0], "contents_")
		var err error
		if v, err = s.referenced(kind, v); err != nil {
			return nil, err
		}
	}
	if on, err := jinja.Truth(v); !s.flag("allow_empty", true) && (err != nil || !on) {
		return nil, jinja.Fault(given[0]+" is empty, and allow_empty is false", "")
	}
	text, err := contentsText(v)
	if err != nil {
		return nil, err
	}
	if !s.flag("contents_newline", true) {
		text = strings.TrimRight(strings.TrimRight(text, "\n"), "\r")
	}
	file := &pyyaml.File{Name: s.origin.File, Output: jinja.Plain([]byte(text))}
	engineName, templated := s.arg("template")
	if !templated {
		return file, nil
	}
	if engineName != "jinja" {
		return nil, jinja.Fault("the template engine "+jinja.Str(engineName)+" is not supported", "write template: jinja")
	}
	context, err := s.context()
	if err != nil {
		return nil, err
	}
	file.Output, err = s.fs.e.template(source{path: s.origin.File, root: s.fs.e.stateRoot, text: []byte(text), context: context})
	return file, err
}

// referenced reads contents_pillar or contents_grains: a key, or several.
func (s *state) referenced(kind string, v any) (any, error) {
	sep := s.text("contents_delimiter", ":")
	m := s.fs.e.pillar
	if kind == "grains" {
		m = s.fs.e.grains
	}
	read := func(key any) (any, error) {
		v, ok := s.fs.e.traverse(kind, m, key, sep)
		if !ok {
			return nil, jinja.Fault("the "+kind+" have no "+jinja.Str(key), "set it")
		}
		return v, nil
	}
	l, ok := v.(*jinja.List)
	if !ok {
		return read(v)
	}
	var parts []string
	for _, key := range l.Items {
		v, err := read(key)
		if err != nil {
			return nil, err
		}
		text, ok := jinja.Text(v)
		if !ok {
			return nil, jinja.Fault("the "+kind+" at "+jinja.Str(key)+" is no string", "")
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\n"), nil
}

// contentsText is what Salt makes of contents: lines, each with its end.
func contentsText(v any) (string, error) {
	var parts []any
	switch v := v.(type) {
	case *jinja.List:
		parts = v.Items
	case *jinja.Map:
		return "", jinja.Fault("the contents are a dict", "use a string, or | json or | yaml")
	case jinja.Bytes:
		return string(v), nil
	default:
		parts = []any{v}
	}
	var b strings.Builder
	for _, p := range parts {
		text := jinja.Str(p)
		for text != "" {
			line, rest, _ := strings.Cut(text, "\n")
			b.WriteString(strings.TrimRight(line, "\r") + "\n")
			text = rest
		}
		if jinja.Str(p) == "" && len(parts) > 0 {
			continue
		}
	}
	return b.String(), nil
}

// context is defaults overlaid by context, and what Salt tells a template.
func (s *state) context() (*jinja.Map, error) {
	out := jinja.NewMap()
	for _, layer := range []string{"defaults", "context"} {
		v, ok := s.arg(layer)
		if on, err := jinja.Truth(v); !ok || err == nil && !on {
			continue
		}
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, s.argFault(layer, layer+" is not a mapping", "write name: value below it")
		}
		for _, k := range m.All() {
			v, _ := m.At(k)
			if s.fs.e.strict && slices.Contains(reserved, jinja.Str(k)) {
				return nil, at(m.OriginOf(k), jinja.Fault(fmt.Sprintf("%s hides %q", layer, jinja.Str(k)), "use another name"))
			}
			put(out, k, v, m.OriginOf(k))
		}
	}
	return out, nil
}

// argFault is an error at the line of an argument.
func (s *state) argFault(name, msg, hint string) error {
	o := s.m.Origin(name)
	if o.File == "" {
		o = s.origin
	}
	return at(o, jinja.Fault(msg, hint))
}

// fromSource reads the first source that exists, and renders it.
func (s *state) fromSource(v any) (*pyyaml.File, error) {
	candidates := []any{v}
	if l, ok := v.(*jinja.List); ok {
		candidates = l.Items
	}
	for _, c := range candidates {
		name, ok := c.(string)
		if m, isMap := c.(*jinja.Map); isMap && m.Len() > 0 {
			name, ok = jinja.Str(m.All()[0]), true
		}
		if !ok {
			return nil, s.argFault("source", "the source is not a string", "write source: salt://path")
		}
		text, found, err := s.read(name)
		if err != nil {
			return nil, err
		}
		if found {
			return s.templated(s.fs.e.stateRoot+strings.TrimPrefix(name, "salt://"), name, text)
		}
	}
	return nil, s.argFault("source", fmt.Sprintf("there is no %s", jinja.Str(v)), "correct source:, or add the file")
}

func (s *state) read(name string) ([]byte, bool, error) {
	rel, ok := strings.CutPrefix(name, "salt://")
	if !ok {
		return nil, false, s.argFault("source", fmt.Sprintf("the source %q is not of the repository", name), "write source: salt://path/below/the/states")
	}
	rel, env, _ := strings.Cut(rel, "?saltenv=")
	if env != "" && env != "base" {
		return nil, false, s.argFault("source", "the environment "+env+" is not supported", "there is only base")
	}
	text, ok := s.fs.e.fileURL("salt://" + rel)
	return text, ok, nil
}

// templated renders a file if the state says template: jinja.
func (s *state) templated(file, url string, text []byte) (*pyyaml.File, error) {
	out := &pyyaml.File{Name: file, Output: jinja.Plain(text)}
	engineName, ok := s.arg("template")
	if !ok {
		return out, nil
	}
	if engineName != "jinja" {
		return nil, s.argFault("template", "the template engine is not supported", "write template: jinja")
	}
	context, err := s.context()
	if err != nil {
		return nil, err
	}
	names := jinja.NewMap()
	for _, kv := range [][2]any{{"name", s.name}, {"source", url}, {"user", nil}, {"group", nil}, {"mode", nil}, {"attrs", nil}} {
		v := kv[1]
		if arg, ok := s.arg(kv[0].(string)); ok && v == nil {
			v = arg
		}
		put(names, kv[0], v, jinja.Origin{})
	}
	if s.fs.e.strict {
		names = jinja.NewMap()
	}
	update(names, context, false, false)
	out.Output, err = s.fs.e.template(source{path: file, root: s.fs.e.stateRoot, text: text, context: names})
	return out, err
}

func (s *state) recurse() error {
	if _, ok := s.arg("mode"); ok {
		return jinja.Fault("file.recurse has no mode", "write file_mode and dir_mode")
	}
	src, ok := s.arg("source")
	if l, isList := src.(*jinja.List); isList && len(l.Items) > 0 {
		src = l.Items[0]
	}
	name, isText := src.(string)
	rel, isURL := strings.CutPrefix(name, "salt://")
	if !ok || !isText || !isURL {
		return jinja.Fault("file.recurse needs a source", "write source: salt://folder")
	}
	rel = strings.Trim(rel, "/")
	paths, err := s.fs.e.under(s.fs.e.stateRoot, rel)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return s.argFault("source", "there is no folder "+name, "correct source:, or add files")
	}
	mode := s.mode("file_mode")
	if mode == "" || mode == "keep" {
		mode = "644"
	}
	s.fs.mkdirs(s.name, s.mode("dir_mode"))
	for _, p := range paths {
		ok, err := s.wanted(p)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		text, ok := s.fs.e.file(s.fs.e.stateRoot + rel + "/" + p)
		if !ok {
			continue
		}
		url := "salt://" + rel + "/" + p + "?saltenv=base"
		one := *s
		clone := *s.chunk
		clone.name = s.name + "/" + p
		one.chunk = &clone
		file, err := one.templated(s.fs.e.stateRoot+rel+"/"+p, url, text)
		if err != nil {
			return err
		}
		if err := s.write(s.name+"/"+p, s.owned(&Rendering{File: file, Mode: mode}), true); err != nil {
			return err
		}
	}
	return nil
}

// wanted tells whether include_pat, exclude_pat and maxdepth keep a path.
func (s *state) wanted(p string) (bool, error) {
	if v, ok := s.arg("maxdepth"); ok {
		if n, ok := v.(int64); ok && strings.Count(p, "/") > int(n) {
			return false, nil
		}
	}
	match := func(name string) (hit, given bool, err error) {
		v, ok := s.arg(name)
		if !ok {
			return false, false, nil
		}
		items := []any{v}
		if l, isList := v.(*jinja.List); isList {
			items = l.Items
		}
		for _, item := range items {
			pattern := jinja.Str(item)
			if rest, isRE := strings.CutPrefix(pattern, "E@"); isRE {
				re, err := jinja.Regexp(rest)
				if err != nil {
					return false, true, err
				}
				hit = hit || re.MatchString(p)
			} else {
				m, err := glob(pattern, p)
				if err != nil {
					return false, true, err
				}
				hit = hit || m
			}
		}
		return hit, true, nil
	}
	in, hasIn, err := match("include_pat")
	if err != nil {
		return false, err
	}
	ex, hasEx, err := match("exclude_pat")
	return (!hasIn || in) && (!hasEx || !ex), err
}

func (s *state) directory() error {
	if old, ok := s.fs.files[s.name]; ok && !old.Dir {
		return jinja.Fault(s.name+" is a file", "use another name")
	}
	parent := path.Dir(s.name)
	if !s.fs.hasDir(parent) {
		if !s.flag("makedirs", false) {
			return jinja.Fault("the folder "+parent+" does not exist", "add makedirs: true")
		}
		s.fs.mkdirs(parent, s.mode("dir_mode", "mode"))
	}
	mode := s.mode("dir_mode", "mode")
	if old, ok := s.fs.files[s.name]; ok && mode == "" {
		mode = old.Mode
	}
	if mode == "" {
		mode = "755"
	}
	if s.flag("clean", false) {
		return jinja.Fault("clean depends on what is on the machine", "leave it out")
	}
	s.fs.files[strings.TrimSuffix(s.name, "/")] = s.owned(&Rendering{Path: strings.TrimSuffix(s.name, "/"), Dir: true, Mode: mode})
	return nil
}

func (s *state) absent() error {
	if s.name == "/" {
		return jinja.Fault("/ cannot be removed", "")
	}
	for p := range s.fs.files {
		if p == s.name || strings.HasPrefix(p, s.name+"/") {
			delete(s.fs.files, p)
		}
	}
	return nil
}

func (s *state) symlink() error {
	target := s.text("target", "")
	if target == "" {
		return jinja.Fault("file.symlink has no target", "add it")
	}
	return s.write(s.name, s.owned(&Rendering{Target: target}), s.flag("makedirs", false))
}

func (s *state) touch() error {
	if _, ok := s.fs.files[s.name]; ok {
		return nil
	}
	file := &pyyaml.File{Name: s.origin.File, Output: jinja.Plain(nil)}
	return s.write(s.name, s.owned(&Rendering{File: file, Mode: "644"}), s.flag("makedirs", false))
}
