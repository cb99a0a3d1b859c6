package hub

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// AdminName is the token name of people: it may read everything.
const AdminName = "admin"

var tokenName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Tokens keeps the hash of each token in a directory, one file a name. The
// tokens themselves are nowhere on the hub.
type Tokens struct{ Dir string }

// Issue makes a new token for name; the one before is no longer good.
func (t Tokens) Issue(name string) (string, error) {
	if !tokenName.MatchString(name) {
		return "", fmt.Errorf("issue token: %q is not a cluster name", name)
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	token := base64.RawURLEncoding.EncodeToString(raw)
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	return token, writeAtomic(filepath.Join(t.Dir, name+".sha256"), []byte(hash(token)+"\n"))
}

// Check tells whether token is name's. Only an unreadable store is an error.
func (t Tokens) Check(name, token string) (bool, error) {
	if !tokenName.MatchString(name) || token == "" {
		return false, nil
	}
	want, err := os.ReadFile(filepath.Join(t.Dir, name+".sha256"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check token of %s: %w", name, err)
	}
	return subtle.ConstantTimeCompare([]byte(strings.TrimSpace(string(want))), []byte(hash(token))) == 1, nil
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// writeAtomic writes a file that only its owner reads, whole or not at all.
func writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
