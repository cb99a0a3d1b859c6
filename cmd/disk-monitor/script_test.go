package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this test binary as disk-monitor.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"disk-monitor": func() { os.Exit(start()) }})
}

// TestScripts runs testdata/script: the command line as a person uses it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}
