package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// authority makes ca.crt and ca.key in a directory.
func authority(t *testing.T) (*Authority, *x509.Certificate) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "test"}, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := certutil.EncodeCertificates(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := keyutil.WriteKey(filepath.Join(dir, "ca.key"), keyPEM); err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, cert
}

func TestSignClient(t *testing.T) {
	a, ca := authority(t)
	c, err := a.SignClient("system:node:n1", []string{"system:nodes"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatalf("key and certificate do not fit: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for usage, ok := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
		if (err == nil) != ok {
			t.Errorf("verify for usage %d: %v", usage, err)
		}
	}
	if pair.Leaf.Subject.CommonName != "system:node:n1" {
		t.Errorf("user %q", pair.Leaf.Subject.CommonName)
	}
	if d := cmp.Diff([]string{"system:nodes"}, pair.Leaf.Subject.Organization); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	other, _ := authority(t)
	d, err := other.SignClient("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tls.X509KeyPair(d.Cert, d.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a certificate of another authority is accepted")
	}
}

func TestWriteKubeconfig(t *testing.T) {
	k, err := Kubeconfig("c", "https://127.0.0.1:1", []byte("ca"), Client{Cert: []byte("cert"), Key: []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		reason string
		before string
		ok     bool
	}{
		"New":     {"a new file is written", "", true},
		"Ours":    {"an older one of ours is replaced", header + "apiVersion: v1\n", true},
		"Foreign": {"a person's kubeconfig is kept", "apiVersion: v1\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if tc.before != "" {
				if err := os.WriteFile(path, []byte(tc.before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := WriteKubeconfig(path, k)
			if (err == nil) != tc.ok {
				t.Errorf("%s: got %v", tc.reason, err)
			}
			list, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(list) != 1 {
				t.Errorf("%s: %d files in the directory, %v", tc.reason, len(list), err)
			}
			if !tc.ok {
				RemoveKubeconfig(path)
				if b, err := os.ReadFile(path); err != nil || string(b) != tc.before {
					t.Errorf("%s: it is now %q, %v", tc.reason, b, err)
				}
				return
			}
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v, %v: the key in it is for its owner alone", tc.reason, fi.Mode(), err)
			}
			config, err := clientcmd.BuildConfigFromFlags("", path)
			if err != nil || config.Host != "https://127.0.0.1:1" || !strings.Contains(string(config.KeyData), "key") {
				t.Errorf("%s: client-go reads %v, %v", tc.reason, config, err)
			}
			RemoveKubeconfig(path)
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s: it was not removed", tc.reason)
			}
		})
	}
}
