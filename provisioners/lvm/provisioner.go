package lvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm/inventory"
	"holdfast.dev/provisioners/lvm/vg"
)

const (
	annSelectedNode = "volume.kubernetes.io/selected-node"
	annProvisioner  = "volume.kubernetes.io/storage-provisioner"
	keyFSType       = "csi.storage.k8s.io/fstype"
)

// Provisioner makes PersistentVolumes for the claims that the scheduler sent to this
// node. It is what sig-storage-lib-external-provisioner calls.
type Provisioner struct {
	service *Service
	api     client.Reader // asks the API server
	log     *slog.Logger
	groups  keyLock // one claim of an anti-affinity group at a time
}

// NewProvisioner makes a provisioner. api must not be cached.
func NewProvisioner(s *Service, api client.Reader, log *slog.Logger) *Provisioner {
	return &Provisioner{service: s, api: api, log: log}
}

// ShouldProvision is true for claims that were given to this node. Without a selected
// node nobody knows which node's disks are meant: classes of this driver wait for
// their consumer.
func (p *Provisioner) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[annSelectedNode] == p.service.engine.node
}

// ShouldDelete is true for volumes of this node.
func (p *Provisioner) ShouldDelete(_ context.Context, pv *corev1.PersistentVolume) bool {
	return p.ours(pv)
}

func (p *Provisioner) ours(pv *corev1.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.Driver == DriverName && pv.Labels[v1alpha1.LabelNode] == p.service.engine.node
}

// SupportsBlock is true.
func (*Provisioner) SupportsBlock(context.Context) bool { return true }

// Provision makes the volume of a claim. No room is for the scheduler to hear, which
// then picks another node; what may be under way is repeated until it ends.
func (p *Provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	pv, err := p.provision(ctx, o)
	switch status.Code(err) {
	case codes.OK:
		return pv, controller.ProvisioningFinished, nil
	case codes.ResourceExhausted:
		return nil, controller.ProvisioningReschedule, err
	case codes.InvalidArgument, codes.OutOfRange, codes.AlreadyExists, codes.NotFound:
		return nil, controller.ProvisioningFinished, err
	}
	return nil, controller.ProvisioningInBackground, err
}

func (p *Provisioner) provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, error) {
	claim := o.PVC
	req, err := createRequest(o)
	if err != nil {
		return nil, answer(err)
	}
	req.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{TopologyKey: o.SelectedNodeName}}}}
	if req.VolumeContentSource, err = p.contentSource(ctx, claim); err != nil {
		return nil, answer(err)
	}
	if name := claim.Spec.VolumeAttributesClassName; name != nil && *name != "" {
		var class storagev1.VolumeAttributesClass
		if err := p.api.Get(ctx, client.ObjectKey{Name: *name}, &class); err != nil {
			return nil, answer(fmt.Errorf("read volume attributes class %s: %w: %w", *name, ErrUnavailable, err))
		}
		req.MutableParameters = class.Parameters
	}
	x := extras{born: claim.CreationTimestamp.Time, owner: Owner{
		Claim: claim.Namespace + "/" + claim.Name, Class: o.StorageClass.Name, MountOptions: strings.Join(o.StorageClass.MountOptions, ","),
		Reclaim: string(reclaim(o.StorageClass)),
	}}
	if x.group, err = p.service.engine.chosen(claim); err != nil {
		return nil, answer(err)
	}
	unlock, err := p.apart(ctx, claim, &x)
	if err != nil {
		return nil, answer(err)
	}
	defer unlock()
	out, err := p.service.create(ctx, req, x)
	if err != nil {
		return nil, err
	}
	h, err := ParseHandle(out.GetVolume().GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	info := p.service.engine.byUUID[h.Group].info
	pv := inventory.PersistentVolume(o.PVName, p.service.engine.node, info.Disks, info.Media, h.String(), out.GetVolume().GetCapacityBytes())
	pv.Spec.AccessModes, pv.Spec.VolumeMode = claim.Spec.AccessModes, claim.Spec.VolumeMode
	pv.Spec.StorageClassName, pv.Spec.PersistentVolumeReclaimPolicy = o.StorageClass.Name, reclaim(o.StorageClass)
	pv.Spec.MountOptions, pv.Spec.VolumeAttributesClassName = o.StorageClass.MountOptions, claim.Spec.VolumeAttributesClassName
	if m := req.GetVolumeCapabilities()[0].GetMount(); m != nil {
		pv.Spec.CSI.FSType = m.GetFsType()
	}
	p.log.Info("volume made", "volume", o.PVName, "claim", x.owner.Claim, "group", info.Name, "bytes", out.GetVolume().GetCapacityBytes())
	return pv, nil
}

