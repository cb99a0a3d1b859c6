package agent_test

import (
	"context"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/agent"
	"holdfast.dev/gitops/protocol"
)

// TestSealedSecret: Flux decrypts what SOPS encrypted (kustomize-controller,
// spec.decryption), and an agent beside it that compared what is in it waited for ever.
// An agent that applies by itself says why it cannot, before anything is published.
func TestSealedSecret(t *testing.T) {
	sealed, err := os.ReadFile("../secretscan/testdata/sealed-secret.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "c23")
	r.stop()
	files := bundle(t, "c23", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("sealed-a", "1"), "s.yaml": strings.Replace(string(sealed), "namespace: web", "namespace: default", 1)}}})
	live := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}}
	t.Cleanup(func() { _ = r.c.Delete(context.WithoutCancel(t.Context()), live) })

	r.start()
	r.hub.plan(files)
	r.until("the answer of one that applies", func() bool { return r.hub.answered() != nil })
	refused := ""
	for _, c := range r.hub.answered().Changes {
		if c.Object == "Secret default/db" && c.Action == protocol.PlanRefused {
			refused = c.Message
		}
	}
	if !strings.Contains(refused, "this agent decrypts nothing: let Flux apply the bundle") {
		t.Errorf("the agent says %q", refused)
	}
	r.hub.want(files) // as the first bundle of a cluster may come, which nobody tried
	r.until("the same of what was not tried", func() bool {
		a := r.hub.last().Addons
		return len(a) == 1 && strings.Contains(a[0].Message, "Secret/default/db: it is encrypted with SOPS") && r.value("sealed-a") == ""
	})
	r.stop()

	r.apply = agent.ApplyOther
	r.start()
	r.hub.want(files)
	r.until("the wait for the Secret", func() bool {
		a := r.hub.last().Addons
		return len(a) == 1 && strings.Contains(a[0].Message, "waits for whoever applies it")
	})
	r.applyText(string(files[pathOf(files, "sealed-a")]), "kustomize-controller")
	r.until("the wait for the Secret alone", func() bool {
		a := r.hub.last().Addons
		return len(a) == 1 && strings.Contains(a[0].Message, "waits for whoever applies it: Secret default/db is not yet as the bundle has it: not tried: it is encrypted")
	})
	// What Flux makes of it: the same object, decrypted.
	o := map[string]any{}
	if err := yaml.Unmarshal(files[pathOf(files, "secret_default_db")], &o); err != nil {
		t.Fatal(err)
	}
	delete(o, "sops")
	delete(o, "data")
	o["stringData"] = map[string]any{"password": "plain"}
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	r.applyText(string(text), "kustomize-controller")
	r.until("health of what Flux applied", func() bool { return r.settled(files) })
}
