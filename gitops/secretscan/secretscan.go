// Package secretscan finds what looks like a secret in the files of a fleet
// repository, so that a push that carries one is refused before anybody else can
// read it. It is pure, and its errors never hold what was found.
//
// It looks for private keys, tokens whose form is known, Secrets with data, and
// passwords and random values under keys that say what they are. It cannot find a
// secret that looks like nothing; it is a net, not a wall. What SOPS encrypted passes,
// when all of it is.
package secretscan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strictyaml"
)

// allowRE is the comment by which a person says that a line, or the one below,
// is no secret, and why.
var allowRE = regexp.MustCompile(`(?:#|//|\{#)\s*not-a-secret:(.*)`)

const hint = "take it out of every commit of the push and revoke it; refer to a Secret that is made in the cluster. If it is none: # not-a-secret: REASON"

// known are forms that nothing else has. The sources are the issuers' own pages
// on secret formats and, for cephx, ceph/src/auth/Crypto.cc: a key is a little-
// endian type 1, a time and a length, which begin as AQ in base64.
// Each has a text that every match contains, in which to look before the expression.
var known = []struct {
	what string
	has  string
	re   *regexp.Regexp
}{
	{"a private key", "PRIVATE KEY", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----`)},
	{"an age secret key", "AGE-SECRET-KEY-1", regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]{40,}`)},
	{"an AWS access key", "AKIA", regexp.MustCompile(`\bAKIA[0-9A-Z]{16}\b`)},
	{"an AWS access key", "ASIA", regexp.MustCompile(`\bASIA[0-9A-Z]{16}\b`)},
	{"a GitHub token", "gh", regexp.MustCompile(`\bgh[pousr]_[0-9A-Za-z]{36,}\b`)},
	{"a GitHub token", "github_pat_", regexp.MustCompile(`\bgithub_pat_[0-9A-Za-z_]{22,}`)},
	{"a GitLab token", "gl", regexp.MustCompile(`\bgl(?:pat|dt|rt|ptt|agent)-[0-9A-Za-z_-]{20,}`)},
	{"a Slack token", "xox", regexp.MustCompile(`\bxox[abposr]-[0-9A-Za-z-]{10,}`)},
	{"a Google API key", "AIza", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`)},
	{"a Stripe key", "k_live_", regexp.MustCompile(`\b[rs]k_live_[0-9A-Za-z]{20,}`)},
	{"an npm token", "npm_", regexp.MustCompile(`\bnpm_[0-9A-Za-z]{36}\b`)},
	{"a PyPI token", "pypi-", regexp.MustCompile(`\bpypi-AgEI[0-9A-Za-z_-]{20,}`)},
	{"a Docker Hub token", "dckr_pat_", regexp.MustCompile(`\bdckr_pat_[0-9A-Za-z_-]{20,}`)},
	{"a Vault token", "hv", regexp.MustCompile(`\bhv[sbr]\.[0-9A-Za-z_-]{20,}`)},
	{"a JSON web token", "eyJ", regexp.MustCompile(`\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}`)},
	{"a cephx key", "AQ", regexp.MustCompile(`\bAQ[0-9A-Za-z+/]{36}==`)},
	{"a URL with a password", "://", regexp.MustCompile(`\b[a-z][a-z0-9+.-]*://[^\s:/@{}<>$]+:[^\s:/@{}<>$]{3,}@[^\s/]`)},
}

// assignRE is a value under a key that says that it is secret, perhaps behind an
// anchor or one of YAML's own tags.
var assignRE = regexp.MustCompile(`(?i)["']?([a-z0-9_.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|user[_-]?key|auth[_-]?key|credentials?)[a-z0-9_.-]*)["']?\s*[:=]\s*(?:(?:!(?:![a-z]+)?|&[\w-]+)\s+)*(["']?)([^\s"',;}{#]+)`)

// aboutRE are endings of keys that hold where a secret is, or how it is used.
var aboutRE = regexp.MustCompile(`(?i)(?:name|namespace|ref|file|path|dir|url|uri|id|type|kind|class|ttl|timeout|expiry|length|size|key)$`)

var passwordRE = regexp.MustCompile(`(?i)(?:passw(?:or)?d|passphrase)$`)

// Scan returns one [strictyaml.Error] for each line of a file that carries what
// looks like a secret.
func Scan(file string, data []byte) []error {
	var errs []error
	fault := func(line int, what string) {
		errs = append(errs, &strictyaml.Error{File: file, Line: line, Msg: "has what looks like " + what, Hint: hint})
	}
	n, allowedBefore := 0, false
	for _, doc := range documents(textOf(data)) {
		first, root := n, (*yaml.Node)(nil)
		mayBeSealed := strings.Contains(doc, sopsPrefix)
		if mayBeSealed || mayHaveSecret(doc) {
			root = parse(doc) // most have no need of it
		}
		sealed := mayBeSealed && sealedDocument(root, func(f Fault) {
			errs = append(errs, &strictyaml.Error{File: file, Line: first + f.Node.Line, Msg: f.Msg, Hint: f.Hint})
		})
		withData := secretsIn(doc, root, sealed, 0)
		for line := range strings.Lines(doc) {
			n++
			line = strings.TrimSuffix(line, "\n")
			allowed := allowedBefore
			allowedBefore = false
			if m := allowance(line); m != nil {
				if strings.Trim(m[1], " #}") == "" {
					errs = append(errs, &strictyaml.Error{File: file, Line: n, Msg: "says not-a-secret without a reason", Hint: "write # not-a-secret: and why"})
				} else {
					allowed = true
					// A comment that stands alone is about the line below.
					allowedBefore = strings.TrimSpace(line[:strings.Index(line, m[0])]) == ""
				}
			}
			if allowed {
				continue
			}
			if _, is := slices.BinarySearch(withData, n-first); is {
				fault(n, "a Secret with data")
			} else if what := look(sopsValueRE.ReplaceAllLiteralString(line, "")); what != "" {
				fault(n, what)
			}
		}
	}
	return errs
}

