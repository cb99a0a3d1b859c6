package jinja

import (
	"crypto/hmac"
	"crypto/md5"  //nolint:gosec // Salt's filter of that name; nothing here is protected by it
	"crypto/sha1" //nolint:gosec // the same
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"path"
	"regexp"
	"strings"
	"unicode"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// onString is a filter of a string that takes no arguments.
func onString(f func(s string) (any, error)) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		s, ok := asText(v)
		if b, isBytes := v.(Bytes); isBytes {
			s, ok = string(b), true
		}
		if !ok {
			return nil, faultf("%s needs a string, not %s", a.What, typeName(v))
		}
		return f(s)
	})
}

// Digest returns the digest of a name that hashlib knows, as hexadecimal digits.
func Digest(algorithm, s string) (string, error) {
	h, ok := digests[algorithm]
	if !ok {
		return "", faultf("the digest %q is not known", algorithm)
	}
	d := h()
	d.Write([]byte(s))
	return hexOf(d.Sum(nil)), nil
}

var digests = map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

func digest(name string) filterFunc {
	return onString(func(s string) (any, error) { return Digest(name, s) })
}

// HMAC is Salt's hashutil.hmac_signature and hmac_compute.
func HMAC(s, secret string) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(s))
	return m.Sum(nil)
}

var saltFilters = map[string]filterFunc{
	"skip":    func(*run, any, *Args) (any, error) { return "", nil },
	"to_bool": given(func(_ *run, v any, _ *Args) (any, error) { return toBool(v), nil }),
	"quote": onString(func(s string) (any, error) {
		if s != "" && regexp.MustCompile(`^[\w@%+=:,./-]+$`).MatchString(s) {
			return s, nil
		}
		return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'", nil
	}),
	"regex_escape": onString(func(s string) (any, error) { return escapeRegexp(s), nil }),
	"regex_search": given(func(_ *run, v any, a *Args) (any, error) {
		re, err := flaggedRegexp(a)
		s, ok := asText(v)
		if err != nil || !ok {
			return nil, orType(err, "regex_search", v)
		}
		return matched(s, re.FindStringSubmatchIndex(s)), nil
	}),
	"regex_match": given(func(_ *run, v any, a *Args) (any, error) {
		pattern, err := a.Text("rgx")
		s, ok := asText(v)
		if err != nil || !ok {
			return nil, orType(err, "regex_match", v)
		}
		re, err := flagsOf(`\A(?:`+pattern+`)`, a)
		if err != nil {
			return nil, err
		}
		return matched(s, re.FindStringSubmatchIndex(s)), nil
	}),
	"regex_replace": given(func(_ *run, v any, a *Args) (any, error) {
		pattern, err := a.Text("rgx")
		if err != nil {
			return nil, err
		}
		to, err := a.Text("val")
		s, ok := asText(v)
		if err != nil || !ok {
			return nil, orType(err, "regex_replace", v)
		}
		re, err := flagsOf(pattern, a)
		if err != nil {
			return nil, err
		}
		return substitute(re, s, to)
	}),
	"uuid":   given(func(_ *run, v any, _ *Args) (any, error) { return uuid5(v) }),
	"md5":    digest("md5"),
	"sha1":   digest("sha1"),
	"sha256": digest("sha256"),
	"sha512": digest("sha512"),
	"hmac": given(func(_ *run, v any, a *Args) (any, error) {
		s, ok := asText(v)
		secret, err := a.Text("shared_secret")
		if err != nil || !ok {
			return nil, orType(err, "hmac", v)
		}
		want, err := a.Text("challenge_hmac")
		return base64.StdEncoding.EncodeToString(HMAC(s, secret)) == want, err
	}),
	"hmac_compute": given(func(_ *run, v any, a *Args) (any, error) {
		s, ok := asText(v)
		secret, err := a.Text("shared_secret")
		if err != nil || !ok {
			return nil, orType(err, "hmac_compute", v)
		}
		return hexOf(HMAC(s, secret)), nil
	}),
	"base64_encode": onString(func(s string) (any, error) { return base64.StdEncoding.EncodeToString([]byte(s)), nil }),
	"base64_decode": onString(DecodeBase64),
	"to_bytes":      onString(func(s string) (any, error) { return Bytes(s), nil }),
	"to_num":        given(func(_ *run, v any, _ *Args) (any, error) { return toNum(v) }),
	"str_to_num":    given(func(_ *run, v any, _ *Args) (any, error) { return toNum(v) }),
	"is_hex": func(_ *run, v any, _ *Args) (any, error) {
		_, isText := asText(v)
		_, ok := toInt(v, 16)
		return isText && ok, nil
	},
	"contains_whitespace": onString(func(s string) (any, error) { return strings.IndexFunc(s, unicode.IsSpace) >= 0, nil }),
	"human_to_bytes":      given(humanToBytes),
	"check_whitelist_blacklist": given(func(_ *run, v any, a *Args) (any, error) {
		return whitelisted(v, a.Take("whitelist", nil), a.Take("blacklist", nil))
	}),
	"to_snake_case": onString(func(s string) (any, error) { return snakeCase(s) }),
	"to_camelcase": given(func(_ *run, v any, a *Args) (any, error) {
		s, ok := asText(v)
		upper, err := a.Flag("uppercamel", false)
		if err != nil || !ok {
			return nil, orType(err, "to_camelcase", v)
		}
		words := strings.Split(s, "_")
		for i, w := range words {
			if i > 0 || upper {
				words[i] = capitalize(w)
			}
		}
		return strings.Join(words, ""), nil
	}),
	"path_join": func(_ *run, v any, a *Args) (any, error) {
		a.Named("use_posixpath")
		a.drop("use_posixpath")
		return joinPath(append([]any{v}, a.Rest()...))
	},
	"yaml_dquote": func(_ *run, v any, _ *Args) (any, error) {
		s, err := text(v)
		return yamlASCII(s), err
	},
	"yaml_squote": func(_ *run, v any, _ *Args) (any, error) {
		s, err := text(v)
		w := &yamlWriter{width: -1, whitespace: true}
		w.singleQuoted(s, false)
		return w.b.String(), err
	},
	"yaml_encode": given(func(_ *run, v any, _ *Args) (any, error) {
		s, tag := scalarOf(v)
		switch {
		case s == "NULL" && v != nil:
			return nil, faultf("yaml_encode needs a plain value, not %s", typeName(v))
		case tag == "str":
			return yamlASCII(s), nil
		}
		return s, nil
	}),
}

