package node

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// object is the Node as it registers. The node restriction admits labels of
// one's own domain and the kubelet's own ones, topology.kubernetes.io/zone and
// /region among them (k8s.io/kubelet/pkg/apis/well_known_labels.go).
func (o *Options) object() *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: o.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
	}
	for k, v := range o.labels {
		labels[k] = v
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("8"),
		corev1.ResourceMemory:           resource.MustParse("16Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("64Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	now := metav1.Now()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: labels},
		Spec:       corev1.NodeSpec{ProviderID: providerID(o.Name)},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{
				condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "the machine's memory is not watched"),
				condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "the machine's disk is not watched"),
				condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "the machine's processes are not counted"),
				condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "holdfast-node runs pods as processes"),
			},
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: o.Address},
				{Type: corev1.NodeHostName, Address: o.Name},
			},
			NodeInfo: nodeInfo(o.Root),
		},
	}
}

func providerID(name string) string { return "holdfast://" + name }

func nodeInfo(root string) corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, OSImage: "holdfast-node",
		ContainerRuntimeVersion: "process://1", KubeletVersion: "v1.36.3",
		MachineID: oneLine("/etc/machine-id"), SystemUUID: oneLine("/etc/machine-id"),
		BootID: oneLine(root + "/proc/sys/kernel/random/boot_id"),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		info.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	return info
}

// oneLine is a file that some machines do not have.
func oneLine(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// setProviderID fills in the provider id of a Node that somebody else made.
func setProviderID(ctx context.Context, client kubernetes.Interface, name string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && n.Spec.ProviderID != "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Node %s: %w", name, err)
	}
	patch := fmt.Appendf(nil, `{"spec":{"providerID":%q}}`, providerID(name))
	if _, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("set provider id of Node %s: %w", name, err)
	}
	return nil
}
