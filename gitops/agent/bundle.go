package agent

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/render"
)

// parseBundle verifies a bundle and takes it apart. A bundle of another
// cluster, one without addons and one that is not whole are refused: what it
// does not name would be pruned.
func parseBundle(cluster string, files map[string][]byte) (digest string, units []unit, err error) {
	b, err := render.ParseBundle(files)
	if err != nil {
		return "", nil, err
	}
	if b.Index.Cluster != cluster {
		return "", nil, fmt.Errorf("the bundle is for cluster %q, this is %q", b.Index.Cluster, cluster)
	}
	if len(b.Index.Addons) == 0 {
		return "", nil, errors.New("the bundle has no addon at all; it would remove everything")
	}
	for _, a := range b.Index.Addons {
		u := unit{name: a.Name, version: a.Version, digest: a.Digest, requires: a.Requires, healthTimeout: a.HealthTimeout}
		for _, o := range b.Objects(a.Name) {
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(o.Data, &obj.Object); err != nil {
				return "", nil, fmt.Errorf("read %s: %w", o.Path, err)
			}
			u.objects = append(u.objects, obj)
		}
		units = append(units, u)
	}
	return b.Index.Digest, units, nil
}
