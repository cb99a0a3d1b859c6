package secretscan_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast.dev/gitops/secretscan"
	"holdfast.dev/internal/strictyaml"
)

// sealed is a value as SOPS encrypts it (getsops/sops, aes/cipher.go): AES-256-GCM, a
// nonce of 32 bytes, the path of its keys as additional data.
func sealed(t *testing.T, path, plain string) string {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 32)
	if err != nil {
		t.Fatal(err)
	}
	nonce := sha256.Sum256([]byte(path + plain))
	out := gcm.Seal(nil, nonce[:], []byte(plain), []byte(path))
	b64 := base64.StdEncoding.EncodeToString
	n := len(out) - aes.BlockSize
	return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:str]", b64(out[:n]), b64(nonce[:]), b64(out[n:]))
}

// sealedSecret is what "sops --encrypt --encrypted-regex '^(data|stringData)$'" writes,
// from line 1 on.
func sealedSecret(t *testing.T) string {
	t.Helper()
	return "apiVersion: v1\n" +
		"kind: Secret\n" +
		"metadata:\n" +
		"    name: db\n" +
		"    namespace: web\n" +
		"type: Opaque\n" +
		"stringData:\n" +
		"    user: " + sealed(t, "stringData:user:", "app") + "\n" +
		"    password: " + sealed(t, "stringData:password:", "x") + "\n" + // line 9
		"    empty: \"\"\n" +
		"sops:\n" + // line 11
		"    kms: []\n" +
		"    gcp_kms: []\n" +
		"    azure_kv: []\n" +
		"    hc_vault: []\n" +
		"    age:\n" +
		"        - recipient: age1pnmp2nq5qx9z4lpmachyn2ld07xjumn98hpeq77e4glddu96zvms9nn7c8\n" +
		"          enc: |\n" +
		"            -----BEGIN AGE ENCRYPTED FILE-----\n" +
		"            YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBoNUpVbVhNbWluZjFyRHhT\n" +
		"            OWoxYU9oU1h6dFYycGVMb2RJTlhWMFhPTVFnCkQxb3liRG9TS096TFN4UVJFK25Y\n" +
		"            -----END AGE ENCRYPTED FILE-----\n" +
		"    lastmodified: \"2026-09-05T19:36:03Z\"\n" +
		"    mac: " + sealed(t, "2026-09-05T19:36:03Z", strings.Repeat("9K", 64)) + "\n" + // line 24
		"    pgp: []\n" +
		"    encrypted_regex: ^(data|stringData)$\n" + // line 26
		"    version: 3.9.0\n"
}

// sopsSecret is the same for an operator that makes Secrets in the cluster.
func sopsSecret(t *testing.T) string {
	t.Helper()
	_, block, _ := strings.Cut(sealedSecret(t), "\nsops:\n")
	return "apiVersion: isindir.github.com/v1alpha3\nkind: SopsSecret\nmetadata:\n    name: db\n    namespace: web\nspec:\n    secretTemplates:\n" +
		"        - name: " + sealed(t, "spec:secretTemplates:name:", "db") + "\n" +
		"          stringData:\n" +
		"            password: " + sealed(t, "spec:secretTemplates:stringData:password:", "x") + "\n" + // line 10
		"sops:\n" + strings.Replace(block, "encrypted_regex: ^(data|stringData)$", "encrypted_suffix: Templates", 1)
}

