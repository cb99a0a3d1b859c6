package strictyaml

import "go.yaml.in/yaml/v3"

// Line is the line of what a path of keys (string) and indices (int) leads to in a
// document of [Node]: for a key the line that the key is in. Where the path leads
// nowhere, it is the line of the last thing that is there.
func Line(root *yaml.Node, path ...any) int {
	line, n := root.Line, root
	for _, step := range path {
		for n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		next := (*yaml.Node)(nil)
		switch step := step.(type) {
		case int:
			if n.Kind == yaml.SequenceNode && step >= 0 && step < len(n.Content) {
				next = n.Content[step]
				line = next.Line
			}
		case string:
			for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					line, next = n.Content[i].Line, n.Content[i+1]
				}
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}
