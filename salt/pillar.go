package salt

import (
	"fmt"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// Pillar compiles a cluster's pillar: the files that salt/pillar/top.sls selects,
// in order, each laid over those before. Pillar files see grains, and no pillar.
func Pillar(files Files, grains Grains) (*jinja.Map, error) {
	chosen, err := selected(files, PillarDir+"/top.sls", grains)
	if err != nil {
		return nil, err
	}
	pillar := jinja.NewMap()
	for _, s := range chosen {
		path, ok := slsPath(files, PillarDir, s.Name)
		if !ok {
			return nil, &strictyaml.Error{File: s.Origin.File, Line: s.Origin.Line, Msg: fmt.Sprintf("there is no pillar %q", s.Name), Hint: "add " + PillarDir + "/" + s.Name + ".sls, or remove it here"}
		}
		m, err := sls(files, path, "holds values", newTracer(Inputs{Grains: grains}), false)
		if err != nil {
			return nil, err
		}
		if _, ok := m.Get("include"); ok {
			return nil, at(m.Origin("include"), jinja.Fault("include is not supported", "select the file in "+PillarDir+"/top.sls"))
		}
		pillar = jinja.Merge(pillar, m)
	}
	return pillar, nil
}
