package secretscan_test

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/gitops/secretscan"
	"holdfast.dev/internal/strictyaml"
)

// TestSecretWithData has the forms in which a Secret of Kubernetes with data may stand
// in a file. The scanner knew it only where kind and data each began a line.
func TestSecretWithData(t *testing.T) {
	const block = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  a: b\n" // data in line 4
	cases := map[string]struct {
		reason, text string
		lines        []int
	}{
		"Flow":           {"a Secret in one line", "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: YQ==}}\n", []int{1}},
		"FlowLines":      {"over several lines", "{apiVersion: v1,\n kind: Secret,\n metadata: {name: a},\n stringData: {a: b}}\n", []int{4}},
		"FlowBoth":       {"data and stringData", "{kind: Secret,\n data: {a: YQ==},\n stringData: {a: b}}\n", []int{2, 3}},
		"FlowSecond":     {"in the second document", "{kind: ConfigMap, data: {a: b}}\n---\n{kind: Secret, data: {a: YQ==}}\n", []int{3}},
		"FlowOnMarker":   {"on the line of the marker", "--- {kind: Secret, data: {a: YQ==}}\n", []int{1}},
		"FlowOneOfThree": {"one of three documents", "a: b\n---\nkind: Secret\ndata: {}\n---\n{kind: Secret, stringData: {a: b}}\n", []int{6}},
		"FlowList":       {"in a List in flow style", "{apiVersion: v1, kind: List, items: [{kind: ConfigMap, data: {a: b}},\n  {kind: Secret, data: {a: YQ==}}]}\n", []int{2}},
		"ListOfFlow":     {"an item in flow style", "kind: List\nitems:\n- {kind: ConfigMap, data: {a: b}}\n- {kind: Secret, data: {a: YQ==}}\n", []int{4}},
		"ListKindFirst":  {"an item whose first key is kind, as kubectl neatly writes it", "kind: List\nitems:\n- kind: Secret\n  data:\n    a: YQ==\n", []int{4}},
		"ListDataFirst":  {"or data, as kubectl get -o yaml does", "kind: List\nitems:\n- data:\n    a: YQ==\n  kind: Secret\n", []int{3}},
		"SecretList":     {"what the API server itself answers", "kind: SecretList\nitems:\n- metadata: {name: a}\n  data:\n    a: YQ==\n", []int{4}},
		"JSON":           {"JSON as kubectl get -o json writes it", "{\n    \"apiVersion\": \"v1\",\n    \"data\": {\n        \"a\": \"YQ==\"\n    },\n    \"kind\": \"Secret\"\n}\n", []int{3}},
		"JSONLine":       {"JSON in one line", `{"apiVersion":"v1","kind":"Secret","data":{"a":"YQ=="}}`, []int{1}},
		"JSONLines":      {"many of them, which is no YAML", `{"kind":"ConfigMap","data":{"a":"b"}}` + "\n" + `{"apiVersion":"v1","kind":"Secret","data":{"a":"YQ=="}}` + "\n", []int{2}},
		"JSONStream":     {"and over several lines", "{\n  \"kind\": \"Secret\",\n  \"data\": {\n    \"a\": \"YQ==\"\n  }\n}\n{\n  \"kind\": \"Namespace\"\n}\n", []int{3}},
		"JSONTabs":       {"with tabs", "{\n\t\"kind\": \"Secret\",\n\t\"stringData\": {\"a\": \"b\"}\n}\n", []int{3}},
		"JSONEscaped":    {"what an annotation of kubectl keeps", "metadata:\n  annotations:\n    last: \"{\\\"kind\\\":\\\"Secret\\\",\\\"data\\\":{\\\"a\\\":\\\"YQ==\\\"}}\"\n", []int{3}},
		"KindAlias":      {"an alias for the kind", "a: &k Secret\nb:\n  kind: *k\n  data:\n    a: YQ==\n", []int{4}},
		"KindAnchor":     {"an anchor before the kind", "kind: &k Secret\ndata:\n  a: YQ==\n", []int{2}},
		"DataAlias":      {"an alias for the data", "common: &d\n  a: YQ==\nitems:\n- kind: Secret\n  data: *d\n", []int{5}},
		"DataAnchor":     {"an anchor before the data", "kind: Secret\ndata: &d\n  a: YQ==\n", []int{2}},
		"MergeKind":      {"the kind from a merge key", "base: &b {apiVersion: v1, kind: Secret}\nitems:\n- <<: *b\n  metadata: {name: a}\n  stringData:\n    a: b\n", []int{5}},
		"MergeData":      {"the data from a merge key", "base: &b\n  stringData:\n    a: b\nitems:\n- kind: Secret\n  <<: *b\n", []int{2}},
		"MergeList":      {"from one of several", "x: &x {kind: Secret}\ny: &y {metadata: {name: a}}\nz:\n  <<: [*y, *x]\n  data: {a: YQ==}\n", []int{5}},
		"MergeChain":     {"from one that merges another", "x: &x {kind: Secret}\ny: &y {<<: *x, metadata: {name: a}}\nz: {<<: *y, data: {a: YQ==}}\n", []int{3}},
		"MergeInData":    {"data with nothing but a merge", "x: &x {a: YQ==}\ny:\n  kind: Secret\n  data: {<<: *x}\n", []int{4}},
		"Tagged":         {"tags of YAML's own", "kind: !!str Secret\ndata: !!map\n  a: YQ==\n", []int{2}},
		"Complex":        {"a key that is written out", "? kind\n: Secret\n? data\n: a: YQ==\n", []int{3}},
		"Folded":         {"a kind on a line of its own", "kind:\n  Secret\ndata:\n  a: YQ==\n", []int{3}},
		"Literal":        {"in a file that a ConfigMap brings", "kind: ConfigMap\ndata:\n  x.yaml: |\n    a: b\n    ---\n    kind: Secret\n    data:\n      a: YQ==\n", []int{7}},
		"LiteralFlow":    {"the same in flow style", "kind: ConfigMap\ndata:\n  x.yaml: |\n    # of ours\n    {kind: Secret, data: {a: YQ==}}\n", []int{5}},
		"Deep":           {"in a text in a text, and so on", "a: |\n b: |\n  c: |\n   d: |\n    e: |\n     f: |\n      kind: Secret\n      data:\n        a: YQ==\n", []int{8}},
		"LiteralScript":  {"in a script", "kind: ConfigMap\ndata:\n  x.sh: |\n    kubectl apply -f - <<< '{kind: Secret, data: {a: YQ==}}'\n", []int{4}},
		"Heredoc":        {"in a file that is one", "#!/bin/sh\nkubectl apply -f - <<END\nkind: Secret\ndata:\n  a: YQ==\nEND\n", []int{4}},
		"Quoted":         {"as a flow text in quotes", "patch: '{kind: Secret, data: {a: YQ==}}'\n", []int{1}},
		"Jinja":          {"a template, which is no YAML", "{% for n in names %}\n---\nkind: Secret\nmetadata: {name: {{ n }}}\nstringData:\n  a: b\n{% endfor %}\n", []int{5}},
		"JinjaFlow":      {"in flow style", "{% if x %}\n{apiVersion: v1, kind: Secret, metadata: {name: {{ n }}}, data: {a: YQ==}}\n{% endif %}\n", []int{2}},
		"JinjaFlowLines": {"over several lines", "{% if x %}\n{apiVersion: v1,\n kind: Secret,\n metadata: {name: {{ n }}},\n data: {a: YQ==}}\n{% endif %}\n", []int{5}},
		"JinjaList":      {"in a list", "items:\n{% for n in names %}\n- kind: Secret\n  data:\n    a: YQ==\n{% endfor %}\n", []int{4}},
		"JinjaDataFirst": {"data before the kind, and what the template does between them", "items:\n- data:\n    a: {{ a }}-x\n\n{% if x %}\n# and\n{% endif %}\n  kind: Secret\n", []int{2}},
		"JinjaFlowFirst": {"in flow style, too", "x: {data: {a: {{ a }}-x},\n  kind: Secret}\n", []int{1}},
		"JinjaJSON":      {"one of two in JSON", "{% if x %}\n[{\"kind\": \"Secret\",\n \"metadata\": {\"name\": \"{{ n }}\"}, \"data\": {\n   \"a\": \"YQ==\"}},\n {\"kind\": \"ConfigMap\",\n  \"data\": {}}]\n{% endif %}\n", []int{3}},
		"JinjaOpenBrace": {"a brace in a text, which nothing closes", "kind: Secret\nmetadata: {name: {{ n }}-x, annotations: {a: \"{\"}}\ndata:\n  a: YQ==\n", []int{3}},
		"JinjaEndBrace":  {"and one that nothing opens", "{% if x %}\n{kind: Secret, metadata: {name: {{ n }}, annotations: {a: \"}}\"}}, data: {a: YQ==}}\n{% endif %}\n", []int{2}},
		"Twice":          {"a key that is there twice", "kind: Secret\ndata: # not-a-secret: an example\n  a: b\ndata:\n  a: YQ==\n", []int{4}},
		"MergeTwo":       {"one list that two merge", "x: &x {kind: Secret}\ny: &y [*x]\nz:\n- {<<: *y, data: {a: YQ==}}\n- {<<: *y, stringData: {a: b}}\n", []int{4, 5}},
		"CRLF":           {"lines as Windows ends them", strings.ReplaceAll(block, "\n", "\r\n"), []int{4}},
		"CRLFFlow":       {"and in flow style", "a: b\r\n---\r\n{kind: Secret,\r\n data: {a: YQ==}}\r\n", []int{4}},
		"CRLFLiteral":    {"and in a text", "x: |\r\n  kind: Secret\r\n  data:\r\n    a: YQ==\r\n", []int{3}},
		"CR":             {"lines as an old Mac ends them", strings.ReplaceAll(block, "\n", "\r"), []int{4}},
		"CRSecond":       {"the marker between documents, too", "a: b\r---\r" + strings.ReplaceAll(block, "\n", "\r"), []int{6}},
		"Mixed":          {"all of them", "apiVersion: v1\rkind: Secret\r\nmetadata: {name: a}\nstringData:\r  a: b\n", []int{4}},
		"UnicodeBreaks":  {"what YAML 1.1 ends a line with, and the libraries still do", "apiVersion: v1\u0085kind: Secret\u2028stringData:\u2029  a: b\n", []int{3}},
		"BOM":            {"a byte order mark", "\ufeffkind: Secret\ndata:\n  a: YQ==\n", []int{2}},
		"UTF16":          {"what PowerShell redirects", "\xff\xfe" + utf16(block, 0), []int{4}},
		"UTF16BE":        {"the other order", "\xfe\xff" + utf16(block, 1), []int{4}},
		"OnceALine":      {"two of them in one line", "[{kind: Secret, data: {a: YQ==}}, {kind: Secret, stringData: {a: b}}]\n", []int{1}},
		"TwoKinds":       {"which of two a reader takes is his", "kind: ConfigMap\nkind: Secret\ndata: {a: YQ==}\n", []int{3}},
		"Itself":         {"an anchor that merges itself ends", "a: &a\n  <<: *a\n  kind: Secret\n  data: {<<: *a}\n", []int{4}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []int
			for _, err := range secretscan.Scan("f.yaml", []byte(tc.text)) {
				var e *strictyaml.Error
				if !errors.As(err, &e) || !strings.HasSuffix(e.Msg, "a Secret with data") {
					t.Errorf("found %v", err)
					continue
				}
				got = append(got, e.Line)
			}
			if !slices.Equal(got, tc.lines) {
				t.Errorf("found lines %v, want %v; reason: %s in %q", got, tc.lines, tc.reason, tc.text)
			}
		})
	}
}

