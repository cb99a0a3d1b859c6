// Package nodeevent makes the Events that daemons of a node put on it.
package nodeevent

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const maxNote = 1000 // of the API's 1024

// Source is who tells: a daemon of a node.
type Source struct{ Component, Node string }

// New is an Event on the source's Node; its name begins with about, which is the name of
// what it is about. kind is corev1.EventTypeNormal or EventTypeWarning. A long note is cut.
// The Node's UID is its name, as in the kubelet's events, so that "kubectl describe node"
// shows it.
func (s Source) New(at time.Time, about, kind, action, reason, note string) *eventsv1.Event {
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote], "")
	}
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{GenerateName: about + "-", Namespace: metav1.NamespaceDefault},
		EventTime:           metav1.NewMicroTime(at),
		ReportingController: "holdfast.dev/" + s.Component,
		ReportingInstance:   s.Node,
		Action:              action, Reason: reason, Type: kind, Note: note,
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: s.Node, UID: types.UID(s.Node)},
	}
}
