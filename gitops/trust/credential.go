package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// Credential is how a client shows who it is, and knows the hub. All are PEM.
type Credential struct {
	Cert, Key []byte
	// Roots are the authorities that the hub's certificate may be of.
	Roots []byte
}

// NewKey makes a key.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

// Request makes a certificate request of a key. The hub takes nothing from it
// but the public key.
func Request(key []byte) ([]byte, error) {
	b, _ := pem.Decode(key)
	if b == nil {
		return nil, errors.New("the key is not PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Leaf is the certificate.
func (c *Credential) Leaf() (*x509.Certificate, error) {
	list, err := certificates(c.Cert)
	if err != nil || len(list) == 0 {
		return nil, errors.Join(errors.New("the credential has no certificate"), err)
	}
	return list[0], nil
}

// Config is the client's side of TLS: the roots are the only ones that are
// trusted, and the certificate is shown when there is one.
func (c *Credential) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	if !cfg.RootCAs.AppendCertsFromPEM(c.Roots) {
		return nil, errors.New("there is no certificate of an authority to know the hub by")
	}
	if len(c.Cert) > 0 {
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		// Always: the standard library sends none that is not of an authority that the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg, nil
}

// RenewalAt is when two thirds of the certificate's life are over for somebody
// who got it at received. Both are by the clock of the client, which may be wrong
// as long as it is evenly wrong.
func RenewalAt(leaf *x509.Certificate, received time.Time) time.Time {
	return received.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
}

// LoadCredential reads a credential file: the certificate, its key and the
// roots, one after the other.
func LoadCredential(path string) (*Credential, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	c := &Credential{}
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		text := pem.EncodeToMemory(b)
		switch {
		case b.Type == "PRIVATE KEY":
			c.Key = text
		case b.Type == "CERTIFICATE" && c.Cert == nil:
			c.Cert = text
		case b.Type == "CERTIFICATE":
			c.Roots = append(c.Roots, text...)
		}
	}
	if c.Cert == nil || c.Key == nil || c.Roots == nil {
		return nil, fmt.Errorf("read credential: %s is not one; make one with \"holdfast join --admin\"", path)
	}
	return c, nil
}

// Bytes is the content of a credential file.
func (c *Credential) Bytes() []byte { return bytes.Join([][]byte{c.Cert, c.Key, c.Roots}, nil) }
