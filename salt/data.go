// Package salt renders the subset of Salt that Holdfast's addons use: top files,
// pillars and states that are Jinja and YAML, and file.managed with template:
// jinja. Anything else is an error that names file, line and remedy. The result
// depends on the files, the grains and the pillar and on nothing else; what a
// state read of the last two is traced, so that it need not be rendered again
// while they stay.
//
// The same files work under Salt itself (salt-call --local), which renders them
// to the same manifests.
package salt

import "embed"

// Data holds the states and the pillar that a new fleet repository starts with,
// below "states" and "pillar".
//
//go:embed all:states all:pillar
var Data embed.FS
