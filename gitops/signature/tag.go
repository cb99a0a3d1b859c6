package signature

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Tag is an annotated tag, as much of it as is looked at. The name is inside of what
// is signed, so that one tag cannot be passed off as another.
type Tag struct {
	Object, Name string
	Tagged       time.Time

	payload   []byte // without the signature
	signature []byte
}

// ParseTag reads the content of a tag object. Its signature is what follows the last
// line that begins one, as git has it (gitformat-signature(5)).
func ParseTag(raw []byte) (*Tag, error) {
	head, _, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		return nil, errors.New("the tag has no message")
	}
	t := &Tag{payload: raw}
	if at := bytes.LastIndex(raw, []byte("\n-----BEGIN "+pemType+"-----")); at >= len(head) {
		t.payload, t.signature = raw[:at+1], raw[at+1:]
	}
	for line := range strings.SplitSeq(string(head), "\n") {
		name, value, _ := strings.Cut(line, " ")
		switch name {
		case "object":
			t.Object = value
		case "tag":
			t.Name = value
		case "tagger":
			var err error
			if t.Tagged, err = stamp(value); err != nil {
				return nil, fmt.Errorf("the tag's tagger is %q", value)
			}
		}
	}
	return t, nil
}

// By names who signed the tag. It is an error when nobody did who may.
func (t *Tag) By(s *Signers) (string, error) {
	return s.by(t.signature, t.payload, t.Tagged)
}
