package trust_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/atomicfile"
)

// hub is a trust store with a clock.
type hub struct {
	*trust.Store
	t   *testing.T
	dir string
	at  time.Time
}

var canary = trust.Identity{Kind: trust.Cluster, Name: "canary"}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{t: t, dir: t.TempDir(), at: time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)}
	h.open()
	return h
}

// open is also a restart.
func (h *hub) open() {
	h.t.Helper()
	var err error
	if h.Store, err = trust.Open(h.dir, func() time.Time { return h.at }); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) roots() []byte {
	h.t.Helper()
	roots, err := h.Roots()
	if err != nil {
		h.t.Fatal(err)
	}
	return roots
}

func (h *hub) credential(id trust.Identity) *trust.Credential {
	h.t.Helper()
	c, err := h.Credential(id, h.roots())
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func leaf(t *testing.T, c *trust.Credential) *x509.Certificate {
	t.Helper()
	l, err := c.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func request(t *testing.T) []byte {
	t.Helper()
	key, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := trust.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (h *hub) renew(c *trust.Credential) (*trust.Credential, error) {
	h.t.Helper()
	key, err := trust.NewKey()
	if err != nil {
		h.t.Fatal(err)
	}
	csr, err := trust.Request(key)
	if err != nil {
		h.t.Fatal(err)
	}
	cert, err := h.Renew(leaf(h.t, c), csr)
	return &trust.Credential{Cert: cert, Key: key, Roots: c.Roots}, err
}

// TestCertificateEnds: what an expired certificate may still do, and for how long.
func TestCertificateEnds(t *testing.T) {
	cases := map[string]struct {
		reason      string
		after       time.Duration
		lets, renew bool
	}{
		"Now":      {"a new one is good", 0, true, true},
		"StepBack": {"the hub's clock was set back by a little", -30 * time.Second, true, true},
		"NotYet":   {"one of the future is not", -time.Hour, false, false},
		"Last":     {"it is good for a day", trust.ClientLife - time.Second, true, true},
		"Ended":    {"then it gets its successor and nothing else: the hub may have been down", trust.ClientLife + time.Second, false, true},
		"Weekend":  {"for as long as a hub may be down", trust.ClientLife + trust.LateLife - time.Second, false, true},
		"Over":     {"and not for ever", trust.ClientLife + trust.LateLife + time.Second, false, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			c := h.credential(canary)
			h.at = h.at.Add(tc.after)
			if id, err := h.Authenticate(leaf(t, c)); (err == nil) != tc.lets || err == nil && id != canary || err != nil && !errors.Is(err, trust.ErrDenied) {
				t.Errorf("let in: %v %v; reason: %s", id, err, tc.reason)
			}
			if _, err := h.renew(c); (err == nil) != tc.renew {
				t.Errorf("renewed: %v; reason: %s", err, tc.reason)
			}
		})
	}
}

// TestOldKeyIsNotRenewedLate: a certificate from an old backup is of no use once
// its successors were made.
func TestOldKeyIsNotRenewedLate(t *testing.T) {
	h := newHub(t)
	first := h.credential(canary)
	second, err := h.renew(first)
	if err != nil {
		t.Fatal(err)
	}
	third, err := h.renew(second)
	if err != nil {
		t.Fatal(err)
	}
	h.at = h.at.Add(trust.ClientLife + time.Hour)
	if _, err := h.renew(first); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("the first: %v", err)
	}
	// The answer with the third may have been lost.
	if _, err := h.renew(second); err != nil {
		t.Errorf("the one before the newest: %v", err)
	}
	if _, err := h.Authenticate(leaf(t, third)); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("the third after its end: %v", err)
	}
}

// TestToken: one key uses a token, within a day, until it is done with it.
func TestToken(t *testing.T) {
	h := newHub(t)
	token, err := h.Invite(canary)
	if err != nil {
		t.Fatal(err)
	}
	csr, other := request(t), request(t)
	deny := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, trust.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error carries the token", what)
		}
	}
	_, err = h.Enroll(trust.Identity{Kind: trust.Cluster, Name: "az1-c1"}, token, csr)
	deny("another cluster", err)
	_, err = h.Enroll(trust.Identity{Kind: trust.Admin, Name: "canary"}, token, csr)
	deny("a person of that name", err)
	_, err = h.Enroll(trust.Identity{Kind: trust.Cluster, Name: "../admin/admin"}, token, csr)
	deny("a path for a name", err)
	_, err = h.Enroll(canary, "", csr)
	deny("no token", err)
	_, err = h.Enroll(canary, token, []byte("no request"))
	deny("no request", err)
	broken, _ := pem.Decode(csr)
	broken.Bytes[len(broken.Bytes)-1] ^= 1
	_, err = h.Enroll(canary, token, pem.EncodeToMemory(broken))
	deny("a request for a key that the sender does not have", err)
	for range 2 { // killed after the hub noted the key, or before the cluster stored the answer
		h.open()
		if _, err := h.Enroll(canary, token, csr); err != nil {
			t.Fatal(err)
		}
	}
	_, err = h.Enroll(canary, token, other)
	deny("another key", err)

	late, err := h.Invite(canary)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Enroll(canary, token, csr)
	deny("the token before", err)
	h.at = h.at.Add(trust.TokenLife + time.Second)
	_, err = h.Enroll(canary, late, other)
	deny("a token of yesterday", err)
	err = filepath.WalkDir(h.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), token) || strings.Contains(string(data), late) {
			t.Errorf("%s has a token in it", path)
		}
		if fi, serr := d.Info(); serr == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCertificateOfAnother: only ours, and only for what they are for.
