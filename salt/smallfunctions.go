package salt

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// onText is a function of one string.
func onText(f func(s string) (any, error)) function {
	return func(_ *engine, a *jinja.Args) (any, error) {
		s, err := a.Text("instr")
		if err != nil {
			return nil, err
		}
		return f(s)
	}
}

func digest(algorithm string) function {
	return onText(func(s string) (any, error) { return jinja.Digest(algorithm, s) })
}

// logged is a function of Salt's module log. A rendering has no log; it answers as Salt does.
func logged(_ *engine, a *jinja.Args) (any, error) {
	_, err := a.Need("message")
	return true, err
}

var smallFunctions = map[string]function{
	"log.critical":  logged,
	"log.debug":     logged,
	"log.error":     logged,
	"log.exception": logged,
	"log.info":      logged,
	"log.warning":   logged,
	"test.echo":     func(_ *engine, a *jinja.Args) (any, error) { return a.Need("text") },
	"test.ping":     func(*engine, *jinja.Args) (any, error) { return true, nil },
	"test.true":     func(*engine, *jinja.Args) (any, error) { return true, nil },
	"test.false":    func(*engine, *jinja.Args) (any, error) { return false, nil },
	"test.kwarg":    func(_ *engine, a *jinja.Args) (any, error) { return a.Keywords(), nil },
	"test.arg": func(_ *engine, a *jinja.Args) (any, error) {
		out := jinja.NewMap()
		out.Set("args", jinja.Tuple(a.Rest()), jinja.Origin{})
		out.Set("kwargs", a.Keywords(), jinja.Origin{})
		return out, nil
	},
	"hashutil.md5_digest":    digest("md5"),
	"hashutil.sha256_digest": digest("sha256"),
	"hashutil.sha512_digest": digest("sha512"),
	"hashutil.digest": func(_ *engine, a *jinja.Args) (any, error) {
		s, err := a.Text("instr")
		sum, _ := jinja.Text(a.Take("checksum", "md5"))
		if err != nil {
			return nil, err
		}
		if !slices.Contains([]string{"md5", "sha256", "sha512"}, sum) {
			return nil, jinja.Fault("the digest "+sum+" is not known", "known are md5, sha256 and sha512")
		}
		return jinja.Digest(sum, s)
	},
	"hashutil.base64_b64encode":    onText(func(s string) (any, error) { return base64.StdEncoding.EncodeToString([]byte(s)), nil }),
	"hashutil.base64_b64decode":    onText(jinja.DecodeBase64),
	"hashutil.base64_encodestring": onText(func(s string) (any, error) { return wrapped(base64.StdEncoding.EncodeToString([]byte(s))), nil }),
	"hashutil.base64_decodestring": onText(jinja.DecodeBase64),
	"hashutil.hmac_compute": func(_ *engine, a *jinja.Args) (any, error) {
		s, err := a.Text("string")
		if err != nil {
			return nil, err
		}
		secret, err := a.Text("shared_secret")
		return hex.EncodeToString(jinja.HMAC(s, secret)), err
	},
	"hashutil.hmac_signature": func(_ *engine, a *jinja.Args) (any, error) {
		s, err := a.Text("string")
		if err != nil {
			return nil, err
		}
		secret, err := a.Text("shared_secret")
		if err != nil {
			return nil, err
		}
		want, err := a.Text("challenge_hmac")
		return base64.StdEncoding.EncodeToString(jinja.HMAC(s, secret)) == want, err
	},
	"slsutil.boolstr": func(_ *engine, a *jinja.Args) (any, error) {
		on, err := a.Flag("value", false)
		yes, no := a.Take("true", "true"), a.Take("false", "false")
		if on {
			return yes, err
		}
		return no, err
	},
	"slsutil.serialize":   serialize,
	"slsutil.deserialize": deserialize,
	"pkg.version_cmp":     versionCmp,
}

// wrapped is Python's base64.encodebytes: 76 characters a line.
func wrapped(s string) string {
	var b strings.Builder
	for len(s) > 76 {
		b.WriteString(s[:76] + "\n")
		s = s[76:]
	}
	if s != "" {
		b.WriteString(s + "\n")
	}
	return b.String()
}

func serialize(_ *engine, a *jinja.Args) (any, error) {
	sort, err := a.Text("serializer")
	if err != nil {
		return nil, err
	}
	v, err := a.Need("obj")
	if err != nil {
		return nil, err
	}
	options := a.Keywords()
	return jinja.Serialize(sort, v, options)
}

func deserialize(_ *engine, a *jinja.Args) (any, error) {
	sort, err := a.Text("serializer")
	if err != nil {
		return nil, err
	}
	s, err := a.Text("stream_or_string")
	if err != nil {
		return nil, err
	}
	switch sort {
	case "yaml":
		return loadYAML(s)
	case "json":
		return jinja.ParseJSON([]byte(s))
	}
	return nil, jinja.Fault("the serializer "+sort+" is not supported", "known are yaml and json")
}
