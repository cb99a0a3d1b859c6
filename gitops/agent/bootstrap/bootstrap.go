// Package bootstrap writes the manifests that bring the agent into a cluster:
// the only ones that are ever applied by hand.
package bootstrap

import (
	"bytes"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

const (
	// Namespace is where Holdfast lives in a cluster.
	Namespace = "holdfast-system"
	name      = "holdfast-agent"
	port      = 9811
)

// Options say which cluster joins which hub.
type Options struct {
	Cluster string
	Hub     string // base URL, as the cluster reaches it
	HubCA   []byte // PEM: the authorities to know the hub by
	Token   string // by which the cluster gets its first certificate
	// Signers are the keys of which one must have signed a bundle; empty for none.
	Signers []byte
	Image   string
	// Apply is who applies the bundle, as the agent's flag has it: "agent" (also when
	// empty), or "other"; then the agent may read, and write nothing but its own.
	Apply string
	// StatusCRD is the AddonStatus CustomResourceDefinition, which the agent needs before it can install anything.
	StatusCRD []byte
}

// Manifests returns the YAML to apply. It contains the join token, which is good
// once: hand it to kubectl, do not keep it.
func Manifests(o Options) ([]byte, error) {
	if o.Cluster == "" || o.Hub == "" || o.Token == "" || len(o.HubCA) == 0 || o.Image == "" || len(o.StatusCRD) == 0 {
		return nil, errors.New("write agent manifests: cluster, hub, its authority, token, image and CRD must be given")
	}
	labels := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "holdfast"}
	meta := metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: labels}
	secret := map[string][]byte{"token": []byte(o.Token), "ca.crt": o.HubCA}
	args := []string{"--cluster=" + o.Cluster, "--hub=" + o.Hub, "--token-file=/var/run/secrets/holdfast/token", "--hub-ca-file=/var/run/secrets/holdfast/ca.crt",
		"--identity-secret=" + Namespace + "/" + name + "-identity", fmt.Sprintf("--metrics-address=$(POD_IP):%d", port)}
	if len(o.Signers) > 0 {
		secret["allowed_signers"] = o.Signers
		args = append(args, "--allowed-signers-file=/var/run/secrets/holdfast/allowed_signers")
	}
	rights := everything(labels)
	switch o.Apply {
	case "", "agent":
	case "other":
		args = append(args, "--apply=other")
		rights = reading(labels)
	default:
		return nil, fmt.Errorf("write agent manifests: apply %q is not known; give agent or other", o.Apply)
	}
	objects := []any{
		&corev1.Namespace{TypeMeta: typ("v1", "Namespace"), ObjectMeta: metav1.ObjectMeta{Name: Namespace, Labels: map[string]string{
			// disk-monitor is privileged: it reads the kernel log and the disks.
			"pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/audit": "privileged", "pod-security.kubernetes.io/warn": "privileged"}}},
		&corev1.ServiceAccount{TypeMeta: typ("v1", "ServiceAccount"), ObjectMeta: meta},
		&corev1.Secret{TypeMeta: typ("v1", "Secret"), ObjectMeta: metav1.ObjectMeta{Name: name + "-hub", Namespace: Namespace, Labels: labels}, Data: secret},
	}
	objects = append(append(objects, rights...), deployment(meta, labels, o.Image, args))
	out := bytes.NewBuffer(bytes.TrimSpace(o.StatusCRD))
	for _, obj := range objects {
		data, err := yaml.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("write agent manifests: %w", err)
		}
		out.WriteString("\n---\n")
		out.Write(data)
	}
	return out.Bytes(), nil
}

func deployment(meta metav1.ObjectMeta, labels map[string]string, image string, args []string) *appsv1.Deployment {
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(port)}}, PeriodSeconds: 10, TimeoutSeconds: 5}
	}
	return &appsv1.Deployment{
		TypeMeta: typ("apps/v1", "Deployment"), ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1),
			// Two agents at once would fight; Recreate needs no election and no idle writes.
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": fmt.Sprint(port)}},
				Spec: corev1.PodSpec{
					ServiceAccountName: name,
					PriorityClassName:  "system-cluster-critical",
					Tolerations:        []corev1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
					SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532), RunAsGroup: ptr.To[int64](65532), FSGroup: ptr.To[int64](65532),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
					Containers: []corev1.Container{{
						Name: "agent", Image: image, Command: []string{"/holdfast-agent"}, Args: args,
						Env:   []corev1.EnvVar{{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
						Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: port}},
						Resources: corev1.ResourceRequirements{
							Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
							Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}},
						SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
						VolumeMounts:    []corev1.VolumeMount{{Name: "hub", MountPath: "/var/run/secrets/holdfast", ReadOnly: true}},
						LivenessProbe:   probe("/healthz"),
						ReadinessProbe:  probe("/readyz"),
					}},
					Volumes: []corev1.Volume{{Name: "hub", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name + "-hub", DefaultMode: ptr.To[int32](0o440)}}}},
				},
			},
		},
	}
}

func typ(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}