func TestSealedPasses(t *testing.T) {
	secret := sealedSecret(t)
	cephx := "ENC[AES256_GCM,data:" + seed("AQ", "BvaEVlyXhxJxAAz4mHAAZs0Ku5eVlhqvkHJQ", "==") + secret[strings.Index(secret, ",iv:"):strings.Index(secret, "]")+1]
	for name, text := range map[string]string{
		"Secret":      secret,
		"SopsSecret":  sopsSecret(t),
		"Two":         "# of the web\n" + secret + "---\n" + secret,
		"Beside":      "kind: ConfigMap\ndata: {a: b}\n---\n" + secret + "---\nkind: ConfigMap\ndata: {a: b}\n",
		"KeyGroups":   strings.Replace(secret, "    age:\n        - recipient:", "    key_groups:\n    - age:\n        - recipient:", 1),
		"Default":     strings.Replace(strings.Replace(secret, "    encrypted_regex: ^(data|stringData)$\n", "", 1), "type: Opaque\n", "", 1)[len("apiVersion: v1\nkind: Secret\nmetadata:\n    name: db\n    namespace: web\n"):], // a file of values, all encrypted
		"AsACephxKey": strings.Replace(secret, "    empty: \"\"\n", "    key: "+cephx+"\n", 1),
		"NotSOPS":     "kind: ConfigMap\ndata: {a: b}\nsops: of another kind\n",
	} {
		t.Run(name, func(t *testing.T) {
			if errs := secretscan.Scan("f.yaml", []byte(text)); len(errs) > 0 {
				t.Errorf("found %v in\n%s", errs, text)
			}
		})
	}
}

