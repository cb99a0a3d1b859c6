package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/internal/strictyaml"
)

// policyCost bounds what one rule may cost on one object, in CEL's own measure,
// so that a push is always verified in time. It is that of Kubernetes' admission
// policies (k8s.io/apiserver/pkg/apis/cel, PerCallLimit).
const policyCost = 1_000_000

// policy is a compiled rule.
type policy struct {
	fleet.Policy
	program cel.Program
}

// compilePolicies compiles the fleet's rules. What they can do is evaluate: CEL
// has no clock, network or loop without end.
func compilePolicies(f *fleet.Fleet) ([]policy, []error) {
	if len(f.Policies) == 0 {
		return nil, nil
	}
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType),
		cel.Variable("addon", cel.StringType),
		cel.Variable("cluster", cel.MapType(cel.StringType, cel.DynType)),
		cel.OptionalTypes(), ext.Strings(), ext.Sets(),
	)
	if err != nil {
		return nil, []error{fmt.Errorf("make CEL environment: %w", err)}
	}
	var out []policy
	var errs []error
	for _, p := range f.Policies {
		refuse := func(msg string) {
			errs = append(errs, &strictyaml.Error{File: fleet.File, Line: p.RuleLine, Msg: fmt.Sprintf("the rule of the policy %q %s", p.Name, msg), Hint: "correct the CEL expression"})
		}
		ast, issues := env.Compile(p.Rule)
		if err := issues.Err(); err != nil {
			first := issues.Errors()[0]
			refuse("does not compile: " + first.Message)
			continue
		}
		if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
			refuse("gives " + t.String() + ", not true or false")
			continue
		}
		prg, err := env.Program(ast, cel.CostLimit(policyCost))
		if err != nil {
			refuse("cannot be run: " + err.Error())
			continue
		}
		out = append(out, policy{p, prg})
	}
	return out, errs
}

// checkPolicies holds every object of a cluster against the rules. decoded keeps
// objects by their text: most are the same on many clusters.
func checkPolicies(policies []policy, c *fleet.Cluster, units []*unit, decoded map[string]map[string]any) []error {
	if len(policies) == 0 {
		return nil
	}
	labels := map[string]any{}
	for k, v := range c.Labels {
		labels[k] = v
	}
	cluster := map[string]any{"name": c.Name, "az": c.AZ, "kubernetes": c.Kubernetes, "labels": labels}
	var errs []error
	for _, u := range units {
		for _, o := range u.out.Objects {
			value, ok := decoded[string(o.Text)]
			if !ok {
				if err := yaml.Unmarshal(o.Text, &value); err != nil {
					errs = append(errs, &strictyaml.Error{File: o.File, Line: o.Line, Msg: "cannot be read again: " + err.Error()})
					continue
				}
				decoded[string(o.Text)] = value
			}
			for _, p := range policies {
				if !p.concerns(value) {
					continue
				}
				if problem := p.problem(map[string]any{"object": value, "addon": u.addon.Name, "cluster": cluster}); problem != "" {
					errs = append(errs, &strictyaml.Error{File: o.File, Line: o.Line, Msg: fmt.Sprintf("%s %s the policy %q", o.ID, problem, p.Name),
						Hint: fmt.Sprintf("%s; %s:%d", strings.TrimSpace(p.Message), fleet.File, p.Line)})
				}
			}
		}
	}
	return errs
}

func (p *policy) concerns(object map[string]any) bool {
	if len(p.Kinds) == 0 {
		return true
	}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	gv, err := schema.ParseGroupVersion(apiVersion)
	return err == nil && slices.Contains(p.Kinds, gv.WithKind(kind).GroupKind().String())
}

// problem is what is wrong, as a verb phrase; empty when nothing is. A rule that
// cannot be evaluated is not satisfied.
func (p *policy) problem(vars map[string]any) string {
	got, _, err := p.program.Eval(vars)
	switch {
	case err != nil:
		return fmt.Sprintf("cannot be judged (%s; use has()) by", strings.Join(strings.Fields(err.Error()), " "))
	case got == types.True:
		return ""
	case got == types.False:
		return "does not satisfy"
	}
	return fmt.Sprintf("is judged with %s, not true or false, by", got.Type().TypeName())
}
