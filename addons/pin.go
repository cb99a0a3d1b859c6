package addons

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strictyaml"
)

// PinnedImage is an image of an addon.yaml that Pin looked at.
type PinnedImage struct {
	Line     int
	Old, New string // equal when nothing had to change
}

// Pin returns an addon.yaml with other references of its images: those that pin
// returns. Nothing but the references changes, not even a comment or a space.
// Errors are [strictyaml.Error] values, all of the file's, joined.
func Pin(file string, data []byte, pin func(image string) (string, error)) ([]byte, []PinnedImage, error) {
	if _, err := Load(file, data); err != nil {
		return nil, nil, err
	}
	root, err := strictyaml.Node(file, data)
	if err != nil {
		return nil, nil, err
	}
	lines := strings.SplitAfter(string(data), "\n")
	var pinned []PinnedImage
	var faults []error
	want := map[string]string{}
	fault := func(n *yaml.Node, msg, hint string) {
		faults = append(faults, &strictyaml.Error{File: file, Line: n.Line, Msg: msg, Hint: hint})
	}
	nodes := imageNodes(root)
	for i := len(nodes) - 1; i >= 0; i -= 2 { // from the end: columns of what comes before stay right
		name, n := nodes[i-1].Value, nodes[i]
		image, err := pin(n.Value)
		if err != nil {
			fault(n, err.Error(), "")
			continue
		}
		want[name] = image
		pinned = append([]PinnedImage{{n.Line, n.Value, image}}, pinned...)
		if image == n.Value {
			continue
		}
		if !replaceScalar(lines, n, image) {
			fault(n, fmt.Sprintf("the image %s is not written as one plain or quoted text", name), "write it without anchors, aliases, tags and escapes, in one line")
		}
	}
	if len(faults) > 0 {
		return nil, nil, errors.Join(faults...)
	}
	out := []byte(strings.Join(lines, ""))
	after, err := Load(file, out)
	if err != nil {
		return nil, nil, fmt.Errorf("with pinned images: %w", err)
	}
	for name, image := range want {
		if after.Images[name] != image {
			return nil, nil, after.Fault("images", fmt.Sprintf("the image %s cannot be replaced where it is written", name), "write images one a line")
		}
	}
	return out, pinned, nil
}

// imageNodes are names and references, in turn, in the file's order.
func imageNodes(root *yaml.Node) []*yaml.Node {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "images" && root.Content[i+1].Kind == yaml.MappingNode {
			return root.Content[i+1].Content
		}
	}
	return nil
}

// replaceScalar writes text in the place of a scalar, and reports whether it is
// written there as it reads.
func replaceScalar(lines []string, n *yaml.Node, text string) bool {
	if n.Kind != yaml.ScalarNode || n.Line < 1 || n.Line > len(lines) {
		return false
	}
	line := lines[n.Line-1]
	start := 0
	for range n.Column - 1 { // columns count characters
		_, size := utf8.DecodeRuneInString(line[start:])
		start += size
	}
	switch n.Style {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		start++
	case 0:
	default:
		return false
	}
	if start > len(line) || !strings.HasPrefix(line[start:], n.Value) {
		return false
	}
	lines[n.Line-1] = line[:start] + text + line[start+len(n.Value):]
	return true
}
