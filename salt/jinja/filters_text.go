package jinja

import (
	"html"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

func onText(f func(s string) string) filterFunc {
	return func(_ *run, v any, _ *Args) (any, error) {
		s, err := text(v)
		return f(s), err
	}
}

var (
	wordRE      = regexp.MustCompile(`[\pL\pN_]+`)
	beginningRE = regexp.MustCompile(`[-\s({\[<]+`)
	tagsRE      = regexp.MustCompile(`(?s)<!--.*?-->|<.*?>`)
)

var textFilters = map[string]filterFunc{
	"capitalize": onText(capitalize),
	"lower":      onText(strings.ToLower),
	"upper":      onText(upperCase),
	"title":      onText(titleWords),
	"trim": func(_ *run, v any, a *Args) (any, error) {
		s, err := text(v)
		if err != nil {
			return nil, err
		}
		return stripChars(s, a.Take("chars", nil), true, true)
	},
	"center": func(_ *run, v any, a *Args) (any, error) {
		s, err := text(v)
		if err != nil {
			return nil, err
		}
		width, err := a.Int("width", 80)
		if err != nil {
			return nil, err
		}
		return pad(s, width, ' ', '^')
	},
	"format":  filterFormat,
	"indent":  given(filterIndent),
	"replace": given(filterReplace),
	"striptags": onText(func(s string) string {
		return html.UnescapeString(strings.Join(strings.Fields(tagsRE.ReplaceAllString(s, "")), " "))
	}),
	"truncate":  given(filterTruncate),
	"urlencode": given(filterURLEncode),
	"urlize":    given(filterURLize),
	"wordcount": func(_ *run, v any, _ *Args) (any, error) {
		s, err := text(v)
		return int64(len(wordRE.FindAllString(s, -1))), err
	},
	"wordwrap": given(filterWordwrap),
	"xmlattr":  given(filterXMLAttr),
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToTitle(r)) + strings.ToLower(s[n:])
}

func upperCase(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "ß", "SS") }

// titleWords is jinja2.filters.do_title.
func titleWords(s string) string {
	var b strings.Builder
	word := func(w string) {
		r, n := utf8.DecodeRuneInString(w)
		if n > 0 {
			b.WriteString(strings.ToUpper(string(r)) + strings.ToLower(w[n:]))
		}
	}
	at := 0
	for _, m := range beginningRE.FindAllStringIndex(s, -1) {
		word(s[at:m[0]])
		word(s[m[0]:m[1]])
		at = m[1]
	}
	word(s[at:])
	return b.String()
}

func filterFormat(_ *run, v any, a *Args) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	args, named := a.Rest(), a.Keywords()
	if named.Len() > 0 {
		if len(args) > 0 {
			return nil, Fault("format takes either positional or named arguments", "")
		}
		return percent(s, named, false)
	}
	return percent(s, Tuple(args), false)
}

// filterIndent is jinja2.filters.do_indent.
func filterIndent(_ *run, v any, a *Args) (any, error) {
	width := a.Take("width", int64(4))
	first, err1 := a.Flag("first", false)
	blank, err2 := a.Flag("blank", false)
	s, ok := asText(v)
	if !ok || err1 != nil || err2 != nil {
		return nil, Fault("indent needs a string, not "+typeName(v), "use | json or | yaml before it")
	}
	by, isText := asText(width)
	if !isText {
		n, ok := integer(width)
		if !ok || n > MaxOutput {
			return nil, Fault("indent's width is an integer or a string", "")
		}
		by = strings.Repeat(" ", int(max(n, 0)))
	}
	lines := splitLines(s+"\n", false)
	if len(by)*len(lines) > MaxOutput {
		return nil, Fault("the string is too long", "")
	}
	for i := range lines {
		if i > 0 && (lines[i] != "" || blank) || i == 0 && first {
			lines[i] = by + lines[i]
		}
	}
	out := strings.Join(lines, "\n")
	if is[Markup](v) {
		return Markup(out), nil
	}
	return out, nil
}

func filterReplace(_ *run, v any, a *Args) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	count := -1
	var parts [2]string
	for i, name := range []string{"old", "new"} {
		p, err := a.Need(name)
		if err == nil {
			parts[i], err = text(p)
		}
		if err != nil {
			return nil, err
		}
	}
	if n := a.Take("count", nil); n != nil {
		i, ok := integer(n)
		if !ok {
			return nil, Fault("replace's count is an integer", "")
		}
		count = int(i)
	}
	return replaced(s, parts[0], parts[1], count)
}

func replaced(s, from, to string, count int) (any, error) {
	if n := strings.Count(s, from); len(to) > len(from) && n*(len(to)-len(from))+len(s) > MaxOutput {
		return nil, Fault("the string is too long", "")
	}
	return strings.Replace(s, from, to, count), nil
}

