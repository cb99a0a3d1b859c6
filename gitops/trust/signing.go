package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/internal/atomicfile"
)

// SigningKey is the key that the hub signs bundles with, an SSH key in
// signing/key. It is made when there is none.
func (s *Store) SigningKey() (ssh.Signer, error) {
	path := filepath.Join(s.dir, "signing", "key")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.locked(func() error {
			if data, err = os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			data, err = makeSigningKey(path)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", path, err)
	}
	return key, nil
}

// makeSigningKey writes the public half first: a key is never used before
// AllowedSigners names it.
func makeSigningKey(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(crypto.PrivateKey(key), "holdfast-hub")
	if err != nil {
		return nil, err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(path+".pub", ssh.MarshalAuthorizedKey(sshPub), 0o600); err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(block)
	return data, atomicfile.Write(path, data, 0o600)
}

// AllowedSigners is what agents are given to verify bundles by: the public half
// of every key in signing/, in OpenSSH's format.
func (s *Store) AllowedSigners() ([]byte, error) {
	if _, err := s.SigningKey(); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(s.dir, "signing", "*.pub"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var out strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read signing key: %w", err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(data)
		if err != nil {
			return nil, fmt.Errorf("read signing key %s: %w", path, err)
		}
		fmt.Fprintf(&out, "holdfast-hub namespaces=\"git\" %s", ssh.MarshalAuthorizedKey(key))
	}
	return []byte(out.String()), nil
}
