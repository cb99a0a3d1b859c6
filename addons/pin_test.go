package addons_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/addons"
)

const pinHead = "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: a\nversion: 0.1.0\nsummary: s\nupgradeNotes: n\n"

func TestPin(t *testing.T) {
	const from, to = "r.example/a:v1", "r.example/a:v1@sha256:0123456789012345678901234567890123456789012345678901234567890123"
	pin := func(image string) (string, error) {
		if strings.HasSuffix(image, ":bad") {
			return "", errors.New("no such image")
		}
		return strings.Replace(image, from, to, 1), nil
	}
	for reason, tc := range map[string]struct{ in, want, err string }{
		"nothing to pin":           {in: "images: {}\n", want: "images: {}\n"},
		"no images":                {in: "", want: ""},
		"plain, with a comment":    {in: "images:\n  x:  FROM  # FROM\n", want: "images:\n  x:  TO  # FROM\n"},
		"several in one line":      {in: "images: {ä: 'FROM', y: FROM, z: \"FROM\"}  \n", want: "images: {ä: 'TO', y: TO, z: \"TO\"}  \n"},
		"CRLF and no end of line":  {in: "images:\r\n  x: FROM", want: "images:\r\n  x: TO"},
		"elsewhere the text stays": {in: "images:\n  x: FROM\nvalues:\n  v: {type: string, default: FROM, doc: d}\n", want: "images:\n  x: TO\nvalues:\n  v: {type: string, default: FROM, doc: d}\n"},
		"quoted keys":              {in: "\"images\": {\"FROM\": \"FROM\"}\n", want: "\"images\": {\"FROM\": \"TO\"}\n"},
		"an anchor and its alias":  {in: "images:\n  x: &i FROM\n  y: *i\n", err: "f:8: the image x is not written as one plain or quoted text"},
		"an escape":                {in: "images: {x: \"r.example/\\x61:v1\"}\n", err: "f:7: the image x is not written"},
		"folded":                   {in: "images:\n  x: >-\n    FROM\n", err: "f:8: the image x is not written"},
		"one that cannot be":       {in: "images:\n  x: FROM\n  y: r.example/a:bad\n", err: "f:9: no such image"},
		"not an addon":             {in: "imagse: {}\n", err: "f:7: unknown field \"imagse\""},
	} {
		t.Run(reason, func(t *testing.T) {
			fill := func(s string) string { return strings.NewReplacer("FROM", from, "TO", to).Replace(s) }
			out, found, err := addons.Pin("f", []byte(pinHead+fill(tc.in)), pin)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || out != nil {
					t.Errorf("%q, %v; want only the error %q", out, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(pinHead+fill(tc.want), string(out)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if n := strings.Count(tc.want, "TO"); len(found) != n {
				t.Errorf("%d images found, want %d: %v", len(found), n, found)
			}
		})
	}
}
