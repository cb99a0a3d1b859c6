package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	resourceapi "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// objects reads what pods refer to.
type objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// environment resolves the environment of a container as the kubelet does
// (pkg/kubelet/kubelet_pods.go makeEnvironmentVariables): envFrom first, then
// env in its order, with $(NAME) of what is known by then. There are no
// variables of Services: nothing here has a route to a cluster IP.
func environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container, objs objects) (map[string]string, error) {
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		data, err := envSource(ctx, pod.Namespace, from, objs)
		if err != nil {
			return nil, err
		}
		for k, v := range data {
			env[from.Prefix+k] = v
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			env[e.Name] = expansion.Expand(e.Value, expansion.MappingFuncFor(env))
			continue
		}
		v, found, err := envValue(ctx, pod, c, e.ValueFrom, objs)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		if found {
			env[e.Name] = v
		}
	}
	return env, nil
}

func envSource(ctx context.Context, namespace string, from corev1.EnvFromSource, objs objects) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := objs.ConfigMap(ctx, namespace, from.ConfigMapRef.Name)
		if absent(err, from.ConfigMapRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return cm.Data, nil
	case from.SecretRef != nil:
		s, err := objs.Secret(ctx, namespace, from.SecretRef.Name)
		if absent(err, from.SecretRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		data := make(map[string]string, len(s.Data))
		for k, v := range s.Data {
			data[k] = string(v)
		}
		return data, nil
	}
	return nil, nil
}

// envValue is one valueFrom; found is false for an optional one that is absent.
func envValue(ctx context.Context, pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, objs objects) (v string, found bool, err error) {
	switch {
	case from.FieldRef != nil:
		v, err = podField(pod, from.FieldRef)
		return v, err == nil, err
	case from.ResourceFieldRef != nil:
		v, err = resourceField(pod, c, from.ResourceFieldRef)
		return v, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := objs.ConfigMap(ctx, pod.Namespace, ref.Name)
		if absent(err, ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		v, found = cm.Data[ref.Key]
		return v, found, missingKey(found, ref.Optional, "ConfigMap", ref.Name, ref.Key)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := objs.Secret(ctx, pod.Namespace, ref.Name)
		if absent(err, ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		b, found := s.Data[ref.Key]
		return string(b), found, missingKey(found, ref.Optional, "Secret", ref.Name, ref.Key)
	}
	return "", false, fmt.Errorf("its source is of a kind that this node does not know")
}

func absent(err error, optional *bool) bool {
	return apierrors.IsNotFound(err) && optional != nil && *optional
}

func missingKey(found bool, optional *bool, kind, name, key string) error {
	if found || optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %s has no key %s", kind, name, key)
}

// podField is a downward API field of pod, whose status must have its addresses.
func podField(pod *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error) {
	switch ref.FieldPath {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return pod.Status.HostIP, nil
	case "status.podIP":
		return pod.Status.PodIP, nil
	case "status.hostIPs":
		return joinIPs(pod.Status.HostIPs, func(ip corev1.HostIP) string { return ip.IP }), nil
	case "status.podIPs":
		return joinIPs(pod.Status.PodIPs, func(ip corev1.PodIP) string { return ip.IP }), nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, ref.FieldPath)
}

func joinIPs[T any](ips []T, text func(T) string) string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = text(ip)
	}
	return strings.Join(out, ",")
}

func resourceField(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName == "" || ref.ContainerName == c.Name {
		return resourceapi.ExtractContainerResourceValue(ref, c)
	}
	return resourceapi.ExtractResourceValueByContainerName(ref, pod, ref.ContainerName)
}

// environ is the environment of the process: the container's, rewritten to the
// host's paths, over the few variables that a container runtime sets.
func environ(env, base map[string]string, r rewriter) []string {
	all := map[string]string{}
	for k, v := range base {
		all[k] = v
	}
	for k, v := range env {
		all[k] = r.value(v)
	}
	out := make([]string, 0, len(all))
	for k, v := range all {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// arguments are the container's command and args: $(NAME) replaced, then
// rewritten to the host's paths.
func arguments(c *corev1.Container, env map[string]string, r rewriter) (command, args []string) {
	mapping := expansion.MappingFuncFor(env)
	each := func(in []string) []string {
		out := make([]string, len(in))
		for i, v := range in {
			out[i] = r.arg(expansion.Expand(v, mapping))
		}
		return out
	}
	return each(c.Command), each(c.Args)
}
