package gitrepo_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"holdfast.dev/gitops/gitrepo"
)

// TestPowerCut counts git's fsyncs: of a publication, neither its objects nor the branch
// were on the disk, and a power cut left the branch broken until a person came. A mirror
// is a copy, and is not looked at afterwards.
func TestPowerCut(t *testing.T) {
	trace, config := filepath.Join(t.TempDir(), "trace"), filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("[trace2]\n\teventTarget = "+trace+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := newRepo(t)
	r, err := gitrepo.Open(t.Context(), plain.Dir(), append(os.Environ(), "GIT_CONFIG_GLOBAL="+config), false)
	if err != nil {
		t.Fatal(err)
	}
	flushes := func() (n int) {
		t.Helper()
		data, err := os.ReadFile(trace)
		if err := errors.Join(err, os.Remove(trace)); err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"key":"fsync/hardware-flush","value":"(\d+)"`).FindAllSubmatch(data, -1) {
			k, err := strconv.Atoi(string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
		return n
	}
	flushes()
	commit := publish(t, r, "", map[string][]byte{"a": []byte("1"), "b": []byte("2")})
	if n := flushes(); n < 5 { // two blobs, a tree, a commit, the branch
		t.Errorf("%d flushes for a publication", n)
	}
	if _, err := r.Republish(t.Context(), gitrepo.Publication{Branch: "rendered/c1", Old: commit, Parent: commit, Message: "again", Time: time.Unix(1700000000, 0)}, commit); err != nil {
		t.Fatal(err)
	}
	if n := flushes(); n < 2 { // the commit, the branch
		t.Errorf("%d flushes for a commit without new content", n)
	}
	if err := r.Mirror(t.Context(), filepath.Join(t.TempDir(), "m", "c1.git"), mirrored, commit, true); err != nil {
		t.Fatal(err)
	}
	if n := flushes(); n != 0 {
		t.Errorf("%d flushes for a copy", n)
	}
}

// TestLeftFromSigning: each kill while commits were signed left a folder for good.
func TestLeftFromSigning(t *testing.T) {
	r := newRepo(t)
	old, young := filepath.Join(r.Dir(), "holdfast-commits-1"), filepath.Join(r.Dir(), "holdfast-commits-2")
	hour := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Mkdir(old, 0o700), os.WriteFile(filepath.Join(old, "0"), nil, 0o600), os.Chtimes(old, hour, hour), os.Mkdir(young, 0o700)); err != nil {
		t.Fatal(err)
	}
	r.SignWith(func(commit []byte) ([]byte, error) { return commit, nil })
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("what a killed hub left stays: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("what may be at work is removed: %v", err)
	}
}
