package nodeevent_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"holdfast.dev/internal/nodeevent"
)

func TestNote(t *testing.T) {
	s := nodeevent.Source{Component: "cleaner", Node: "n1"}
	cases := map[string]struct{ reason, note, want string }{
		"Short": {"what fits stays", "disk é", "disk é"},
		"Long":  {"the API server refuses more than 1024 bytes", strings.Repeat("x", 2000), strings.Repeat("x", 1000)},
		"Rune":  {"and bytes that are no text: no rune is cut in half", "x" + strings.Repeat("é", 600), "x" + strings.Repeat("é", 499)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := s.New(time.Unix(1, 0), "v", corev1.EventTypeWarning, "Clean", "Kept", tc.note)
			if e.Note != tc.want || !utf8.ValidString(e.Note) {
				t.Errorf("note of %d bytes, want %d; reason: %s", len(e.Note), len(tc.want), tc.reason)
			}
		})
	}
}

// TestKubectlShowsIt: "kubectl describe node" looks for the UID that the kubelet gives, the
// node's name.
func TestKubectlShowsIt(t *testing.T) {
	e := nodeevent.Source{Component: "cleaner", Node: "n1"}.New(time.Unix(1, 0), "v", corev1.EventTypeNormal, "Clean", "Cleaned", "")
	if r := e.Regarding; r.Kind != "Node" || r.Name != "n1" || r.UID != "n1" || e.Namespace != "default" || e.GenerateName != "v-" {
		t.Errorf("got %+v", e)
	}
}
