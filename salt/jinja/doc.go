// Package jinja renders the part of the Jinja2 template language that Salt
// states and pillars of Holdfast use, as Salt configures it: undefined names
// are errors, a last newline is kept, blocks are not trimmed.
//
// What it renders, it renders as Jinja2 3.1 does; a corpus in testdata is
// recorded from Jinja2 itself. What it does not know is an error that names file
// and line, never silently different text. Every line of the output remembers
// the template line it came from, so that a fault found later in the rendered
// YAML is reported where a person wrote it.
//
// Known: text, comments, raw, if/elif/else, for/else with a filter and tuple
// targets, set; literals, lists, dicts, tuples, names, attributes, items, calls;
// + - * / // % ~, comparisons, in, and, or, not, inline if, the tests and
// filters of tests.go and filters.go. Not known: macros, imports, includes,
// inheritance, do, call, with, slices, the ** operator.
//
// Rendering is pure and bounded: no clock, file, network or environment, at most
// MaxSteps evaluation steps and MaxOutput bytes. A Template may be rendered by
// several goroutines at once.
package jinja

// Limits of one rendering.
const (
	// MaxSteps bounds how many nodes are evaluated.
	MaxSteps = 1_000_000
	// MaxOutput bounds the rendered text, in bytes.
	MaxOutput = 8 << 20
	// maxDepth bounds how deep expressions and blocks nest.
	maxDepth = 60
)