// utf16 has a byte of zero before or after each byte of an ASCII text.
func utf16(ascii string, at int) string {
	var b strings.Builder
	for _, c := range []byte(ascii) {
		pair := [2]byte{}
		pair[at] = c
		b.Write(pair[:])
	}
	return b.String()
}

// TestValuesByLine: what is looked for line by line is found however lines end.
func TestValuesByLine(t *testing.T) {
	text := "a: b\nadminPassword: " + seed("hun", "ter2") + "\nc: d\ntoken: &t " + seed("q9Zk3LmX", "7TfVb2RwY8Hn5") + "\n"
	for name, end := range map[string]string{"LF": "\n", "CRLF": "\r\n", "CR": "\r"} {
		t.Run(name, func(t *testing.T) {
			errs := secretscan.Scan("f.yaml", []byte(strings.ReplaceAll(text, "\n", end)))
			if len(errs) != 2 || !strings.HasPrefix(errs[0].Error(), `f.yaml:2: has what looks like a password under "adminPassword"`) || !strings.HasPrefix(errs[1].Error(), `f.yaml:4: has what looks like a random value under "token"`) {
				t.Errorf("found %v", errs)
			}
		})
	}
	t.Run("Allowed", func(t *testing.T) {
		if errs := secretscan.Scan("f.yaml", []byte("# not-a-secret: an example\radminPassword: "+seed("hun", "ter2")+"\r")); len(errs) > 0 {
			t.Errorf("found %v", errs)
		}
	})
}

