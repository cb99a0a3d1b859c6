// Package output prints what a command has to say: a table for people, JSON or
// YAML for programs.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"
)

// Format is how to print.
type Format string

// Formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Set checks and sets the format; with String and Type it is a pflag.Value.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Table, JSON, YAML:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("%q is not table, json or yaml", s)
}

// String is the format's name.
func (f *Format) String() string { return string(*f) }

// Type is what the help calls the value.
func (f *Format) Type() string { return "format" }

// Print writes v as JSON or YAML, or the rows below the head as a table.
func Print(w io.Writer, f Format, v any, head []string, rows [][]string) error {
	switch f {
	case JSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case YAML:
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			row[i] = strings.ReplaceAll(cell, "\t", " ")
		}
		if _, err := fmt.Fprintln(tw, strings.TrimRight(strings.Join(row, "\t"), " ")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// Age is how long ago t was, as kubectl writes it: 12s, 5m, 3h, 4d.
func Age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	switch d := now.Sub(t); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// Cut shortens s to n runes.
func Cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// Progress writes a line to w for as long as work takes more than a second.
// The returned function ends it.
func Progress(w io.Writer, what string) func() {
	done, ended := make(chan struct{}), make(chan struct{})
	start := time.Now()
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				fmt.Fprintf(w, "%s … %ds\n", what, int(time.Since(start).Seconds()))
			}
		}
	}()
	return func() { close(done); <-ended }
}
