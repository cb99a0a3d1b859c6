package server

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"

	certutil "k8s.io/client-go/util/cert"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"

	"holdfast.dev/e2e/cluster/credential"
)

// pki is a directory of certificates and keys, named as kubeadm names them.
type pki struct {
	dir    string
	caCert *x509.Certificate
	caKey  crypto.Signer
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func newPKI(dir string, bind net.IP) (*pki, error) {
	p := &pki{dir: dir}
	var err error
	p.caCert, p.caKey, err = pkiutil.NewCertificateAuthority(certConfig("kubernetes", nil, nil))
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	if err := pkiutil.WriteCertAndKey(dir, "ca", p.caCert, p.caKey); err != nil {
		return nil, fmt.Errorf("write certificate authority: %w", err)
	}
	serving := certConfig("kube-apiserver", nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	serving.AltNames = certutil.AltNames{
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPs:      []net.IP{bind, net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
	}
	cert, key, err := pkiutil.NewCertAndKey(p.caCert, p.caKey, serving)
	if err != nil {
		return nil, fmt.Errorf("make certificate of the API server: %w", err)
	}
	if err := pkiutil.WriteCertAndKey(dir, "apiserver", cert, key); err != nil {
		return nil, fmt.Errorf("write certificate of the API server: %w", err)
	}
	kubelet := certConfig("kube-apiserver-kubelet-client", []string{"system:masters"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	cert, key, err = pkiutil.NewCertAndKey(p.caCert, p.caKey, kubelet)
	if err != nil {
		return nil, fmt.Errorf("make the API server's certificate for kubelets: %w", err)
	}
	if err := pkiutil.WriteCertAndKey(dir, "apiserver-kubelet-client", cert, key); err != nil {
		return nil, fmt.Errorf("write the API server's certificate for kubelets: %w", err)
	}
	sa, err := pkiutil.GeneratePrivateKey(kubeadmapi.EncryptionAlgorithmECDSAP256)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	if err := pkiutil.WriteKey(dir, "sa", sa); err != nil {
		return nil, fmt.Errorf("write service account key: %w", err)
	}
	if err := pkiutil.WritePublicKey(dir, "sa", sa.Public()); err != nil {
		return nil, fmt.Errorf("write service account key: %w", err)
	}
	return p, nil
}

// kubeconfig writes the kubeconfig of a user, with a client certificate of its own.
func (p *pki) kubeconfig(path, cluster, server, user string, groups ...string) error {
	a, err := credential.LoadAuthority(p.dir)
	if err != nil {
		return err
	}
	client, err := a.SignClient(user, groups)
	if err != nil {
		return err
	}
	b, err := credential.Kubeconfig(cluster, server, pkiutil.EncodeCertPEM(p.caCert), client)
	if err != nil {
		return err
	}
	return credential.WriteKubeconfig(path, b)
}

func certConfig(name string, groups []string, usages []x509.ExtKeyUsage) *pkiutil.CertConfig {
	return &pkiutil.CertConfig{
		Config:              certutil.Config{CommonName: name, Organization: groups, Usages: usages},
		EncryptionAlgorithm: kubeadmapi.EncryptionAlgorithmECDSAP256,
	}
}
