package lvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	service   *Service
	api       client.Reader // asks the API server
	transfers *Transfers
	log       *slog.Logger
	groups    keyLock // one claim of an anti-affinity group at a time
}

// NewProvisioner makes a provisioner. api must not be cached. transfers may be nil: then a
// copy is made where its source is.
func NewProvisioner(s *Service, api client.Reader, transfers *Transfers, log *slog.Logger) *Provisioner {
	return &Provisioner{service: s, api: api, transfers: transfers, log: log}
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
	x := extras{born: claim.CreationTimestamp.Time, owner: Owner{
		Claim: claim.Namespace + "/" + claim.Name, UID: string(claim.UID), Class: o.StorageClass.Name, MountOptions: strings.Join(o.StorageClass.MountOptions, ","),
		Reclaim: string(reclaim(o.StorageClass)),
	}}
	if req.VolumeContentSource, x.fetch, err = p.source(ctx, claim); err != nil {
		return nil, answer(err)
	}
	if name := claim.Spec.VolumeAttributesClassName; name != nil && *name != "" {
		var class storagev1.VolumeAttributesClass
		if err := p.api.Get(ctx, client.ObjectKey{Name: *name}, &class); err != nil {
			return nil, answer(fmt.Errorf("read volume attributes class %s: %w: %w", *name, ErrUnavailable, err))
		}
		req.MutableParameters = class.Parameters
	}
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
	pv.Spec.CSI.VolumeAttributes = map[string]string{v1alpha1.VolumeGroupSeqno: strconv.FormatInt(p.service.engine.seqno(h.Group), 10)}
	metav1.SetMetaDataAnnotation(&pv.ObjectMeta, annProvisionedAt, p.service.engine.now().UTC().Format(time.RFC3339))
	pv.Spec.MountOptions, pv.Spec.VolumeAttributesClassName = o.StorageClass.MountOptions, claim.Spec.VolumeAttributesClassName
	if m := req.GetVolumeCapabilities()[0].GetMount(); m != nil {
		pv.Spec.CSI.FSType = m.GetFsType()
	}
	p.log.Info("volume made", "volume", o.PVName, "claim", x.owner.Claim, "group", info.Name, "bytes", out.GetVolume().GetCapacityBytes())
	return pv, nil
}

// source is the source of a claim, and how to fetch it when it is on another node. A
// snapshot whose group is here is here, whatever the label says: its disks were moved.
func (p *Provisioner) source(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, func(context.Context) (*incoming, error), error) {
	src, node, err := contentSource(ctx, p.api, claim)
	if err != nil {
		// A claim may go with its source, as with their namespace. What was begun for it is
		// removed before anything is fetched.
		if gone := wanted(ctx, p.api, claim); errors.Is(gone, ErrNotFound) {
			return nil, func(context.Context) (*incoming, error) { return nil, gone }, nil
		}
		return nil, nil, err
	}
	if src == nil || node == p.service.engine.node {
		return src, nil, nil
	}
	h, err := ParseHandle(sourceID(src))
	if err != nil {
		return nil, nil, err
	}
	if src.GetSnapshot() != nil && (node == "" || p.service.engine.byUUID[h.Group] != nil) {
		return src, nil, nil
	}
	if p.transfers == nil {
		return nil, nil, fmt.Errorf("%w: the source is on node %s, and a copy is made where its source is (send the pod there by node affinity, or set the value transferPort of the addon)", vg.ErrNoRoom, node)
	}
	return src, func(ctx context.Context) (*incoming, error) { return p.transfers.fetch(ctx, node, claim, h) }, nil
}

// chosen is the UUID of the volume group that storage-scheduler chose for a claim on its
// selected node; empty when another scheduler selected it, for which an earlier choice
// means nothing. A group that is not there any more is for the scheduler to hear.
func (e *Engine) chosen(claim *corev1.PersistentVolumeClaim) (uuid string, _ error) {
	want := claim.Annotations[v1alpha1.LabelVolumeGroup]
	if want == "" || claim.Annotations[v1alpha1.VolumeGroupNode] != claim.Annotations[annSelectedNode] {
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

var errGroupBusy = errors.New("another claim of the same group is being provisioned")
