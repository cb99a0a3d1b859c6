package gitrepo_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/internal/hostexec"
)

const mirrored = "rendered/c1"

// TestMain lets the test binary be a hub that is killed while it mirrors.
func TestMain(m *testing.M) {
	dir := os.Getenv("GITREPO_TEST_MIRROR")
	if dir == "" {
		os.Exit(m.Run())
	}
	r, err := gitrepo.Open(context.Background(), os.Getenv("GITREPO_TEST_REPO"), os.Environ(), false)
	for err == nil {
		err = r.Mirror(context.Background(), dir, mirrored, os.Getenv("GITREPO_TEST_COMMIT"), true)
	}
	_, _ = os.Stderr.WriteString(err.Error())
	os.Exit(3)
}

// fetched is what a client gets from a mirror: the branch's commit, with every object.
func fetched(t *testing.T, dir string) string {
	t.Helper()
	clone := filepath.Join(t.TempDir(), "clone.git")
	for _, args := range [][]string{{"clone", "-q", "--bare", "--no-local", dir, clone}, {"-C", clone, "fsck", "--full"}} {
		if _, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Args: args}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Args: []string{"-C", clone, "rev-parse", "refs/heads/" + mirrored}})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestMirrorAfterDamage: whatever a killed git or a bad disk leaves of a mirror, the
// next fetch brings the branch; it stayed broken, and every fetch of the cluster failed.
func TestMirrorAfterDamage(t *testing.T) {
	write := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			for _, name := range names {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	cases := map[string]struct {
		reason string
		damage func(*testing.T, string)
	}{
		"Nothing":       {"a mirror that is whole", func(*testing.T, string) {}},
		"NoMirror":      {"somebody removed it", remove(".")},
		"Empty":         {"killed after mkdir", remove("HEAD", "config", "objects", "refs", "description", "info", "hooks", "branches", "packed-refs")},
		"NoHEAD":        {"killed in the middle of git init", remove("HEAD")},
		"EmptyHEAD":     {"a power cut", write("HEAD", "")},
		"ShortHEAD":     {"a disk was full", write("HEAD", "ref: ref")},
		"NoObjects":     {"a restored backup that was not whole", remove("objects")},
		"BadConfig":     {"a power cut", write("config", "\x00\x00\x00")},
		"RefLock":       {"killed while it moved the branch", write("refs/heads/"+mirrored+".lock", "")},
		"PackedLock":    {"killed while it packed refs", write("packed-refs.lock", "")},
		"ShallowLock":   {"killed in a fetch", write("shallow.lock", "")},
		"Shallow":       {"a list of commits that ends in the middle", write("shallow", "0123")},
		"IndexLock":     {"killed", write("index.lock", "")},
		"TemporaryPack": {"killed while it received", write("objects/pack/tmp_pack_abc123", "PACK")},
		"EmptyRef":      {"a power cut", write("refs/heads/"+mirrored, "")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			first := publish(t, r, "", map[string][]byte{"a": []byte("1")})
			dir := filepath.Join(t.TempDir(), "git", "c1.git")
			if err := r.Mirror(t.Context(), dir, mirrored, first, true); err != nil {
				t.Fatal(err)
			}
			tc.damage(t, dir)
			second := publish(t, r, first, map[string][]byte{"a": []byte("2")})
			// Somebody writes past the hub, which knows nothing of it.
			past := publish(t, r, second, map[string][]byte{"a": []byte("3")})
			if err := r.Mirror(t.Context(), dir, mirrored, second, false); err != nil {
				t.Fatalf("%v\nreason: %s", err, tc.reason)
			}
			if got := fetched(t, dir); got != second {
				t.Errorf("a client gets %s, want %s; reason: %s", got, second, tc.reason)
			}
			if head, err := r.Head(t.Context(), "refs/heads/"+mirrored); err != nil || head != past {
				t.Errorf("the repository itself is at %s: %v", head, err)
			}
		})
	}
}

