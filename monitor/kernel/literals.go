package kernel

import (
	"math"
	"math/bits"
)

// literals finds which of up to 256 strings are in a text, in one pass
// (Aho and Corasick, 1975). Most lines of a kernel log say nothing of disks:
// for them this pass is the whole cost.
type literals struct {
	class [256]uint8 // of a byte: 0 when no literal has it
	width int
	next  []uint16     // next[state*width+class]
	ends  []uint16     // by state: index of the set of literals that end in it, 0 when none does
	sets  []literalSet // the first is empty
}

// literalSet has bit i for literal i.
type literalSet [4]uint64

const maxLiterals = 256

func (s *literalSet) add(i int) { s[i/64] |= 1 << (i % 64) }

func (s *literalSet) or(o *literalSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// first takes the lowest literal out; ok is false when there is none.
func (s *literalSet) first() (i int, ok bool) {
	for w := range s {
		if s[w] != 0 {
			i := bits.TrailingZeros64(s[w])
			s[w] &= s[w] - 1
			return 64*w + i, true
		}
	}
	return 0, false
}

func newLiterals(words []string) *literals {
	if len(words) > maxLiterals {
		panic("kernel: more literals than bits") // a mistake in this package's own table
	}
	l := &literals{width: 1}
	for _, w := range words {
		for _, c := range []byte(w) {
			if l.class[c] == 0 {
				l.class[c] = uint8(l.width)
				l.width++
			}
		}
	}
	l.state()
	found := map[int]*literalSet{}
	for i, w := range words {
		s := 0
		for _, c := range []byte(w) {
			at := s*l.width + int(l.class[c])
			if l.next[at] == 0 {
				l.next[at] = uint16(l.state())
			}
			s = int(l.next[at])
		}
		if found[s] == nil {
			found[s] = &literalSet{}
		}
		found[s].add(i)
	}
	l.link(found)
	return l
}

func (l *literals) state() int {
	l.next = append(l.next, make([]uint16, l.width)...)
	l.ends = append(l.ends, 0)
	if len(l.ends) > math.MaxUint16 {
		panic("kernel: more states than numbers") // as above
	}
	return len(l.ends) - 1
}

// link turns the tree into an automaton: where a branch ends, it goes on in
// the state of the longest suffix that is a branch too.
func (l *literals) link(found map[int]*literalSet) {
	fail := make([]int, len(l.ends))
	l.sets = make([]literalSet, 1)
	var queue []int
	for c := range l.width {
		if s := int(l.next[c]); s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		var all literalSet
		all.or(&l.sets[l.ends[fail[s]]])
		if own := found[s]; own != nil {
			all.or(own)
		}
		if all != (literalSet{}) {
			l.ends[s] = uint16(len(l.sets))
			l.sets = append(l.sets, all)
		}
		for c := range l.width {
			at, alt := s*l.width+c, l.next[fail[s]*l.width+c]
			if n := int(l.next[at]); n != 0 {
				fail[n] = int(alt)
				queue = append(queue, n)
			} else {
				l.next[at] = alt
			}
		}
	}
}

// in returns the literals that are in text.
func (l *literals) in(text []byte) literalSet {
	var got literalSet
	s := 0
	for _, c := range text {
		s = int(l.next[s*l.width+int(l.class[c])])
		if e := l.ends[s]; e != 0 {
			got.or(&l.sets[e])
		}
	}
	return got
}
