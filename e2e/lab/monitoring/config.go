package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/strictyaml"
)

const (
	rulesGlob   = "*/alerts.yaml"
	rulesDir    = "rules"
	targetsFile = "targets.json"
	tokenFile   = "token"
)

// ruleFile is a file of Prometheus rules
// (https://prometheus.io/docs/prometheus/2.42/configuration/recording_rules/).
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval,omitempty"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// writeRules copies the rule files, with no "for" longer than MaxFor.
func writeRules(o Options) error {
	names, err := fs.Glob(o.Rules, rulesGlob)
	names = slices.DeleteFunc(names, func(n string) bool { return o.Addons != nil && !slices.Contains(o.Addons, path.Dir(n)) })
	if err != nil || len(names) == 0 {
		return errors.Join(fmt.Errorf("write rules: there is no %s", rulesGlob), err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, rulesDir), 0o755); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(o.Rules, name)
		if err == nil && o.MaxFor > 0 {
			data, err = shorten(name, data, o.MaxFor)
		}
		if err != nil {
			return fmt.Errorf("write rules: %w", err)
		}
		file := filepath.Join(o.Dir, rulesDir, path.Dir(name)+".yaml")
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return fmt.Errorf("write rules: %w", err)
		}
	}
	return nil
}

// shorten returns a rule file in which no alert waits longer than limit.
func shorten(name string, data []byte, limit time.Duration) ([]byte, error) {
	var f ruleFile
	if err := strictyaml.Decode(name, data, &f); err != nil {
		return nil, err
	}
	for _, g := range f.Groups {
		for i := range g.Rules {
			r := &g.Rules[i]
			if r.For == "" {
				continue
			}
			d, err := model.ParseDuration(r.For)
			if err != nil {
				return nil, fmt.Errorf("read %s: alert %s: %w", name, r.Alert, err)
			}
			if time.Duration(d) > limit {
				r.For = model.Duration(limit).String()
			}
		}
	}
	return yaml.Marshal(f)
}

// prometheusConfig scrapes what targets.json lists. A target's job is one of its
// labels there, which takes precedence over job_name; the token is for those with https.
func prometheusConfig(o Options, self, alertmanager string) map[string]any {
	scrape := func(scheme string) map[string]any {
		c := map[string]any{
			"job_name":        "holdfast-" + scheme,
			"file_sd_configs": []any{map[string]any{"files": []string{filepath.Join(o.Dir, targetsFile)}}},
			"relabel_configs": []any{map[string]any{"source_labels": []string{model.SchemeLabel}, "regex": scheme, "action": "keep"}},
		}
		if o.ProxyURL != "" {
			c["proxy_url"] = o.ProxyURL
		}
		return c
	}
	secure := scrape("https")
	secure["tls_config"] = map[string]any{"insecure_skip_verify": true}
	secure["authorization"] = map[string]any{"credentials_file": filepath.Join(o.Dir, tokenFile)}
	interval := model.Duration(o.ScrapeInterval).String()
	return map[string]any{
		"global": map[string]any{
			"scrape_interval": interval, "scrape_timeout": interval,
			"evaluation_interval": model.Duration(o.EvaluationInterval).String(),
		},
		"rule_files": []string{filepath.Join(o.Dir, rulesDir, "*.yaml")},
		"alerting": map[string]any{"alertmanagers": []any{
			map[string]any{"static_configs": []any{map[string]any{"targets": []string{alertmanager}}}},
		}},
		"scrape_configs": []any{
			scrape("http"), secure,
			map[string]any{"job_name": "prometheus", "static_configs": []any{map[string]any{"targets": []string{self}}}},
		},
	}
}

// alertmanagerConfig shows alerts and tells nobody.
func alertmanagerConfig() map[string]any {
	return map[string]any{
		"route": map[string]any{
			"receiver": "null", "group_by": []string{"alertname", "cluster"},
			"group_wait": "1s", "group_interval": "5s", "repeat_interval": "4h",
		},
		"receivers": []any{map[string]any{"name": "null"}},
	}
}

func writeYAML(file string, v any) error {
	data, err := yaml.Marshal(v)
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	return nil
}

// SetTargets replaces what is scraped. Prometheus takes a change up within about
// 10 s: it hands changed targets on every 5 s, twice (discovery/manager.go,
// scrape/manager.go).
func (p *Pair) SetTargets(targets []Target) error {
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := make([]group, 0, len(targets))
	for _, t := range targets {
		if _, _, err := net.SplitHostPort(t.Address); err != nil || t.Job == "" {
			return fmt.Errorf("set targets: %q of job %q: a target needs host:port and a job", t.Address, t.Job)
		}
		g := group{Targets: []string{t.Address}, Labels: map[string]string{}}
		maps.Copy(g.Labels, t.Labels)
		g.Labels[model.JobLabel] = t.Job
		for name := range g.Labels {
			if !model.LegacyValidation.IsValidLabelName(name) {
				return fmt.Errorf("set targets: %s: the label name %q is not valid", t.Address, name)
			}
		}
		g.Labels[model.SchemeLabel] = "http"
		if t.HTTPS {
			g.Labels[model.SchemeLabel] = "https"
		}
		groups = append(groups, g)
	}
	data, err := json.MarshalIndent(groups, "", "  ")
	if err == nil {
		err = atomicfile.Replace(filepath.Join(p.dir, targetsFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("set targets: %w", err)
	}
	return nil
}
