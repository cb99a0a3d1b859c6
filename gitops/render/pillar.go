package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/addons"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// reserved is the pillar key that the renderer fills, with each addon's version and images.
const reserved = "addons"

// complete lays a cluster's pillar over the addons' defaults and adds each
// addon's version and images below [reserved]: what templates see. It refuses
// values that an addon does not know, or of the wrong type.
func complete(pillar *jinja.Map, bundle []*addons.Addon) (*jinja.Map, error) {
	var errs []error
	if pillar.Origin(reserved).File != "" {
		errs = append(errs, fault(pillar.Origin(reserved), "the pillar key \"addons\" is the renderer's own", "set values below the addon's name"))
	}
	defaults, facts := jinja.NewMap(), jinja.NewMap()
	for _, a := range bundle {
		values := jinja.NewMap()
		file, line := a.Source("values")
		origin := jinja.Origin{File: file, Line: line}
		for _, name := range a.ValueNames {
			v := a.Values[name]
			if v.Default == nil {
				continue
			}
			def, err := (&pyyaml.Document{File: &pyyaml.File{Name: file, Output: jinja.Plain(nil)}, Root: v.Default}).Value()
			if err != nil {
				errs = append(errs, err)
				continue
			}
			values.Set(name, def, jinja.Origin{File: file, Line: v.Line})
		}
		defaults.Set(a.Name, values, origin)
		images := jinja.NewMap()
		for _, name := range slices.Sorted(maps.Keys(a.Images)) {
			images.Set(name, a.Images[name], origin)
		}
		fact := jinja.NewMap()
		fact.Set("version", a.Version.String(), origin)
		fact.Set("images", images, origin)
		facts.Set(a.Name, fact, origin)
		if err := checkValues(a, pillar); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	out := jinja.Merge(defaults, pillar)
	out.Set(reserved, facts, jinja.Origin{})
	return out, nil
}

func fault(o jinja.Origin, msg, hint string) error {
	return &strictyaml.Error{File: o.File, Line: o.Line, Msg: msg, Hint: hint}
}

// checkValues checks what a pillar sets below the addon's name.
func checkValues(a *addons.Addon, pillar *jinja.Map) error {
	set := jinja.NewMap()
	if v, ok := pillar.Get(a.Name); ok {
		m, ok := v.(*jinja.Map)
		if !ok {
			return fault(pillar.Origin(a.Name), fmt.Sprintf("the values of %s are %s, not a map", a.Name, addons.Describe(v)), "write name: value below it")
		}
		set = m
	}
	var errs []error
	for _, name := range set.Keys() {
		v, _ := set.Get(name)
		value, ok := a.Values[name]
		if !ok {
			errs = append(errs, fault(set.Origin(name), fmt.Sprintf("%s has no value %q", a.Name, name), "known are "+valueNames(a)))
			continue
		}
		if problem := value.Type.Problem(v); problem != "" {
			errs = append(errs, fault(set.Origin(name), fmt.Sprintf("%s:%s is %s", a.Name, name, problem), value.Doc))
			continue
		}
		if m, ok := v.(*jinja.Map); ok && value.Format != "" && m.Len() > 0 { // an empty one is not there
			errs = append(errs, checkFormat(a.Name+":"+name, value.Format, m, set.Origin(name)))
		}
	}
	file, _ := a.Source("values")
	for _, name := range a.ValueNames {
		v := a.Values[name]
		if _, ok := set.Get(name); !ok && v.Default == nil {
			errs = append(errs, fault(jinja.Origin{File: file, Line: v.Line}, fmt.Sprintf("%s:%s has no default and the pillar does not set it", a.Name, name), "set it in salt/pillar: "+v.Doc))
		}
	}
	return errors.Join(errs...)
}

// valueNames lists what the pillar can set of an addon.
func valueNames(a *addons.Addon) string {
	if len(a.ValueNames) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(slices.Values(a.ValueNames)), ", ")
}
