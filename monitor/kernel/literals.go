package kernel

import (
	"math/bits"
	"slices"
	"strings"
)

// literals finds which of a table's patterns may match a text, by the strings
// that each one requires, in one pass (Aho and Corasick, 1975). Most lines of a
// kernel log say nothing of disks: for them this pass is the whole cost.
type literals struct {
	class [256]uint8 // of a byte: 0 when no literal has it
	width uint32
	// next[state+class] is the state that follows; a state is the index of its
	// row, with the flag ends when literals end in it.
	next []uint32
	// found are the patterns, by the row of a state in which their literals end.
	found map[uint32]*halves
	// alone are the patterns that require one string, not two.
	alone patternSet
}

const ends = 1 << 31

// halves are the patterns of whose first, and of whose second set a literal is there.
type halves [2]patternSet

// patternSet has bit i for pattern i.
type patternSet [maxPatterns / 64]uint64

const maxPatterns = 512

func (s *patternSet) add(i int) { s[i/64] |= 1 << (i % 64) }

func (s *patternSet) or(o *patternSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// first takes the first pattern out; ok is false when there is none.
func (s *patternSet) first() (i int, ok bool) {
	for w := range s {
		if s[w] != 0 {
			i := bits.TrailingZeros64(s[w])
			s[w] &= s[w] - 1
			return 64*w + i, true
		}
	}
	return 0, false
}

func newLiterals(required []requirement) *literals {
	if len(required) > maxPatterns {
		panic("kernel: more patterns than bits") // a mistake in this package's own table
	}
	l := &literals{width: 1, found: map[uint32]*halves{}}
	for _, r := range required {
		for _, c := range []byte(strings.Join(slices.Concat(r[0], r[1]), "")) {
			if l.class[c] == 0 {
				l.class[c] = uint8(l.width)
				l.width++
			}
		}
	}
	l.state()
	for i, r := range required {
		if len(r[1]) == 0 {
			l.alone.add(i)
		}
		for half, set := range r {
			for _, w := range set {
				s := l.branch(w)
				if l.found[s] == nil {
					l.found[s] = &halves{}
				}
				l.found[s][half].add(i)
			}
		}
	}
	l.link()
	return l
}

// branch is the state in which a word ends.
func (l *literals) branch(word string) uint32 {
	s := uint32(0)
	for _, c := range []byte(word) {
		at := s + uint32(l.class[c])
		if l.next[at] == 0 {
			l.next[at] = l.state()
		}
		s = l.next[at]
	}
	return s
}

func (l *literals) state() uint32 {
	row := uint32(len(l.next))
	l.next = append(l.next, make([]uint32, l.width)...)
	return row
}

// link turns the tree into an automaton: where a branch ends, it goes on in
// the state of the longest suffix that is a branch too.
func (l *literals) link() {
	fail := map[uint32]uint32{}
	var queue []uint32
	for c := range l.width {
		if s := l.next[c]; s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if up := l.found[fail[s]]; up != nil {
			if l.found[s] == nil {
				l.found[s] = &halves{}
			}
			l.found[s][0].or(&up[0])
			l.found[s][1].or(&up[1])
		}
		for c := range l.width {
			at, alt := s+c, l.next[fail[s]+c]
			if n := l.next[at]; n != 0 {
				fail[n] = alt
				queue = append(queue, n)
			} else {
				l.next[at] = alt
			}
		}
	}
	for i, s := range l.next {
		if l.found[s] != nil {
			l.next[i] = s | ends
		}
	}
}

// in returns the patterns that may match a text.
func (l *literals) in(text []byte) patternSet {
	var got halves
	any := false
	next, s := l.next, uint32(0)
	for _, c := range text {
		s = next[s+uint32(l.class[c])]
		if s&ends != 0 {
			s &^= ends
			f := l.found[s]
			got[0].or(&f[0])
			got[1].or(&f[1])
			any = true
		}
	}
	if any {
		got[1].or(&l.alone)
		for i := range got[0] {
			got[0][i] &= got[1][i]
		}
	}
	return got[0]
}
