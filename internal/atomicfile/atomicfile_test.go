package atomicfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/hostexec"
)

var (
	before = bytes.Repeat([]byte("old\n"), 1<<18)
	after  = bytes.Repeat([]byte("new content\n"), 1<<18)
)

// TestMain lets the test binary be a writer that is killed after so many bytes.
func TestMain(m *testing.M) {
	name := os.Getenv("ATOMICFILE_TEST")
	if name == "" {
		os.Exit(m.Run())
	}
	n, err := strconv.Atoi(os.Getenv("ATOMICFILE_BYTES"))
	if err != nil {
		os.Exit(3)
	}
	_ = atomicfile.ReplaceFunc(name, 0o644, func(f *os.File) error {
		if _, err := f.Write(after[:n]); err != nil {
			os.Exit(3)
		}
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	os.Exit(3)
}

func content(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestKilledWriterLeavesTheOldContent(t *testing.T) {
	for reason, n := range map[string]int{"before the first byte": 0, "in the middle": len(after) / 2, "after the last byte": len(after)} {
		t.Run(reason, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "f")
			if err := atomicfile.Write(name, before, 0o644); err != nil {
				t.Fatal(err)
			}
			env := append(os.Environ(), "ATOMICFILE_TEST="+name, "ATOMICFILE_BYTES="+strconv.Itoa(n))
			_, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: os.Args[0], Env: env})
			var e *hostexec.Error
			if !errors.As(err, &e) || e.ExitCode != -1 {
				t.Fatalf("the writer was not killed: %v", err)
			}
			if !bytes.Equal(content(t, name), before) {
				t.Error("a killed writer changed the file")
			}
			if err := atomicfile.Write(name, after, 0o644); err != nil {
				t.Errorf("what a killed writer left is in the way: %v", err)
			}
			if !bytes.Equal(content(t, name), after) {
				t.Error("the next write did not replace the file")
			}
		})
	}
}

// TestReadersSeeOneContent reads while another content is put in place.
func TestReadersSeeOneContent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.Replace(name, before, 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		defer close(done)
		for i := range 100 {
			if err := atomicfile.Replace(name, [][]byte{after, before}[i%2], 0o644); err != nil {
				done <- err
				return
			}
		}
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
			if got := content(t, name); !bytes.Equal(got, before) && !bytes.Equal(got, after) {
				t.Fatalf("read %d bytes that are neither content", len(got))
			}
		}
	}
}

func TestModeWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	name := filepath.Join(t.TempDir(), "f")
	for _, perm := range []fs.FileMode{0o644, 0o600, 0o755} {
		for how, write := range map[string]func(string, []byte, fs.FileMode) error{"Write": atomicfile.Write, "Replace": atomicfile.Replace} {
			if err := write(name, before, perm); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(name); err != nil || info.Mode() != perm {
				t.Errorf("%s: mode %v, want %v (%v)", how, info.Mode(), perm, err)
			}
		}
	}
}

// TestNothingIsLeftOfAFailure: neither a change nor a temporary file.
func TestNothingIsLeftOfAFailure(t *testing.T) {
	broken := errors.New("the source is broken")
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "f"), filepath.Join(dir, "sub")
	if err := errors.Join(atomicfile.Write(file, before, 0o644), os.MkdirAll(filepath.Join(sub, "kept"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.ReplaceFunc(file, 0o644, func(f *os.File) error {
		_, err := f.Write(after)
		return errors.Join(err, broken)
	}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the source", err)
	}
	if err := atomicfile.Write(sub, after, 0o644); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := atomicfile.Write(filepath.Join(dir, "none", "f"), after, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a directory that is not there", err)
	}
	if !bytes.Equal(content(t, file), before) {
		t.Error("the file has changed")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%d entries, want the file and the directory: %v %v", len(entries), entries, err)
	}
}

func TestRemove(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := errors.Join(atomicfile.Write(name, before, 0o600), atomicfile.Remove(name), atomicfile.Remove(name)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
