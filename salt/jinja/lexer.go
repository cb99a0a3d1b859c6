package jinja

import (
	"strconv"
	"strings"
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

// scanner cuts a template into pieces.
type scanner struct {
	file  string
	src   string
	pos   int
	line  int
	strip bool // the tag before ended in "-": whitespace after it is dropped
	out   []piece
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
func scan(file, src string) ([]piece, error) {
	s := &scanner{file: file, src: src, line: 1}
	for s.pos < len(src) {
		open := nextTag(src[s.pos:])
		if open < 0 {
			s.addText(src[s.pos:], false)
			break
		}
		tagAt := s.pos + open
		text := src[s.pos:tagAt]
		lead := tagAt+2 < len(src) && src[tagAt+2] == '-'
		s.addText(text, lead)
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

// addText adds text, stripped as the tags on both sides demand, and moves on.
func (s *scanner) addText(text string, stripEnd bool) {
	keep, line := text, s.line
	if s.strip {
		keep = strings.TrimLeft(text, whitespace)
		line += strings.Count(text[:len(text)-len(keep)], "\n")
	}
	s.strip = false
	if stripEnd {
		keep = strings.TrimRight(keep, whitespace)
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
		lead := strings.HasPrefix(inner, "-")
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
		s.strip = tail
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
			if !minus && sort == '%' {
				bare = strings.TrimPrefix(rest, "+")
			}
			if strings.HasPrefix(bare, closing) {
				words = append(words, token{kind: kindEnd, line: s.line})
				s.advance(len(rest) - len(bare) + 2)
				s.strip = minus
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
	case isLetter(c):
		n := 1
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
		s.advance(n)
		return token{kindName, rest[:n], line}, nil
	case isDigit(c):
		return s.number()
	case c == '"' || c == '\'':
		return s.str()
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

func (s *scanner) number() (token, error) {
	rest, line, n, sort := s.src[s.pos:], s.line, 0, kindInt
	digits := func() {
		for n < len(rest) && isDigit(rest[n]) {
			n++
		}
	}
	digits()
	if n+1 < len(rest) && rest[n] == '.' && isDigit(rest[n+1]) {
		sort = kindFloat
		n++
		digits()
	}
	if (n < len(rest) && (isLetter(rest[n]))) || (sort == kindInt && n > 1 && rest[0] == '0') {
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
		return token{}, s.fault(line, `"`+rest[:n]+`" is not a number that is understood here`, "write it in plain decimal")
	}
	s.advance(n)
	return token{sort, rest[:n], line}, nil
}

func (s *scanner) str() (token, error) {
	rest, line := s.src[s.pos:], s.line
	quote := rest[0]
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; c {
		case quote:
			s.advance(i + 1)
			return token{kindString, b.String(), line}, nil
		case '\\':
			i++
			if i == len(rest) {
				break
			}
			decoded, ok := escapes[rest[i]]
			if !ok {
				return token{}, s.fault(line, `the escape "\`+string(rune(rest[i]))+`" is not supported`, `known are \\ \' \" \n \t \r`)
			}
			b.WriteByte(decoded)
		default:
			b.WriteByte(c)
		}
	}
	return token{}, s.fault(line, "the string is not closed", "add "+string(rune(quote)))
}

var escapes = map[byte]byte{'\\': '\\', '\'': '\'', '"': '"', 'n': '\n', 't': '\t', 'r': '\r'}

func isLetter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
