package kernel

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
)

// literals finds which of a table's patterns may match a text, by the strings
// that each one requires. Most lines of a kernel log say nothing of disks: for
// them looking at every third place of the line is the whole cost.
//
// Wherever a string of seven bytes or more begins in a text, one of its pieces of
// five bytes begins at a place of the text that is divisible by three. Only these
// are looked up, in a set of such pieces that fits into the processor's nearest
// cache: for each string one at each distance, modulo three, from its beginning. A
// piece that is found is compared with the strings that it is of, so that nothing is
// missed and nothing is found that is not there.
type literals struct {
	pieces [1 << filterBits / 64]uint64 // a bit for each hash of a piece
	table  [1 << tableBits]slot         // open addressing; a slot without strings is free
	rest   []rest                       // of each pattern
}

const (
	filterBits = 17
	tableBits  = 13
	pieceSize  = 5
	step       = 3
	pieceMask  = 1<<(8*pieceSize) - 1
)

// slot are the strings that a piece is of.
type slot struct {
	piece uint64
	of    []placed
}

// placed is a string of the first sets, where the piece is in it, and the patterns
// whose first set has it.
type placed struct {
	text     []byte
	at       int
	patterns *patternSet
}

// patternSet has bit i for pattern i.
type patternSet [maxPatterns / 64]uint64

const maxPatterns = 512

func (s *patternSet) add(i int) { s[i/64] |= 1 << (i % 64) }

func (s *patternSet) or(o *patternSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// first takes out the first pattern; ok is false when there is none.
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

// hash is a multiplicative hash (Knuth, volume 3, 6.4) of a piece.
func hash(piece uint64) uint64 { return piece * 0x9e3779b97f4a7c15 }

func newLiterals(required []requirement) *literals {
	if len(required) > maxPatterns {
		panic("kernel: more patterns than bits") // a mistake in this package's own table
	}
	l := &literals{}
	patterns := map[string]*patternSet{}
	for i, r := range required {
		l.rest = append(l.rest, restOf(r))
		for _, s := range r.first {
			if patterns[s] == nil {
				patterns[s] = &patternSet{}
			}
			patterns[s].add(i)
		}
	}
	order := make([]string, 0, len(patterns))
	for s := range patterns {
		order = append(order, s)
	}
	slices.Sort(order) // so that every process has the same table
	likely := habits()
	for _, s := range order {
		for phase := range step {
			at, _ := rarest(s, phase, likely)
			l.insert(s, at, patterns[s])
		}
	}
	return l
}

// everyday is what the log of a sound machine says: what is in it is looked for only
// where there is a choice of nothing else. It matters to speed alone.
//
//go:embed everyday.txt
var everyday string

// habits says how often pieces are in everyday.
func habits() map[uint64]int {
	h := map[uint64]int{}
	for at := 0; at+pieceSize <= len(everyday); at++ {
		h[pieceAt(everyday, at)]++
	}
	return h
}

func pieceAt[T string | []byte](s T, at int) (piece uint64) {
	for i := range pieceSize {
		piece |= uint64(s[at+i]) << (8 * i)
	}
	return piece
}

// rarest is the offset, of those in a phase, of the piece of s that other lines are
// least likely to have, and how likely that is, in no unit.
func rarest(s string, phase int, habits map[uint64]int) (at, score int) {
	at, score = phase, -1
	for i := phase; i+pieceSize <= len(s); i += step {
		n := 1000 * habits[pieceAt(s, i)]
		for _, c := range []byte(s[i : i+pieceSize]) {
			if strings.IndexByte(" etaoinsrdlc", c) >= 0 { // the most frequent in English
				n++
			}
		}
		if score < 0 || n < score {
			at, score = i, n
		}
	}
	return at, score
}

// cost is how likely other lines are to have pieces of a set's strings, in no unit.
func cost(set []string, habits map[uint64]int) (sum int) {
	for _, s := range set {
		for phase := range step {
			_, score := rarest(s, phase, habits)
			sum += score
		}
	}
	return sum
}

func (l *literals) insert(s string, at int, patterns *patternSet) {
	piece := pieceAt(s, at)
	h := hash(piece)
	bit := h >> (64 - filterBits)
	l.pieces[bit/64] |= 1 << (bit % 64)
	i := h >> (64 - tableBits)
	for probes := 0; l.table[i].of != nil && l.table[i].piece != piece; probes++ {
		if probes > len(l.table)/2 {
			panic("kernel: too many strings for the table") // a mistake in this package's own table
		}
		i = (i + 1) % uint64(len(l.table))
	}
	l.table[i].piece = piece
	l.table[i].of = append(l.table[i].of, placed{text: []byte(s), at: at, patterns: patterns})
}

// in returns the patterns of whose first sets a text has a string.
func (l *literals) in(text []byte) (got patternSet) {
	p := 0
	for ; p+8 <= len(text); p += step {
		h := hash(binary.LittleEndian.Uint64(text[p:]) & pieceMask)
		if bit := h >> (64 - filterBits); l.pieces[bit/64]&(1<<(bit%64)) != 0 {
			l.compare(text, p, h, &got)
		}
	}
	for ; p+pieceSize <= len(text); p += step {
		h := hash(pieceAt(text, p))
		if bit := h >> (64 - filterBits); l.pieces[bit/64]&(1<<(bit%64)) != 0 {
			l.compare(text, p, h, &got)
		}
	}
	return got
}

// next takes out the first pattern whose whole requirement the text meets; ok is false
// when there is none.
func (l *literals) next(got *patternSet, text []byte) (i int, ok bool) {
	for i, ok = got.first(); ok && !l.rest[i].met(text); i, ok = got.first() {
	}
	return i, ok
}

// rest is what a text needs beside a string of a first set: as bytes, for a string
// would be copied each time that it is looked for.
type rest struct {
	begin [][]byte
	sets  [][][]byte
}

func restOf(r requirement) (out rest) {
	for _, s := range r.begin {
		out.begin = append(out.begin, []byte(s))
	}
	for _, set := range r.rest {
		var bs [][]byte
		for _, s := range set {
			bs = append(bs, []byte(s))
		}
		out.sets = append(out.sets, bs)
	}
	return out
}

// met says whether a text has it.
func (r *rest) met(text []byte) bool {
	if r.begin != nil && !slices.ContainsFunc(r.begin, func(s []byte) bool { return bytes.HasPrefix(text, s) }) {
		return false
	}
	for _, set := range r.sets {
		if !slices.ContainsFunc(set, func(s []byte) bool { return bytes.Contains(text, s) }) {
			return false
		}
	}
	return true
}

// compare adds the patterns of the strings that the piece at p is of.
func (l *literals) compare(text []byte, p int, h uint64, got *patternSet) {
	piece := pieceAt(text, p)
	for i := h >> (64 - tableBits); l.table[i].of != nil; i = (i + 1) % uint64(len(l.table)) {
		if l.table[i].piece != piece {
			continue
		}
		for j := range l.table[i].of {
			if s := &l.table[i].of[j]; p >= s.at && bytes.HasPrefix(text[p-s.at:], s.text) {
				got.or(s.patterns)
			}
		}
		return
	}
}
