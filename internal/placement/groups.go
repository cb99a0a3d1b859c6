package placement

import (
	"fmt"

	"holdfast.dev/api/v1alpha1"
)

// Groups reads the anti-affinity groups of a claim in a namespace from its labels, as
// namespace/group; empty for none. Scheduler and provisioner read them by this function,
// so that both refuse the same ones.
func Groups(namespace string, labels map[string]string) (required, preferred string, _ error) {
	must, hasMust := labels[v1alpha1.LabelAntiAffinity]
	may, hasMay := labels[v1alpha1.LabelAntiAffinityPreferred]
	switch {
	case hasMust && must == "":
		return "", "", fmt.Errorf("label %s has no group: give it a value, such as the application's name, or remove it", v1alpha1.LabelAntiAffinity)
	case hasMay && may == "":
		return "", "", fmt.Errorf("label %s has no group: give it a value, such as the application's name, or remove it", v1alpha1.LabelAntiAffinityPreferred)
	case hasMust && must == may:
		return "", "", fmt.Errorf("labels %s and %s both name group %s: keep one of the two", v1alpha1.LabelAntiAffinity, v1alpha1.LabelAntiAffinityPreferred, must)
	}
	if hasMust {
		required = namespace + "/" + must
	}
	if hasMay {
		preferred = namespace + "/" + may
	}
	return required, preferred, nil
}
