package fleet

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Policy is a rule that every rendered object of some kinds must satisfy.
type Policy struct {
	Name string
	// Kinds are Kind.group, Kind alone in the core group; none means all.
	Kinds []string
	// Rule is a CEL expression that is true when the object is fine. It knows
	// object, addon (its name) and cluster (name, az, kubernetes, labels).
	Rule string
	// Message says why the rule is there, and what to do.
	Message string
	// Line is where the policy is written, RuleLine its rule.
	Line, RuleLine int
}

type policyDocument struct {
	Name    string   `yaml:"name"`
	Kinds   []string `yaml:"kinds"`
	Rule    string   `yaml:"rule"`
	Message string   `yaml:"message"`
}

var kindRE = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*(\.[a-z0-9.-]+)?$`)

func (c *compiler) policies(f *Fleet, nodes []yaml.Node) {
	for i := range nodes {
		n := &nodes[i]
		var d policyDocument
		if err := n.Decode(&d); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		if !c.name(n.Line, "policy", d.Name) {
			continue
		}
		if i := slices.IndexFunc(f.Policies, func(p Policy) bool { return p.Name == d.Name }); i >= 0 {
			c.fault(n.Line, "rename or remove one", "the policy %q is there twice, first in line %d", d.Name, f.Policies[i].Line)
		}
		p := Policy{Name: d.Name, Kinds: d.Kinds, Rule: d.Rule, Message: d.Message, Line: n.Line, RuleLine: n.Line}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "rule" {
				p.RuleLine = n.Content[i+1].Line
			}
		}
		for _, k := range d.Kinds {
			if !kindRE.MatchString(k) {
				c.fault(n.Line, "write one such as DaemonSet.apps, or Service", "the policy %q has the kind %q, which is not one", d.Name, k)
			}
		}
		if strings.TrimSpace(d.Rule) == "" {
			c.fault(n.Line, "write rule: with a CEL expression that is true for what is fine", "the policy %q has no rule", d.Name)
		}
		if strings.TrimSpace(d.Message) == "" {
			c.fault(n.Line, "write message: and why, for whoever meets it", "the policy %q has no message", d.Name)
		}
		f.Policies = append(f.Policies, p)
	}
}
