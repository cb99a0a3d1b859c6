// Package signature signs git commits with SSH keys and verifies them, in the
// formats of "git commit -S" with gpg.format=ssh (git-config(1)), of its
// signatures (PROTOCOL.sshsig of OpenSSH) and of the file of those who may sign
// (ssh-keygen(1), ALLOWED SIGNERS). It is pure: values in, values out.
package signature

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	namespace = "git" // what git signs under: a signature made for anything else is none
	magic     = "SSHSIG"
	hashName  = "sha512"
	pemType   = "SSH SIGNATURE"
)

// blob is a signature without its magic.
type blob struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// signed is what is signed, without the magic.
type signed struct {
	Namespace, Reserved, Hash string
	Digest                    []byte
}

func toSign(message []byte) []byte {
	sum := sha512.Sum512(message)
	return append([]byte(magic), ssh.Marshal(signed{namespace, "", hashName, sum[:]})...)
}

// Sign signs a message as git would.
func Sign(key ssh.Signer, message []byte) (armored []byte, err error) {
	var sig *ssh.Signature
	if rsa, ok := key.(ssh.AlgorithmSigner); ok && key.PublicKey().Type() == ssh.KeyAlgoRSA {
		sig, err = rsa.SignWithAlgorithm(rand.Reader, toSign(message), ssh.KeyAlgoRSASHA512) // SHA-1 otherwise
	} else {
		sig, err = key.Sign(rand.Reader, toSign(message))
	}
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	b := blob{Version: 1, PublicKey: key.PublicKey().Marshal(), Namespace: namespace, Hash: hashName, Signature: ssh.Marshal(sig)}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: append([]byte(magic), ssh.Marshal(b)...)}), nil
}

// verify returns the key that signed the message.
func verify(armored, message []byte) (ssh.PublicKey, error) {
	p, rest := pem.Decode(armored)
	if p == nil || p.Type != pemType || len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(p.Bytes, []byte(magic)) {
		return nil, errors.New("the signature is not one of an SSH key")
	}
	var b blob
	if err := ssh.Unmarshal(p.Bytes[len(magic):], &b); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if b.Version != 1 || b.Namespace != namespace || b.Hash != hashName {
		return nil, fmt.Errorf("the signature is of version %d, for %q, over %q; git's is of version 1, for %q, over %q", b.Version, b.Namespace, b.Hash, namespace, hashName)
	}
	key, err := ssh.ParsePublicKey(b.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(b.Signature, &sig); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if sig.Format == ssh.KeyAlgoRSA {
		return nil, errors.New("the signature is over SHA-1")
	}
	if err := key.Verify(toSign(message), &sig); err != nil {
		return nil, errors.New("the signature is not of this text")
	}
	return key, nil
}

// Signers are those who may sign.
type Signers struct{ list []signer }

type signer struct {
	principals    string
	key           []byte
	after, before time.Time // zero for always
}

// ParseSigners reads an allowed signers file. Certificates of authorities are
// not taken. file is its name in errors.
func ParseSigners(file string, data []byte) (*Signers, error) {
	s := &Signers{}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		one, ok, err := parseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w (write: NAME namespaces=\"git\" ssh-ed25519 AAAA…)", file, n, err)
		}
		if ok {
			s.list = append(s.list, one)
		}
	}
	if len(s.list) == 0 {
		return nil, fmt.Errorf("%s: nobody in it may sign for git", file)
	}
	return s, nil
}

// parseSigner reads a line; ok is false for one who may sign other things only.
func parseSigner(line string) (s signer, ok bool, err error) {
	principals, rest, found := strings.Cut(line, " ")
	if !found || strings.HasPrefix(principals, `"`) {
		return s, false, fmt.Errorf("%q is no name with options and a key", cut(line))
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(rest)))
	if err != nil {
		return s, false, fmt.Errorf("%q has no key after the name: %w", cut(line), err)
	}
	s = signer{principals: principals, key: key.Marshal()}
	ok = true
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "namespaces":
			ok = false
			for n := range strings.SplitSeq(value, ",") {
				ok = ok || n == namespace || n == "*"
			}
		case "valid-after":
			s.after, err = parseTime(value)
		case "valid-before":
			s.before, err = parseTime(value)
		default:
			err = fmt.Errorf("the option %q is not known here", name)
		}
		if err != nil {
			return s, false, err
		}
	}
	return s, ok, nil
}