// filterTruncate is jinja2.filters.do_truncate.
func filterTruncate(_ *run, v any, a *Args) (any, error) {
	s, ok := asText(v)
	length, err1 := a.Int("length", 255)
	kill, err2 := a.Flag("killwords", false)
	end, ok2 := asText(a.Take("end", "..."))
	leeway, ok3 := integer(a.Take("leeway", int64(5)))
	if !ok || !ok2 || err1 != nil || err2 != nil || !ok3 {
		return nil, Fault("truncate needs a string, a length, killwords, an end and a leeway", "")
	}
	chars, tail := []rune(s), int64(utf8.RuneCountInString(end))
	if length < tail || leeway < 0 {
		return nil, Fault("truncate's length is shorter than its end, or its leeway below 0", "")
	}
	if int64(len(chars)) <= length+leeway {
		return v, nil
	}
	cut := string(chars[:length-tail])
	if kill {
		return cut + end, nil
	}
	if i := strings.LastIndex(cut, " "); i >= 0 {
		cut = cut[:i]
	}
	return cut + end, nil
}

const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"

func urlQuote(v any, inQuery bool) (string, error) {
	s, err := text(v)
	if b, ok := v.(Bytes); ok {
		s, err = string(b), nil
	}
	safe := unreserved
	if !inQuery {
		safe += "/"
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case strings.IndexByte(safe, c) >= 0:
			b.WriteByte(c)
		case c == ' ' && inQuery:
			b.WriteByte('+')
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String(), err
}

func filterURLEncode(_ *run, v any, _ *Args) (any, error) {
	var items []any
	if m, ok := v.(*Map); ok {
		items = (&view{"items", m}).items()
	} else if _, ok := asText(v); ok {
		return urlQuote(v, false)
	} else {
		var err error
		if items, err = iterate(v); err != nil {
			return urlQuote(v, false)
		}
	}
	var parts []string
	for _, item := range items {
		pair, err := iterate(item)
		if err != nil || len(pair) != 2 {
			return nil, Fault("urlencode needs a string, a dict or pairs", "")
		}
		k, err := urlQuote(pair[0], true)
		if err != nil {
			return nil, err
		}
		value, err := urlQuote(pair[1], true)
		if err != nil {
			return nil, err
		}
		parts = append(parts, k+"="+value)
	}
	return strings.Join(parts, "&"), nil
}

var (
	urlRE   = regexp.MustCompile(`(?i)^(?:(?:https?://|www\.)(?:(?:[\w%-]+\.)+)?(?:[a-z]{2,63}|xn--[\w%]{2,59})|(?:[\w%-]{2,63}\.)+(?:com|net|int|edu|gov|org|info|mil)|https?://(?:\d{1,3}(?:\.\d{1,3}){3}|\[(?:[\da-f]{0,4}:){2}(?:[\da-f]{0,4}:?){1,6}\]))(?::\d{1,5})?(?:[/?#]\S*)?$`)
	emailRE = regexp.MustCompile(`^\S+@\w[\w.-]*\.\w+$`)
	spaceRE = regexp.MustCompile(`\s+`)
)

// filterURLize is jinja2.utils.urlize for links that begin with http, https or
// www, bare hosts of the common domains, and addresses of mail.
func filterURLize(_ *run, v any, a *Args) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	limit := a.Take("trim_url_limit", nil)
	nofollow, err := a.Flag("nofollow", false)
	if err != nil {
		return nil, err
	}
	target, rel := a.Take("target", nil), a.Take("rel", nil)
	a.Take("extra_schemes", nil)
	rels := map[string]bool{"noopener": true}
	if nofollow {
		rels["nofollow"] = true
	}
	if r, ok := asText(rel); ok {
		for _, w := range strings.Fields(r) {
			rels[w] = true
		}
	}
	attrs := ` rel="` + strings.Join(sortedKeys(rels), " ") + `"`
	if t, ok := asText(target); ok {
		attrs += ` target="` + escapeHTML(t) + `"`
	}
	show := func(x string) string {
		if n, ok := integer(limit); ok && int64(utf8.RuneCountInString(x)) > n && n >= 0 {
			return string([]rune(x)[:n]) + "..."
		}
		return x
	}
	s = escapeHTML(s)
	var b strings.Builder
	at := 0
	for _, m := range append(spaceRE.FindAllStringIndex(s, -1), []int{len(s), len(s)}) {
		b.WriteString(link(s[at:m[0]], attrs, show))
		b.WriteString(s[m[0]:m[1]])
		at = m[1]
	}
	return b.String(), nil
}

