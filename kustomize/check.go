package kustomize

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"holdfast.dev/internal/strictyaml"
)

// allowed are the fields of a kustomization.yaml that are supported. Left out
// are those that run programs, fetch, make Secrets or change kustomize itself.
var allowed = []string{
	"apiVersion", "kind", "commonAnnotations", "components", "configMapGenerator", "generatorOptions",
	"images", "labels", "namespace", "patches", "replacements", "replicas", "resources",
}

// checker reads one kustomization.yaml before kustomize does.
type checker struct {
	fs   filesys.FileSystem
	file string
	dir  string
}

func (c *checker) fault(n *yaml.Node, msg, hint string) error {
	return &strictyaml.Error{File: c.file, Line: n.Line, Msg: msg, Hint: hint}
}

// check refuses fields that are not supported and every reference that is not a
// file or folder of the file system in memory: kustomize takes those for remote
// ones, and would run git or fetch. It returns the number of fields that do something.
func check(files Files, fs filesys.FileSystem, file string, folders []string) (int, error) {
	data, _ := files.File(file)
	rootNode, err := strictyaml.Node(file, data)
	if err != nil {
		return 0, err
	}
	c := &checker{fs: fs, file: file, dir: path.Dir(file)}
	if rootNode.Kind != yaml.MappingNode {
		return 0, c.fault(rootNode, "the file is not a mapping", "write kind: Component and patches:")
	}
	kind, fields := "", 0
	for i := 0; i+1 < len(rootNode.Content); i += 2 {
		key, value := rootNode.Content[i], rootNode.Content[i+1]
		if !slices.Contains(allowed, key.Value) {
			return 0, c.fault(key, fmt.Sprintf("the field %q is not supported", key.Value), "known are "+strings.Join(allowed, ", "))
		}
		if value.Kind == yaml.AliasNode {
			return 0, c.fault(value, "aliases are not supported", "write the value out")
		}
		switch key.Value {
		case "kind":
			kind = value.Value
		case "apiVersion":
		default:
			fields++
		}
		if err := c.references(key.Value, value); err != nil {
			return 0, err
		}
	}
	if slices.Contains(folders, c.dir) && kind != "Component" {
		return 0, c.fault(rootNode, fmt.Sprintf("the kind is %q", kind), "write apiVersion: kustomize.config.k8s.io/v1alpha1 and kind: Component")
	}
	return fields, nil
}

// references checks what the field's value refers to.
func (c *checker) references(field string, value *yaml.Node) error {
	switch field {
	case "resources", "components":
		return c.each(value, func(n *yaml.Node) error { return c.exists(n, n.Value, true) })
	case "patches", "replacements":
		return c.each(value, func(n *yaml.Node) error {
			if p := child(n, "path"); p != nil {
				return c.exists(p, p.Value, false)
			}
			return nil
		})
	case "configMapGenerator":
		return c.each(value, func(n *yaml.Node) error {
			for _, key := range []string{"files", "envs"} {
				list := child(n, key)
				if list == nil {
					continue
				}
				if err := c.each(list, func(f *yaml.Node) error {
					_, name, named := strings.Cut(f.Value, "=")
					if !named {
						name = f.Value
					}
					return c.exists(f, name, false)
				}); err != nil {
					return err
				}
			}
			if env := child(n, "env"); env != nil {
				return c.exists(env, env.Value, false)
			}
			return nil
		})
	}
	return nil
}

func (c *checker) each(list *yaml.Node, f func(*yaml.Node) error) error {
	if list.Kind != yaml.SequenceNode {
		return c.fault(list, "a list is needed here", "write - ...")
	}
	for _, n := range list.Content {
		if n.Kind == yaml.AliasNode {
			return c.fault(n, "aliases are not supported", "write the value out")
		}
		if err := f(n); err != nil {
			return err
		}
	}
	return nil
}

// exists refuses what is not in the file system in memory.
func (c *checker) exists(n *yaml.Node, ref string, folder bool) error {
	if strings.Contains(ref, "://") || strings.Contains(ref, "::") || strings.Contains(ref, "?") || strings.Contains(ref, "@") || path.IsAbs(ref) {
		return c.fault(n, fmt.Sprintf("%q is not a path in the repository", ref), "copy what it refers to into "+BaseDir)
	}
	p := path.Join(c.dir, ref)
	if p == ".." || strings.HasPrefix(p, "../") {
		return c.fault(n, fmt.Sprintf("%q leads out of the repository", ref), "copy what it refers to into "+BaseDir)
	}
	if folder && kustomizationOf(c.fs, p) != "" {
		return nil
	}
	if c.fs.Exists(p) && !c.fs.IsDir(p) {
		return nil
	}
	return c.fault(n, fmt.Sprintf("%s is not there, or not for this addon and cluster", p), "a folder may use its own files and "+BaseDir)
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
