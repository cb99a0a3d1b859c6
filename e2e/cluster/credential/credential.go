// Package credential signs client certificates with a cluster's certificate
// authority and writes kubeconfig files.
package credential

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"holdfast.dev/internal/atomicfile"
)

// header begins every kubeconfig that this package wrote: such a file may be
// replaced, another never.
const header = "# Written by holdfast-cluster, and replaced when it starts again.\n"

// lifetime is far longer than any of these clusters lives.
const lifetime = 30 * 24 * time.Hour

// Authority signs client certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// LoadAuthority reads ca.crt and ca.key in dir.
func LoadAuthority(dir string) (*Authority, error) {
	certs, err := certutil.CertsFromFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	k, err := keyutil.PrivateKeyFromFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("read certificate authority's key: %w", err)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read certificate authority's key: %T cannot sign", k)
	}
	return &Authority{cert: certs[0], key: key}, nil
}

// Client is a signed client certificate with its key, PEM-encoded.
type Client struct {
	Cert, Key []byte
}

// SignClient makes a key and a client certificate for a user and its groups.
func (a *Authority) SignClient(user string, groups []string) (Client, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Client{}, fmt.Errorf("make key of %q: %w", user, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 62))
	if err != nil {
		return Client{}, fmt.Errorf("make serial number: %w", err)
	}
	tmpl := x509.Certificate{
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		NotBefore:    a.cert.NotBefore,
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return Client{}, fmt.Errorf("sign certificate of %q: %w", user, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Client{}, fmt.Errorf("read certificate of %q: %w", user, err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return Client{}, fmt.Errorf("encode key of %q: %w", user, err)
	}
	certPEM, err := certutil.EncodeCertificates(cert)
	if err != nil {
		return Client{}, fmt.Errorf("encode certificate of %q: %w", user, err)
	}
	return Client{Cert: certPEM, Key: keyPEM}, nil
}

// CertPEM is the authority's own certificate.
func (a *Authority) CertPEM() ([]byte, error) { return certutil.EncodeCertificates(a.cert) }

// Kubeconfig is a kubeconfig with everything embedded and one context, named
// after the cluster.
func Kubeconfig(cluster, server string, ca []byte, client Client) ([]byte, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	c.AuthInfos[cluster] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	c.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: cluster}
	c.CurrentContext = cluster
	b, err := clientcmd.Write(*c)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return append([]byte(header), b...), nil
}

// WriteKubeconfig writes a kubeconfig that Kubeconfig made, atomically and
// readable by its owner alone. A file that something else wrote is kept and
// is an error.
func WriteKubeconfig(path string, kubeconfig []byte) error {
	old, err := os.ReadFile(path)
	if err == nil && !bytes.HasPrefix(old, []byte(header)) {
		return fmt.Errorf("write kubeconfig: %q was not written by holdfast-cluster; name another file", path)
	}
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := atomicfile.Replace(path, kubeconfig, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// RemoveKubeconfig removes a file that WriteKubeconfig wrote, and no other.
func RemoveKubeconfig(path string) {
	if b, err := os.ReadFile(path); err == nil && bytes.HasPrefix(b, []byte(header)) {
		_ = os.Remove(path)
	}
}
