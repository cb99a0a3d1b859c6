package addons_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The remediation controller and the local volume cleaner served their metrics on one port: with
// the host's network one of them would not start, and a rule for one let through the other.
func TestEachDaemonHasAPortOfItsOwn(t *testing.T) {
	port := regexp.MustCompile(`--metrics-address=\S*:(\d+)`)
	files, err := filepath.Glob("../salt/states/*/files/*.jinja")
	if err != nil || len(files) == 0 {
		t.Fatalf("manifests %v, %v", files, err)
	}
	// A value may say the port as well.
	value := regexp.MustCompile(`(?m)^  \w*Port: \{type: int, default: (\d+)`)
	values, err := filepath.Glob("*/addon.yaml")
	if err != nil || len(values) == 0 {
		t.Fatalf("addons %v, %v", values, err)
	}
	of := map[string]string{}
	for _, name := range append(files, values...) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range append(port.FindAllSubmatch(data, -1), value.FindAllSubmatch(data, -1)...) {
			if other := of[string(m[1])]; other != "" && other != name {
				t.Errorf("port %s is of %s and %s", m[1], other, name)
			}
			of[string(m[1])] = name
		}
	}
	if len(of) < 4 {
		t.Errorf("only %d daemons with a port were found", len(of))
	}
}
