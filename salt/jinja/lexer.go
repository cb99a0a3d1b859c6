package jinja

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast.dev/internal/strictyaml"
)

// kind of a token or of a piece of a template.
type kind int

const (
	kindEnd kind = iota // the tag's closing delimiter
	kindName
	kindString
	kindInt
	kindFloat
	kindOp
)

// token is one word of an expression.
type token struct {
	kind kind
	val  string // decoded for strings
	line int
}

// describe names the token in an error.
func (t token) describe() string {
	if t.kind == kindEnd {
		return "the end of the tag"
	}
	return strconv.Quote(t.val)
}

// piece is one stretch of a template: text, or the words of one tag.
type piece struct {
	tag   byte // 0 text, '{' output, '%' statement
	text  string
	line  int // of the first byte
	words []token
}

// layout is how the whitespace around tags is treated; Salt's default is not at all.
type layout struct {
	trimBlocks   bool // the newline after a statement is dropped
	lstripBlocks bool // the whitespace before a statement that begins a line is dropped
}

// scanner cuts a template into pieces.
type scanner struct {
	file  string
	src   string
	pos   int
	line  int
	strip bool // the tag before ended in "-": whitespace after it is dropped
	trim  bool // the newline after the tag before is dropped
	layout
	out []piece
}

// excerpt returns the source line with that number, shortened, for error texts.
func excerpt(src string, line int) string {
	for n := 1; ; n++ {
		l, rest, more := strings.Cut(src, "\n")
		if n == line {
			l = strings.TrimSpace(l)
			if len(l) > 80 {
				cut := 77
				for !utf8.RuneStart(l[cut]) {
					cut--
				}
				l = l[:cut] + "..."
			}
			return l
		}
		if !more {
			return ""
		}
		src = rest
	}
}

func fault(file, src string, line int, msg, hint string) error {
	if e := excerpt(src, line); e != "" {
		msg += ", in `" + e + "`"
	}
	msg = strings.ReplaceAll(msg, "\n", `\n`) // a fault is one line
	return &strictyaml.Error{File: file, Line: line, Msg: msg, Hint: strings.ReplaceAll(hint, "\n", `\n`)}
}

func (s *scanner) fault(line int, msg, hint string) error {
	return fault(s.file, s.src, line, msg, hint)
}