// TestHalfSealed: a Secret in which something stands plain, or would not be decrypted.
func TestHalfSealed(t *testing.T) {
	secret := sealedSecret(t)
	password := sealed(t, "stringData:password:", "x")
	plain := seed("correct", "horse")
	replaced := func(old, replacement string) string {
		if !strings.Contains(secret, old) {
			t.Fatalf("there is no %q", old)
		}
		return strings.Replace(secret, old, replacement, 1)
	}
	cases := map[string]struct {
		reason, text string
		line         int
		what, hint   string
	}{
		"Added":       {"a value that somebody added by hand", replaced("    empty: \"\"\n", "    note: "+plain+"\n"), 10, "stringData.note is not encrypted, in a Secret that otherwise is", "sops --encrypt"},
		"Plain":       {"one that was written over", replaced("    user: "+sealed(t, "stringData:user:", "app"), "    user: "+plain), 8, "stringData.user is not encrypted, in a Secret that otherwise is", "revoked"},
		"Suffix":      {"a key that sops leaves plain by default", replaced("    empty: \"\"\n", "    note_unencrypted: "+plain+"\n"), 10, "stringData.note_unencrypted is not encrypted", "sops --encrypt"},
		"SuffixRule":  {"a suffix that the block itself names", strings.Replace(replaced("    empty: \"\"\n", "    note: "+plain+"\n"), "encrypted_regex: ^(data|stringData)$", "unencrypted_suffix: note", 1), 10, "stringData.note is not encrypted, in a Secret that otherwise is", "sops --encrypt"},
		"Regex":       {"a rule by which nobody would decrypt the password", replaced("^(data|stringData)$", "^(data|user)$"), 9, "stringData.password is encrypted, and the block sops leaves it as it is: nobody would decrypt it", "sops --encrypt"},
		"PlainRegex":  {"a rule that leaves a password plain", strings.Replace(replaced(password, plain), "^(data|stringData)$", "^user$", 1), 9, "stringData.password is not encrypted, in a Secret that otherwise is", "sops --encrypt"},
		"BadRegex":    {"one that is none", replaced("^(data|stringData)$", "^(data"), 26, "the block sops has the encrypted_regex that is no regular expression", "sops --encrypt"},
		"TwoRules":    {"sops refuses two", replaced("    version: 3.9.0", "    unencrypted_suffix: _x\n    version: 3.9.0"), 27, "the block sops has unencrypted_suffix beside encrypted_regex", "sops --encrypt"},
		"Comments":    {"rules by comments, which a bundle has not", replaced("encrypted_regex: ^(data|stringData)$", "encrypted_comment_regex: sops"), 26, "the block sops goes by comments, and what is rendered has none", "sops --encrypt"},
		"NoMAC":       {"changed without sops", replaced("    mac: "+secret[strings.Index(secret, "mac: ")+5:strings.Index(secret, "\n    pgp")]+"\n", ""), 11, "the block sops has no mac", "sops --encrypt"},
		"PlainMAC":    {"a mac that is none", replaced(secret[strings.Index(secret, "mac: ")+5:strings.Index(secret, "\n    pgp")], "x"), 24, "the mac of the block sops is none", "sops --encrypt"},
		"NoKey":       {"nobody could decrypt it", replaced("          enc: |", "          end: |"), 11, "the block sops has no key that anybody could decrypt with", "sops --encrypt"},
		"NoTime":      {"sops refuses it", replaced("    lastmodified: \"2026-09-05T19:36:03Z\"\n", ""), 11, "the block sops has no lastmodified", "sops --encrypt"},
		"BadTime":     {"sops refuses it, too", replaced("2026-09-05T19:36:03Z", "yesterday"), 23, "the block sops has a lastmodified that is no time", "sops --encrypt"},
		"Alias":       {"what an alias stands for sops does not see", strings.Replace(replaced("    empty: \"\"\n", "    other: *x\n"), "    name: db", "    name: &x db", 1), 10, "is an alias, which SOPS does not have", "sops --encrypt"},
		"NoBlock":     {"the block was left out", secret[:strings.Index(secret, "sops:\n")], 8, "is encrypted with SOPS, and the document has no block sops", "sops --encrypt"},
		"Second":      {"in the second document", secret + "---\n" + replaced("    empty: \"\"\n", "    note: "+plain+"\n"), 28 + 10, "stringData.note is not encrypted", "sops --encrypt"},
		"NextToPlain": {"a Secret beside one that is encrypted", secret + "---\nkind: Secret\nstringData:\n  note: " + plain + "\n", 30, "a Secret with data", "not-a-secret"},
		"Operator":    {"what an operator would make a Secret of", strings.Replace(sopsSecret(t), "            password: ", "            note: "+plain+"\n            password: ", 1), 10, "spec.secretTemplates.stringData.note is not encrypted, in a Secret that otherwise is", "sops --encrypt"},
		"NoYAML":      {"what is no YAML counted to the document before", secret + "---\nx: {{ y }}: z\nkind: Secret\nstringData:\n  note: " + plain + "\n", 31, "a Secret with data", "not-a-secret"},
		"Comment":     {"a comment behind the marker hid the end of a document", "kind: Secret\nstringData:\n  note: " + plain + "\n--- # second\n" + secret, 2, "a Secret with data", "not-a-secret"},
		"Dots":        {"the other marker of an end", "kind: Secret\nstringData:\n  note: " + plain + "\n...\n" + secret, 2, "a Secret with data", "not-a-secret"},
		"TaggedNull":  {"a text that a tag calls null", replaced(password, "!!null "+plain), 9, "stringData.password is not encrypted", "sops --encrypt"},
		"List":        {"a Secret in a List", strings.Replace(sopsSecret(t), "kind: SopsSecret\n", "kind: List\nitems:\n- kind: Secret\n  stringData:\n    note: "+plain+"\n", 1), 6, "items.stringData.note is not encrypted, in a Secret that otherwise is", "sops --encrypt"},
		"Annotation":  {"what kubectl apply kept in an annotation", replaced("    name: db\n", "    name: db\n    annotations: {last: '{\"kind\":\"Secret\",\"stringData\":{\"note\":\""+plain+"\"}}'}\n"), 5, "a Secret with data", "not-a-secret"},
		"Forged":      {"a text that only begins like one", replaced(password, "ENC[AES256_GCM,data:"+plain+"]"), 9, "stringData.password is not encrypted", "sops --encrypt"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			errs := secretscan.Scan("f.yaml", []byte(tc.text))
			var found *strictyaml.Error
			for _, err := range errs {
				var e *strictyaml.Error
				if errors.As(err, &e) && e.Line == tc.line && strings.Contains(e.Msg, tc.what) && strings.Contains(e.Hint, tc.hint) {
					found = e
				}
				if strings.Contains(err.Error(), plain) {
					t.Errorf("the error has the secret: %v", err)
				}
			}
			if found == nil {
				t.Errorf("found %v; want line %d and %q; reason: %s in\n%s", errs, tc.line, tc.what, tc.reason, tc.text)
			}
		})
	}
}
