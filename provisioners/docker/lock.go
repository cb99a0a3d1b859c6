package docker

import (
	"context"
	"fmt"
	"sync"

	"holdfast.dev/provisioners/lvm"
)

// locks are one lock for each volume. Docker starts containers side by side, and
// does not come again by itself: who comes second waits.
type locks struct {
	mu   sync.Mutex
	held map[string]*held
}

type held struct {
	turn  chan struct{}
	users int
}

// lock waits for the volume's turn, at most as long as ctx.
func (l *locks) lock(ctx context.Context, lv string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*held{}
	}
	h := l.held[lv]
	if h == nil {
		h = &held{turn: make(chan struct{}, 1)}
		l.held[lv] = h
	}
	h.users++
	l.mu.Unlock()
	select {
	case h.turn <- struct{}{}:
		return func() { <-h.turn; l.leave(lv, h) }, nil
	default:
	}
	select {
	case h.turn <- struct{}{}:
		return func() { <-h.turn; l.leave(lv, h) }, nil
	case <-ctx.Done():
		l.leave(lv, h)
		return nil, fmt.Errorf("%w (it is waited for no longer; try again)", lvm.ErrBusy)
	}
}

// try takes the lock only when nobody has it or waits for it.
func (l *locks) try(lv string) (unlock func(), ok bool) {
	l.mu.Lock()
	busy := l.held[lv] != nil
	l.mu.Unlock()
	if busy {
		return nil, false
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := l.lock(ctx, lv)
	return unlock, err == nil
}

func (l *locks) leave(lv string, h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, lv)
	}
}