// scan cuts src into pieces. Line endings are "\n" already.
func scan(file, src string, l layout) ([]piece, error) {
	s := &scanner{file: file, src: src, line: 1, layout: l}
	for s.pos < len(src) {
		open := nextTag(src[s.pos:])
		if open < 0 {
			s.addText(src[s.pos:], ' ')
			break
		}
		tagAt := s.pos + open
		text := src[s.pos:tagAt]
		s.addText(text, s.lead(tagAt))
		s.pos = tagAt
		if err := s.tag(); err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

// nextTag is the offset of the next "{{", "{%" or "{#", or -1.
func nextTag(src string) int {
	for at := 0; ; {
		i := strings.IndexByte(src[at:], '{')
		if i < 0 || at+i+1 >= len(src) {
			return -1
		}
		switch src[at+i+1] {
		case '{', '%', '#':
			return at + i
		}
		at += i + 1
	}
}

// lead is what the tag there does to the whitespace before it: '-' drops it all,
// '<' that of its line, anything else none.
func (s *scanner) lead(tagAt int) byte {
	mark := byte(' ')
	if tagAt+2 < len(s.src) {
		mark = s.src[tagAt+2]
	}
	if mark != '-' && mark != '+' && s.lstripBlocks && s.src[tagAt+1] != '{' {
		return '<'
	}
	return mark
}

// addText adds text, stripped as the tags on both sides demand, and moves on.
func (s *scanner) addText(text string, lead byte) {
	keep, line := text, s.line
	if s.strip {
		keep = strings.TrimLeft(text, whitespace)
		line += strings.Count(text[:len(text)-len(keep)], "\n")
	}
	if s.trim && strings.HasPrefix(keep, "\n") {
		keep, line = keep[1:], line+1
	}
	s.strip, s.trim = false, false
	switch lead {
	case '-':
		keep = strings.TrimRight(keep, whitespace)
	case '<':
		if bare := strings.TrimRight(keep, " \t"); strings.HasSuffix(bare, "\n") || bare == "" && (s.pos == 0 || s.src[s.pos-1] == '\n') {
			keep = bare
		}
	}
	if keep != "" {
		s.out = append(s.out, piece{text: keep, line: line})
	}
	s.advance(len(text))
}

const whitespace = " \t\n\r\v\f"

// advance moves n bytes on and counts lines.
func (s *scanner) advance(n int) {
	s.line += strings.Count(s.src[s.pos:s.pos+n], "\n")
	s.pos += n
}

// tag reads one tag that begins at s.pos.
func (s *scanner) tag() error {
	sort, line := s.src[s.pos+1], s.line
	s.advance(2)
	if s.pos < len(s.src) && (s.src[s.pos] == '-' || s.src[s.pos] == '+') {
		s.advance(1)
	}
	if sort == '#' {
		return s.comment(line)
	}
	words, err := s.words(sort, line)
	if err != nil {
		return err
	}
	if sort == '%' && len(words) == 2 && words[0].val == "raw" {
		return s.raw(line)
	}
	s.out = append(s.out, piece{tag: sort, line: line, words: words})
	return nil
}

func (s *scanner) comment(line int) error {
	end := strings.Index(s.src[s.pos:], "#}")
	if end < 0 {
		return s.fault(line, "the comment is not closed", "add #}")
	}
	s.strip = end > 0 && s.src[s.pos+end-1] == '-'
	s.trim = s.trimBlocks && (end == 0 || s.src[s.pos+end-1] != '+')
	s.advance(end + 2)
	return nil
}

// raw copies everything up to {% endraw %} as text.
func (s *scanner) raw(line int) error {
	for at := s.pos; ; {
		i := strings.Index(s.src[at:], "{%")
		if i < 0 {
			return s.fault(line, "raw is not closed", "add {% endraw %}")
		}
		at += i
		inner := s.src[at+2:]
		lead := s.lead(at)
		inner = strings.TrimLeft(strings.TrimLeft(inner, "-+"), whitespace)
		rest, ok := strings.CutPrefix(inner, "endraw")
		if !ok {
			at += 2
			continue
		}
		rest = strings.TrimLeft(rest, whitespace)
		tail := strings.HasPrefix(rest, "-")
		rest, ok = strings.CutPrefix(strings.TrimLeft(rest, "-+"), "%}")
		if !ok {
			return s.fault(line, "endraw is not closed", "write {% endraw %}")
		}
		s.addText(s.src[s.pos:at], lead)
		s.advance(len(s.src) - len(rest) - s.pos)
		s.strip, s.trim = tail, s.trimBlocks
		return nil
	}
}

// words reads the words of a tag up to its closing delimiter.
func (s *scanner) words(sort byte, line int) ([]token, error) {
	closing := "}}"
	if sort == '%' {
		closing = "%}"
	}
	var words []token
	var open []byte
	for {
		if len(open) == 0 {
			rest := s.src[s.pos:]
			bare, minus := strings.CutPrefix(rest, "-")
			plus := false
			if !minus && sort == '%' {
				bare, plus = strings.CutPrefix(rest, "+")
			}
			if strings.HasPrefix(bare, closing) {
				words = append(words, token{kind: kindEnd, line: s.line})
				s.advance(len(rest) - len(bare) + 2)
				s.strip, s.trim = minus, s.trimBlocks && sort == '%' && !plus
				return words, nil
			}
		}
		if s.pos >= len(s.src) {
			return nil, s.fault(line, "the tag is not closed", "add "+closing)
		}
		if strings.IndexByte(whitespace, s.src[s.pos]) >= 0 {
			s.advance(1)
			continue
		}
		w, err := s.word()
		if err != nil {
			return nil, err
		}
		if w.kind == kindOp {
			if open, err = s.balance(open, w); err != nil {
				return nil, err
			}
		}
		words = append(words, w)
	}
}

// balance keeps the stack of brackets that are open.
func (s *scanner) balance(open []byte, w token) ([]byte, error) {
	switch w.val {
	case "(":
		return append(open, ')'), nil
	case "[":
		return append(open, ']'), nil
	case "{":
		return append(open, '}'), nil
	case ")", "]", "}":
		if len(open) == 0 || open[len(open)-1] != w.val[0] {
			return nil, s.fault(w.line, `"`+w.val+`" closes nothing`, "check the brackets")
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// operators, longest first.
var operators = [...]string{"//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|"}

func (s *scanner) word() (token, error) {
	rest, line := s.src[s.pos:], s.line
	c := rest[0]
	switch {
	case isDigit(c):
		return s.number(), nil
	case c == '"' || c == '\'':
		return s.str()
	}
	if n := nameLength(rest); n > 0 {
		s.advance(n)
		return token{kindName, rest[:n], line}, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			s.advance(len(op))
			return token{kindOp, op, line}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return token{}, s.fault(line, "unexpected character "+quoteRune(r), "")
}

func quoteRune(r rune) string { return `"` + string(r) + `"` }

// numberRE is Jinja2's (jinja2/lexer.py, float_re and integer_re).
var (
	floatRE   = regexp.MustCompile(`^(?:[0-9]+_)*[0-9]+(?:(?:\.(?:[0-9]+_)*[0-9]+)?[eE][+\-]?(?:[0-9]+_)*[0-9]+|\.(?:[0-9]+_)*[0-9]+)`)
	integerRE = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?[0-9])*|0(?:_?0)*)`)
)

func (s *scanner) number() token {
	rest, line, sort := s.src[s.pos:], s.line, kindFloat
	text := ""
	if s.pos == 0 || s.src[s.pos-1] != '.' { // x.0.1 are two indexes
		text = floatRE.FindString(rest)
	}
	if text == "" {
		text, sort = integerRE.FindString(rest), kindInt
	}
	s.advance(len(text))
	return token{sort, text, line}
}

func (s *scanner) str() (token, error) {
	rest, line := s.src[s.pos:], s.line
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			text, err := unescape(rest[1:i])
			if err != nil {
				return token{}, s.fault(line, err.Error(), "")
			}
			s.advance(i + 1)
			return token{kindString, text, line}, nil
		}
	}
	return token{}, s.fault(line, "the string is not closed", "add "+rest[:1])
}

// unescape decodes a string literal as Python's unicode-escape codec does.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		c := s[i]
		if plain, ok := escapes[c]; ok {
			b.WriteByte(plain)
			continue
		}
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		switch {
		case c == '\n':
		case digits > 0:
			if i+digits >= len(s) {
				return "", fmt.Errorf(`the escape \%c needs %d digits`, c, digits)
			}
			n, err := strconv.ParseUint(s[i+1:i+1+digits], 16, 32)
			if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
				return "", fmt.Errorf(`the escape \%s is no character`, s[i:i+1+digits])
			}
			b.WriteRune(rune(n))
			i += digits
		case '0' <= c && c <= '7':
			n, end := 0, i
			for end < len(s) && end < i+3 && '0' <= s[end] && s[end] <= '7' {
				n = n*8 + int(s[end]-'0')
				end++
			}
			b.WriteRune(rune(n))
			i = end - 1
		case c == 'N':
			return "", errors.New(`the escape \N is not supported`)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

var escapes = map[byte]byte{'\\': '\\', '\'': '\'', '"': '"', 'n': '\n', 't': '\t', 'r': '\r', 'a': '\a', 'b': '\b', 'f': '\f', 'v': '\v'}

// nameLength is how many bytes of a name s begins with.
func nameLength(s string) int {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r) && !unicode.IsMark(r)) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