// chosen is the UUID of the volume group that storage-scheduler chose for a claim;
// empty when another scheduler placed it. One that is not there any more is for the
// scheduler to hear.
func (e *Engine) chosen(claim *corev1.PersistentVolumeClaim) (uuid string, _ error) {
	want := claim.Annotations[v1alpha1.LabelVolumeGroup]
	if want == "" {
		return "", nil
	}
	for _, g := range e.groups {
		if label(g.info.Name) == want {
			return g.info.UUID, nil
		}
	}
	return "", fmt.Errorf("%w: the scheduler chose volume group %s, which this node does not have", vg.ErrNoRoom, want)
}

func reclaim(c *storagev1.StorageClass) corev1.PersistentVolumeReclaimPolicy {
	if c.ReclaimPolicy == nil {
		return corev1.PersistentVolumeReclaimDelete
	}
	return *c.ReclaimPolicy
}

// createRequest is the CSI request of a claim and its class.
func createRequest(o controller.ProvisionOptions) (*csi.CreateVolumeRequest, error) {
	claim := o.PVC
	if claim.Spec.Selector != nil {
		return nil, fmt.Errorf("claim spec.selector: a new volume cannot be selected (leave it out): %w", ErrInvalid)
	}
	params := map[string]string{}
	filesystem := XFS
	for k, v := range o.StorageClass.Parameters {
		if k == keyFSType {
			filesystem = v
		} else {
			params[k] = v
		}
	}
	req := &csi.CreateVolumeRequest{Name: o.PVName, Parameters: params}
	q := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	req.CapacityRange = &csi.CapacityRange{RequiredBytes: q.Value()}
	if l, ok := claim.Spec.Resources.Limits[corev1.ResourceStorage]; ok {
		req.CapacityRange.LimitBytes = l.Value()
	}
	for _, m := range claim.Spec.AccessModes {
		c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{}}
		switch m {
		case corev1.ReadWriteOnce:
			c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		case corev1.ReadWriteOncePod:
			c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		default:
			return nil, fmt.Errorf("claim spec.accessModes=%s: a volume is on one node (give ReadWriteOnce or ReadWriteOncePod): %w", m, ErrInvalid)
		}
		if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock {
			c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		} else {
			c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: filesystem, MountFlags: o.StorageClass.MountOptions}}
		}
		req.VolumeCapabilities = append(req.VolumeCapabilities, c)
	}
	return req, nil
}

// contentSource is the volume or snapshot that a claim is to be a copy of.
func (p *Provisioner) contentSource(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, error) {
	ref := claim.Spec.DataSourceRef
	if ref == nil && claim.Spec.DataSource != nil {
		ref = &corev1.TypedObjectReference{APIGroup: claim.Spec.DataSource.APIGroup, Kind: claim.Spec.DataSource.Kind, Name: claim.Spec.DataSource.Name}
	}
	if ref == nil {
		return nil, nil
	}
	if ref.Namespace != nil && *ref.Namespace != claim.Namespace {
		return nil, fmt.Errorf("claim spec.dataSourceRef.namespace=%s: sources of other namespaces are not taken: %w", *ref.Namespace, ErrInvalid)
	}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: ref.Name}
	switch ref.Kind {
	case "PersistentVolumeClaim":
		handle, err := p.claimHandle(ctx, key)
		if err != nil {
			return nil, err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: handle}}}, nil
	case "VolumeSnapshot":
		handle, err := snapshotHandle(ctx, p.api, key)
		if err != nil {
			return nil, err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: handle}}}, nil
	}
	return nil, fmt.Errorf("claim spec.dataSource.kind=%s: give PersistentVolumeClaim or VolumeSnapshot: %w", ref.Kind, ErrInvalid)
}

