package render_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/render"
)

// A Secret that SOPS encrypted reaches the bundles with every value that it had, whatever
// kustomize lays over it; one of which a value stands plain reaches nobody.
func TestSealedSecret(t *testing.T) {
	data, err := os.ReadFile("../secretscan/testdata/sealed-secret.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sealedSecret := string(data)
	const namespace = "salt/states/base/files/namespace.yaml"
	with := func(secret string) []edit {
		return []edit{{namespace, "", testFleet(t)[namespace] + "---\n" + secret}}
	}
	res := mustRender(t, tree(t, edited(t, with(sealedSecret)...)), nil)
	var want, got map[string]any
	if err := yaml.Unmarshal([]byte(sealedSecret), &want); err != nil {
		t.Fatal(err)
	}
	for name, b := range res.Bundles {
		text := ""
		for path, data := range b.Files {
			if strings.Contains(path, "secret_web_db") {
				text = string(data)
			}
		}
		got = nil
		if err := yaml.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		labels, _ := got["metadata"].(map[string]any)["labels"].(map[string]any)
		if labels["holdfast.dev/addon"] != "base" {
			t.Errorf("%s: labels %v", name, labels)
		}
		for _, key := range []string{"data", "sops"} {
			if diff := cmp.Diff(want[key], got[key]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, key, diff)
			}
		}
	}
	_, err = render.Fleet(context.Background(), tree(t, edited(t, with(strings.Replace(sealedSecret, "\ndata:\n", "\ndata:\n    note: cGxhaW4=\n", 1))...)), "c", nil)
	if want := namespace + ":22: data.note is not encrypted, in a Secret that otherwise is (encrypt the whole file again: sops --encrypt"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("half of one: %v, want %s", err, want)
	}
	if strings.Contains(err.Error(), "cGxhaW4=") {
		t.Error("the error has the secret")
	}
	patched := append(with(sealedSecret), edit{"kustomize/components/base/kustomization.yaml", "",
		"apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n- target: {kind: Secret}\n  patch: |\n    - {op: add, path: /data/note, value: cGxhaW4=}\n"})
	_, err = render.Fleet(context.Background(), tree(t, edited(t, patched...)), "c", nil)
	if want := "kustomize/components/base"; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "Secret web/db data.note is not encrypted, in a Secret that otherwise is") {
		t.Errorf("what kustomize adds: %v, want %s", err, want)
	}
}
