package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
)

// Keys of the Secret that holds the agent's identity. The first three are those
// that Flux and others look for, which may then fetch the branch under it.
const (
	keyCert     = "tls.crt"
	keyKey      = "tls.key"
	keyRoots    = "ca.crt"
	keyNext     = "next.key"   // of a request that is not answered yet
	keyReceived = "received"   // when the certificate came, by the clock of this cluster
	keyInvited  = "invitation" // hash of the join token and roots that led to it
)

const (
	signLimit = 15 * time.Second // for one certificate
	lookEvery = time.Minute      // at the invitation, and for a renewal that failed
)

// identity is the cluster's credential for the hub. It is kept in a Secret:
// the key before it is sent for a certificate, so that a crash between the two
// loses nothing, and the certificate before it is used.
type identity struct {
	base, cluster    string // of the hub
	rootsFile, token string // files of the invitation
	secret           types.NamespacedName
	client           client.Client
	log              *slog.Logger

	mu     sync.Mutex
	known  *corev1.Secret
	kept   map[string][]byte // what known held when it was adopted
	http   *http.Client      // of the certificate in known; nil before the first
	due    time.Time         // of the renewal
	looked time.Time
	wanted bool // the hub refused the certificate
}

// use returns the client to speak to the hub with. It enrols or renews first when
// that is due; a renewal that fails is tried again later, for what there is may
// still do.
func (i *identity) use(ctx context.Context) (*http.Client, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if i.http != nil && now.Sub(i.looked) < lookEvery && now.Sub(i.looked) >= 0 {
		return i.http, nil
	}
	err := i.refresh(ctx, now)
	if err != nil && i.http == nil {
		return nil, err
	}
	if err != nil {
		i.log.Info("certificate for the hub not renewed; trying again", "error", err.Error())
	}
	i.looked = now
	return i.http, nil
}

// refused notes that the hub does not take the certificate (any more).
func (i *identity) refused() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.wanted { // once: asking for another at full speed would help nobody
		i.wanted, i.looked = true, time.Time{}
	}
}

func (i *identity) refresh(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*signLimit)
	defer cancel()
	if i.known == nil {
		if err := i.load(ctx); err != nil {
			return err
		}
	}
	invitation, token, roots, err := i.invitation()
	if err != nil && i.http == nil {
		return err
	}
	if err == nil && invitation != string(i.known.Data[keyInvited]) {
		cred := &trust.Credential{Roots: roots}
		err := i.request(ctx, cred, "/v1/clusters/"+i.cluster+"/enroll", token, invitation)
		if err == nil || i.http == nil {
			return err
		}
		if i.known == nil {
			return err
		}
		// An old invitation may have been applied once more; what was got by the newest one is still good.
		i.log.Info("the invitation that was applied is of no use; going on with the certificate that there is", "error", err.Error())
	}
	if !i.wanted && now.Before(i.due) {
		return nil
	}
	return i.request(ctx, i.credential(), "/v1/renew", "", string(i.known.Data[keyInvited]))
}

// withSecret calls f, which may save, with the Secret in known, one call at a time.
func (i *identity) withSecret(ctx context.Context, f func(context.Context) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, signLimit)
	defer cancel()
	if i.known == nil {
		if err := i.load(ctx); err != nil {
			return err
		}
	}
	return f(ctx)
}

// load reads the Secret; it stays to be made when it is not there.
func (i *identity) load(ctx context.Context) error {
	s := &corev1.Secret{}
	err := i.client.Get(ctx, i.secret, s)
	switch {
	case apierrors.IsNotFound(err):
		s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: i.secret.Name, Namespace: i.secret.Namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "holdfast"}}}
	case err != nil:
		return fmt.Errorf("read the agent's identity: %w", err)
	}
	if s.ResourceVersion == "" && i.kept != nil {
		s.Data = maps.Clone(i.kept) // somebody deleted it under us
	}
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	i.known = s
	if len(s.Data[keyCert]) == 0 {
		return nil
	}
	if err := i.adopt(); err != nil {
		i.log.Info("the agent's identity is of no use; enrolling anew", "secret", i.secret.String(), "error", err.Error())
		delete(s.Data, keyInvited)
	}
	return nil
}

func (i *identity) credential() *trust.Credential {
	return &trust.Credential{Cert: i.known.Data[keyCert], Key: i.known.Data[keyKey], Roots: i.known.Data[keyRoots]}
}

