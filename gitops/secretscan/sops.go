package secretscan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// sopsValueRE is a value that SOPS encrypted: AES-256-GCM with a nonce of 32 bytes
// (getsops/sops, aes/cipher.go).
var sopsValueRE = regexp.MustCompile(`ENC\[AES256_GCM,data:[A-Za-z0-9+/]*={0,2},iv:[A-Za-z0-9+/]{43}=,tag:[A-Za-z0-9+/]{22}==,type:(?:str|int|int64|float|bytes|bool|time|comment)\]`)

const sopsPrefix = "ENC[AES256_GCM,"

// encrypted is true for a value that is such a text and nothing else.
func encrypted(value string) bool {
	return strings.HasPrefix(value, sopsPrefix) && sopsValueRE.FindString(value) == value
}

// Fault is what is wrong with a node of a document; its texts hold no value.
type Fault struct {
	Node      *yaml.Node
	Msg, Hint string
}

const (
	sopsKey  = "sops" // stores.SopsMetadataKey
	sopsHint = "encrypt the whole file again: sops --encrypt --encrypted-regex '^(data|stringData)$' --in-place FILE; what stood there plain in any commit must be revoked"
)

// Sealed tells whether a document is encrypted with SOPS, and what of it is not as it
// must be for whoever has the key in the cluster to decrypt it: values that stand there
// plain, or encrypted where the block sops says that they are not, a block without a MAC,
// a key or a time. Whether the MAC is right only the key can tell.
func Sealed(root *yaml.Node) (sealed bool, faults []Fault) {
	key, block := entry(root, sopsKey)
	if block == nil {
		if n := firstEncrypted(root); n != nil {
			faults = append(faults, Fault{n, "is encrypted with SOPS, and the document has no block sops to decrypt it with", "take the whole output of sops --encrypt"})
		}
		return false, faults
	}
	if block.Kind != yaml.MappingNode || firstEncrypted(root) == nil {
		return false, nil // something else that is called so
	}
	faults = checkBlock(key, block)
	rule, fault := ruleOf(block)
	if fault != nil {
		return true, append(faults, *fault)
	}
	walk(root, nil, ofNobody, func(n *yaml.Node, path []string, of owner) {
		switch is, should := encrypted(n.Value), rule(path); {
		case path[0] == sopsKey:
		case n.Kind == yaml.AliasNode:
			faults = append(faults, Fault{n, "is an alias, which SOPS does not have", "write the value out; " + sopsHint})
		case n.Value == "" || n.Tag == "!!null" && (n.Value == "~" || strings.EqualFold(n.Value, "null")): // SOPS leaves what is empty as it is
		case !is && of == ofSecret:
			faults = append(faults, Fault{n, fmt.Sprintf("%s is not encrypted, in a Secret that otherwise is", strings.Join(path, ".")), sopsHint})
		case !is && should:
			faults = append(faults, Fault{n, fmt.Sprintf("%s is not encrypted, and the block sops says that it is", strings.Join(path, ".")), sopsHint})
		case is && !should:
			faults = append(faults, Fault{n, fmt.Sprintf("%s is encrypted, and the block sops leaves it as it is: nobody would decrypt it", strings.Join(path, ".")), sopsHint})
		}
	})
	return true, faults
}

// owner is what a value is part of.
type owner int

const (
	ofNobody    owner = iota
	ofTemplates       // the spec of a SopsSecret, of which an operator makes Secrets
	ofSecret          // the data of a Secret, also of one in a List or a template
)

