package salt

import (
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// texts are the text or the sources of file.append and file.prepend: each is added
// as a whole, or not at all.
func (s *state) texts() ([][]string, error) {
	var out [][]string
	add := func(v any) {
		items := []any{v}
		if l, ok := v.(*jinja.List); ok {
			items = l.Items
		}
		for _, item := range items {
			out = append(out, strings.Split(strings.TrimSuffix(jinja.Str(item), "\n"), "\n"))
		}
	}
	if v, ok := s.arg("text"); ok {
		add(v)
		return out, nil
	}
	v, ok := s.arg("source")
	if !ok {
		return nil, jinja.Fault("the state has neither text nor source", "add one")
	}
	file, err := s.fromSource(v)
	if err != nil {
		return nil, err
	}
	add(string(file.Text))
	return out, nil
}

// holds tells whether lines follow each other in a file, whitespace aside.
func holds(file, lines []string) bool {
	same := func(a, b string) bool {
		return strings.Join(strings.Fields(a), "") == strings.Join(strings.Fields(b), "")
	}
	for i := range len(file) - len(lines) + 1 {
		if slices.EqualFunc(file[i:i+len(lines)], lines, same) {
			return true
		}
	}
	return false
}

func (s *state) existing() (*Rendering, []string, error) {
	r, ok := s.fs.files[s.name]
	if !ok {
		r = s.owned(&Rendering{File: &pyyaml.File{Name: s.origin.File, Output: jinja.Plain(nil)}, Mode: "644"})
		if err := s.write(s.name, r, s.flag("makedirs", false)); err != nil {
			return nil, nil, err
		}
	}
	if r.File == nil {
		return nil, nil, jinja.Fault(s.name+" is no file", "")
	}
	return r, strings.Split(strings.TrimSuffix(string(r.Text), "\n"), "\n"), nil
}

func (s *state) appendText() error { return s.addLines(false) }

func (s *state) prependText() error { return s.addLines(true) }

func (s *state) addLines(first bool) error {
	texts, err := s.texts()
	if err != nil {
		return err
	}
	r, old, err := s.existing()
	if err != nil {
		return err
	}
	var fresh []string
	for _, lines := range texts {
		if !holds(old, lines) {
			fresh = append(fresh, lines...)
			old = append(old, lines...)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	text, added := string(r.Text), strings.Join(fresh, "\n")+"\n"
	if first {
		text = added + text
	} else {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += added
	}
	r.File = &pyyaml.File{Name: r.Name, Output: jinja.Plain([]byte(text))}
	return nil
}

// serialize is file.serialize: a dataset as YAML or JSON.
func (s *state) serialize() error {
	data, ok := s.arg("dataset")
	if key, has := s.arg("dataset_pillar"); has && !ok {
		data, ok = s.fs.e.traverse("pillar", s.fs.e.pillar, key, ":")
	}
	if !ok {
		return jinja.Fault("file.serialize has no dataset", "add dataset: or dataset_pillar:")
	}
	sort := strings.ToLower(s.text("serializer", s.text("formatter", "yaml")))
	options := jinja.NewMap()
	set := func(k string, v any) { options.Set(k, v, jinja.Origin{}) }
	switch sort {
	case "yaml":
		set("default_flow_style", false)
	case "json":
		set("indent", int64(2))
		set("separators", jinja.Tuple{",", ": "})
		set("sort_keys", true)
	}
	if opts, ok := s.arg("serializer_opts"); ok {
		items, err := jinja.Iterate(opts)
		if err != nil {
			return err
		}
		for _, item := range items {
			if m, ok := item.(*jinja.Map); ok {
				update(options, m, false, false)
			}
		}
	}
	text, err := jinja.Serialize(sort, data, options)
	if err != nil {
		return err
	}
	mode := s.mode("mode")
	if mode == "" {
		mode = "644"
	}
	file := &pyyaml.File{Name: s.origin.File, Output: jinja.Plain([]byte(text + "\n"))}
	return s.write(s.name, s.owned(&Rendering{File: file, Mode: mode}), s.flag("makedirs", false))
}
