// Package addons reads addon.yaml: what an addon is called, which version of it
// this is, what it requires, and which values can be set. It also holds the
// catalogue of addons that Holdfast ships.
package addons

import "embed"

// Catalogue holds the addon.yaml of every shipped addon, at <addon>/addon.yaml,
// and at <addon>/alerts.yaml the Prometheus rules of those that have metrics.
//
//go:embed */addon.yaml */alerts.yaml
var Catalogue embed.FS