// TestNoSecret has what names Secrets, or data, and is none.
func TestNoSecret(t *testing.T) {
	for name, text := range map[string]string{
		"Reference":       "kind: ConfigMap\ndata:\n  a: b\nref:\n  kind: Secret\n  name: x\n",
		"FlowReference":   "{kind: ConfigMap, data: {a: b}, ref: {kind: Secret, name: x}}\n",
		"Beside":          "kind: List\nitems:\n- {kind: ConfigMap, data: {a: b}}\n- {kind: Secret, metadata: {name: x}}\n",
		"Empty":           "{kind: Secret, data: {}, stringData: {}}\n",
		"Null":            "{kind: Secret, data: null, stringData: ~}\n",
		"NullBlock":       "kind: Secret\ndata:\n",
		"EmptyAlias":      "a: &e {}\nb: {kind: Secret, data: *e}\n",
		"JSON":            `{"kind":"Secret","data":{},"type":"Opaque"}`,
		"Below":           "kind: Secret\nmetadata:\n  annotations:\n    data: x\n",
		"MergeBelow":      "base: &b {ref: {kind: Secret, name: x}}\na: {<<: *b, kind: ConfigMap, data: {a: b}}\n",
		"LiteralBeside":   "x: |\n  kind: Secret\n  type: Opaque\n  ---\n  kind: ConfigMap\n  data:\n    a: b\n",
		"Policy":          "kind: ValidatingAdmissionPolicy\nspec:\n  validations:\n  - expression: \"object.kind != 'Secret' || !has(object.data)\"\n",
		"Schema":          "kind: CustomResourceDefinition\nspec:\n  description: |\n    kind: Secret, and its data\n  data:\n    type: object\n",
		"Comment":         "kind: ConfigMap # beside the Secret\n# {kind: Secret, data: ...}\ndata:\n  a: b\n",
		"FlowAllowed":     "{kind: Secret, data: {a: YQ==}} # not-a-secret: filled in by the cluster\n",
		"FlowAbove":       "{kind: Secret,\n # not-a-secret: filled in by the cluster\n data: {a: YQ==}}\n",
		"LiteralAllowed":  "x: |\n  kind: Secret\n  # not-a-secret: an example\n  data:\n    a: YQ==\n",
		"TemplateNoData":  "{% if x %}\n{kind: Secret, metadata: {name: {{ n }}}, data: {}}\n{% endif %}\n",
		"TemplateAllowed": "{% if x %}\n{kind: Secret, data: {a: YQ==}} # not-a-secret: an example\n{% endif %}\n",
		"TemplateValues":  "kind: HelmRelease\nmetadata:\n  name: {{ n }}-x\nspec:\n  valuesFrom:\n  - kind: Secret\n    name: x\n  values:\n    persistence:\n      data:\n        size: 1Gi\n",
		"TemplateText":    "{% if x %}\nkind: ConfigMap\ndata:\n  a: |\n    - {kind: Secret, namespace: {{ n }}}\n{% endif %}\n",
		"TemplateFlow":    "a: [{kind: Secret,\n  name: {{ n }}-x}, {kind: ConfigMap,\n  data: {a: b}}]\n",
		"TemplateList":    "{% for n in names %}\n- kind: Secret\n  metadata: {name: {{ n }}}\n- kind: ConfigMap\n  data: {a: b}\n{% endfor %}\n",
		"TemplateMarker":  "a: {{ a }}-x\nx: |\n  kind: Secret\n  type: Opaque\n  ---\n  kind: ConfigMap\n  data:\n    a: b\n",
		"Prose":           "# Secrets\n\nThe agent reads the Secret of its identity; its data: nobody's.\n\n* kind: of no matter\n",
	} {
		t.Run(name, func(t *testing.T) {
			if errs := secretscan.Scan("f.yaml", []byte(text)); len(errs) > 0 {
				t.Errorf("found %v in %q", errs, text)
			}
		})
	}
}

