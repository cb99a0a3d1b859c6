package local

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// component names the provisioner in events; the binary has the same name.
const component = "local-volume-provisioner"

// Event reasons and actions.
const (
	eventWithheld = "VolumeWithheld"
	actionOffer   = "OfferVolume"
	maxNote       = 1000 // of the API's 1024
)

// warn puts a Warning Event on the Node: partition w gets no volume, and why.
// The Node's UID is its name, as in the kubelet's events, so that "kubectl
// describe node" shows it.
func (c *Controller) warn(ctx context.Context, w Withheld) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now := metav1.NewMicroTime(c.now())
	note := fmt.Sprintf("%s: disk %s, partition %s: %s", w.Reason, w.Disk, w.Partition, w.Message)
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote], "")
	}
	ev := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{GenerateName: w.Volume + "-", Namespace: metav1.NamespaceDefault},
		EventTime:           now,
		ReportingController: "holdfast.dev/" + component,
		ReportingInstance:   c.node,
		Action:              actionOffer,
		Reason:              eventWithheld,
		Type:                corev1.EventTypeWarning,
		Note:                note,
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.node, UID: types.UID(c.node)},
	}
	if err := c.live.Create(ctx, ev); err != nil {
		return fmt.Errorf("create event %s on node %s: %w", eventWithheld, c.node, err)
	}
	return nil
}
