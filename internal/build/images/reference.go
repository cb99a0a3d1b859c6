package images

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Reference returns the reference with digest of an image, known by its name
// without registry and tag, from the file that [Write] wrote.
func Reference(imagesFile, shortname string) (string, error) {
	data, err := os.ReadFile(imagesFile)
	if err != nil {
		return "", fmt.Errorf("read references of images: %w (run make images)", err)
	}
	var refs map[string]string
	if err := strictyaml.Decode(imagesFile, data, &refs); err != nil { // JSON is YAML, and this names the line
		return "", fmt.Errorf("read references of images: %w", err)
	}
	var known []string
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if shortName(name) == shortname {
			return refs[name], nil
		}
		known = append(known, shortName(name))
	}
	return "", fmt.Errorf("%s has no image %q, only %s", imagesFile, shortname, strings.Join(known, ", "))
}
