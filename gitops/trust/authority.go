package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/internal/atomicfile"
)

// authority is one certificate authority. What each is for follows from its age
// alone, so that there is no state between two of them that could be lost.
type authority struct {
	path string
	cert *x509.Certificate
	key  crypto.Signer
}

func (a authority) made() time.Time { return a.cert.NotBefore.Add(backdate) }

// authorities lists those that are still good, oldest first. It makes the first
// one, and the next one when two thirds of the newest one's life are over.
func (s *Store) authorities() ([]authority, error) {
	list, err := s.readAuthorities()
	if err != nil || !s.wantsAuthority(list) {
		return list, err
	}
	err = s.locked(func() error {
		list, err = s.readAuthorities()
		if err != nil || !s.wantsAuthority(list) {
			return err // another process was first
		}
		if err := s.makeAuthority(); err != nil {
			return err
		}
		list, err = s.readAuthorities()
		return err
	})
	return list, err
}

func (s *Store) wantsAuthority(list []authority) bool {
	return len(list) == 0 || s.now().After(list[len(list)-1].made().Add(caLife*2/3))
}

func (s *Store) readAuthorities() ([]authority, error) {
	paths, err := filepath.Glob(filepath.Join(s.pki(), "ca-*.pem"))
	if err != nil {
		return nil, err
	}
	var list []authority
	for _, path := range paths {
		a, err := s.known.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // retired a moment ago
		}
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		if s.now().Before(a.cert.NotAfter) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b authority) int { return a.cert.NotBefore.Compare(b.cert.NotBefore) })
	return list, nil
}

func parseAuthority(path string, data []byte) (authority, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w (restore it from a backup; without it every cluster has to join again)", path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return authority{}, fmt.Errorf("%s: its key cannot sign", path)
	}
	return authority{path, pair.Leaf, key}, nil
}

// signer is the newest authority that everybody has heard of by now. It and pool
// make none: their callers may hold the lock.
func (s *Store) signer() (authority, error) {
	list, err := s.readAuthorities()
	if err != nil {
		return authority{}, err
	}
	if len(list) == 0 {
		return authority{}, errors.New("the hub has no certificate authority that is still good")
	}
	best := list[0]
	for _, a := range list[1:] {
		if !s.now().Before(a.made().Add(caOverlap)) {
			best = a
		}
	}
	return best, nil
}

func (s *Store) makeAuthority() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := randomSerial()
	if err != nil {
		return err
	}
	now := s.now().UTC()
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "holdfast-hub " + now.Format("2006-01-02T15:04:05Z")},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	path := filepath.Join(s.pki(), fmt.Sprintf("ca-%s-%x.pem", now.Format("20060102T150405Z"), serial.Bytes()[:4]))
	if err := atomicfile.Write(path, append(encodeCert(der), keyPEM...), 0o600); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	return nil
}

// Roots are the certificates of all authorities that are good, as PEM: who has
// them trusts the hub through a rotation.
func (s *Store) Roots() ([]byte, error) {
	list, err := s.authorities()
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, a := range list {
		out = append(out, encodeCert(a.cert.Raw)...)
	}
	return out, nil
}

// Rotate makes a new authority. It is told to everybody at their next renewal,
// and signs after that; nothing else is to be done. With compromised set, the
// ones before are no longer good from this moment on: every cluster and person
// has to join again.
func (s *Store) Rotate(compromised bool) error {
	if _, err := s.authorities(); err != nil {
		return err
	}
	return s.locked(func() error {
		old, err := s.readAuthorities()
		if err != nil {
			return err
		}
		if err := s.makeAuthority(); err != nil || !compromised {
			return err
		}
		for _, a := range old {
			if err := atomicfile.Remove(a.path); err != nil {
				return fmt.Errorf("retire certificate authority: %w", err)
			}
		}
		return nil
	})
}

// AddName puts a name or an address into the hub's own certificate: what
// clusters and people call it.
func (s *Store) AddName(name string) error {
	return s.locked(func() error {
		names, err := s.names()
		if err != nil || slices.Contains(names, name) {
			return err
		}
		if strings.ContainsAny(name, " \n") || name == "" {
			return fmt.Errorf("%q is not the name of a host", name)
		}
		return atomicfile.Write(filepath.Join(s.pki(), "names"), []byte(strings.Join(append(names, name), "\n")+"\n"), 0o600)
	})
}

func (s *Store) names() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(s.pki(), "names"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read names of the hub: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// serverCertificate makes the hub's own certificate, for this machine's name,
// its loopback addresses and the names that were added. It lives in memory alone.
func (s *Store) serverCertificate() (*tls.Certificate, error) {
	if _, err := s.authorities(); err != nil {
		return nil, err
	}
	ca, err := s.signer()
	if err != nil {
		return nil, err
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "holdfast-hub"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore: s.now().Add(-backdate), NotAfter: s.now().Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		names = append(names, host)
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := ca.sign(tmpl, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func (a authority) sign(tmpl *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	if tmpl.NotAfter.After(a.cert.NotAfter) {
		tmpl.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", tmpl.Subject.CommonName, err)
	}
	return der, nil
}

// pool are the roots as x509 wants them.
func (s *Store) pool() (*x509.CertPool, error) {
	list, err := s.readAuthorities()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, a := range list {
		pool.AddCert(a.cert)
	}
	return pool, nil
}

func randomSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	raw[0] = raw[0]&0x3f | 0x40 // positive, and of one length
	return new(big.Int).SetBytes(raw), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// certificates reads all certificates of a PEM text.
func certificates(text []byte) (list []*x509.Certificate, err error) {
	for len(bytes.TrimSpace(text)) > 0 {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}
