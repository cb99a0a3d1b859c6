// Package wait polls for what has no event to wait for, with a deadline and an
// error that says what was waited for.
package wait

import (
	"context"
	"fmt"
	"time"
)

const (
	// shortest is the time between the first two looks. Later ones come after a
	// hundredth of the time that has gone by: what is measured is right to 1 %,
	// and what takes minutes is not asked thousands of times.
	shortest = 20 * time.Millisecond
	longest  = time.Second
)

// Until polls f until it returns true without an error, and returns how long
// that took. After timeout the error names what was waited for and holds the
// last error of f. The end of ctx ends it, with ctx's error.
func Until(ctx context.Context, timeout time.Duration, what string, f func() (bool, error)) (time.Duration, error) {
	start := time.Now()
	deadline := start.Add(timeout)
	for {
		ok, err := f()
		if ok && err == nil {
			return time.Since(start), nil
		}
		if time.Now().After(deadline) {
			if err != nil {
				return 0, fmt.Errorf("%s: not within %s: %w", what, timeout, err)
			}
			return 0, fmt.Errorf("%s: not within %s", what, timeout)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(min(max(shortest, time.Since(start)/100), longest)):
		}
	}
}

// T is what For needs of a test: *testing.T has it.
type T interface {
	Helper()
	Fatal(args ...any)
}

// For is Until in a test, which fails when f has not returned true after timeout.
func For(t T, timeout time.Duration, what string, f func() bool) {
	t.Helper()
	// Not the test's own context, which has ended when its cleanups wait.
	if _, err := Until(context.Background(), timeout, what, func() (bool, error) { return f(), nil }); err != nil {
		t.Fatal(err)
	}
}
