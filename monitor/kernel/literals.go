package kernel

// literals finds which of up to 64 strings are in a text, in one pass
// (Aho and Corasick, 1975). Most lines of a kernel log say nothing of disks:
// for them this pass is the whole cost.
type literals struct {
	class [256]uint8 // of a byte: 0 when no literal has it
	width int
	next  []uint16 // next[state*width+class]
	found []uint64 // bit i: literal i ends in this state
}

const maxLiterals = 64

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
	for i, w := range words {
		s := 0
		for _, c := range []byte(w) {
			at := s*l.width + int(l.class[c])
			if l.next[at] == 0 {
				l.next[at] = uint16(l.state())
			}
			s = int(l.next[at])
		}
		l.found[s] |= 1 << i
	}
	l.link()
	return l
}

func (l *literals) state() int {
	l.next = append(l.next, make([]uint16, l.width)...)
	l.found = append(l.found, 0)
	return len(l.found) - 1
}

// link turns the tree into an automaton: where a branch ends, it goes on in
// the state of the longest suffix that is a branch too.
func (l *literals) link() {
	fail := make([]int, len(l.found))
	var queue []int
	for c := range l.width {
		if s := int(l.next[c]); s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		l.found[s] |= l.found[fail[s]]
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

// in returns a bit for each literal in text.
func (l *literals) in(text []byte) uint64 {
	var got uint64
	s := 0
	for _, c := range text {
		s = int(l.next[s*l.width+int(l.class[c])])
		got |= l.found[s]
	}
	return got
}
