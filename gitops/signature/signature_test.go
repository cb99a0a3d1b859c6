package signature_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/gitops/signature"
	"holdfast.dev/internal/hostexec"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func allowed(t *testing.T, lines string) *signature.Signers {
	t.Helper()
	s, err := signature.ParseSigners("allowed", []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const commit = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nparent 0000000000000000000000000000000000000001\n" +
	"author a <a@example.com> 1700000000 +0000\ncommitter b <b@example.com> 1700000000 +0000\n\nsubject\n\nbody\n"

func signedBy(t *testing.T, key ssh.Signer, text string) []byte {
	t.Helper()
	c, err := signature.ParseCommit([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Signed(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestWhoSigned: what is not exactly what somebody signed who may is nobody's.
func TestWhoSigned(t *testing.T) {
	key, other := newKey(t), newKey(t)
	pub := string(ssh.MarshalAuthorizedKey(key.PublicKey()))
	good := signedBy(t, key, commit)
	sig := string(good[bytes.Index(good, []byte("gpgsig")):bytes.Index(good, []byte("\n\nsubject"))])
	cases := map[string]struct {
		reason, signers, raw, want string
	}{
		"Good":       {"the signer is named", "me " + pub, string(good), ""},
		"Namespace":  {"one who may sign for git", `me namespaces="file,git" ` + pub, string(good), ""},
		"Unsigned":   {"no signature at all", "me " + pub, commit, "not signed"},
		"Stranger":   {"a good signature of somebody", "me " + pub, string(signedBy(t, other, commit)), "of nobody who may sign"},
		"Message":    {"another text under the signature", "me " + pub, strings.Replace(string(good), "body", "b0dy", 1), "not of this text"},
		"Tree":       {"another tree", "me " + pub, strings.Replace(string(good), "4b825", "4b826", 1), "not of this text"},
		"Parent":     {"another history", "me " + pub, strings.Replace(string(good), "0001\n", "0002\n", 1), "not of this text"},
		"Time":       {"another time", "me " + pub, strings.ReplaceAll(string(good), "1700000000", "1800000000"), "not of this text"},
		"Twice":      {"two signatures, of which readers could choose", "me " + pub, strings.Replace(string(good), sig, sig+"\n"+sig, 1), "two signatures"},
		"PGP":        {"a signature of another kind", "me " + pub, strings.ReplaceAll(string(good), "SSH SIGNATURE", "PGP SIGNATURE"), "not one of an SSH key"},
		"NotYet":     {"a key that was not good yet", `me valid-after="20240101Z" ` + pub, string(good), "might not sign"},
		"NoLonger":   {"a key that is no longer good", `me valid-before="20230101Z" ` + pub, string(good), "might not sign"},
		"InTime":     {"one that was", `me valid-after="20230101Z",valid-before="20240101Z" ` + pub, string(good), ""},
		"OtherFirst": {"any of several", "you " + string(ssh.MarshalAuthorizedKey(other.PublicKey())) + "# us\n\nme " + pub, string(good), ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := signature.ParseCommit([]byte(tc.raw))
			var who string
			if err == nil {
				who, err = c.By(allowed(t, tc.signers))
			}
			if tc.want == "" && (err != nil || who != "me") || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %q, %v, want %q; reason: %s", who, err, tc.want, tc.reason)
			}
		})
	}
}

// TestSignersThatMeanSomethingElse: a file that is not understood lets nobody sign.
func TestSignersThatMeanSomethingElse(t *testing.T) {
	pub := string(ssh.MarshalAuthorizedKey(newKey(t).PublicKey()))
	for reason, lines := range map[string]string{
		"nobody":                 "# none\n",
		"nobody for git":         `me namespaces="file" ` + pub,
		"an authority":           "me cert-authority " + pub,
		"an option that is new":  "me no-touch-required " + pub,
		"local time":             `me valid-before="20230101" ` + pub,
		"no name":                pub[strings.Index(pub, " ")+1:],
		"a key that is cut":      "me ssh-ed25519 AAAA",
		"good, then what is not": "me " + pub + "you\n",
	} {
		if _, err := signature.ParseSigners("allowed", []byte(lines)); err == nil {
			t.Errorf("%s: it is taken", reason)
		}
	}
}

// world is a git repository of a person who signs.
type world struct {
	t   *testing.T
	dir string
}

func (w *world) run(path string, stdin []byte, args ...string) (string, error) {
	w.t.Helper()
	env := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "LC_ALL=C")
	out, err := hostexec.Run(w.t.Context(), 30*time.Second, hostexec.Command{Path: path, Dir: w.dir, Env: env, Args: args, Stdin: bytes.NewReader(stdin)})
	return strings.TrimRight(string(out), "\n"), err
}

func (w *world) git(args ...string) string {
	w.t.Helper()
	out, err := w.run("git", nil, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestWithGit: git and ssh-keygen verify what we sign, and we what they sign,
// with every kind of key that a person may have.
func TestWithGit(t *testing.T) {
	w := &world{t: t, dir: t.TempDir()}
	if _, err := w.run("ssh-keygen", nil, "-?"); err != nil {
		var e *hostexec.Error
		if errors.As(err, &e) && e.ExitCode == -1 {
			t.Skip("ssh-keygen is not installed (apt-get install openssh-client)")
		}
	}
	w.git("init", "-q", "--initial-branch=main")
	files := map[string][]byte{"bundle.yaml": []byte("a: 1\n"), "a/b.yaml": []byte("b"), "a-b/c.yaml": {}, "a.yaml": []byte("c"), "a/d/e.yaml": []byte("e")}
	for name, data := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(w.dir, name)), 0o755), os.WriteFile(filepath.Join(w.dir, name), data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	w.git("add", "-A")
	if got, want := signature.TreeID(files), w.git("write-tree"); got != want {
		t.Errorf("tree %s, git says %s", got, want)
	}
	keys := t.TempDir()
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		path := filepath.Join(keys, kind)
		if _, err := w.run("ssh-keygen", nil, "-q", "-t", kind, "-N", "", "-f", path); err != nil {
			t.Fatal(err)
		}
		pub, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		priv, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := "me@example.com namespaces=\"git\" " + string(pub)
		if err := os.WriteFile(path+".allowed", []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		// Theirs, by us.
		w.git("-c", "gpg.format=ssh", "-c", "user.signingkey="+path, "commit", "-q", "--allow-empty", "-S", "-m", "one", "-m", "two "+kind)
		id := w.git("rev-parse", "HEAD")
		raw, err := w.run("git", nil, "cat-file", "commit", "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		raw += "\n" // cut off above
		if got := signature.CommitID([]byte(raw)); got != id {
			t.Errorf("%s: commit %s, git says %s", kind, got, id)
		}
		c, err := signature.ParseCommit([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if who, err := c.By(allowed(t, lines)); err != nil || who != "me@example.com" {
			t.Errorf("%s: signed by git: %q, %v", kind, who, err)
		}
		if tree := w.git("rev-parse", "HEAD^{tree}"); c.Tree != tree || time.Since(c.Committed) > time.Hour {
			t.Errorf("%s: tree %s of %s, git says %s", kind, c.Tree, c.Committed, tree)
		}
		w.git("-c", "gpg.format=ssh", "-c", "user.signingkey="+path, "tag", "-s", "-m", "one", "-m", "two", "approve."+kind)
		if raw, err = w.run("git", nil, "cat-file", "tag", "approve."+kind); err != nil {
			t.Fatal(err)
		}
		raw += "\n"
		for text, good := range map[string]bool{raw: true, strings.Replace(raw, "tag approve", "tag retry", 1): false, strings.Replace(raw, "two", "tw0", 1): false, raw[:strings.Index(raw, "-----BEGIN")]: false} {
			tag, err := signature.ParseTag([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if who, err := tag.By(allowed(t, lines)); (err == nil) != good || good && (who != "me@example.com" || tag.Name != "approve."+kind || tag.Object != id) {
				t.Errorf("%s: the tag %q of %s is signed by %q, %v", kind, tag.Name, tag.Object, who, err)
			}
		}
		// Ours, by them.
		key, err := ssh.ParsePrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		ours := signedBy(t, key, strings.Replace(commit, "4b825dc642cb6eb9a060e54bf8d69288fbee4904", c.Tree, 1))
		name, err := w.run("git", ours, "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.run("git", nil, "-c", "gpg.ssh.allowedSignersFile="+path+".allowed", "verify-commit", name); err != nil {
			t.Errorf("%s: git does not verify what we signed: %v", kind, err)
		}
		armored, err := signature.Sign(key, []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".sig", armored, 0o600); err != nil {
			t.Fatal(err)
		}
		for text, good := range map[string]bool{"text": true, "test": false} {
			if _, err := w.run("ssh-keygen", []byte(text), "-Y", "verify", "-f", path+".allowed", "-I", "me@example.com", "-n", "git", "-s", path+".sig"); (err == nil) != good {
				t.Errorf("%s: ssh-keygen on %q: %v", kind, text, err)
			}
		}
	}
}
