package bounded_test

import (
	"context"
	"errors"
	"testing"

	"holdfast.dev/internal/bounded"
)

func TestCallGivesWhatIsReturned(t *testing.T) {
	broken := errors.New("I/O error")
	if v, err := bounded.Call(t.Context(), func() (string, error) { return "part", broken }); v != "part" || !errors.Is(err, broken) {
		t.Errorf("got %q, %v", v, err)
	}
}

func TestHangingCallIsLeftBehind(t *testing.T) {
	silent := errors.New("no answer")
	hang, ended := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	v, err := bounded.Call(ctx, func() (int, error) {
		cancel(silent)
		<-hang
		defer close(ended)
		return 1, nil
	})
	if v != 0 || !errors.Is(err, silent) {
		t.Errorf("got %d, %v, want the cause", v, err)
	}
	close(hang)
	<-ended // it does not wait for a receiver
}
