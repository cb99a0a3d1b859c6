package lvm

import "sync"

// keyLock lets one call at a time work on a key. Who comes second is told so and
// comes again: CSI's callers retry.
type keyLock struct {
	mu   sync.Mutex
	held map[string]bool
}

func (l *keyLock) try(key string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key] {
		return nil, false
	}
	if l.held == nil {
		l.held = map[string]bool{}
	}
	l.held[key] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
	}, true
}
