package daemon_test

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"

	"holdfast.dev/internal/daemon"
)

// TestFlagErrorIsSaidOnce: the flag package printed it with the whole usage, and the
// caller once more, at the end of a screen of flags.
func TestFlagErrorIsSaidOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		reason    string
		args      []string
		says      string // "" for no error
		prints    string
		code      int
		flagsOnly bool
	}{
		"Good":     {"what is right is taken", []string{"--level=x", "rest"}, "", "", 0, false},
		"Unknown":  {"one line, and where to look", []string{"--none"}, "flag provided but not defined: -none (see thing --help)", "", 2, false},
		"Value":    {"the value is in it", []string{"--n=x"}, `invalid value "x" for flag -n: parse error (see thing --help)`, "", 2, false},
		"Argument": {"a flag without its dashes is no silent default", []string{"level=x"}, `unexpected argument "level=x" (see thing --help)`, "", 2, true},
		"Help":     {"help is asked for and is no failure", []string{"--help"}, flag.ErrHelp.Error(), "Usage of thing:", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			fs := flag.NewFlagSet("thing", flag.ExitOnError)
			fs.SetOutput(&out)
			fs.String("level", "", "a level")
			fs.Int("n", 0, "a number")
			parse := daemon.Parse
			if tc.flagsOnly {
				parse = daemon.ParseAll
			}
			err := parse(fs, tc.args)
			if (err == nil) != (tc.says == "") || err != nil && err.Error() != tc.says {
				t.Errorf("got %v, want %q; reason: %s", err, tc.says, tc.reason)
			}
			if got := out.String(); !strings.HasPrefix(got, tc.prints) || tc.prints == "" && got != "" {
				t.Errorf("printed %q; reason: %s", got, tc.reason)
			}
			if err != nil {
				if code := daemon.Fail("thing", err); code != tc.code {
					t.Errorf("exit code %d, want %d; reason: %s", code, tc.code, tc.reason)
				}
			}
		})
	}
	if code := daemon.Fail("thing", errors.New("no such host")); code != 1 {
		t.Errorf("exit code %d for what is no flag's", code)
	}
}
