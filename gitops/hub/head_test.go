package hub

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/hostexec"
)

// TestHeadThatCannotBeRead: that the hub's own commit cannot be read for a moment says
// nothing of whose it is. It was taken for somebody else's, for good, and the bundle of
// before was published over it.
func TestHeadThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	bare := filepath.Join(dir, "fleet.git")
	if _, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Args: []string{"init", "-q", "--bare", bare}}); err != nil {
		t.Fatal(err)
	}
	h, err := New(t.Context(), Options{Repo: bare, DataDir: filepath.Join(dir, "hub")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.lock.Close() })
	h.accepted = &revision{result: &render.Result{Bundles: map[string]*render.Bundle{"c1": {}}}}
	publish := func(digest string) string {
		t.Helper()
		p, err := h.next(t.Context(), "c1", "m")
		if err != nil {
			t.Fatal(err)
		}
		p.Files = map[string][]byte{render.BundleFile: fmt.Appendf(nil, "apiVersion: holdfast.dev/v1alpha1\nkind: Bundle\ncluster: c1\ndigest: %s\n", digest)}
		done := h.repo.Publish(t.Context(), p)[0] // the hub is killed here: it has not noted it
		if done.Err != nil {
			t.Fatal(done.Err)
		}
		return done.Commit
	}
	look := func() head {
		t.Helper()
		if err := h.readHeads(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.mendHeads(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.heads["c1"]
	}
	first := publish("d1")
	if hd := look(); hd.commit != first || hd.digest != "d1" {
		t.Fatalf("%+v", hd)
	}
	second := publish("d2")
	object := filepath.Join(bare, "objects", second[:2], second[2:])
	if err := os.Rename(object, object+".away"); err != nil {
		t.Fatal(err)
	}
	if hd := look(); hd.tip != second || hd.commit != "" || hd.unread == "" {
		t.Errorf("while it cannot be read: %+v", hd)
	}
	if err := os.Rename(object+".away", object); err != nil {
		t.Fatal(err)
	}
	if hd := look(); hd.commit != second || hd.digest != "d2" || hd.unread != "" {
		t.Errorf("afterwards: %+v, want %s", hd, second)
	}
}