// claimHandle is the handle of the volume that a claim is bound to.
func (p *Provisioner) claimHandle(ctx context.Context, key client.ObjectKey) (string, error) {
	var claim corev1.PersistentVolumeClaim
	if err := p.api.Get(ctx, key, &claim); err != nil {
		return "", fmt.Errorf("read claim %s: %w: %w", key, ErrUnavailable, err)
	}
	if claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("claim %s is not bound yet: %w", key, ErrUnavailable)
	}
	var pv corev1.PersistentVolume
	if err := p.api.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv); err != nil {
		return "", fmt.Errorf("read volume %s: %w: %w", claim.Spec.VolumeName, ErrUnavailable, err)
	}
	// spec.volumeName is its author's word alone: the volume may be another tenant's.
	if r := pv.Spec.ClaimRef; claim.Status.Phase != corev1.ClaimBound || r == nil || r.UID != claim.UID || r.Namespace != claim.Namespace || r.Name != claim.Name {
		return "", fmt.Errorf("claim %s is not bound to volume %s, which it names: %w", key, pv.Name, ErrInvalid)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != DriverName {
		return "", fmt.Errorf("claim %s has a volume of another driver: %w", key, ErrInvalid)
	}
	if node := pv.Labels[v1alpha1.LabelNode]; node != p.service.engine.node {
		return "", status.Errorf(codes.ResourceExhausted, "the volume of claim %s is on node %s, and a copy is made where its source is (send the pod there by node affinity)", key, node)
	}
	return pv.Spec.CSI.VolumeHandle, nil
}

// Delete removes the volume of a PersistentVolume. The object's absence deletes
// nothing: it is called for objects that are there and released.
func (p *Provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	if !p.ours(pv) {
		return &controller.IgnoredError{Reason: "the volume is not one of this node"}
	}
	if err := p.released(ctx, pv); err != nil {
		return fmt.Errorf("delete volume %s: %w", pv.Name, err)
	}
	_, err := p.service.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle})
	if err == nil {
		p.log.Info("volume deleted", "volume", pv.Name, "handle", pv.Spec.CSI.VolumeHandle)
	}
	return err
}

// released is nil when the API server says right now that the volume may go: what the
// caller knows of it may be old, and a person may have changed their mind. A claim
// that names the volume keeps it, whatever its UID: objects that were put back from a
// backup have new ones, and their volume looks released.
func (p *Provisioner) released(ctx context.Context, pv *corev1.PersistentVolume) error {
	var now corev1.PersistentVolume
	if err := p.api.Get(ctx, client.ObjectKey{Name: pv.Name}, &now); err != nil {
		return fmt.Errorf("read it: %w: %w", ErrUnavailable, err)
	}
	switch {
	case now.UID != pv.UID, now.Spec.CSI == nil, now.Spec.CSI.VolumeHandle != pv.Spec.CSI.VolumeHandle:
		return fmt.Errorf("another object has its name: %w", ErrRefused)
	case now.Status.Phase != corev1.VolumeReleased && now.Status.Phase != corev1.VolumeFailed:
		return fmt.Errorf("it is %s: %w", now.Status.Phase, ErrRefused)
	case now.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return fmt.Errorf("its reclaim policy is %s: %w", now.Spec.PersistentVolumeReclaimPolicy, ErrRefused)
	}
	ref := now.Spec.ClaimRef
	if ref == nil {
		return fmt.Errorf("it names no claim that has released it: %w", ErrRefused)
	}
	var claim corev1.PersistentVolumeClaim
	switch err := p.api.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &claim); {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("read claim %s/%s: %w: %w", ref.Namespace, ref.Name, ErrUnavailable, err)
	case claim.UID == ref.UID, claim.Spec.VolumeName == now.Name:
		return fmt.Errorf("claim %s/%s names it (put back from a backup? delete that claim, or set the policy to Retain): %w", ref.Namespace, ref.Name, ErrRefused)
	}
	return nil
}

var errGroupBusy = errors.New("another claim of the same group is being provisioned")
