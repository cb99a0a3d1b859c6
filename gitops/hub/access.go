package hub

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
)

// maxRequest is the largest certificate request that is read, in bytes.
const maxRequest = 64 << 10

// asCluster lets the cluster of the path in, and no other: a compromised
// cluster reads only its own branch and writes only its own status.
func (h *Hub) asCluster(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h.as(w, r, trust.Identity{Kind: trust.Cluster, Name: r.PathValue("cluster")}, func(w http.ResponseWriter, r *http.Request) { h.few(w, r, f) })
	}
}

// asAdmin lets every person in.
func (h *Hub) asAdmin(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { h.as(w, r, trust.Identity{Kind: trust.Admin}, f) }
}

// as looks at the certificate at every request, not once for a connection: it
// may have ended since, or been revoked.
func (h *Hub) as(w http.ResponseWriter, r *http.Request, want trust.Identity, f http.HandlerFunc) {
	id, err := h.trust.Authenticate(shown(r))
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if id.Kind != want.Kind || want.Name != "" && id.Name != want.Name {
		h.log.Info("request refused", "from", r.RemoteAddr, "identity", id.String(), "path", r.URL.Path)
		http.Error(w, "this is not for "+id.String(), http.StatusForbidden)
		return
	}
	f(w, r)
}

// shown is the certificate whose key the client has; nil when it has none.
func shown(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, err error) {
	h.log.Info("request refused", "from", r.RemoteAddr, "path", r.URL.Path, "error", err.Error())
	if errors.Is(err, trust.ErrDenied) {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	http.Error(w, "the hub cannot read its trust store", http.StatusInternalServerError)
}

func (h *Hub) postEnroll(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id := trust.Identity{Kind: trust.Cluster, Name: r.PathValue("cluster")}
	h.sign(w, r, id.String(), func(csr []byte) ([]byte, error) { return h.trust.Enroll(id, token, csr) })
}

func (h *Hub) postRenew(w http.ResponseWriter, r *http.Request) {
	var who string
	if c := shown(r); c != nil {
		who = c.Subject.CommonName
	}
	h.sign(w, r, who, func(csr []byte) ([]byte, error) { return h.trust.Renew(shown(r), csr) })
}

func (h *Hub) sign(w http.ResponseWriter, r *http.Request, who string, sign func(csr []byte) ([]byte, error)) {
	var req protocol.CertificateRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
		http.Error(w, "the request is not valid JSON", http.StatusBadRequest)
		return
	}
	cert, err := sign([]byte(req.Request))
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	roots, err := h.tls.Roots()
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.log.Info("certificate issued", "from", r.RemoteAddr, "identity", who)
	writeJSON(w, protocol.Certificate{Certificate: string(cert), Roots: string(roots)})
}
