// Package guest runs commands in lab machines over SSH, by way of a network
// card that no fault cuts.
package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Keys are the SSH keys of one lab: people and tests log in with one, machines
// prove themselves with the other.
type Keys struct {
	// Private is the file with the key to log in with, for people's ssh.
	Private string
	// AuthorizedKey and HostKey go into the machines: a line of
	// authorized_keys, and the private key of their sshd in OpenSSH's form.
	AuthorizedKey, HostKey []byte

	login ssh.Signer
	host  ssh.PublicKey
}

// NewKeys makes keys and writes the private one to dir/id_ed25519.
func NewKeys(dir string) (*Keys, error) {
	login, loginPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make SSH keys: %w", err)
	}
	host, hostPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make SSH keys: %w", err)
	}
	k := &Keys{Private: filepath.Join(dir, "id_ed25519"), login: login, host: host.PublicKey(), HostKey: hostPEM, AuthorizedKey: ssh.MarshalAuthorizedKey(login.PublicKey())}
	if err := os.WriteFile(k.Private, loginPEM, 0o600); err != nil {
		return nil, fmt.Errorf("make SSH keys: %w", err)
	}
	return k, nil
}

func newKey() (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "holdfast-lab")
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	return signer, pem.EncodeToMemory(block), err
}

// ErrAway is returned when the machine cannot be reached: it is off, starting
// or hung. Whether the command ran is not known.
var ErrAway = errors.New("the machine does not answer")

// ExitError is a command that ended with another exit code than 0.
type ExitError struct {
	Code   int
	Output string // standard output and standard error
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("exit code %d: %s", e.Code, strings.TrimSpace(e.Output))
}

// Shell runs commands as root in one machine. It connects when it must, and
// again when the connection was lost. Its methods may be called concurrently.
type Shell struct {
	address string
	keys    *Keys

	mu     sync.Mutex
	client *ssh.Client
}

// NewShell is a shell in the machine whose sshd is reached at address.
func NewShell(address string, keys *Keys) *Shell { return &Shell{address: address, keys: keys} }

// Run runs a script with sh and returns its standard output and standard
// error. It ends with ctx, which must have a deadline. The error is an
// *ExitError, or wraps ErrAway.
func (s *Shell) Run(ctx context.Context, script string) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		return "", errors.New("run command in machine: the context has no deadline")
	}
	client, err := s.connect(ctx)
	if err != nil {
		return "", fmt.Errorf("run command in machine: %w: %w", ErrAway, err)
	}
	// A machine that has lost its power says nothing, so that a read of its
	// connection would wait for ever: the end of ctx closes it.
	stop := context.AfterFunc(ctx, func() { s.drop(client) })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		s.drop(client)
		return "", fmt.Errorf("run command in machine: %w: %w", ErrAway, err)
	}
	defer func() { _ = session.Close() }() // it has ended
	var out lockedBuffer
	session.Stdout, session.Stderr, session.Stdin = &out, &out, strings.NewReader(script)
	err = session.Run("sh -eu -s")
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return out.String(), nil
	case errors.As(err, &exit):
		return out.String(), fmt.Errorf("run command in machine: %w", &ExitError{Code: exit.ExitStatus(), Output: out.String()})
	default:
		s.drop(client)
		return out.String(), fmt.Errorf("run command in machine: %w: %w", ErrAway, errors.Join(ctx.Err(), err))
	}
}

// connect returns the connection, which it makes when there is none.
func (s *Shell) connect(ctx context.Context) (*ssh.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	// QEMU accepts the connection whatever the machine does: the handshake decides.
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(conn, s.address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.keys.login)}, HostKeyCallback: ssh.FixedHostKey(s.keys.host),
		// The cheapest in emulation.
		Config: ssh.Config{Ciphers: []string{"aes128-ctr"}, MACs: []string{"hmac-sha2-256"}, KeyExchanges: []string{"curve25519-sha256"}},
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	s.client = ssh.NewClient(c, channels, requests)
	return s.client, nil
}

// drop closes a connection that is of no use any more.
func (s *Shell) drop(client *ssh.Client) {
	s.mu.Lock()
	if s.client == client {
		s.client = nil
	}
	s.mu.Unlock()
	_ = client.Close() // it is given up
}

// Reset forgets the connection: after a power cut nobody will say that it ended.
func (s *Shell) Reset() {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client != nil {
		s.drop(client)
	}
}

// lockedBuffer collects both outputs, which come from two goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