// orType is err, or an error that says that v is no string.
func orType(err error, what string, v any) error {
	if err != nil {
		return err
	}
	return faultf("%s needs a string, not %s", what, typeName(v))
}

// toBool is Salt's to_bool.
func toBool(v any) bool {
	if s, ok := asText(v); ok {
		s = strings.ToLower(s)
		return s == "yes" || s == "1" || s == "true"
	}
	if n, ok := asBig(v); ok {
		return n.Sign() > 0
	}
	switch v.(type) {
	case *List, *Map, *Set:
		n, _ := length(v)
		return n > 0
	}
	return false
}

// DecodeBase64 is Python's base64.b64decode, of text.
func DecodeBase64(s string) (any, error) {
	clean := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("+/=", r)) {
			return r
		}
		return -1
	}, s)
	b, err := base64.StdEncoding.DecodeString(clean)
	if err != nil {
		return nil, Fault("not valid base64", "")
	}
	return string(b), nil
}

// uuid5 is Python's uuid.uuid5 in Salt's namespace (salt/utils/jinja.py, GLOBAL_UUID).
func uuid5(v any) (any, error) {
	s, ok := asText(v)
	if !ok {
		return nil, faultf("uuid needs a string, not %s", typeName(v))
	}
	space, err := hex.DecodeString("91633ebf1c865e33935a28061f4b480e")
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(append(space, s...)) //nolint:gosec // RFC 9562 names SHA-1
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x50, b[8]&0x3f|0x80
	x := hexOf(b)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:], nil
}

func toNum(v any) (any, error) {
	if n, ok := toInt(v, 10); ok {
		return n, nil
	}
	if f, ok := toFloat(v); ok {
		return f, nil
	}
	if _, ok := asText(v); !ok {
		return nil, faultf("%s is no number", typeName(v))
	}
	return v, nil
}

var humanRE = regexp.MustCompile(`^([0-9.]*)\s*(.*)$`)

func humanToBytes(_ *run, v any, a *Args) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	def, ok := asText(a.Take("default_unit", "B"))
	metric, err := a.Flag("handle_metric", false)
	m := humanRE.FindStringSubmatch(strings.TrimSpace(s))
	if err != nil || !ok || m == nil {
		return int64(0), err
	}
	value, err := toNum(m[1])
	if is[string](value) || err != nil {
		return int64(0), err
	}
	unit := strings.ToLower(m[2])
	if unit == "" {
		unit = strings.ToLower(def)
	}
	decimal := false
	if regexp.MustCompile(`^[kmgtpezy]b$`).MatchString(unit) {
		decimal = metric
	} else if !regexp.MustCompile(`^(b|[kmgtpezy](ib)?)$`).MatchString(unit) {
		return int64(0), nil
	}
	p := int64(strings.IndexByte("bkmgtpezy", unit[0]))
	base, exp := any(int64(2)), p*10
	if decimal {
		base, exp = int64(10), p*3
	}
	factor, err := operate("**", base, exp)
	if err != nil {
		return nil, err
	}
	if value, err = operate("*", value, factor); err != nil {
		return nil, err
	}
	n, ok := toInt(value, 10)
	if !ok {
		return nil, Fault("the size is not finite", "")
	}
	return n, nil
}

