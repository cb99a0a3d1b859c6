package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this test binary as the program holdfast.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() {
			if err := newRoot().ExecuteContext(context.Background()); err != nil {
				os.Exit(report(err))
			}
		},
	})
}

// TestScripts runs testdata/script: the command line as a person uses it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com"} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// size FILE BYTES makes a file of that size.
			"size": func(ts *testscript.TestScript, _ bool, args []string) {
				var n int64
				if _, err := fmt.Sscan(args[1], &n); err != nil {
					ts.Fatalf("size: %v", err)
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
				ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
			},
		},
	})
}
