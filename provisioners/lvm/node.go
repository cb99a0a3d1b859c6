package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/provisioners/lvm/vg"
)

// keys of the volume context that the kubelet adds for pods (podInfoOnMount).
const (
	keyEphemeral    = "csi.storage.k8s.io/ephemeral"
	keyPodName      = "csi.storage.k8s.io/pod.name"
	keyPodNamespace = "csi.storage.k8s.io/pod.namespace"
)

// NodeGetCapabilities is CSI's. There is no staging: a device is mounted where it is
// wanted, as often as it is wanted, and so there is one state less to be in.
func (s *Service) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_VOLUME_CONDITION, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// NodeGetInfo is CSI's. There is no limit of volumes per node.
func (s *Service) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.engine.node, AccessibleTopology: &csi.Topology{Segments: map[string]string{TopologyKey: s.engine.node}}}, nil
}

// NodePublishVolume is CSI's. An ephemeral volume is made here, and by its id, which
// the kubelet repeats until the pod is gone.
func (s *Service) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case req.GetTargetPath() == "":
		return nil, missing("target_path")
	case req.GetVolumeCapability() == nil:
		return nil, missing("volume_capability")
	case !filepath.IsAbs(req.GetTargetPath()):
		return nil, answer(fmt.Errorf("target_path %q is not absolute: %w", req.GetTargetPath(), ErrInvalid))
	}
	filesystem, options, err := capability(req.GetVolumeCapability())
	if err != nil {
		return nil, answer(err)
	}
	r := PublishRequest{Target: req.GetTargetPath(), Block: filesystem == Block, FS: filesystem, Options: options, ReadOnly: req.GetReadonly()}
	if req.GetVolumeCapability().GetMount().GetFsType() == "" {
		r.FS = ""
	}
	if req.GetVolumeContext()[keyEphemeral] == "true" {
		r.Handle, err = s.ephemeral(ctx, req, filesystem)
	} else {
		r.Handle, err = ParseHandle(req.GetVolumeId())
	}
	if err == nil {
		err = s.engine.Publish(ctx, r)
	}
	if err == nil && s.qos != nil {
		err = s.applyLimits(ctx, r)
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// ephemeral makes the volume of a pod's inline csi volume: its attributes are the
// parameters of a StorageClass, and size.
func (s *Service) ephemeral(ctx context.Context, req *csi.NodePublishVolumeRequest, filesystem string) (Handle, error) {
	params, size := map[string]string{}, int64(defaultSize)
	for k, v := range req.GetVolumeContext() {
		switch {
		case k == "size":
			q, err := resource.ParseQuantity(v)
			if err != nil || q.Value() <= 0 {
				return Handle{}, fieldError(k, v, "give a size such as 10Gi")
			}
			size = q.Value()
		case k == keyFSType:
			return Handle{}, fieldError(k, v, "a pod's own volume says it as csi.fsType; leave it out here")
		case len(k) > 19 && k[:19] == "csi.storage.k8s.io/":
		case k == "mkfsOptions" || k == "overcommit" || k == "wipe":
			// Whoever may make pods writes these attributes; a class is an administrator's.
			return Handle{}, fieldError(k, v, "a pod's own volume cannot say it; leave it out, or use a claim with a StorageClass")
		default:
			params[k] = v
		}
	}
	spec, err := ParseSpec(params, filesystem)
	if err != nil {
		return Handle{}, err
	}
	if size, _, err = sizes(&csi.CapacityRange{RequiredBytes: size}, spec.FS); err != nil {
		return Handle{}, err
	}
	v, err := s.engine.Create(ctx, CreateRequest{Kind: KindEphemeral, Name: req.GetVolumeId(), Spec: spec, Size: size,
		Owner: Owner{Claim: req.GetVolumeContext()[keyPodNamespace] + "/" + req.GetVolumeContext()[keyPodName]}})
	return v.Handle, err
}

// NodeUnpublishVolume is CSI's.
func (s *Service) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case req.GetTargetPath() == "":
		return nil, missing("target_path")
	}
	h, err := ParseHandle(req.GetVolumeId())
	persistent := err == nil
	if !persistent {
		h.LV = lvName(KindEphemeral, req.GetVolumeId())
	}
	if err := s.engine.Unpublish(ctx, h.LV, req.GetTargetPath()); err != nil {
		return nil, answer(err)
	}
	if !persistent {
		if err := s.engine.deleteEphemeral(ctx, h.LV); err != nil {
			return nil, answer(err)
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// deleteEphemeral removes the volume of that name from whatever group it is in. A
// group that cannot be read may have it: the kubelet asks again.
func (e *Engine) deleteEphemeral(ctx context.Context, name string) error {
	all, err := e.Volumes(ctx)
	for _, v := range all {
		if v.LV.Name == name && v.Kind() == KindEphemeral {
			err := e.Delete(ctx, v.Handle)
			if errors.Is(err, ErrHeld) { // a pod must not wait for the repair of a disk
				e.log.Info("volume of a pod is removed when its disk is well", "volume", name, "why", err)
				return e.condemn(ctx, v)
			}
			return err
		}
	}
	return err
}

// condemn notes on the disk that a volume of a pod that is gone is to be removed.
func (e *Engine) condemn(ctx context.Context, v Volume) error {
	unlock, err := e.lock(v.LV.Name)
	if err != nil {
		return err
	}
	defer unlock()
	return e.mark(ctx, e.byUUID[v.Info.UUID], v.LV.Name, idTagOf(&v.LV), vg.Deleting)
}

// FinishEphemeral removes the volumes of pods whose removal was begun and held up. It
// runs nothing when there are none.
func (e *Engine) FinishEphemeral(ctx context.Context) error {
	return e.leftovers(KindEphemeral, func(_ *group, v Volume) error {
		if v.Phase() != vg.Deleting {
			return nil
		}
		if err := e.Delete(ctx, v.Handle); !errors.Is(err, ErrHeld) && !errors.Is(err, ErrBusy) {
			return err
		}
		return nil
	})
}

// leftovers calls finish for each volume of a kind in the groups that are known to be as
// they were last looked at.
func (e *Engine) leftovers(kind Kind, finish func(*group, Volume) error) error {
	var errs []error
	for _, g := range e.groups {
		s, fresh, _ := g.last()
		if !fresh {
			continue
		}
		for i := range s.LVs {
			if v := e.volume(g, &s.LVs[i]); v.LV.Tags.Ours() && v.Kind() == kind {
				errs = append(errs, finish(g, v))
			}
		}
	}
	return errors.Join(errs...)
}

// NodeGetVolumeStats is CSI's.
func (s *Service) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case req.GetVolumePath() == "":
		return nil, missing("volume_path")
	}
	h, err := ParseHandle(req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	u, wrong, err := s.engine.Stats(ctx, h, req.GetVolumePath())
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, answer(err)
	}
	r := &csi.NodeGetVolumeStatsResponse{VolumeCondition: condition(wrong), Usage: []*csi.VolumeUsage{{
		Unit: csi.VolumeUsage_BYTES, Total: u.Total, Used: u.Used, Available: u.Available,
	}}}
	if !u.Block {
		r.Usage = append(r.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: u.Inodes, Used: u.InodesUsed, Available: u.InodesFree})
	}
	return r, nil
}

// NodeExpandVolume is CSI's.
func (s *Service) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case req.GetVolumePath() == "":
		return nil, missing("volume_path")
	}
	h, err := ParseHandle(req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	v, err := s.engine.GrowFS(ctx, h, req.GetVolumePath())
	if err != nil {
		return nil, answer(err)
	}
	if want := req.GetCapacityRange().GetRequiredBytes(); v.LV.Size < want {
		return nil, answer(fmt.Errorf("expand volume %s: it has %d bytes, %d are wanted; the volume itself grows first: %w", v.LV.Name, v.LV.Size, want, vg.ErrNoRoom))
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.LV.Size}, nil
}