// cut is as much of a line as an error has room for.
func cut(line string) string {
	if len(line) > 60 {
		return line[:60] + "…"
	}
	return line
}

// parseTime reads YYYYMMDD[HHMM[SS]], which is local time for ssh-keygen unless
// a Z follows. Local time would make the answer depend on the machine.
func parseTime(v string) (time.Time, error) {
	zoned, ok := strings.CutSuffix(v, "Z")
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if t, err := time.Parse(layout, zoned); err == nil && ok {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time in UTC, as 20261231Z", v)
}

// find names who has the key and may have signed at a time.
func (s *Signers) find(key ssh.PublicKey, at time.Time) (string, error) {
	raw := key.Marshal()
	for _, one := range s.list {
		if !bytes.Equal(one.key, raw) {
			continue
		}
		if !one.after.IsZero() && at.Before(one.after) || !one.before.IsZero() && !at.Before(one.before) {
			return "", fmt.Errorf("the key of %s might not sign at %s", one.principals, at.UTC().Format(time.RFC3339))
		}
		return one.principals, nil
	}
	return "", fmt.Errorf("the key %s is of nobody who may sign", ssh.FingerprintSHA256(key))
}

// Commit is a git commit, as much of it as is looked at.
type Commit struct {
	Tree      string
	Parents   []string
	Committed time.Time
	Message   string

	payload   []byte // without the signature
	signature []byte
}

// ParseCommit reads the content of a commit object.
func ParseCommit(raw []byte) (*Commit, error) {
	head, message, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		return nil, errors.New("the commit has no message")
	}
	c := &Commit{Message: string(message)}
	var kept []string
	inSignature, seen := false, false
	for line := range strings.SplitSeq(string(head), "\n") {
		if more, ok := strings.CutPrefix(line, " "); ok && inSignature {
			c.signature = append(append(c.signature, more...), '\n')
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		if inSignature = name == "gpgsig"; inSignature {
			if seen {
				return nil, errors.New("the commit has two signatures")
			}
			seen = true
			c.signature = append([]byte(value), '\n')
			continue
		}
		kept = append(kept, line)
		switch name {
		case "tree":
			c.Tree = value
		case "parent":
			c.Parents = append(c.Parents, value)
		case "committer":
			var err error
			if c.Committed, err = stamp(value); err != nil {
				return nil, fmt.Errorf("the commit's committer is %q", value)
			}
		}
	}
	c.payload = append([]byte(strings.Join(kept, "\n")+"\n\n"), message...)
	return c, nil
}

// stamp is the time in "Name <email> SECONDS ZONE".
func stamp(who string) (time.Time, error) {
	f := strings.Fields(who)
	if len(f) < 2 {
		return time.Time{}, errors.New("no time in it")
	}
	sec, err := strconv.ParseInt(f[len(f)-2], 10, 64)
	return time.Unix(sec, 0), err
}

// Signed adds a signature to a commit that has none.
func (c *Commit) Signed(key ssh.Signer) ([]byte, error) {
	if c.signature != nil {
		return nil, errors.New("the commit is signed already")
	}
	armored, err := Sign(key, c.payload)
	if err != nil {
		return nil, err
	}
	head, message, _ := bytes.Cut(c.payload, []byte("\n\n"))
	field := "\ngpgsig " + strings.ReplaceAll(strings.TrimSuffix(string(armored), "\n"), "\n", "\n ")
	return bytes.Join([][]byte{head, []byte(field), []byte("\n\n"), message}, nil), nil
}

// By names who signed the commit. It is an error when nobody did who may.
func (c *Commit) By(s *Signers) (string, error) {
	return s.by(c.signature, c.payload, c.Committed)
}

func (s *Signers) by(armored, message []byte, at time.Time) (string, error) {
	if armored == nil {
		return "", errors.New("it is not signed")
	}
	key, err := verify(armored, message)
	if err != nil {
		return "", err
	}
	return s.find(key, at)
}
