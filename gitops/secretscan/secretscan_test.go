package secretscan_test

import (
	"errors"
	"strings"
	"testing"

	"holdfast.dev/gitops/secretscan"
	"holdfast.dev/internal/strictyaml"
)

// Secrets are put together here, so that no scanner takes this file for one.
func seed(parts ...string) string { return strings.Join(parts, "") }

func TestFinds(t *testing.T) {
	cases := map[string]struct {
		reason, text, what string
		line               int
		secret             string
	}{
		"PrivateKey": {"a PEM key in a block scalar", "key: |\n  " + seed("-----BEGIN RSA ", "PRIVATE KEY-----") + "\n  MIIE", "a private key", 2, "MIIE"},
		"OpenSSH":    {"and an OpenSSH one", seed("-----BEGIN OPENSSH ", "PRIVATE KEY-----"), "a private key", 1, "OPENSSH"},
		"AWS":        {"its form is known", "id: " + seed("AKIA", "IOSFODNN7EXAMPLE"), "an AWS access key", 1, "IOSFODNN7"},
		"GitHub":     {"in an URL too", "url: https://x/" + seed("ghp_", strings.Repeat("a1B2", 9)), "a GitHub token", 1, "a1B2a1B2"},
		"Cephx":      {"what a CephFS volume is mounted with", "x: " + seed("AQ", "BvaEVlyXhxJxAAz4mHAAZs0Ku5eVlhqvkHJQ", "=="), "a cephx key", 1, "mHAAZs0"},
		"JWT":        {"a service account's token", "v: " + seed("eyJ", "hbGciOiJSUzI1NiJ9.eyJ", "pc3MiOiJrdWJlIn0.c2lnbmF0dXJl"), "a JSON web token", 1, "hbGciOi"},
		"URL":        {"a password in an URL", "dsn: postgres://app:" + seed("hun", "ter22") + "@db.example.com/x", "a URL with a password", 1, "hunter22"},
		"Password":   {"a weak one is one", "a: 1\nadminPassword: " + seed("hun", "ter2"), `a password under "adminPassword"`, 2, "hunter2"},
		"Tagged":     {"a tag before it", "password: !!null " + seed("hun", "ter2"), `a password under "password"`, 1, "hunter2"},
		"Quoted":     {"quoted", `password: "` + seed("correct", "horse") + `"`, `a password under "password"`, 1, "correcthorse"},
		"Random":     {"chance under a key that says so", "apiKey: " + seed("9f86d081884c7d65", "9a2feaa0c55ad015"), `a random value under "apiKey"`, 1, "9f86d081"},
		"Base64":     {"base64 with both cases", "client-secret: " + seed("q9Zk3LmX", "7TfVb2RwY8Hn5"), `a random value under "client-secret"`, 1, "q9Zk3LmX"},
		"Flow":       {"in a flow mapping", "{user: a, token: " + seed("q9Zk3LmX", "7TfVb2RwY8Hn5") + "}", `a random value under "token"`, 1, "q9Zk3LmX"},
		"Env":        {"a shell's assignment", "export OS_PASSWORD=" + seed("hun", "ter22"), `a password under "OS_PASSWORD"`, 1, "hunter22"},
		"Secret":     {"a Secret with data, in any order", "apiVersion: v1\ndata:\n  a: YQ==\nkind: Secret\n", "a Secret with data", 2, "YQ=="},
		"StringData": {"the second document", "kind: ConfigMap\ndata: {a: b}\n---\nkind: Secret\nstringData:\n  a: b\n", "a Secret with data", 5, ""},
		"NoReason":   {"the allowance must say why", "a: b # not-a-secret:", "says not-a-secret without a reason", 1, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			errs := secretscan.Scan("f.yaml", []byte(tc.text))
			if len(errs) != 1 {
				t.Fatalf("found %v; reason: %s", errs, tc.reason)
			}
			var e *strictyaml.Error
			if !errors.As(errs[0], &e) || e.File != "f.yaml" || e.Line != tc.line || !strings.HasSuffix(e.Msg, tc.what) || e.Hint == "" {
				t.Errorf("got %v; want line %d and %q", errs[0], tc.line, tc.what)
			}
			if tc.secret != "" && strings.Contains(errs[0].Error(), tc.secret) {
				t.Errorf("the error has the secret: %v", errs[0])
			}
		})
	}
}

func TestPasses(t *testing.T) {
	cases := map[string]string{
		"Reference":     "secretName: ceph-csi-user-2026\nnodeStageSecretNamespace: holdfast-system\npasswordFile: /etc/x\n",
		"Template":      "password: {{ pillar.get('x') }}\ntoken: ${TOKEN}\napiKey: <your key>\n",
		"Schema":        "properties:\n  token:\n    type: string\n  password: {type: string}\n",
		"Prose":         "# The token that the agent presents; a password is never stored.\n",
		"Digest":        "image: registry.example.com/x@sha256:1111111111111111111111111111111111111111111111111111111111111111\n",
		"UID":           "uid: 0f0e0d0c-0000-4000-8000-000000000001\n",
		"Tag":           "password: !vault |\n  x\npassword: !Ref DatabasePassword\n",
		"EmptySecret":   "kind: Secret\ndata: {}\n",
		"ConfigMap":     "kind: ConfigMap\ndata:\n  a: b\n",
		"Placeholder":   "password: changeme\ntoken: xxxxxxxxxxxxxxxxxxxx\nsecret: \"\"\n",
		"Allowed":       "password: abcdef # not-a-secret: the public demo account\n",
		"AllowedAbove":  "# not-a-secret: documentation of the format\ntoken: q9Zk3LmX7TfVb2RwY8Hn5\n",
		"AllowedSecret": "kind: Secret\n# not-a-secret: filled in by the cluster\ndata:\n  a: YQ==\n",
		"CertKey":       "apiVersion: v1\nkind: CustomResourceDefinition\ncaBundle: Cg==\n",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			if errs := secretscan.Scan("f.yaml", []byte(text)); len(errs) > 0 {
				t.Errorf("found %v", errs)
			}
		})
	}
	t.Run("AllowedAboveIsForOneLine", func(t *testing.T) {
		text := "# not-a-secret: an example\na: b\ntoken: " + seed("q9Zk3LmX", "7TfVb2RwY8Hn5") + "\n"
		if errs := secretscan.Scan("f.yaml", []byte(text)); len(errs) != 1 {
			t.Errorf("found %v", errs)
		}
	})
}
