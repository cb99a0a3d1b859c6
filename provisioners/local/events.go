package local

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"holdfast.dev/internal/nodeevent"
)

// component names the provisioner in events; the binary has the same name.
const component = "local-volume-provisioner"

// Event reasons and actions.
const (
	eventWithheld = "VolumeWithheld"
	actionOffer   = "OfferVolume"
)

// warn puts a Warning Event on the Node: partition w gets no volume, and why.
func (c *Controller) warn(ctx context.Context, w Withheld) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	note := fmt.Sprintf("%s: disk %s, partition %s: %s", w.Reason, w.Disk, w.Partition, w.Message)
	source := nodeevent.Source{Component: component, Node: c.node}
	if err := c.live.Create(ctx, source.New(c.now(), w.Volume, corev1.EventTypeWarning, actionOffer, eventWithheld, note)); err != nil {
		return fmt.Errorf("create event %s on node %s: %w", eventWithheld, c.node, err)
	}
	return nil
}
