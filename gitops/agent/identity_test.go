package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/trust"
)

func (r *rig) secret() corev1.Secret {
	var s corev1.Secret
	_ = r.c.Get(r.t.Context(), client.ObjectKey{Namespace: "default", Name: "identity-" + r.name}, &s) // empty when there is none
	return s
}

// works is true once the agent applied a bundle that it has not had before.
func (r *rig) works(version string) {
	r.t.Helper()
	files := bundle(r.t, r.name, map[string]addon{"one": {"0.1." + version, map[string]string{"a.yaml": configMap("identity-"+r.name, version)}}})
	r.hub.want(files)
	r.until("bundle "+version, func() bool { return r.settled(files) })
}

// TestKilledWhileJoining: the hub has signed, and the certificate is not stored.
// The next agent asks with the same key, for which alone the token is still good.
func TestKilledWhileJoining(t *testing.T) {
	r := newRig(t, "join-1")
	r.works("1")
	r.stop()
	s := r.secret()
	if err := r.c.Delete(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	r.invite()
	r.hub.mu.Lock()
	r.hub.issued, r.hub.lose = nil, 1
	r.hub.mu.Unlock()
	r.start()
	r.until("a request whose answer is lost", func() bool { return len(r.hub.history()) > 0 })
	r.stop()
	key := r.secret().Data["next.key"]
	r.start()
	r.works("2")
	s = r.secret()
	if len(key) > 0 && string(s.Data["tls.key"]) != string(key) {
		t.Error("the key that the token was used with is lost")
	}
	if len(s.Data["next.key"]) != 0 || len(s.Data["tls.crt"]) == 0 {
		t.Errorf("the Secret holds %d bytes of a next key and %d of a certificate", len(s.Data["next.key"]), len(s.Data["tls.crt"]))
	}
	// The first agent may have asked once more before it was stopped.
	if got := r.hub.history(); len(got) < 2 || len(got) > 3 || slices.Contains(got, "renewed") {
		t.Errorf("certificates: %v", got)
	}
}

// TestCertificateEndedWhileDown: after a weekend without an agent, or without a
// hub, the cluster comes back by itself; nothing is applied meanwhile.
func TestCertificateEndedWhileDown(t *testing.T) {
	r := newRig(t, "join-2")
	r.works("1")
	r.stop()
	// Another process: the certificate is used as long as it is good, and not asked for again.
	r.start()
	r.works("2")
	if got := r.hub.history(); !slices.Equal(got, []string{"enrolled"}) {
		t.Errorf("certificates: %v", got)
	}
	r.stop()
	r.hub.setLate(4 * 24 * time.Hour)
	r.start()
	r.works("3")
	if got := r.hub.history(); !slices.Equal(got, []string{"enrolled", "renewed"}) {
		t.Errorf("certificates: %v", got)
	}
}

// TestCutOff: a cluster whose identity was revoked gets nothing, stays as it is,
// and comes back by a new invitation. One that is of no use does not harm.
func TestCutOff(t *testing.T) {
	r := newRig(t, "join-3")
	r.works("1")
	r.stop()
	roots, err := r.hub.trust.Roots()
	if err != nil {
		t.Fatal(err)
	}
	r.put("an-old-token-that-was-applied-again", roots)
	r.start()
	r.works("2")
	r.stop()
	token, err := r.hub.trust.Invite(trust.Identity{Kind: trust.Cluster, Name: r.name}) // and nobody applies it
	if err != nil {
		t.Fatal(err)
	}
	before := r.hub.history()
	r.hub.want(bundle(t, r.name, map[string]addon{"one": {"0.1.3", map[string]string{"a.yaml": configMap("identity-"+r.name, "3")}}}))
	r.start()
	r.until("its certificate, and a renewal of that, to be refused", func() bool { return r.hub.turnedAway("desired") && r.hub.turnedAway("renew") })
	if r.value("identity-"+r.name) != "2" || len(r.hub.history()) != len(before) {
		t.Fatal("a cluster that was cut off receives something")
	}
	r.stop()
	r.put(token, roots)
	r.start()
	r.works("4")
}

// TestAnotherHub: the agent speaks to the hub that it joined, and tells no other its token.
func TestAnotherHub(t *testing.T) {
	r := newRig(t, "join-4")
	r.works("1")
	r.stop()
	other, err := trust.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := other.Roots()
	if err != nil {
		t.Fatal(err)
	}
	s := r.secret()
	if err := r.c.Delete(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	token := r.invite()
	r.put(token, roots)
	before, broken := len(r.hub.history()), r.hub.handshakesBroken()
	r.start()
	r.until("the agent to break off the handshake", func() bool { return r.hub.handshakesBroken() > broken })
	if len(r.hub.history()) != before || r.hub.turnedAway("enroll") {
		t.Fatal("a hub of another authority was told the token")
	}
	if s := r.secret(); len(s.Data["tls.crt"]) != 0 || strings.Contains(s.String(), token) {
		t.Error("the identity holds a certificate, or the token")
	}
}