// below is what the values of a mapping are part of: those under data and stringData, and
// the one under spec. The others are part of what the mapping is.
func (of owner) below(mapping *yaml.Node) (data, spec owner) {
	data, spec = of, of
	if of == ofTemplates {
		data = ofSecret
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 { // every kind, should there be two
		switch kind := mapping.Content[i+1].Value; {
		case mapping.Content[i].Value != "kind":
		case kind == "Secret":
			data = ofSecret
		case strings.HasSuffix(kind, "SopsSecret"):
			spec = max(of, ofTemplates)
		}
	}
	return data, spec
}

// checkBlock looks for what sops itself refuses a file without (getsops/sops,
// stores.Metadata.ToInternal), and for the MAC.
func checkBlock(key, block *yaml.Node) (faults []Fault) {
	fault := func(n *yaml.Node, msg string) { faults = append(faults, Fault{n, msg, sopsHint}) }
	switch name, mac := entry(block, "mac"); {
	case mac == nil:
		fault(key, "the block sops has no mac: somebody changed the file without sops")
	case !encrypted(mac.Value):
		fault(name, "the mac of the block sops is none")
	}
	if _, at := entry(block, "lastmodified"); at == nil {
		fault(key, "the block sops has no lastmodified")
	} else if _, err := time.Parse(time.RFC3339, at.Value); err != nil {
		fault(at, "the block sops has a lastmodified that is no time")
	}
	if !hasKey(block) {
		fault(key, "the block sops has no key that anybody could decrypt with")
	}
	return faults
}

// hasKey is true when the block, or one of its key_groups, has the data key encrypted
// for somebody: a list such as age, pgp or kms with entries that have enc.
func hasKey(block *yaml.Node) bool {
	for i := 1; i < len(block.Content); i += 2 {
		list := block.Content[i]
		if list.Kind != yaml.SequenceNode {
			continue
		}
		for _, item := range list.Content {
			if _, enc := entry(item, "enc"); enc != nil && enc.Value != "" || block.Content[i-1].Value == "key_groups" && item.Kind == yaml.MappingNode && hasKey(item) {
				return true
			}
		}
	}
	return false
}

// ruleOf is which values the block says are encrypted (getsops/sops, Tree.shouldBeEncrypted).
func ruleOf(block *yaml.Node) (func(path []string) bool, *Fault) {
	rule := func(path []string) bool { // the default
		return !slices.ContainsFunc(path, func(p string) bool { return strings.HasSuffix(p, "_unencrypted") })
	}
	found := ""
	for i := 0; i+1 < len(block.Content); i += 2 {
		name, value := block.Content[i], block.Content[i+1].Value
		var match func(string) bool
		switch name.Value {
		case "encrypted_suffix", "unencrypted_suffix":
			match = func(p string) bool { return strings.HasSuffix(p, value) }
		case "encrypted_regex", "unencrypted_regex":
			re, err := regexp.Compile(value)
			if err != nil {
				return nil, &Fault{name, "the block sops has the " + name.Value + " that is no regular expression", sopsHint}
			}
			match = re.MatchString
		case "encrypted_comment_regex", "unencrypted_comment_regex":
			return nil, &Fault{name, "the block sops goes by comments, and what is rendered has none", sopsHint}
		default:
			continue
		}
		if value == "" {
			continue
		}
		if found != "" {
			return nil, &Fault{name, fmt.Sprintf("the block sops has %s beside %s", name.Value, found), sopsHint}
		}
		found = name.Value
		plain := strings.HasPrefix(found, "un")
		rule = func(path []string) bool { return slices.ContainsFunc(path, match) != plain }
	}
	return rule, nil
}

// walk calls f for every value that has no values below it. The path has the keys
// that lead to it, and no numbers of list entries, as SOPS has it; it is f's for one call.
func walk(n *yaml.Node, path []string, of owner, f func(n *yaml.Node, path []string, of owner)) {
	switch n.Kind {
	case yaml.MappingNode:
		data, spec := of.below(n)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, its := n.Content[i].Value, of
			switch key {
			case "data", "stringData":
				its = data
			case "spec":
				its = spec
			}
			walk(n.Content[i+1], append(path, key), its, f)
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			walk(item, path, of, f)
		}
	default:
		if len(path) > 0 {
			f(n, path, of)
		}
	}
}

// firstEncrypted is the first value outside of the block that SOPS encrypted.
func firstEncrypted(root *yaml.Node) (first *yaml.Node) {
	walk(root, nil, ofNobody, func(n *yaml.Node, path []string, _ owner) {
		if first == nil && path[0] != sopsKey && encrypted(n.Value) {
			first = n
		}
	})
	return first
}

// entry is a key of a mapping with its value; nil when it is not there.
func entry(n *yaml.Node, key string) (k, value *yaml.Node) {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}
