package demo

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// report prints what happens as it happens, and counts the checks.
type report struct {
	w      io.Writer
	start  time.Time
	mu     sync.Mutex
	checks int
	rows   [][2]string // the closing table
}

func newReport(w io.Writer) *report { return &report{w: w, start: time.Now()} }

func (r *report) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.w, format+"\n", args...)
}

// step begins a numbered part.
func (r *report) step(n int, title string) {
	r.line("\n%d. %s  [%s]", n, title, time.Since(r.start).Round(100*time.Millisecond))
}

// ok counts a check that held.
func (r *report) ok(format string, args ...any) {
	r.mu.Lock()
	r.checks++
	r.mu.Unlock()
	r.line("   ✓ "+format, args...)
}

// note adds a row to the closing table.
func (r *report) note(what, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, [2]string{what, value})
}

// bench prints a figure for programs, and remembers it for people.
func (r *report) bench(name string, value float64, unit string, limit float64) {
	r.line("BENCH name=%s value=%.3f unit=%s", name, value, unit)
	verdict := "met"
	if value > limit {
		verdict = "MISSED"
	}
	r.note(name, fmt.Sprintf("%.3f %s (goal ≤ %g: %s)", value, unit, limit, verdict))
}

// table prints what was noted.
func (r *report) table() {
	width := 0
	for _, row := range r.rows {
		width = max(width, len(row[0]))
	}
	r.line("")
	for _, row := range r.rows {
		r.line("%-*s  %s", width, row[0], row[1])
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// percentile is the nearest-rank percentile of p, from 0 to 100.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(p/100*float64(len(s))))-1)]
}

func indent(s string) string {
	return "     | " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n     | ")
}
