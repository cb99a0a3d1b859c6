package local

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/yaml"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// Wish is what a person wants of a partition that is withheld as Dirty.
type Wish struct {
	// Keep is NAMESPACE/CLAIM: the volume comes back with its data, for this claim alone.
	Keep string
	// Discard gives the data up: the volume comes back as one whose claim is gone,
	// which the cleaner cleans.
	Discard bool
}

// discarded is the claim of a volume that a person gives up. It is not there and
// the volume names a UID, so that the PV controller takes it for Released.
const (
	discardedNamespace = "holdfast-system"
	discardedClaim     = "discarded"
)

// Manifest is the volume of that name on this node as a person may create it, in
// YAML. Creating it is the person's act, with the person's rights. The disk, its
// partition and, to keep the data, its mount must be as disks.yaml says.
func Manifest(ctx context.Context, o Options, name string, w Wish) ([]byte, error) {
	if (w.Keep == "") != w.Discard {
		return nil, errors.New("say either --keep NAMESPACE/CLAIM or --discard")
	}
	h, closeRoot, err := o.host()
	if err != nil {
		return nil, err
	}
	defer closeRoot()
	disks, d, p, err := h.listed(ctx, name)
	if err != nil {
		return nil, err
	}
	var pv *corev1.PersistentVolume
	if w.Discard {
		pv, err = o.discard(ctx, h, d, p)
	} else {
		pv, err = o.keep(ctx, h, disks, d, p, w.Keep)
	}
	if err != nil {
		return nil, fmt.Errorf("make volume %s: %w", name, err)
	}
	pv.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}
	pv.Spec.ClaimRef.APIVersion, pv.Spec.ClaimRef.Kind = "v1", "PersistentVolumeClaim"
	return yaml.Marshal(pv)
}

func (o Options) keep(ctx context.Context, h *Host, f *nodedisks.File, d nodedisks.Disk, p nodedisks.Partition, claim string) (*corev1.PersistentVolume, error) {
	namespace, name, ok := strings.Cut(claim, "/")
	if !ok || namespace == "" || name == "" {
		return nil, fmt.Errorf("--keep %q is not NAMESPACE/CLAIM", claim)
	}
	ev, present := h.Look(ctx, f, func(string) bool { return true })
	if reason, msg := (Input{Disks: f, Present: present}).verify(d, p, ev[p.UUID]); reason != "" {
		return nil, fmt.Errorf("%s: %s", reason, msg)
	}
	pv := volume(o.NodeName, d, p, ev[p.UUID].Device.Bytes, false)
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: name}
	return pv, nil
}

func (o Options) discard(ctx context.Context, h *Host, d nodedisks.Disk, p nodedisks.Partition) (*corev1.PersistentVolume, error) {
	mounts, err := h.Mounts(ctx)
	if err != nil {
		return nil, err
	}
	ev, twins, err := h.Find(ctx, d.ID, p, mounts)
	switch {
	case err != nil:
		return nil, err
	case ev.Device == nil || ev.Device.DiskID != d.ID || ev.Device.PartitionUUID != p.UUID || twins != 1:
		return nil, fmt.Errorf("no disk, or more than one, has id %s and the partition", d.ID)
	case o.Clean[p.StorageClass] == "":
		return nil, fmt.Errorf("volumes of class %s are not cleaned: set reclaimPolicy Delete for it in the addon's storageClasses", p.StorageClass)
	}
	pv := volume(o.NodeName, d, p, ev.Device.Bytes, true)
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: discardedNamespace, Name: discardedClaim, UID: uuid.NewUUID()}
	pv.Annotations[AnnotationApproved] = string(pv.Spec.ClaimRef.UID)
	return pv, nil
}

// Certify notes a person's word that a raw partition has nobody's data, so that
// it is offered, once.
func Certify(ctx context.Context, o Options, name string) error {
	h, closeRoot, err := o.host()
	if err != nil {
		return err
	}
	defer closeRoot()
	_, d, p, err := h.listed(ctx, name)
	if err != nil {
		return err
	}
	if p.Filesystem != "" {
		return fmt.Errorf("certify %s: it has a file system, which is offered when it is empty", name)
	}
	mounts, err := h.Mounts(ctx)
	if err != nil {
		return err
	}
	ev, twins, err := h.Find(ctx, d.ID, p, mounts)
	if err != nil {
		return err
	}
	if reason, msg := (Input{Present: map[string]int{d.ID: twins}}).verify(d, p, ev); reason != "" {
		return fmt.Errorf("certify %s: %s: %s", name, reason, msg)
	}
	return h.certify(d.ID, p.UUID, ev.Device.Bytes)
}

func (o Options) host() (*Host, func(), error) {
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return nil, nil, err
	}
	h := NewHost(root, readTimeout)
	h.state = o.StateDir
	return h, func() { _ = root.Close() }, nil // read only
}

// listed finds the partition of a volume in disks.yaml.
func (h *Host) listed(ctx context.Context, name string) (*nodedisks.File, nodedisks.Disk, nodedisks.Partition, error) {
	f, err := h.Disks(ctx)
	if err != nil {
		return nil, nodedisks.Disk{}, nodedisks.Partition{}, err
	}
	if d, p, ok := Listed(f, name); ok {
		return f, d, p, nil
	}
	return nil, nodedisks.Disk{}, nodedisks.Partition{}, fmt.Errorf("find volume %s: %s of this node lists no such partition", name, nodedisks.Path)
}

// Listed is the partition of f that the volume of that name stands for, of a disk
// whose partitions are offered.
func Listed(f *nodedisks.File, volume string) (nodedisks.Disk, nodedisks.Partition, bool) {
	for _, d := range f.Disks {
		for _, p := range d.Partitions {
			if offered(d) && VolumeName(d.ID, p.UUID) == volume {
				return d, p, true
			}
		}
	}
	return nodedisks.Disk{}, nodedisks.Partition{}, false
}

// hint says what a person can do about a withheld partition.
func (c *Controller) hint(w Withheld) string {
	namespace, pod, ok := strings.Cut(c.pod, "/")
	if w.Reason != ReasonDirty || !ok {
		return ""
	}
	exec := fmt.Sprintf("kubectl exec -n %s %s -- /local-volume-provisioner", namespace, pod)
	msg := fmt.Sprintf(". To keep the data: %s volume --keep NAMESPACE/CLAIM %s | kubectl create -f -. To give it up: %s volume --discard %s | kubectl create -f -",
		exec, w.Volume, exec, w.Volume)
	if strings.HasPrefix(w.Path, byPartUUID) {
		msg += fmt.Sprintf(". When you know that it holds nobody's data: %s certify %s", exec, w.Volume)
	}
	return msg
}
