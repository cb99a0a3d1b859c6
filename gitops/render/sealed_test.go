package render_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/render"
)

// sealedSecret is what "sops --encrypt --encrypted-regex '^(data|stringData)$'" writes.
const sealedSecret = `apiVersion: v1
kind: Secret
metadata:
    name: db
    namespace: web
data:
    password: ENC[AES256_GCM,data:YKZtVH5w5uRNTds=,iv:mK/us3zPUtKa1nUv+Lw8A9DZHvuoHsX5i3i0G/9XJLc=,tag:+HMWTSQeYD9HK3fYldzeGw==,type:str]
sops:
    age:
        - recipient: age1pnmp2nq5qx9z4lpmachyn2ld07xjumn98hpeq77e4glddu96zvms9nn7c8
          enc: |
            -----BEGIN AGE ENCRYPTED FILE-----
            YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBoNUpVbVhNbWluZjFyRHhT
            -----END AGE ENCRYPTED FILE-----
    lastmodified: "2026-09-05T19:36:03Z"
    mac: ENC[AES256_GCM,data:9K8gQB0RJXuVFeEzNg8Kuo++50xvdk8NR8Y0yIJTcjc=,iv:F3DHuCUDrLpAHktYy2x5qkYbQf1gs0t8tFLv61YrEiU=,tag:Xdi7t78Z44T2j041CaCR8A==,type:str]
    encrypted_regex: ^(data|stringData)$
    version: 3.9.0
`

// A Secret that SOPS encrypted reaches the bundles with every value that it had, whatever
// kustomize lays over it; one of which a value stands plain reaches nobody.
func TestSealedSecret(t *testing.T) {
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
	_, err := render.Fleet(context.Background(), tree(t, edited(t, with(strings.Replace(sealedSecret, "\ndata:\n", "\ndata:\n    note: cGxhaW4=\n", 1))...)), "c", nil)
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
