package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/internal/atomicfile"
)

// organization prefixes the kind in a certificate's subject.
const organization = "holdfast.dev:"

// record is what is kept of an identity.
type record struct {
	// Generation is in every certificate of the identity. A new one, which each join
	// makes, ends all certificates before.
	Generation string `json:"generation"`
	// Token is the hash of the join token, good once until Expires: for the first
	// key that shows it, which may show it again, for its answer may have been lost.
	Token    string    `json:"token,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	TokenKey string    `json:"tokenKey,omitempty"`
	// Keys are the hashes of the newest keys that have a certificate, newest last:
	// two, for the answer with the newest one may have been lost.
	Keys []string `json:"keys,omitempty"`
}

func (s *Store) path(id Identity) string {
	return filepath.Join(s.identities(id.Kind), id.Name+".json")
}

// read returns nil for an identity that nobody has invited.
func (s *Store) read(id Identity) (*record, error) {
	data, err := os.ReadFile(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity of %s: %w", id, err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read identity of %s: %w (let it join again)", id, err)
	}
	return &r, nil
}

func (s *Store) write(id Identity, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(id), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write identity of %s: %w", id, err)
	}
	return nil
}

// Invite makes a token by which a cluster gets its first certificate, once.
// Every certificate and token of it before is no longer good.
func (s *Store) Invite(id Identity) (token string, err error) {
	if err := id.validate(); err != nil {
		return "", err
	}
	token, err = random(32)
	if err != nil {
		return "", err
	}
	generation, err := random(12)
	if err != nil {
		return "", err
	}
	return token, s.locked(func() error {
		return s.write(id, record{Generation: generation, Token: hash([]byte(token)), Expires: s.now().UTC().Add(TokenLife)})
	})
}

// Credential makes a credential at once, for who can read the directory anyway.
// Every certificate of the identity before is no longer good.
func (s *Store) Credential(id Identity, roots []byte) (*Credential, error) {
	token, err := s.Invite(id)
	if err != nil {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := Request(key)
	if err != nil {
		return nil, err
	}
	cert, err := s.Enroll(id, token, csr)
	if err != nil {
		return nil, err
	}
	return &Credential{Cert: cert, Key: key, Roots: roots}, nil
}

// Enroll signs the certificate request of who has the join token.
func (s *Store) Enroll(id Identity, token string, csr []byte) (cert []byte, err error) {
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	if id.validate() != nil {
		return nil, denied("no such cluster")
	}
	if _, err := s.authorities(); err != nil {
		return nil, err
	}
	key := hash(req.RawSubjectPublicKeyInfo)
	err = s.locked(func() error {
		r, err := s.read(id)
		if err != nil {
			return err
		}
		switch {
		case r == nil || r.Token == "" || subtle.ConstantTimeCompare([]byte(r.Token), []byte(hash([]byte(token)))) != 1:
			return denied("no such cluster, or not its newest join token; make one with \"holdfast join\"")
		case s.now().After(r.Expires):
			return denied("the join token of %s ended at %s; make another with \"holdfast join\"", id, r.Expires.Format(time.RFC3339))
		case r.TokenKey != "" && r.TokenKey != key:
			return denied("the join token of %s was used already, by another key; if that was not you, somebody has taken it: "+
				"\"holdfast join\" makes another and ends what was got with this one", id)
		}
		r.TokenKey = key
		cert, err = s.issue(id, r, req)
		return err
	})
	return cert, err
}

// Renew signs the certificate request of who shows a good certificate, or the
// newest one of its identity not long after its end.
func (s *Store) Renew(shown *x509.Certificate, csr []byte) (cert []byte, err error) {
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	if _, err := s.authorities(); err != nil {
		return nil, err
	}
	err = s.locked(func() error {
		id, r, err := s.examine(shown, true)
		if err != nil {
			return err
		}
		// The token has done its work once its holder is here with what it got.
		r.Token, r.TokenKey, r.Expires = "", "", time.Time{}
		cert, err = s.issue(id, r, req)
		return err
	})
	return cert, err
}

// issue notes the key, durably, and then signs; the caller holds the lock.
func (s *Store) issue(id Identity, r *record, req *x509.CertificateRequest) ([]byte, error) {
	key := hash(req.RawSubjectPublicKeyInfo)
	if len(r.Keys) == 0 || r.Keys[len(r.Keys)-1] != key {
		r.Keys = append(r.Keys, key)
		r.Keys = r.Keys[max(0, len(r.Keys)-2):]
	}
	if err := s.write(id, *r); err != nil {
		return nil, err
	}
	ca, err := s.signer()
	if err != nil {
		return nil, err
	}
	life := ClientLife
	if id.Kind == Admin {
		life = AdminLife
	}
	now := s.now()
	der, err := ca.sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organization + string(id.Kind)}, CommonName: id.Name, SerialNumber: r.Generation},
		NotBefore: now.Add(-stepBack), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, req.PublicKey)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

// Authenticate tells whose certificate is shown. It is an error when it is
// nobody's, or not good any more.
func (s *Store) Authenticate(shown *x509.Certificate) (Identity, error) {
	id, _, err := s.examine(shown, false)
	return id, err
}

func (s *Store) examine(shown *x509.Certificate, late bool) (Identity, *record, error) {
	if shown == nil {
		return Identity{}, nil, denied("no certificate was shown; get one with \"holdfast join\"")
	}
	pool, err := s.pool()
	if err != nil {
		return Identity{}, nil, err
	}
	// The end is looked at apart: it is no reason to doubt whose the certificate was.
	at := shown.NotAfter.Add(-time.Second)
	if s.now().Before(at) {
		at = s.now()
	}
	if _, err := shown.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return Identity{}, nil, denied("the certificate is not good here: %v; join again", err)
	}
	id := Identity{Name: shown.Subject.CommonName}
	for _, k := range []Kind{Cluster, Admin} {
		if o := shown.Subject.Organization; len(o) == 1 && o[0] == organization+string(k) {
			id.Kind = k
		}
	}
	if id.validate() != nil {
		return Identity{}, nil, denied("the certificate is neither a cluster's nor a person's")
	}
	r, err := s.read(id)
	if err != nil {
		return Identity{}, nil, err
	}
	if r == nil || subtle.ConstantTimeCompare([]byte(r.Generation), []byte(shown.Subject.SerialNumber)) != 1 {
		return Identity{}, nil, denied("the certificate of %s was revoked, or replaced by a later \"holdfast join\"", id)
	}
	if now := s.now(); now.After(shown.NotAfter) {
		key := hash(shown.RawSubjectPublicKeyInfo)
		newest := len(r.Keys) > 0 && (key == r.Keys[0] || key == r.Keys[len(r.Keys)-1])
		if !late || !newest || now.After(shown.NotAfter.Add(LateLife)) {
			return Identity{}, nil, denied("the certificate of %s ended at %s (here it is %s)", id, shown.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return id, r, nil
}

func parseRequest(csr []byte) (*x509.CertificateRequest, error) {
	b, _ := pem.Decode(csr)
	if b == nil || b.Type != "CERTIFICATE REQUEST" {
		return nil, denied("the certificate request is not PEM")
	}
	req, err := x509.ParseCertificateRequest(b.Bytes)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, denied("the certificate request is not valid: %v", err)
	}
	return req, nil
}

func random(n int) (string, error) {
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
