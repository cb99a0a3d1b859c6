package trust

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Given are the files of a certificate that the hub shows instead of one of its
// own authority; the certificates of clusters and people are always its own.
// All or none is set.
type Given struct{ Cert, Key, CA string }

// Server shows the hub's certificate and tells by what others know it.
type Server struct {
	store *Store
	given Given

	mu    sync.Mutex
	cert  *tls.Certificate
	names time.Time // when the file of names changed
	dir   time.Time // when the list of authorities did
}

// Server is the hub's side of TLS.
func (s *Store) Server(g Given) *Server { return &Server{store: s, given: g} }

// Config asks for a client's certificate and leaves to Authenticate what it is
// worth, so that who is refused is told why. TLS proves the possession of its key.
func (s *Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() },
	}
}

// Roots is the PEM that clients are to trust.
func (s *Server) Roots() ([]byte, error) {
	if s.given.CA != "" {
		return os.ReadFile(s.given.CA)
	}
	return s.store.Roots()
}

// certificate is the present one: a given one is read anew each time, for whoever
// gives it renews it; an own one is made anew after two thirds of its life, or
// when its names or the authority changed.
func (s *Server) certificate() (*tls.Certificate, error) {
	if s.given.Cert != "" {
		c, err := tls.LoadX509KeyPair(s.given.Cert, s.given.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate of the hub: %w", err)
		}
		return &c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, dir := changed(filepath.Join(s.store.pki(), "names")), changed(s.store.pki())
	if s.cert != nil && names.Equal(s.names) && dir.Equal(s.dir) && s.store.now().Before(s.cert.Leaf.NotAfter.Add(-serverLife/3)) {
		return s.cert, nil
	}
	c, err := s.store.serverCertificate()
	if err != nil {
		return nil, err
	}
	s.cert, s.names, s.dir = c, names, dir
	return c, nil
}

// changed is when a file changed; zero when it is not there.
func changed(path string) time.Time {
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}