// adopt uses what the Secret holds.
func (i *identity) adopt() error {
	cred := i.credential()
	leaf, err := cred.Leaf()
	if err != nil {
		return err
	}
	c, err := httpClient(cred)
	if err != nil {
		return err
	}
	var received time.Time
	if err := received.UnmarshalText(i.known.Data[keyReceived]); err != nil {
		received = leaf.NotBefore
	}
	if i.http != nil {
		i.http.CloseIdleConnections() // they are authenticated by the certificate before
	}
	i.http, i.due, i.wanted, i.kept = c, trust.RenewalAt(leaf, received), false, maps.Clone(i.known.Data)
	return nil
}

// request gets a certificate for a new key, or for the one that an earlier
// request, whose answer was lost, had.
func (i *identity) request(ctx context.Context, by *trust.Credential, path, token, invitation string) error {
	if len(i.known.Data[keyNext]) == 0 {
		key, err := trust.NewKey()
		if err != nil {
			return err
		}
		if err := i.save(ctx, map[string][]byte{keyNext: key}); err != nil {
			return err
		}
	}
	key := i.known.Data[keyNext]
	csr, err := trust.Request(key)
	if err != nil {
		return errors.Join(fmt.Errorf("read next key of %s: %w", i.secret, err), i.save(ctx, map[string][]byte{keyNext: nil}))
	}
	got, err := ask(ctx, by, i.base+path, token, csr)
	if err != nil {
		return err
	}
	received, err := time.Now().UTC().MarshalText()
	if err != nil {
		return err
	}
	if err := i.save(ctx, map[string][]byte{keyCert: []byte(got.Certificate), keyKey: key, keyRoots: []byte(got.Roots), keyNext: nil,
		keyReceived: received, keyInvited: []byte(invitation)}); err != nil {
		return err
	}
	if err := i.adopt(); err != nil {
		return err
	}
	i.log.Info("certificate for the hub received", "renewal", i.due.UTC().Format(time.RFC3339))
	return nil
}

// save writes the Secret; the fields of no content go.
func (i *identity) save(ctx context.Context, fields map[string][]byte) error {
	s := i.known.DeepCopy()
	for k, v := range fields {
		if v == nil {
			delete(s.Data, k)
		} else {
			s.Data[k] = v
		}
	}
	var err error
	if s.ResourceVersion == "" {
		err = i.client.Create(ctx, s)
	} else {
		err = i.client.Update(ctx, s)
	}
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
			i.known = nil // look at what it is now
		}
		return fmt.Errorf("write the agent's identity: %w", err)
	}
	i.known = s
	if i.http != nil {
		i.kept = maps.Clone(s.Data)
	}
	return nil
}

// invitation reads what "holdfast join" wrote, and names it by its hash.
func (i *identity) invitation() (id, token string, roots []byte, err error) {
	raw, err := os.ReadFile(i.token)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil, fmt.Errorf("read join token: %w (apply what \"holdfast join\" prints)", err)
	}
	if err != nil {
		return "", "", nil, fmt.Errorf("read join token: %w", err)
	}
	if roots, err = os.ReadFile(i.rootsFile); err != nil {
		return "", "", nil, fmt.Errorf("read authority of the hub: %w", err)
	}
	token = strings.TrimSpace(string(raw))
	sum := sha256.Sum256(append([]byte(token+"\n"), roots...))
	return hex.EncodeToString(sum[:]), token, roots, nil
}

func httpClient(cred *trust.Credential) (*http.Client, error) {
	cfg, err := cred.Config()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Minute,
		TLSHandshakeTimeout: signLimit, ResponseHeaderTimeout: protocol.MaxWait + 15*time.Second}}, nil
}

// ask sends a certificate request to the hub.
func ask(ctx context.Context, by *trust.Credential, url, token string, csr []byte) (protocol.Certificate, error) {
	var got protocol.Certificate
	c, err := httpClient(by)
	if err != nil {
		return got, err
	}
	defer c.CloseIdleConnections()
	body, err := json.Marshal(protocol.CertificateRequest{Request: string(csr)})
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, signLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return got, explain(err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return got, err
	}
	if resp.StatusCode != http.StatusOK {
		return got, fmt.Errorf("get a certificate from the hub: %s: %.300s", resp.Status, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, &got); err != nil {
		return got, fmt.Errorf("get a certificate from the hub: %w", err)
	}
	return got, nil
}

// explain says what to do about a hub that is not the one that was joined.
func explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: this is not the hub that the cluster joined, or all of its authorities were replaced; apply what \"holdfast join\" prints", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w: the hub does not know that it is called so; give \"holdfast join\" this URL with --hub", err)
	}
	return err
}
