package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// answerLimit is far more than all alerts of a lab.
const answerLimit = 16 << 20

// Alert is an alert as Alertmanager has it.
type Alert struct {
	// Fingerprint is the same for the same labels.
	Fingerprint string            `json:"fingerprint"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
}

// Name is the name of the rule.
func (a *Alert) Name() string { return a.Labels[model.AlertNameLabel] }

// has is true when the alert has all of the labels.
func (a *Alert) has(labels map[string]string) bool {
	for k, v := range labels {
		if a.Labels[k] != v {
			return false
		}
	}
	return true
}

// Alerts asks Alertmanager which alerts are active, sorted by name and start.
func (p *Pair) Alerts(ctx context.Context) ([]Alert, error) {
	var alerts []Alert
	// https://github.com/prometheus/alertmanager/blob/v0.25.0/api/v2/openapi.yaml, GET /alerts
	err := get(ctx, p.client, p.AlertmanagerURL()+"/api/v2/alerts?active=true&silenced=false&inhibited=false", func(r *http.Response) error {
		return json.NewDecoder(http.MaxBytesReader(nil, r.Body, answerLimit)).Decode(&alerts)
	})
	if err != nil {
		return nil, p.alertmanager.explain(fmt.Errorf("list alerts: %w", err))
	}
	slices.SortFunc(alerts, func(a, b Alert) int {
		if c := strings.Compare(a.Name(), b.Name()); c != 0 {
			return c
		}
		if c := a.StartsAt.Compare(b.StartsAt); c != 0 {
			return c
		}
		return strings.Compare(a.Fingerprint, b.Fingerprint)
	})
	return alerts, nil
}

// Firing is true when Alertmanager has an active alert of that name and labels;
// it may have others, too.
func (p *Pair) Firing(ctx context.Context, name string, labels map[string]string) (bool, error) {
	alerts, err := p.Alerts(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(alerts, func(a Alert) bool { return a.Name() == name && a.has(labels) }), nil
}

// Query asks Prometheus for the vector that an expression is now.
func (p *Pair) Query(ctx context.Context, promql string) (model.Vector, error) {
	v, warnings, err := p.api.Query(ctx, promql, time.Time{})
	if err != nil {
		return nil, p.prometheus.explain(fmt.Errorf("query %q: %w", promql, err))
	}
	if len(warnings) > 0 {
		return nil, fmt.Errorf("query %q: the answer is not whole: %s", promql, strings.Join(warnings, "; "))
	}
	vector, ok := v.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("query %q: the answer is a %s and not a vector", promql, v.Type())
	}
	return vector, nil
}
