// Package trust decides who speaks to the hub: the hub's certificate authority,
// the identities of clusters and people, and the short-lived certificates by
// which they show who they are. Its files are the hub's; a process beside it
// ("holdfast join") may work on them at the same time.
//
// A directory holds
//
//	pki/ca-*.pem               authorities, each a certificate with its key
//	pki/names                  names and addresses of the hub's own certificate
//	identities/KIND/NAME.json  who may have a certificate, and which
//
// Nothing in it is a credential of a cluster: keys stay where they were made,
// and of a join token only the hash is kept.
package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// Lifetimes.
const (
	// ClientLife is how long the certificate of a cluster is good; it is renewed
	// after two thirds of it.
	ClientLife = 24 * time.Hour
	// AdminLife is the same of a person, who may have a weekend.
	AdminLife = 7 * 24 * time.Hour
	// TokenLife is how long a join token waits to be used.
	TokenLife = 24 * time.Hour
	// LateLife is how long after its end the newest certificate of an identity may
	// still be renewed, and nothing else: a hub that is down for a weekend must not
	// cost a walk to every cluster.
	LateLife = 30 * 24 * time.Hour

	serverLife = 7 * 24 * time.Hour
	caLife     = 3 * 365 * 24 * time.Hour
	// caOverlap is how long everybody may take to hear of a new authority before it signs.
	caOverlap = 30 * 24 * time.Hour
	// backdate is how far the clock of an agent may be behind the hub's.
	backdate = 24 * time.Hour
	// stepBack is how far the hub's own clock may be set back.
	stepBack = time.Minute
)

// Kind is a kind of identity.
type Kind string

// Kinds. A cluster reads its own branch and writes its own status; an admin
// sees the fleet.
const (
	Cluster Kind = "cluster"
	Admin   Kind = "admin"
)

// Identity is a cluster or a person.
type Identity struct {
	Kind Kind
	Name string
}

func (i Identity) String() string { return string(i.Kind) + " " + i.Name }

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (i Identity) validate() error {
	if i.Kind != Cluster && i.Kind != Admin || !nameRE.MatchString(i.Name) {
		return fmt.Errorf("%q is not the name of a %s: use lower-case letters, digits and -", i.Name, i.Kind)
	}
	return nil
}

// ErrDenied is returned for whoever does not show who they are. Its text says
// what to do and may be told to them.
var ErrDenied = errors.New("not let in")

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDenied, fmt.Sprintf(format, args...))
}

// Store is the directory. Its methods may be called concurrently.
type Store struct {
	dir   string
	now   func() time.Time
	known known
}

// Open opens the directory, and makes it and its first authority when there is none.
func Open(dir string, now func() time.Time) (*Store, error) {
	s := &Store{dir: dir, now: now}
	for _, d := range []string{s.pki(), s.identities(Cluster), s.identities(Admin)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open trust store: %w", err)
		}
	}
	_, err := s.authorities()
	return s, err
}

func (s *Store) pki() string { return filepath.Join(s.dir, "pki") }

func (s *Store) identities(k Kind) string { return filepath.Join(s.dir, "identities", string(k)) }

// locked runs f while no other process changes the directory. The kernel gives
// the lock back however its holder ends.
func (s *Store) locked(f func() error) (err error) {
	l, err := os.OpenFile(filepath.Join(s.pki(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock trust store: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock trust store: %w", err)
	}
	return f()
}
