package nodeprep

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
)

// token lets a person give up what is on one disk. It is bound to the node, to
// the disk's id, to exactly what was found on it, and to how often a token was
// used for the disk: none works twice. It guards against mistakes and not
// against root.
func (s *State) token(id string, c *Content) string {
	mac := hmac.New(sha256.New, []byte(s.Secret))
	last := ""
	if w := s.Wipes[id]; w != nil {
		last = w.Nonce
	}
	for _, part := range []string{id, c.Digest(), last} {
		mac.Write([]byte(part + "\x00"))
	}
	t := strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil))[:12])
	return t[:4] + "-" + t[4:8] + "-" + t[8:]
}

// authorised says whether the token gives up what is on the disk now: it is the
// disk's own, or the one whose wipe was begun and that finds nothing new. Where the id is
// weak, that is another drive's token, unless the disk was open ever since.
func (s *State) authorised(id, token string, c *Content) bool {
	if token == "" {
		return false
	}
	if hmac.Equal([]byte(token), []byte(s.token(id, c))) {
		return true
	}
	w := s.Wipes[id]
	if w == nil || w.Phase != Begun || c.Weak && !c.kept || !hmac.Equal([]byte(token), []byte(w.Token)) {
		return false
	}
	for _, t := range c.traces() {
		if !slices.Contains(w.Traces, t) {
			return false
		}
	}
	return true
}