func link(word, attrs string, show func(string) string) string {
	head, tail := "", ""
	for {
		trimmed := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(word, "("), "<"), "&lt;")
		if trimmed == word {
			break
		}
		head += word[:len(word)-len(trimmed)]
		word = trimmed
	}
	for _, end := range []string{"&gt;", ")", ".", ",", "\n"} {
		for strings.HasSuffix(word, end) && (end != ")" || strings.Count(word, "(") < strings.Count(word, ")")) {
			word, tail = word[:len(word)-len(end)], end+tail
		}
	}
	switch {
	case urlRE.MatchString(word):
		to := word
		if !strings.HasPrefix(strings.ToLower(word), "http://") && !strings.HasPrefix(strings.ToLower(word), "https://") {
			to = "https://" + word
		}
		return head + `<a href="` + to + `"` + attrs + `>` + show(word) + "</a>" + tail
	case strings.HasPrefix(word, "mailto:") && emailRE.MatchString(word[7:]):
		return head + `<a href="` + word + `">` + word[7:] + "</a>" + tail
	case emailRE.MatchString(word) && !strings.Contains(word, ":") && !strings.HasPrefix(word, "www."):
		return head + `<a href="mailto:` + word + `">` + word + "</a>" + tail
	}
	return head + word + tail
}

// filterWordwrap is jinja2.filters.do_wordwrap.
func filterWordwrap(_ *run, v any, a *Args) (any, error) {
	s, ok := asText(v)
	width, err := a.Int("width", 79)
	if err != nil {
		return nil, err
	}
	breakLong, err := a.Flag("break_long_words", true)
	if err != nil {
		return nil, err
	}
	wrap := a.Take("wrapstring", nil)
	hyphens, err := a.Flag("break_on_hyphens", true)
	if !ok || err != nil || width <= 0 {
		return nil, Fault("wordwrap needs a string and a width above 0", "")
	}
	sep := "\n"
	if w, ok := asText(wrap); ok {
		sep = w
	}
	var lines []string
	for _, line := range splitLines(s, false) {
		lines = append(lines, strings.Join(wrapLine(line, int(width), breakLong, hyphens), sep))
	}
	return strings.Join(lines, sep), nil
}

// chunks cuts a line into words and the spaces between, and words at hyphens
// between letters, as Python's textwrap does.
func chunks(line string, hyphens bool) []string {
	var out []string
	for _, c := range regexp.MustCompile(`\s+|\S+`).FindAllString(line, -1) {
		runes := []rune(c)
		from := 0
		for i := 1; hyphens && i+1 < len(runes); i++ {
			if runes[i] == '-' && unicode.IsLetter(runes[i-1]) && unicode.IsLetter(runes[i+1]) && i-from >= 2 && i+2 < len(runes)+1 {
				out = append(out, string(runes[from:i+1]))
				from = i + 1
			}
		}
		out = append(out, string(runes[from:]))
	}
	return out
}

func wrapLine(line string, width int, breakLong, hyphens bool) []string {
	words := chunks(line, hyphens)
	var out []string
	for len(words) > 0 {
		if strings.TrimSpace(words[0]) == "" && len(out) > 0 {
			if words = words[1:]; len(words) == 0 {
				break
			}
		}
		var cur []string
		n := 0
		for len(words) > 0 {
			l := utf8.RuneCountInString(words[0])
			if n+l > width {
				break
			}
			cur, words, n = append(cur, words[0]), words[1:], n+l
		}
		if len(words) > 0 && utf8.RuneCountInString(words[0]) > width {
			if breakLong {
				room := max(width-n, 1)
				word := []rune(words[0])
				cur = append(cur, string(word[:room]))
				words[0] = string(word[room:])
			} else if len(cur) == 0 {
				cur, words = append(cur, words[0]), words[1:]
			}
		}
		if len(cur) > 0 && strings.TrimSpace(cur[len(cur)-1]) == "" {
			cur = cur[:len(cur)-1]
		}
		if len(cur) > 0 {
			out = append(out, strings.Join(cur, ""))
		}
	}
	return out
}

func filterXMLAttr(r *run, v any, a *Args) (any, error) {
	space, err := a.Flag("autospace", true)
	m, ok := v.(*Map)
	if !ok || err != nil {
		return nil, Fault("xmlattr needs a dict", "")
	}
	var parts []string
	for _, k := range m.keys {
		value, _ := m.At(k)
		if value == nil || IsUndefined(value) {
			continue
		}
		name, ok := asText(k)
		if !ok || strings.ContainsAny(name, " \t\n\r\f\v/>=") {
			return nil, faultf("the attribute's name %s is not valid", Str(k))
		}
		s, err := text(value)
		if err != nil {
			return nil, err
		}
		if !is[Markup](value) {
			s = escapeHTML(s)
		}
		parts = append(parts, escapeHTML(name)+`="`+s+`"`)
	}
	out := strings.Join(parts, " ")
	if space && out != "" {
		out = " " + out
	}
	if r.autoescape {
		return Markup(out), nil
	}
	return out, nil
}