// TestMirrorAnewAfterKills kills a hub, and not the git that it runs, at many moments.
func TestMirrorAnewAfterKills(t *testing.T) {
	r := newRepo(t)
	files := map[string][]byte{}
	for i := range 300 {
		files["f"+strconv.Itoa(i)] = bytes.Repeat([]byte(strconv.Itoa(i)), 100)
	}
	commit := publish(t, r, "", files)
	dir := filepath.Join(t.TempDir(), "git", "c1.git")
	for i := range 6 {
		p, err := hostexec.Start(hostexec.Command{Path: os.Args[0], Env: append(os.Environ(), "GITREPO_TEST_MIRROR="+dir, "GITREPO_TEST_REPO="+r.Dir(), "GITREPO_TEST_COMMIT="+commit)})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			t.Fatal(p.Err())
		case <-time.After(time.Duration(20+30*i) * time.Millisecond):
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if err := r.Mirror(t.Context(), dir, mirrored, commit, true); err != nil {
			t.Fatal(err)
		}
		if got := fetched(t, dir); got != commit {
			t.Fatalf("a client gets %s, want %s", got, commit)
		}
	}
	// A git that outlived its hub writes where the next mirror removes; the one after that finds it gone.
	for deadline := time.Now().Add(30 * time.Second); ; {
		left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".making", "*", "*", "*"))
		if err == nil && len(left) == 1 && filepath.Base(left[0]) == "old" {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("beside the one mirror that was replaced last, this is left: %v %v", left, err)
		}
		if err := r.Mirror(t.Context(), dir, mirrored, commit, true); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGitDiesWithTheHub: the git of a hub that was killed went on writing into the mirror.
func TestGitDiesWithTheHub(t *testing.T) {
	r := newRepo(t)
	commit := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	told, templates, config := filepath.Join(t.TempDir(), "told"), filepath.Join(t.TempDir(), "templates"), filepath.Join(t.TempDir(), "config")
	write(t, config, "[init]\n\ttemplateDir = "+templates+"\n")
	hook := filepath.Join(templates, "hooks", "reference-transaction")
	write(t, hook, "#!/bin/sh\necho $PPID > "+told+".part; mv "+told+".part "+told+"\nuntil [ -e "+told+".go ]; do sleep 0.05; done\n")
	if err := os.Chmod(hook, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { write(t, told+".go", "") }) // ends the hook
	p, err := hostexec.Start(hostexec.Command{Path: os.Args[0], Env: append(os.Environ(), "GIT_CONFIG_GLOBAL="+config,
		"GITREPO_TEST_MIRROR="+filepath.Join(t.TempDir(), "git", "c1.git"), "GITREPO_TEST_REPO="+r.Dir(), "GITREPO_TEST_COMMIT="+commit)})
	if err != nil {
		t.Fatal(err)
	}
	var git string
	wait.For(t, time.Minute, "git to write the mirror's branch", func() bool {
		data, err := os.ReadFile(told)
		git = strings.TrimSpace(string(data))
		return err == nil
	})
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	wait.For(t, 10*time.Second, "git to be gone with the hub", func() bool {
		stat, err := os.ReadFile("/proc/" + git + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// TestMirrorIsReplacedUnderAReader: git opens packs when it needs them, and the mirror
// was gone by then: every fetch that was going on failed.
func TestMirrorIsReplacedUnderAReader(t *testing.T) {
	r := newRepo(t)
	commit := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	dir := filepath.Join(t.TempDir(), "git", "c1.git")
	if err := r.Mirror(t.Context(), dir, mirrored, commit, true); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenRoot(dir) // as a git has it that was started in it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for range 2 {
		if err := r.Mirror(t.Context(), dir, mirrored, commit, true); err != nil {
			t.Fatal(err)
		}
		if got, err := reader.ReadFile("refs/heads/" + mirrored); err != nil || strings.TrimSpace(string(got)) != commit {
			t.Fatalf("a reader of the mirror that was replaced reads %q: %v", got, err)
		}
		_ = reader.Close()
		if reader, err = os.OpenRoot(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMirrorNeverReplacesTheRepository: a repository is no copy, however its owner
// chose the folders.
func TestMirrorNeverReplacesTheRepository(t *testing.T) {
	r := newRepo(t)
	commit := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(r.Dir(), link); err != nil {
		t.Fatal(err)
	}
	for reason, dir := range map[string]string{"the repository": r.Dir(), "a link to it": link, "the folder that it is in": filepath.Dir(r.Dir())} {
		if err := r.Mirror(t.Context(), dir, mirrored, commit, true); err == nil || !strings.Contains(err.Error(), "move the repository") {
			t.Errorf("%s: %v", reason, err)
		}
		if head, err := r.Head(t.Context(), "refs/heads/"+mirrored); err != nil || head != commit {
			t.Fatalf("%s: it is at %q now: %v", reason, head, err)
		}
	}
}
