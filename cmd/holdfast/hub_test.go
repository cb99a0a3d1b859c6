package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

// TestCredentialIsRenewed: the file of a person who was away for some days, for
// weeks, and for too long.
func TestCredentialIsRenewed(t *testing.T) {
	cases := map[string]struct {
		reason  string
		made    time.Duration // ago
		renewed bool
		want    string
	}{
		"Fresh": {"nothing is asked for a new credential", time.Hour, false, ""},
		"Due":   {"after two thirds of its life it is replaced", 5 * 24 * time.Hour, true, ""},
		"Ended": {"and also when that came too late", 10 * 24 * time.Hour, true, ""},
		"Lost":  {"after a long time a person is asked to join", 60 * 24 * time.Hour, false, "ended at"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := hub.Options{Repo: filepath.Join(dir, "fleet.git"), Branch: "main", DataDir: filepath.Join(dir, "hub")}
			if _, err := hostexec.Run(t.Context(), 30*time.Second, hostexec.Command{Path: "git", Args: []string{"init", "-q", "--bare", o.Repo}}); err != nil {
				t.Fatal(err)
			}
			past, err := trust.Open(o.DataDir, func() time.Time { return time.Now().Add(-tc.made) })
			if err != nil {
				t.Fatal(err)
			}
			roots, err := past.Roots()
			if err != nil {
				t.Fatal(err)
			}
			cred, err := past.Credential(trust.Identity{Kind: trust.Admin, Name: "admin"}, roots)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "admin.pem")
			if err := os.WriteFile(file, cred.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			h, err := hub.New(t.Context(), o, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- h.Serve(ctx, l) }()
			defer func() { stop(); <-done }() //nolint:errcheck // that it was ended
			last := cred.Bytes()
			for i, want := range []bool{tc.renewed, false} { // the second call finds a fresh one
				root := newRoot()
				root.SetArgs([]string{"status", "--hub", "https://" + l.Addr().String(), "--credential-file", file})
				root.SetOut(&bytes.Buffer{})
				root.SetErr(&bytes.Buffer{})
				err := root.ExecuteContext(t.Context())
				if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Fatalf("call %d: %v, want %q; reason: %s", i, err, tc.want, tc.reason)
				}
				now, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got := !bytes.Equal(now, last); got != want {
					t.Errorf("call %d: renewed %v, want %v; reason: %s", i, got, want, tc.reason)
				}
				last = now
			}
		})
	}
}
