package hub_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
)

// TestClusterReadsOnlyItsOwn tries with the credential of a cluster that was
// taken over what it can, and with none.
func TestClusterReadsOnlyItsOwn(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	st := f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	canary, other := f.agent(url, "canary"), f.agent(url, "az1-c1")
	roots, err := f.store.Roots()
	if err != nil {
		t.Fatal(err)
	}
	stranger := f.with(url, "", &trust.Credential{Roots: roots})
	named := f.agent(url, "admin") // a cluster of that name is a cluster
	revision := st.Clusters[0].Revision
	bundle := "/v1/clusters/canary/bundles/" + revision
	get, post := http.MethodGet, http.MethodPost
	cases := map[string]struct {
		reason string
		as     *agent
		method string
		path   string
		want   int
	}{
		"Own":           {"an agent reads its bundle", canary, get, bundle, http.StatusOK},
		"Other":         {"a compromised cluster reads no other's", other, get, bundle, http.StatusForbidden},
		"OtherDesired":  {"nor what others are to run", other, get, "/v1/clusters/canary/desired", http.StatusForbidden},
		"OtherReport":   {"nor speaks for others: a gate would open", other, post, "/v1/clusters/canary/report", http.StatusForbidden},
		"OtherPlan":     {"nor reads the question to others", other, get, "/v1/clusters/canary/plans/x", http.StatusForbidden},
		"OtherAnswer":   {"nor answers it", other, post, "/v1/clusters/canary/plans/x", http.StatusForbidden},
		"OthersContent": {"not even through its own path", other, get, "/v1/clusters/az1-c1/bundles/" + revision, http.StatusNotFound},
		"Source":        {"only the published revision, not any commit", canary, get, "/v1/clusters/canary/bundles/" + st.Commit, http.StatusNotFound},
		"Ref":           {"nor a ref's name", canary, get, "/v1/clusters/canary/bundles/main", http.StatusNotFound},
		"Expression":    {"nor what git makes a revision of", canary, get, "/v1/clusters/canary/bundles/" + revision + "%5E%7Btree%7D", http.StatusNotFound},
		"Dots":          {"a path that climbs is where it leads to", other, get, "/v1/clusters/az1-c1/../canary/desired", http.StatusForbidden},
		"EncodedDots":   {"encoded it leads nowhere", other, get, "/v1/clusters/az1-c1/%2e%2e/canary/desired", http.StatusNotFound},
		"EncodedSlash":  {"a name with a slash in it is nobody's", other, get, "/v1/clusters/az1-c1%2F..%2Fcanary/desired", http.StatusForbidden},
		"Case":          {"names are compared byte by byte", other, get, "/v1/clusters/AZ1-C1/desired", http.StatusForbidden},
		"Status":        {"the fleet is for people", canary, get, "/v1/status", http.StatusForbidden},
		"AskAll":        {"and so are questions to all", canary, post, "/v1/plan", http.StatusForbidden},
		"NamedAdmin":    {"a name gives no rights", named, get, "/v1/status", http.StatusForbidden},
		"Stranger":      {"no certificate, no answer", stranger, get, bundle, http.StatusUnauthorized},
		"StrangerRenew": {"nor a new one", stranger, post, "/v1/renew", http.StatusUnauthorized},
		"StrangerJoin":  {"nor the first one without the token", stranger, post, "/v1/clusters/canary/enroll", http.StatusUnauthorized},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var body any
			if tc.method == post {
				key, kerr := trust.NewKey()
				csr, cerr := trust.Request(key)
				if err := errors.Join(kerr, cerr); err != nil {
					t.Fatal(err)
				}
				body = protocol.CertificateRequest{Request: string(csr)}
			}
			code, answer := tc.as.do(tc.method, tc.path, body)
			if code != tc.want {
				t.Errorf("got %d %.80s, want %d; reason: %s", code, answer, tc.want, tc.reason)
			}
			if code >= 400 && strings.Contains(string(answer), "bundle.yaml") {
				t.Error("the refusal carries content")
			}
		})
	}
	if st := f.status(url); st.Clusters[0].Report != nil {
		t.Errorf("a report of another cluster was taken: %+v", st.Clusters[0].Report)
	}
}

// TestForeignCertificate: a certificate of another authority with the right name,
// and one of ours that is a server's, are nobody's.
func TestForeignCertificate(t *testing.T) {
	f, evil := newFleet(t), newFleet(t)
	url, stop := f.start()
	defer stop()
	id := trust.Identity{Kind: trust.Admin, Name: "admin"}
	forged := evil.credential(id)
	forged.Roots = f.credential(id).Roots
	if code, body := f.with(url, "", forged).do(http.MethodGet, "/v1/status", nil); code != http.StatusUnauthorized {
		t.Errorf("a forged certificate: %d %.80s", code, body)
	}
	// The other way round: a client that trusts another authority says nothing to this hub.
	cfg, err := evil.credential(id).Config()
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		if err == nil {
			_ = resp.Body.Close()
		}
		t.Errorf("a hub of another authority is taken for ours: %v", err)
	}
}

