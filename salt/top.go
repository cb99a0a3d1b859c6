package salt

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// The folders of a fleet repository.
const (
	StatesDir = "salt/states"
	PillarDir = "salt/pillar"
)

// destination is where a state puts an addon's manifests on a machine that runs
// kube-addon-manager.
const destination = "/etc/kubernetes/addons/"

// Selected is one SLS that a top file selects for a cluster.
type Selected struct {
	Name string
	// Origin is the line of the top file.
	Origin jinja.Origin
}

// States lists the states that salt/states/top.sls selects for a cluster, in
// order, each once.
func States(files Files, grains Grains) ([]Selected, error) {
	return selected(files, StatesDir+"/top.sls", grains)
}

func selected(files Files, path string, grains Grains) ([]Selected, error) {
	top, err := sls(files, path, "is where the cluster's files are selected", newTracer(Inputs{Grains: grains}), false)
	if err != nil {
		return nil, err
	}
	for _, env := range top.Keys() {
		if env != "base" {
			return nil, at(top.Origin(env), jinja.Fault(fmt.Sprintf("the environment %q is not supported", env), "put everything below base"))
		}
	}
	base, _ := top.Get("base")
	targets, ok := base.(*jinja.Map)
	if !ok {
		return nil, &strictyaml.Error{File: path, Line: top.Origin("base").Line, Msg: "base is not a mapping of targets", Hint: "write base: and below it '*': [name]"}
	}
	var out []Selected
	seen := map[string]bool{}
	for _, target := range targets.Keys() {
		origin := targets.Origin(target)
		value, _ := targets.Get(target)
		names, matcher, err := selection(target, value)
		if err != nil {
			return nil, at(origin, err)
		}
		ok, err := matches(target, matcher, grains)
		if err != nil {
			return nil, at(origin, err)
		}
		for _, name := range names {
			if ok && !seen[name] {
				seen[name] = true
				out = append(out, Selected{name, origin})
			}
		}
	}
	return out, nil
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$`)

// selection reads one target's list: names, and at most a match.
func selection(target string, value any) (names []string, matcher string, err error) {
	list, ok := value.([]any)
	if !ok {
		return nil, "", jinja.Fault(fmt.Sprintf("the target %q has no list", target), "write - name")
	}
	for _, item := range list {
		switch item := item.(type) {
		case string:
			if !nameRE.MatchString(item) {
				return nil, "", jinja.Fault(fmt.Sprintf("%q is not the name of an SLS", item), "write out its name, without a glob")
			}
			names = append(names, item)
		case *jinja.Map:
			m, isString := item.Get("match")
			s, ok := m.(string)
			if !isString || !ok || item.Len() != 1 {
				return nil, "", jinja.Fault(fmt.Sprintf("the target %q holds %q", target, strings.Join(item.Keys(), " ")), "only match: is supported here")
			}
			matcher = s
		default:
			return nil, "", jinja.Fault(fmt.Sprintf("the target %q holds something that is not a name", target), "write - name")
		}
	}
	return names, matcher, nil
}

// sls renders and parses one SLS file.
func sls(files Files, path, purpose string, t *tracer, withPillar bool) (*jinja.Map, error) {
	src, ok := files.File(path)
	if !ok {
		return nil, &strictyaml.Error{File: path, Msg: "there is no such file", Hint: "add it: it " + purpose}
	}
	if line, _, _ := strings.Cut(string(src), "\n"); strings.HasPrefix(line, "#!") {
		if strings.ReplaceAll(strings.TrimSpace(line[2:]), " ", "") != "jinja|yaml" {
			return nil, &strictyaml.Error{File: path, Line: 1, Msg: fmt.Sprintf("the renderer %q is not supported", line), Hint: "remove the line, or write #!jinja|yaml"}
		}
	}
	tpl, err := jinja.Parse(path, src)
	if err != nil {
		return nil, err
	}
	out, err := tpl.Render(t.names(withPillar))
	if err != nil {
		return nil, err
	}
	return pyyaml.One(&pyyaml.File{Name: path, Output: out})
}

// slsPath finds the file of a dotted name, as Salt does.
func slsPath(files Files, dir, name string) (string, bool) {
	p := dir + "/" + strings.ReplaceAll(name, ".", "/")
	if _, ok := files.File(p + ".sls"); ok {
		return p + ".sls", true
	}
	_, ok := files.File(p + "/init.sls")
	return p + "/init.sls", ok
}

// at gives an error without a place the origin's.
func at(o jinja.Origin, err error) error {
	var e *strictyaml.Error
	if errors.As(err, &e) && e.File == "" {
		return &strictyaml.Error{File: o.File, Line: o.Line, Msg: e.Msg, Hint: e.Hint}
	}
	return err
}