// TestLongMappings: what a text costs does not grow with a product of its parts. For each
// key of a mapping all of them were looked at, for each list that an alias repeats its items
// were listed again, and for each merge all keys of what it merges.
func TestLongMappings(t *testing.T) {
	const words = "words: Secret kind data\n"
	short := func(part string) string { return strings.Repeat(part, 1<<16/len(part)) }
	long := func(part string) string { return strings.Repeat(part, 1<<18/len(part)) }
	for name, text := range map[string]string{
		"Flat":       words + long("key: v\n") + long("key: v\n"),
		"FlatSealed": words + "v: ENC[AES256_GCM,\n" + long("key: v\n") + long("key: v\n"),
		"Lists":      words + "i: &i [" + short("{data: 1},") + "]\nl: [" + short("{kind: SecretList, items: *i},") + "]\n",
		"Items":      words + "d: &d {" + short("data: 1,") + "}\nl: {kind: SecretList, items: [" + short("*d,") + "]}\n",
		"Merges":     words + "d: &d {" + long("data: 1,") + "}\nm: {<<: [" + long("*d,") + "]}\n",
		"MergeLists": words + "d: &d {data: 1}\ni: &i [" + long("*d,") + "]\nl: [" + long("{<<: *i},") + "]\n",
	} {
		t.Run(name, func(t *testing.T) {
			memory, cpu := spent(t)
			secretscan.Scan("f.yaml", []byte(text))
			memoryAfter, cpuAfter := spent(t)
			if m, c := memoryAfter-memory, cpuAfter-cpu; m > 256<<20 || c > 5*time.Second {
				t.Errorf("%d KiB took %d MiB and %v", len(text)>>10, m>>20, c)
			}
		})
	}
}

// spent is the memory in bytes and the time of processors that the process took until now:
// other processes do not count.
func spent(t *testing.T) (memory uint64, cpu time.Duration) {
	t.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return m.TotalAlloc, time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