func TestCertificateOfAnother(t *testing.T) {
	h, evil := newHub(t), newHub(t)
	server, err := h.Server(trust.Given{}).Config().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	h.credential(canary)
	cases := map[string]struct {
		reason string
		cert   *x509.Certificate
	}{
		"None":    {"no certificate", nil},
		"Forged":  {"another authority with our names", leaf(t, evil.credential(canary))},
		"Server":  {"the hub's own is no client's", server.Leaf},
		"Revoked": {"deleting the identity revokes it", leaf(t, h.credential(trust.Identity{Kind: trust.Cluster, Name: "gone"}))},
	}
	if err := os.Remove(filepath.Join(h.dir, "identities", "cluster", "gone.json")); err != nil {
		t.Fatal(err)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if id, err := h.Authenticate(tc.cert); !errors.Is(err, trust.ErrDenied) {
				t.Errorf("let in as %v: %v; reason: %s", id, err, tc.reason)
			}
		})
	}
	// A client's certificate is no server's: a cluster cannot play the hub to others.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(h.roots())
	if _, err := leaf(t, h.credential(canary)).Verify(x509.VerifyOptions{Roots: pool, CurrentTime: h.at}); err == nil {
		t.Error("a cluster's certificate is good for a server")
	}
}

// TestRotation lives through seven years: at every moment everybody who renews
// in time is let in and knows the hub, over several authorities.
func TestRotation(t *testing.T) {
	h := newHub(t)
	server := h.Server(trust.Given{}).Config().GetCertificate
	c := h.credential(canary)
	seen := map[string]bool{}
	for day := 0; day < 7*365; day += 10 {
		var err error
		if c, err = h.renew(c); err != nil {
			t.Fatalf("at %s: %v", h.at, err)
		}
		c.Roots = h.roots()
		h.at = h.at.Add(16 * time.Hour) // when the next renewal is due
		if _, err := h.Authenticate(leaf(t, c)); err != nil {
			t.Fatalf("at %s: %v", h.at, err)
		}
		shown, err := server(nil)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(c.Roots)
		if _, err := shown.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: h.at, DNSName: "localhost"}); err != nil {
			t.Fatalf("at %s a cluster does not know the hub: %v", h.at, err)
		}
		seen[shown.Leaf.Issuer.CommonName] = true
		h.at = h.at.Add(10*24*time.Hour - 16*time.Hour)
	}
	if len(seen) != 4 {
		t.Errorf("%d authorities signed in seven years, want 4 (0, 2, 4 and 6 years)", len(seen))
	}
}

// TestRotateByHand: in good time nobody notices; a stolen authority ends at once.
func TestRotateByHand(t *testing.T) {
	h := newHub(t)
	c := h.credential(canary)
	before := string(h.roots())
	if err := h.Rotate(false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Authenticate(leaf(t, c)); err != nil {
		t.Errorf("after a rotation in good time: %v", err)
	}
	if after := string(h.roots()); !strings.Contains(after, before) || strings.Count(after, "BEGIN") != 2 {
		t.Error("both authorities are not told to everybody")
	}
	if err := h.Rotate(true); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Authenticate(leaf(t, c)); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("a certificate of a stolen authority: %v", err)
	}
	if after := string(h.roots()); strings.Count(after, "BEGIN") != 1 || strings.Contains(after, before) {
		t.Error("the stolen authority is still told to everybody")
	}
	if _, err := h.Authenticate(leaf(t, h.credential(canary))); err != nil {
		t.Errorf("joining again: %v", err)
	}
}

// TestClockOfTheAgent: it sees the hub's certificate by its own clock.
func TestClockOfTheAgent(t *testing.T) {
	h := newHub(t)
	if err := errors.Join(h.AddName("10.77.0.2"), h.AddName("hub.example"), h.AddName("hub.example")); err != nil {
		t.Fatal(err)
	}
	shown, err := h.Server(trust.Given{}).Config().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(h.roots())
	for skew, want := range map[time.Duration]bool{-23 * time.Hour: true, -25 * time.Hour: false, 2 * 24 * time.Hour: true, 8 * 24 * time.Hour: false} {
		for _, name := range []string{"localhost", "127.0.0.1", "10.77.0.2", "hub.example"} {
			if _, err := shown.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: h.at.Add(skew), DNSName: name}); (err == nil) != want {
				t.Errorf("%s by a clock that is %s off: %v", name, skew, err)
			}
		}
	}
	if _, err := shown.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: h.at, DNSName: "other.example"}); err == nil {
		t.Error("the hub goes by a name that nobody gave it")
	}
	// Two thirds of a day after it came, whatever the clock says.
	c := leaf(t, h.credential(canary))
	for _, skew := range []time.Duration{-48 * time.Hour, 0, 48 * time.Hour} {
		received := h.at.Add(skew)
		if due := trust.RenewalAt(c, received).Sub(received); due < 15*time.Hour || due > 17*time.Hour {
			t.Errorf("renewal after %s", due)
		}
	}
}

// TestCredentialFile comes back as it was written.
func TestCredentialFile(t *testing.T) {
	h := newHub(t)
	c := h.credential(trust.Identity{Kind: trust.Admin, Name: "admin"})
	path := filepath.Join(t.TempDir(), "admin.pem")
	if err := atomicfile.Write(path, c.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := trust.LoadCredential(path)
	if err != nil || string(got.Bytes()) != string(c.Bytes()) {
		t.Errorf("%v", err)
	}
	if err := atomicfile.Write(path, c.Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.LoadCredential(path); err == nil || !strings.Contains(err.Error(), "holdfast join --admin") {
		t.Errorf("half a credential: %v", err)
	}
}
