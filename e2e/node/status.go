package node

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containerState is what is known of one container.
type containerState struct {
	name, image  string
	imageID, id  string
	state        corev1.ContainerState
	last         corev1.ContainerState
	restartCount int32
	ready        bool
	started      bool
	pid          int
	log          string
}

// podState is what a pod's status is made of.
type podState struct {
	pod        *corev1.Pod // with the status that the API server has
	hostIP, ip string
	prepared   bool // volumes are there
	terminal   bool // nothing will be started any more
	init, main []containerState
	now        time.Time
}

// status is the pod's status as a kubelet would report it
// (pkg/kubelet/kubelet_pods.go generateAPIPodStatus).
func (s podState) status() corev1.PodStatus {
	st := *s.pod.Status.DeepCopy()
	st.ObservedGeneration = s.pod.Generation
	st.Phase = s.phase()
	st.HostIP, st.HostIPs = s.hostIP, []corev1.HostIP{{IP: s.hostIP}}
	st.PodIP, st.PodIPs = s.ip, []corev1.PodIP{{IP: s.ip}}
	if st.StartTime == nil {
		st.StartTime = &metav1.Time{Time: s.now.Truncate(time.Second)}
	}
	st.InitContainerStatuses = containerStatuses(s.init)
	st.ContainerStatuses = containerStatuses(s.main)
	s.conditions(&st)
	return st
}

func containerStatuses(in []containerState) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range in {
		out = append(out, corev1.ContainerStatus{
			Name: c.name, Image: c.image, ImageID: c.imageID, ContainerID: c.id,
			State: *c.state.DeepCopy(), LastTerminationState: *c.last.DeepCopy(),
			RestartCount: c.restartCount, Ready: c.ready, Started: &c.started,
		})
	}
	return out
}

// phase follows pkg/kubelet/kubelet_pods.go getPhase.
func (s podState) phase() corev1.PodPhase {
	policy := s.pod.Spec.RestartPolicy
	var failed, succeeded, running, waiting int
	for _, c := range s.main {
		switch {
		case c.state.Running != nil:
			running++
		case c.state.Terminated != nil && c.state.Terminated.ExitCode == 0:
			succeeded++
		case c.state.Terminated != nil:
			failed++
		case c.last.Terminated != nil:
			running++ // between two starts
		default:
			waiting++
		}
	}
	for _, c := range s.init {
		if t := c.state.Terminated; t != nil && t.ExitCode != 0 && (policy == corev1.RestartPolicyNever || s.terminal) {
			return corev1.PodFailed
		}
	}
	if s.terminal {
		if failed > 0 || waiting > 0 {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	}
	switch {
	case !s.initialized() || waiting > 0:
		return corev1.PodPending
	case running > 0 || policy == corev1.RestartPolicyAlways:
		return corev1.PodRunning
	case failed == 0:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

func (s podState) initialized() bool {
	for _, c := range s.init {
		if c.state.Terminated == nil || c.state.Terminated.ExitCode != 0 {
			return false
		}
	}
	return true
}

// conditions sets those that a kubelet owns and leaves the others alone.
func (s podState) conditions(st *corev1.PodStatus) {
	set := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, ObservedGeneration: s.pod.Generation, LastTransitionTime: metav1.Time{Time: s.now.Truncate(time.Second)}}
		if !ok {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
		for i, old := range st.Conditions {
			if old.Type != kind {
				continue
			}
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			st.Conditions[i] = c
			return
		}
		st.Conditions = append(st.Conditions, c)
	}
	done := st.Phase == corev1.PodSucceeded
	set(corev1.PodScheduled, true, "", "")
	set(corev1.PodReadyToStartContainers, s.prepared, "", "")
	set(corev1.PodInitialized, s.initialized() || done, "ContainersNotInitialized", unreadyText("containers with incomplete status", s.init, func(c containerState) bool {
		return c.state.Terminated == nil || c.state.Terminated.ExitCode != 0
	}))
	reason, message := "ContainersNotReady", unreadyText("containers with unready status", s.main, func(c containerState) bool { return !c.ready })
	if done {
		reason, message = "PodCompleted", ""
	}
	ready := message == "" && !done
	set(corev1.ContainersReady, ready, reason, message)
	for _, gate := range s.pod.Spec.ReadinessGates {
		if ready && !conditionTrue(st.Conditions, gate.ConditionType) {
			ready, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("the status of pod readiness gate %q is not \"True\"", gate.ConditionType)
		}
	}
	set(corev1.PodReady, ready, reason, message)
}

func conditionTrue(list []corev1.PodCondition, kind corev1.PodConditionType) bool {
	for _, c := range list {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func unreadyText(what string, in []containerState, bad func(containerState) bool) string {
	var names []string
	for _, c := range in {
		if bad(c) {
			names = append(names, c.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: [%s]", what, strings.Join(names, " "))
}

// backoff is the time between two starts of a container: 1 s, doubled up to
// 60 s, and from the start again after 60 s of running. The kubelet starts at
// 10 s and ends at 300 s; a demonstration has no time for that.
type backoff struct{ next time.Duration }

const (
	backoffFirst = time.Second
	backoffMost  = time.Minute
)

func (b *backoff) after(ran time.Duration) time.Duration {
	if ran >= backoffMost || b.next == 0 {
		b.next = backoffFirst
	}
	d := b.next
	b.next = min(2*b.next, backoffMost)
	return d
}