func snakeCase(s string) (any, error) {
	r := []rune(s)
	if len(r) == 0 {
		return nil, Fault("to_snake_case needs a string that is not empty", "")
	}
	var b strings.Builder
	for i, c := range r {
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(r[i-1]) || i != len(r)-1 && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String(), nil
}

func joinPath(parts []any) (any, error) {
	out := ""
	for i, p := range parts {
		s, ok := asText(p)
		if !ok {
			return nil, faultf("path_join needs strings, not %s", typeName(p))
		}
		s = normPath(s)
		if i > 0 {
			s = strings.TrimSuffix(out, "/") + "/" + strings.TrimLeft(s, "/")
		}
		out = s
	}
	return normPath(out), nil
}

// normPath is posixpath.normpath.
func normPath(s string) string {
	if strings.HasPrefix(s, "//") && !strings.HasPrefix(s, "///") {
		return "/" + path.Clean(s)
	}
	return path.Clean(s)
}

// yamlASCII is PyYAML's double-quoted form of a text, in ASCII.
func yamlASCII(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r >= ' ' && r <= '~' && r != '"' && r != '\\' {
			b.WriteRune(r)
		} else {
			b.WriteString(yamlEscape(r))
		}
	}
	b.WriteByte('"')
	return b.String()
}

// exprMatch is Salt's expr_match: equal, or matched as a glob or a whole expression.
func exprMatch(s, expr string) bool {
	if s == expr || globMatch(expr, s) {
		return true
	}
	re, err := pythonRegexp(`\A(?:`+expr+`)\z`, "")
	return err == nil && re.MatchString(s)
}

func whitelisted(v, white, black any) (any, error) {
	s, ok := asText(v)
	if !ok && (white != nil || black != nil) {
		return nil, faultf("check_whitelist_blacklist needs a string, not %s", typeName(v))
	}
	list := func(v any) ([]any, error) {
		if _, ok := asText(v); ok {
			return []any{v}, nil
		}
		if on, err := truth(v); err != nil || !on {
			return nil, err
		}
		return iterate(v)
	}
	in := func(items []any) bool {
		for _, item := range items {
			if e, ok := asText(item); ok && exprMatch(s, e) {
				return true
			}
		}
		return false
	}
	w, err := list(white)
	if err != nil {
		return nil, err
	}
	b, err := list(black)
	if err != nil {
		return nil, err
	}
	switch {
	case len(w) == 0:
		return !in(b), nil
	case len(b) == 0:
		return in(w), nil
	}
	return !in(b) && in(w), nil
}

// globMatch is Python's fnmatch; a glob that is not valid matches nothing.
func globMatch(pattern, s string) bool {
	re, err := GlobRegexp(pattern)
	return err == nil && re.MatchString(s)
}

// GlobRegexp is Python's fnmatch.translate.
func GlobRegexp(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '[':
			j := i + 1
			if j < len(pattern) && pattern[j] == '!' {
				j++
			}
			if j < len(pattern) && pattern[j] == ']' {
				j++
			}
			for j < len(pattern) && pattern[j] != ']' {
				j++
			}
			if j >= len(pattern) {
				b.WriteString(`\[`)
				continue
			}
			set := strings.ReplaceAll(strings.ReplaceAll(pattern[i+1:j], `\`, `\\`), "[", `\[`)
			if rest, ok := strings.CutPrefix(set, "!"); ok {
				set = "^" + rest
			} else if strings.HasPrefix(set, "^") {
				set = `\` + set
			}
			b.WriteString("[" + set + "]")
			i = j
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	re, err := regexp.Compile(b.String() + `\z`)
	if err != nil {
		return nil, faultf("the glob %q is not valid", pattern)
	}
	return re, nil
}

// machineFilters depend on the machine, on chance or on the network.
var machineFilters = func() map[string]filterFunc {
	out := map[string]filterFunc{}
	for why, names := range map[string][]string{
		"is random":                          {"random", "random_sample", "random_shuffle", "random_str", "rand_str", "random_hash", "gen_mac"},
		"reads the machine's files":          {"file_hashsum", "is_bin_file", "is_empty", "is_text_file", "list_files", "which", "get_uid"},
		"reaches the network":                {"http_query", "dns_check"},
		"depends on the machine's time zone": {"date_format", "strftime"},
		"needs JMESPath, which is not here":  {"json_query"},
	} {
		for _, name := range names {
			out[name] = func(*run, any, *Args) (any, error) {
				return nil, Fault("the filter "+name+" "+why, "a rendering gives the same on every machine: set the value in the pillar")
			}
		}
	}
	return out
}()
