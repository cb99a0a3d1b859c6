// Package jinja renders the Jinja2 template language as Salt configures it:
// undefined names are errors, a last newline is kept, blocks are not trimmed.
//
// What it renders, it renders as Jinja2 3.1 does; a corpus in testdata is
// recorded from Jinja2 itself. What it does not know is an error that names file
// and line, never silently different text. Every line of the output remembers
// the template line it came from, so that a fault found later in the rendered
// YAML is reported where a person wrote it.
//
// The language is whole: all statements, filters, tests and globals of Jinja2, its
// do and loopcontrols extensions, Salt's load_ and import_ statements, Salt's
// filters, and the methods of Python's strings, lists and dicts. What depends on
// the machine, its clock, its files, its network or on chance is an error.
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
	// maxDepth bounds how deep expressions and blocks nest in a template.
	maxDepth = 60
	// maxCalls bounds how deep macros, includes and expressions are at work.
	maxCalls = 2000
)
