// Package dashboards writes the Grafana dashboards of the addons, so that what
// they query can be checked: the tests of monitor run each query against a real
// Prometheus.
package dashboards

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Dashboard is one dashboard. Its panels are laid out in rows of 24 columns.
type Dashboard struct {
	UID, Title, About string
	// Variables are the names of labels that a person chooses, each within the
	// ones before it; their values come from the metric Of.
	Variables []string
	Of        string
	Panels    []Panel
}

// Kind is a kind of panel.
type Kind string

// Kinds of panels.
const (
	Stat   Kind = "stat"
	Series Kind = "timeseries"
	Table  Kind = "table"
	States Kind = "state-timeline"
)

// Panel shows queries. Unit is one of Grafana's (packages/grafana-data,
// valueFormats/categories.ts); empty is a number.
type Panel struct {
	Kind         Kind
	Title, About string
	Unit         string
	Width        int
	Queries      []Query
}

// Query is an expression of Prometheus, in which $name is the choice of a
// variable, and the text that names its series.
type Query struct{ Expr, Legend string }

const (
	rowHeight = 8
	columns   = 24
	// schema is of Grafana 11; newer ones migrate it.
	schema = 39
)

type object = map[string]any

// JSON is the dashboard as Grafana imports it.
func (d *Dashboard) JSON() ([]byte, error) {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	variables := []object{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"}}
	var chosen []string
	for _, name := range d.Variables {
		of := d.Of
		if len(chosen) > 0 {
			of += "{" + strings.Join(chosen, ", ") + "}"
		}
		query := fmt.Sprintf("label_values(%s, %s)", of, name)
		variables = append(variables, object{
			"name": name, "type": "query", "datasource": source, "query": object{"query": query, "refId": name}, "definition": query,
			"refresh": 2, "sort": 1, "includeAll": true, "multi": true, "allValue": ".*", "current": object{"text": "All", "value": "$__all"},
		})
		chosen = append(chosen, fmt.Sprintf("%s=~%q", name, "$"+name))
	}
	var panels []object
	x, y := 0, 0
	for i, p := range d.Panels {
		if x+p.Width > columns {
			x, y = 0, y+rowHeight
		}
		panels = append(panels, p.json(i+1, source, object{"x": x, "y": y, "w": p.Width, "h": rowHeight}))
		x += p.Width
	}
	data, err := json.MarshalIndent(object{
		"uid": d.UID, "title": d.Title, "description": d.About, "tags": []string{"holdfast"}, "schemaVersion": schema, "version": 1,
		"editable": true, "refresh": "30s", "time": object{"from": "now-6h", "to": "now"}, "timezone": "", "graphTooltip": 1,
		"templating": object{"list": variables}, "panels": panels,
		"links": []object{{"type": "dashboards", "tags": []string{"holdfast"}, "title": "Holdfast", "asDropdown": true, "includeVars": true, "keepTime": true, "icon": "dashboard", "tooltip": "", "targetBlank": false}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.UID, err)
	}
	return append(data, '\n'), nil
}

func (p *Panel) json(id int, source, place object) object {
	var targets []object
	for i, q := range p.Queries {
		t := object{"refId": string(rune('A' + i)), "datasource": source, "expr": q.Expr, "legendFormat": q.Legend}
		if p.Kind == Table {
			t["instant"], t["range"], t["format"] = true, false, "table"
		}
		targets = append(targets, t)
	}
	o := object{
		"id": id, "type": string(p.Kind), "title": p.Title, "description": p.About, "datasource": source, "gridPos": place, "targets": targets,
		"fieldConfig": object{"defaults": object{"unit": p.Unit}, "overrides": []object{}},
	}
	switch p.Kind {
	case Table:
		// What a person reads, not what Prometheus keeps beside.
		o["transformations"] = []object{{"id": "organize", "options": object{"excludeByName": object{"Time": true, "__name__": true, "job": true, "instance": true, "Value": len(p.Queries) == 1 && p.Unit == ""}}}}
	case States:
		o["options"] = object{"mergeValues": true, "showValue": "never"}
	case Stat:
		o["options"] = object{"reduceOptions": object{"calcs": []string{"lastNotNull"}}, "colorMode": "background", "graphMode": "area"}
		o["fieldConfig"] = object{"defaults": object{"unit": p.Unit, "noValue": "0", "thresholds": object{"mode": "absolute", "steps": []object{{"color": "green", "value": nil}, {"color": "red", "value": 1}}}}, "overrides": []object{}}
	case Series:
	}
	return o
}