// lineEnds are all that YAML's libraries end a line with (YAML 1.1, 5.4). With \n in their
// place a text has the same lines for the parser, for the expressions, and for people.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

// textOf is a file as UTF-8 without a byte order mark and with \n alone at the end of lines.
// UTF-16 is what PowerShell makes of the output of a command, and YAML allows it.
func textOf(data []byte) string {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		order = binary.BigEndian
	}
	text := string(data)
	if order != nil {
		units := make([]uint16, len(data)/2)
		for i := range units {
			units[i] = order.Uint16(data[2*i:])
		}
		text = string(utf16.Decode(units))
	}
	text = strings.TrimPrefix(text, "\ufeff")
	for _, end := range []string{"\r", "\u0085", "\u2028", "\u2029"} {
		if strings.Contains(text, end) {
			return lineEnds.Replace(text)
		}
	}
	return text
}

// allowance is a comment that allows a line, with its reason; nil when there is none.
func allowance(line string) []string {
	if !strings.Contains(line, "not-a-secret") {
		return nil
	}
	return allowRE.FindStringSubmatch(line)
}

// documents cuts a file where YAML has the end of a document: before "---", and after
// "..." (YAML 1.2, 9.1.4), which may be followed by white space and a comment.
func documents(text string) (all []string) {
	var doc strings.Builder
	next := func() {
		all = append(all, doc.String())
		doc.Reset()
	}
	for line := range strings.Lines(text) {
		marker := ""
		if len(line) == 3 || len(line) > 3 && strings.ContainsAny(line[3:4], " \t\n") {
			marker = line[:3]
		}
		if marker == "---" {
			next()
		}
		doc.WriteString(line)
		if marker == "..." {
			next()
		}
	}
	next()
	return all
}

// sealedDocument tells whether SOPS encrypted a document, and what is wrong with it. What
// is no YAML, or more than one document, has no root and is not sealed.
func sealedDocument(root *yaml.Node, fault func(Fault)) bool {
	if root == nil {
		return false
	}
	seal, faults := Sealed(root)
	for _, f := range faults {
		fault(f)
	}
	return seal || len(faults) > 0
}

// look says what a line carries; empty for nothing.
func look(line string) string {
	for _, k := range known {
		if strings.Contains(line, k.has) && k.re.MatchString(line) {
			return k.what
		}
	}
	if !tells(line) {
		return ""
	}
	for _, m := range assignRE.FindAllStringSubmatch(line, -1) {
		key, quoted, value := m[1], m[2] != "", m[3]
		if aboutRE.MatchString(key) && !strings.HasSuffix(strings.ToLower(key), "key") || placeholder(value) {
			continue
		}
		switch {
		case passwordRE.MatchString(key) && len(value) >= 4 && (quoted || !strings.Contains(line, " "+value+" ")):
			return fmt.Sprintf("a password under %q", key)
		case random(value):
			return fmt.Sprintf("a random value under %q", key)
		}
	}
	return ""
}

// words are what a key that [assignRE] finds has in it.
var words = []string{"passw", "passphrase", "secret", "token", "key", "credential"}

// tells is true when a line may have such a key: most have none, and it is cheaper to ask.
func tells(line string) bool {
	if !strings.ContainsAny(line, ":=") {
		return false
	}
	lower := strings.ToLower(line)
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(lower, w) })
}

// placeholder is true for what stands for a value: templates, variables, paths,
// types, and words that nobody takes for one.
func placeholder(v string) bool {
	if strings.ContainsAny(v, "<>$()[]|%*") || strings.HasPrefix(v, "/") || strings.HasPrefix(v, "&") || strings.HasPrefix(v, "!") {
		return true
	}
	switch strings.ToLower(strings.Trim(v, "\"'.")) {
	case "", "true", "false", "null", "none", "nil", "string", "object", "integer", "boolean", "array", "example", "changeme", "redacted", "required", "optional":
		return true
	}
	return strings.Trim(v, "xX*.-_") == ""
}

// random is true for text that a person would not choose: long, of several kinds
// of characters, and with as many different ones as chance gives.
func random(v string) bool {
	v = strings.TrimRight(v, "=")
	if len(v) < 16 {
		return false
	}
	var lower, upper, digit bool
	count := map[rune]int{}
	for _, r := range v {
		count[r]++
		switch {
		case r >= 'a' && r <= 'z':
			lower = true
		case r >= 'A' && r <= 'Z':
			upper = true
		case r >= '0' && r <= '9':
			digit = true
		}
	}
	if !digit || !lower && !upper {
		return false
	}
	bits := 0.0
	for _, n := range count {
		p := float64(n) / float64(len(v))
		bits -= p * math.Log2(p)
	}
	switch {
	case lower && upper:
		return bits >= 3.3
	case strings.Trim(v, "0123456789abcdef") == "" || strings.Trim(v, "0123456789ABCDEF") == "": // hexadecimal
		return len(v) >= 24 && bits >= 3
	}
	// Names are of this kind, too, and have hyphens between words.
	return !strings.ContainsAny(v, "-._") && bits >= 3.5
}
