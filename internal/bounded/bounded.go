// Package bounded calls what may hang in the kernel: a read of a dying disk, of a mount
// whose server is gone.
package bounded

import "context"

// Call returns what f returns, or the cause of ctx's end when that comes first. f is left
// behind then: it costs a goroutine until the kernel lets it go, and what it returns is lost.
func Call[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1) // nobody may be there to receive
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}