// TestPlainHTTPAndOldTLS: nothing is said in the clear, or by an old protocol.
func TestPlainHTTPAndOldTLS(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(url, "https", "http", 1)+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		data, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %s %.80s", resp.Status, data)
		}
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
	if err == nil {
		_ = conn.Close()
		t.Error("TLS 1.2 is spoken")
	}
}

// TestJoinAndRenew takes a cluster from its token through a restart of the hub
// to its next certificate, and revokes that.
func TestJoinAndRenew(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	id := trust.Identity{Kind: trust.Cluster, Name: "canary"}
	token, err := f.store.Invite(id)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := f.store.Roots()
	if err != nil {
		t.Fatal(err)
	}
	key, csr := request(t)
	enroll := func(csr, token string) (int, protocol.Certificate) {
		t.Helper()
		a := f.with(url, "canary", &trust.Credential{Roots: roots})
		a.token = token
		code, body := a.do(http.MethodPost, "/v1/clusters/canary/enroll", protocol.CertificateRequest{Request: csr})
		var c protocol.Certificate
		_ = json.Unmarshal(body, &c)
		return code, c
	}
	if code, _ := enroll(csr, "x"+token); code != http.StatusUnauthorized {
		t.Errorf("another token: %d", code)
	}
	code, got := enroll(csr, token)
	if code != http.StatusOK || got.Roots != string(roots) {
		t.Fatalf("enrolment: %d %+v", code, got)
	}
	// The answer was lost, and the same key asks again: it is told again. Who stole the token has another key.
	if code, _ := enroll(csr, token); code != http.StatusOK {
		t.Errorf("the same key again: %d", code)
	}
	_, thief := request(t)
	if code, _ := enroll(thief, token); code != http.StatusUnauthorized {
		t.Errorf("the token with another key: %d", code)
	}
	stop()

	url, stop = f.start()
	defer func() { stop() }()
	own := f.with(url, "canary", &trust.Credential{Cert: []byte(got.Certificate), Key: key, Roots: roots})
	if code, body := own.do(http.MethodGet, "/v1/clusters/canary/desired?after=x", nil); code != http.StatusOK {
		t.Fatalf("after a restart of the hub: %d %s", code, body)
	}
	nextKey, csr := request(t)
	code, body := own.do(http.MethodPost, "/v1/renew", protocol.CertificateRequest{Request: csr})
	var next protocol.Certificate
	if err := json.Unmarshal(body, &next); err != nil || code != http.StatusOK {
		t.Fatalf("renewal: %d %s", code, body)
	}
	renewed := f.with(url, "canary", &trust.Credential{Cert: []byte(next.Certificate), Key: nextKey, Roots: []byte(next.Roots)})
	if code, body := renewed.do(http.MethodGet, "/v1/clusters/canary/desired?after=x", nil); code != http.StatusOK {
		t.Errorf("with the next certificate: %d %s", code, body)
	}
	if code, _ := enroll(csr, token); code != http.StatusUnauthorized {
		t.Errorf("the token after it has done its work: %d", code)
	}
	if _, err := f.store.Invite(id); err != nil {
		t.Fatal(err)
	}
	for what, a := range map[string]*agent{"first": own, "next": renewed} {
		if code, body := a.do(http.MethodGet, "/v1/clusters/canary/desired?after=x", nil); code != http.StatusUnauthorized || !strings.Contains(string(body), "holdfast join") {
			t.Errorf("the %s certificate, on an open connection, after the cluster was invited anew: %d %s", what, code, body)
		}
	}
}

func pemText(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func request(t *testing.T) (key []byte, csr string) {
	t.Helper()
	key, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := trust.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(raw)
}

// TestGivenCertificate: a certificate that the hub is given is shown, its
// authority told to clusters, and theirs are of the hub's own.
func TestGivenCertificate(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	given, err := trust.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := given.Server(trust.Given{}).Config().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := given.Roots()
	if err != nil {
		t.Fatal(err)
	}
	f.opts.TLS = trust.Given{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	for path, data := range map[string][]byte{
		f.opts.TLS.Cert: pemText("CERTIFICATE", cert.Certificate[0]),
		f.opts.TLS.Key:  pemText("PRIVATE KEY", key), f.opts.TLS.CA: roots} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url, stop := f.start()
	defer stop()
	cred := f.credential(trust.Identity{Kind: trust.Cluster, Name: "canary"})
	cred.Roots = roots
	a := f.with(url, "canary", cred)
	_, csr := request(t)
	code, body := a.do(http.MethodPost, "/v1/renew", protocol.CertificateRequest{Request: csr})
	var got protocol.Certificate
	if err := json.Unmarshal(body, &got); err != nil || code != http.StatusOK || got.Roots != string(roots) {
		t.Errorf("renewal: %d, roots are those given: %v", code, got.Roots == string(roots))
	}
}
