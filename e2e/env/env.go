// Package env reads what a person asks of a test through the environment.
package env

import (
	"os"
	"strconv"
	"testing"
)

// Number is what a variable says, or otherwise when it is not set. What is no number fails
// the test.
func Number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
