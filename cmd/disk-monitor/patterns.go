package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/daemon"
	"holdfast.dev/internal/output"
	"holdfast.dev/monitor/kernel"
)

// patternRow is one pattern of "disk-monitor patterns -o json".
type patternRow struct {
	Class    string `json:"class,omitempty"`
	Severity string `json:"severity"` // None for lines that look like faults and are not
	Expr     string `json:"expr"`
	About    string `json:"about"`
	Source   string `json:"source"`
}

// runPatterns prints the table of patterns for people, or as the configuration
// of node-problem-detector's system log monitor.
func runPatterns(w io.Writer, args []string) error {
	format, npd := output.Table, false
	fs := flag.NewFlagSet("disk-monitor patterns", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "Usage: disk-monitor patterns [-o table|json|yaml|npd]\n\nPrints which lines of the kernel's log speak against a disk; npd is the\nconfiguration of node-problem-detector's system log monitor.")
		fs.PrintDefaults()
	}
	fs.Func("o", "table, json, yaml or npd (default table)", func(s string) error {
		if npd = s == "npd"; npd {
			return nil
		}
		return format.Set(s)
	})
	if err := daemon.Parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("patterns: %q is no flag (see disk-monitor patterns --help)", fs.Arg(0))
	}
	if npd {
		return writeNPD(w, kernel.Patterns())
	}
	var all []patternRow
	var rows [][]string
	for _, p := range kernel.Patterns() {
		r := patternRow{Class: string(p.Class), Severity: string(p.Severity), Expr: p.Expr, About: p.About, Source: p.Source}
		if r.Severity == "" {
			r.Severity = "None"
		}
		all = append(all, r)
		rows = append(rows, []string{r.Severity, r.Class, r.About, r.Source, output.Cut(r.Expr, 60)})
	}
	return output.Print(w, format, all, []string{"SEVERITY", "CLASS", "MEANS", "SOURCE", "EXPRESSION"}, rows)
}

// npdConfig is the configuration of node-problem-detector's system log monitor
// (pkg/systemlogmonitor/config.go).
type npdConfig struct {
	Plugin           string         `json:"plugin"`
	PluginConfig     map[string]any `json:"pluginConfig,omitempty"`
	LogPath          string         `json:"logPath"`
	Lookback         string         `json:"lookback"`
	BufferSize       int            `json:"bufferSize"`
	Source           string         `json:"source"`
	MetricsReporting bool           `json:"metricsReporting"`
	Conditions       []any          `json:"conditions"`
	Rules            []npdRule      `json:"rules"`
}

type npdRule struct {
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Pattern string `json:"pattern"`
}

// writeNPD writes temporary rules: a permanent one of a log monitor sets a
// condition that nothing but a restart clears. Lines that only look like faults
// are told apart by patterns that come first here, and cannot be there.
func writeNPD(w io.Writer, patterns []kernel.Pattern) error {
	c := npdConfig{Plugin: "kmsg", LogPath: "/dev/kmsg", Lookback: "5m", BufferSize: 10, Source: "disk-monitor-kernel", MetricsReporting: true, Conditions: []any{}}
	for _, p := range patterns {
		if p.Severity != "" {
			c.Rules = append(c.Rules, npdRule{Type: "temporary", Reason: fmt.Sprintf("Disk%s%s", p.Class, p.Severity), Pattern: npdPattern(p.Expr)})
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(c)
}

// npdPattern makes an expression fit for a buffer of several records, of which
// the last must match to its end (pkg/systemlogmonitor/log_buffer.go): there a
// record has its dictionary, in lines that begin with a blank.
func npdPattern(expr string) string {
	return "(?m:" + strings.ReplaceAll(expr, "(?P<dev>", "(?:") + `)[^\n]*(?:\n [^\n]*)*`
}

// runInstall copies this program into a directory, for containers without it.
func runInstall(args []string) error {
	fs := flag.NewFlagSet("disk-monitor install", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "Usage: disk-monitor install DIR\n\nCopies this program into a directory, for containers without it.")
	}
	if err := daemon.Parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("install: name the one directory that this program is to be copied to")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	in, err := os.Open(self)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer func() { _ = in.Close() }() // read only
	err = atomicfile.ReplaceFunc(filepath.Join(fs.Arg(0), "disk-monitor"), 0o755, func(out *os.File) error {
		_, err := io.Copy(out, in)
		return err
	})
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}
