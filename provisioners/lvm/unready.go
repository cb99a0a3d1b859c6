package lvm

import (
	"context"
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/provisioners/lvm/vg"
)

// FinishUnready removes the volumes that this cluster's claims were to have, never were
// ready, and are wanted by nobody: the driver was killed in the middle, and when it came
// back the claim was gone, or had a volume elsewhere. Whose claim is there and waits is
// made anew by the provisioner. It runs nothing when there are none.
//
// The tag of the claim's UID is on the disk before the volume has any content, and is
// taken away by the very command that makes it ready (Engine.mark): what has it was never
// published, and holds nothing that is not elsewhere.
func (e *Engine) FinishUnready(ctx context.Context, api client.Reader) error {
	return e.leftovers(KindVolume, func(_ *group, v Volume) error {
		t := v.LV.Tags
		ns, name, _ := strings.Cut(t.Get(vg.KeyPVC), "/")
		uid := t.Get(vg.KeyClaim)
		if uid == "" || name == "" || e.cluster == "" || t.Get(vg.KeyCluster) != e.cluster {
			return nil
		}
		unlock, err := e.lock(v.LV.Name)
		if err != nil {
			return nil //nolint:nilerr // it is being made
		}
		defer unlock()
		err = wanted(ctx, api, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}})
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		g, lv, gone := e.find(ctx, v.Handle) // as it is now that nobody else works on it
		switch {
		case errors.Is(gone, ErrNotFound):
			return nil
		case gone != nil:
			return gone
		case !lv.Tags.Has(idTagOf(&v.LV)) || lv.Tags.Get(vg.KeyClaim) != uid || e.volume(g, lv).Phase() == vg.Ready:
			return nil
		}
		e.log.Info("volume that was never ready is removed", "volume", lv.Name, "group", g.info.Name, "why", err)
		if err := e.remove(ctx, g, *lv); !errors.Is(err, ErrHeld) {
			return err
		}
		return nil
	})
}
