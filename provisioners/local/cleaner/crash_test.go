package cleaner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/provisioners/local/wipe"
)

// life runs a process of the cleaner until it ends or is killed.
func (w *world) life(uuid string, method wipe.Method) (killed bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(error); !ok || !errors.Is(e, errKilled) {
				panic(r)
			}
			killed = true
		}
	}()
	c, cluster := w.cleaning(method)
	p := w.parts[uuid]
	err = c.Run(context.Background(), w.object(uuid).Name)
	if p.spec.Filesystem == "" && !w.offerable(uuid) { // what the controller does with a raw partition that has no volume
		if clean, perr := w.prover(cluster).Run(context.Background(), p.disk, p.spec); perr == nil && clean {
			err = nil
		}
	}
	return false, err
}

// TestKillAtEveryBoundary kills the cleaner once at each boundary of each effect,
// and at each pair of them, and starts it again. The partition is never offered
// with a tenant's byte on it, it is offered in the end, and no other partition
// changes.
func TestKillAtEveryBoundary(t *testing.T) {
	for _, method := range []wipe.Method{wipe.Discard, wipe.Zero} {
		for _, uuid := range []string{uuidFS, uuidRaw} {
			t.Run(fmt.Sprintf("%s/%s", method, uuid), func(t *testing.T) {
				boundaries := 0
				w := newWorld(t, interceptor.Funcs{})
				w.volume(uuid)
				w.at = func(string) { boundaries++ }
				if killed, err := w.life(uuid, method); killed || err != nil {
					t.Fatalf("undisturbed: %v", err)
				}
				if boundaries < 12 {
					t.Fatalf("only %d boundaries: the test proves nothing", boundaries)
				}
				runs := 0
				for first := 1; first <= boundaries; first++ {
					for second := 0; second <= boundaries; second += 1 + boundaries/5 {
						killAt(t, uuid, method, first, second)
						runs++
					}
				}
				t.Logf("%d boundaries, %d runs", boundaries, runs)
			})
		}
	}
}

func killAt(t *testing.T, uuid string, method wipe.Method, kills ...int) {
	w := newWorld(t, interceptor.Funcs{})
	w.parts[uuid].noTrim = kills[0]%3 == 0 // a discard that was told as done and is not
	w.volume(uuid)
	before := map[string]string{}
	for id, p := range w.parts {
		before[id] = p.sum()
	}
	life, n := 0, 0
	w.at = func(boundary string) {
		if w.offerable(uuid) && w.parts[uuid].residue() {
			t.Fatalf("kills %v, life %d, %s: offered with a tenant's data", kills, life, boundary)
		}
		if n++; life < len(kills) && n == kills[life] {
			panic(fmt.Errorf("%w at %s", errKilled, boundary))
		}
	}
	for ; life < len(kills)+3; life++ {
		n = 0
		killed, err := w.life(uuid, method)
		if w.offerable(uuid) && w.parts[uuid].residue() {
			t.Fatalf("kills %v: offered with a tenant's data", kills)
		}
		if !killed && err == nil {
			break
		}
	}
	p := w.parts[uuid]
	switch {
	case !w.offerable(uuid):
		t.Errorf("kills %v: not offered in the end", kills)
	case p.residue():
		t.Errorf("kills %v: a tenant's byte is left", kills)
	case p.spec.Filesystem != "" && !bytes.HasPrefix(p.data, header("of-"+uuid)):
		t.Errorf("kills %v: the file system has not got its UUID back: %q", kills, p.data[:64])
	}
	for id, sum := range before {
		if id != uuid && w.parts[id].sum() != sum {
			t.Errorf("kills %v: partition %s changed", kills, id)
		}
	}
}

// The record is lost with the node's own disk; the volume still is Released. All is done again.
func TestNodeMadeAnewInTheMiddle(t *testing.T) {
	for _, uuid := range []string{uuidFS, uuidRaw} {
		w := newWorld(t, interceptor.Funcs{})
		w.volume(uuid)
		n := 0
		w.at = func(boundary string) {
			if n++; n == 7 {
				panic(errKilled)
			}
		}
		if killed, _ := w.life(uuid, wipe.Discard); !killed {
			t.Fatal("not killed")
		}
		w.dir, w.at = t.TempDir(), func(string) {}
		w.parts[uuid].mounted = false
		var refused *Refusal
		if _, err := w.life(uuid, wipe.Discard); !errors.As(err, &refused) || refused.Reason != ReasonNeverBound {
			t.Errorf("a node that knows nothing of the volume: %v", err)
		}
		w.approve(uuid)
		if _, err := w.life(uuid, wipe.Discard); err != nil || !w.offerable(uuid) || w.parts[uuid].residue() {
			t.Errorf("%s: %v, offerable %v, residue %v", uuid, err, w.offerable(uuid), w.parts[uuid].residue())
		}
	}
}

// A raw partition without volume and certificate is offered only when it was read
// as zero to its last byte, and never written to.
func TestProof(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*part)
		clean  bool
	}{
		"Zero":   {"a new partition, or one whose certificate was lost after it was cleaned", func(p *part) { clear(p.data) }, true},
		"Full":   {"a node made anew with a tenant's disk", func(*part) {}, false},
		"Last":   {"one byte, the last", func(p *part) { clear(p.data); p.data[size-1] = 1 }, false},
		"First":  {"one byte, the first", func(p *part) { clear(p.data); p.data[0] = 1 }, false},
		"Pinned": {"somebody has it", func(p *part) { clear(p.data); p.pinned = []string{"process 1"} }, false},
		"Twin":   {"two disks say that they are it", func(p *part) { clear(p.data); p.lies = func(s *Sight) { s.Disks = 2 } }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, interceptor.Funcs{})
			p := w.parts[uuidRaw]
			tc.change(p)
			before := p.sum()
			_, cluster := w.cleaning(wipe.Discard)
			clean, err := w.prover(cluster).Run(t.Context(), p.disk, p.spec)
			if clean != tc.clean || w.offerable(uuidRaw) != tc.clean {
				t.Errorf("clean %v, offerable %v, %v; reason: %s", clean, w.offerable(uuidRaw), err, tc.reason)
			}
			if p.sum() != before {
				t.Error("it was written to")
			}
		})
	}
	w := newWorld(t, interceptor.Funcs{})
	clear(w.parts[uuidRaw].data)
	w.volume(uuidRaw)
	_, cluster := w.cleaning(wipe.Discard)
	if clean, err := w.prover(cluster).Run(t.Context(), w.parts[uuidRaw].disk, w.parts[uuidRaw].spec); clean || err == nil {
		t.Error("a partition whose volume stands was certified")
	}
}
