package jinja

import (
	"regexp"
	"strconv"
	"strings"
)

// maxPattern bounds the length of regular expressions.
const maxPattern = 10_000

// pythonRegexp compiles a pattern of Python's re. What Go's engine, which takes
// linear time, cannot do is an error: look-around and references back.
func pythonRegexp(pattern, flags string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, Fault("the regular expression is too long", "")
	}
	var b strings.Builder
	if flags != "" {
		b.WriteString("(?" + flags + ")")
	}
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if c != '\\' || i+1 == len(pattern) {
			if c == '$' && !strings.Contains(flags, "m") && i+1 == len(pattern) {
				b.WriteString(`(?:$)`)
				continue
			}
			b.WriteByte(c)
			continue
		}
		i++
		switch n := pattern[i]; {
		case n == 'Z':
			b.WriteString(`\z`)
		case n >= '1' && n <= '9':
			return nil, Fault("references back are not supported in regular expressions", "write the expression without \\"+string(rune(n)))
		case n == '/' || n == '"' || n == '\'' || n == '<' || n == '>' || n == '%' || n == '@' || n == '!' || n == '=' || n == '`' || n == ',' || n == ';' || n == ' ' || n == '#' || n == '&' || n == '~' || n == ':' || n == '-' || n == '_':
			b.WriteString(regexp.QuoteMeta(string(rune(n))))
		default:
			b.WriteByte('\\')
			b.WriteByte(n)
		}
	}
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, Fault("the regular expression "+strconv.Quote(pattern)+" is not understood: "+err.Error(), "look-around is not supported")
	}
	return re, nil
}

// flaggedRegexp takes the arguments rgx, ignorecase and multiline of Salt's filters.
func flaggedRegexp(a *Args) (*regexp.Regexp, error) {
	pattern, err := a.Text("rgx")
	if err != nil {
		return nil, err
	}
	return flagsOf(pattern, a)
}

func flagsOf(pattern string, a *Args) (*regexp.Regexp, error) {
	flags := ""
	for _, f := range []struct{ name, flag string }{{"ignorecase", "i"}, {"multiline", "m"}} {
		on, err := a.Flag(f.name, false)
		if err != nil {
			return nil, err
		}
		if on {
			flags += f.flag
		}
	}
	return pythonRegexp(pattern, flags)
}

// matched is what regex_search and regex_match return.
func matched(s string, m []int) any {
	if m == nil {
		return nil
	}
	if len(m) == 2 {
		return Tuple{s[m[0]:m[1]]}
	}
	var out Tuple
	for i := 2; i < len(m); i += 2 {
		if m[i] < 0 {
			out = append(out, nil)
		} else {
			out = append(out, s[m[i]:m[i+1]])
		}
	}
	return out
}

// substitute is Python's re.sub: the replacement knows \1 and \g<name>.
func substitute(re *regexp.Regexp, s, to string) (string, error) {
	var b strings.Builder
	at := 0
	for _, m := range re.FindAllStringSubmatchIndex(s, -1) {
		b.WriteString(s[at:m[0]])
		if err := expand(&b, re, s, to, m); err != nil {
			return "", err
		}
		at = m[1]
		if b.Len() > MaxOutput {
			return "", Fault("the string is too long", "")
		}
	}
	b.WriteString(s[at:])
	return b.String(), nil
}

func expand(b *strings.Builder, re *regexp.Regexp, s, to string, m []int) error {
	for i := 0; i < len(to); i++ {
		if to[i] != '\\' || i+1 == len(to) {
			b.WriteByte(to[i])
			continue
		}
		i++
		group := ""
		switch c := to[i]; {
		case isDigit(c) && c != '0':
			group = to[i : i+1]
			if i+1 < len(to) && isDigit(to[i+1]) {
				group += to[i+1 : i+2]
				i++
			}
		case c == 'g' && strings.HasPrefix(to[i+1:], "<"):
			end := strings.IndexByte(to[i:], '>')
			if end < 0 {
				return Fault(`\g< is not closed`, "")
			}
			group = to[i+2 : i+end]
			i += end
		default:
			plain, ok := escapes[c]
			if !ok {
				return faultf(`the escape \%c is not known in a replacement`, c)
			}
			b.WriteByte(plain)
			continue
		}
		n, err := strconv.Atoi(group)
		if err != nil {
			n = re.SubexpIndex(group)
		}
		if n < 0 || n > re.NumSubexp() {
			return faultf("the expression has no group %q", group)
		}
		if m[2*n] >= 0 {
			b.WriteString(s[m[2*n]:m[2*n+1]])
		}
	}
	return nil
}

// escapeRegexp is Python's re.escape.
func escapeRegexp(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune("()[]{}?*+-|^$\\.&~# \t\n\r\v\f", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Regexp compiles a pattern of Python's re.
func Regexp(pattern string) (*regexp.Regexp, error) { return pythonRegexp(pattern, "") }
