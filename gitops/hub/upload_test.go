package hub

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/internal/hostexec"
)

const uploadPath = "/v1/clusters/c1/git/git-upload-pack"

// newUploads is a hub that serves the branch of one cluster, with size bytes that
// cannot be compressed, to whoever asks.
func newUploads(t *testing.T, size int) (h *Hub, srv *httptest.Server, commit string) {
	t.Helper()
	bare := filepath.Join(t.TempDir(), "fleet.git")
	if _, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Args: []string{"init", "-q", "--bare", bare}}); err != nil {
		t.Fatal(err)
	}
	repo, err := gitrepo.Open(t.Context(), bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		t.Fatal(err)
	}
	done := repo.Publish(t.Context(), gitrepo.Publication{Branch: BranchPrefix + "c1", Message: "m", Time: time.Now(), Files: map[string][]byte{"noise": noise}})[0]
	if done.Err != nil {
		t.Fatal(done.Err)
	}
	h = &Hub{log: slog.New(slog.DiscardHandler), repo: repo, git: semaphore.NewWeighted(maxGit), uploadTime: time.Minute, opts: Options{DataDir: t.TempDir()},
		heads: map[string]head{"c1": {tip: done.Commit, commit: done.Commit}}}
	h.mirrors = mirrors{dir: filepath.Join(t.TempDir(), "git"), bring: h.mirror}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/clusters/{cluster}/git/git-upload-pack", h.postUploadPack)
	srv = httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return h, srv, done.Commit
}

func line(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

// wants is a whole request for a commit, and begins one that goes on.
func wants(commit string) (whole, begun string) {
	begun = line("want "+commit+" no-progress\n") + "0000"
	return begun + line("done\n"), begun
}

// idle waits until no fetch goes on any more.
func (h *Hub) idle(t *testing.T) {
	t.Helper()
	wait.For(t, 20*time.Second, "the fetch to be ended", func() bool { // before gitrepo's own deadline would do it
		h.busy.mu.Lock()
		defer h.busy.mu.Unlock()
		return len(h.busy.n) == 0
	})
}

// upload posts a request and returns how it ended: the answer, or an error when it is
// refused or broken off.
func upload(t *testing.T, srv *httptest.Server, body io.Reader, zipped bool) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+uploadPath, body)
	if err != nil {
		t.Fatal(err)
	}
	if zipped {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return data, err
}

// counted counts what was read of it.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestHugeFetch: what a client says that it has is read as far as any client needs, in
// plain and unpacked, and the next client is served.
func TestHugeFetch(t *testing.T) {
	h, srv, commit := newUploads(t, 1)
	whole, begun := wants(commit)
	const size = 64 << 20
	have := line("have " + strings.Repeat("1", 40) + "\n")
	huge := begun + strings.Repeat(have, size/len(have)) + "0000" + line("done\n")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(huge)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	body := &counted{Reader: strings.NewReader(huge)}
	if answer, err := upload(t, srv, body, false); err == nil {
		t.Errorf("%d bytes are answered with %.40q", size, answer)
	} else if body.n > size/2 { // what lies in sockets is not the hub's
		t.Errorf("%d bytes were taken: %v", body.n, err)
	}
	if answer, err := upload(t, srv, &packed, true); err == nil {
		t.Errorf("%d bytes that were packed are answered with %.40q", size, answer)
	}
	h.idle(t)
	for range maxUploads + 1 {
		if answer, err := upload(t, srv, strings.NewReader(whole), false); err != nil || !bytes.Contains(answer, []byte("PACK")) {
			t.Errorf("the next client gets %.40q: %v", answer, err)
		}
	}
}

// TestSlowFetch: who sends slowly, or reads slowly, has a place for its time alone.
func TestSlowFetch(t *testing.T) {
	h, srv, commit := newUploads(t, 16<<20) // more than sockets hold
	whole, begun := wants(commit)
	if err := h.mirrors.update(t.Context(), "c1", commit); err != nil {
		t.Fatal(err)
	}
	h.uploadTime = 500 * time.Millisecond
	for name, sent := range map[string]string{"Sends": begun, "Reads": whole} {
		t.Run(name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }() // it is of no more use
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n%s", uploadPath, len(whole), sent); err != nil {
				t.Fatal(err)
			}
			wait.For(t, time.Minute, "the fetch to begin", func() bool {
				h.busy.mu.Lock()
				defer h.busy.mu.Unlock()
				return len(h.busy.n) > 0
			})
			h.idle(t)
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // the hub was seen to keep such a connection for ever
			if bytes.HasSuffix(answer, []byte("0\r\n\r\n")) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the answer looks whole, or goes on: %d bytes, %v", len(answer), err)
			}
		})
	}
}
