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

	"holdfast.dev/internal/atomicfile"
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
	return token, atomicfile.Write(filepath.Join(t.Dir, name+".sha256"), []byte(hash(token)+"\n"), 0o600)
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
