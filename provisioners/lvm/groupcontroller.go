package lvm

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"holdfast.dev/provisioners/lvm/vg"
)

// GroupControllerGetCapabilities is CSI's.
func (*Service) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT}},
	}}}, nil
}

// CreateVolumeGroupSnapshot is CSI's.
func (s *Service) CreateVolumeGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	switch {
	case req.GetName() == "":
		return nil, missing("name")
	case len(req.GetSourceVolumeIds()) == 0:
		return nil, missing("source_volume_ids")
	}
	spec, err := snapshotSpec(req.GetParameters())
	if err != nil {
		return nil, answer(err)
	}
	var sources []Handle
	for _, id := range req.GetSourceVolumeIds() {
		h, err := ParseHandle(id)
		if err != nil {
			return nil, answer(err)
		}
		sources = append(sources, h)
	}
	id, members, err := s.engine.SnapshotGroup(ctx, req.GetName(), sources, spec.Overcommit)
	if err != nil {
		return nil, answer(err)
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: groupSnapshot(id, members)}, nil
}

// groupSnapshot is as old as its oldest member, and ready when all are.
func groupSnapshot(id string, members []Volume) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{GroupSnapshotId: id, ReadyToUse: true}
	first := members[0].LV.Created
	for _, v := range members {
		out.Snapshots = append(out.Snapshots, snapshot(v))
		out.ReadyToUse = out.GetReadyToUse() && v.Phase() == vg.Ready
		first = min(first, v.LV.Created)
	}
	out.CreationTime = timestamppb.New(time.Unix(first, 0))
	return out
}

// DeleteVolumeGroupSnapshot is CSI's.
func (s *Service) DeleteVolumeGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id := req.GetGroupSnapshotId()
	switch {
	case id == "":
		return nil, missing("group_snapshot_id")
	case !setID.MatchString(id):
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil // it was never handed out by this driver
	}
	if _, err := s.members(ctx, id, req.GetSnapshotIds()); err != nil {
		return nil, answer(err)
	}
	if err := s.engine.DeleteGroup(ctx, id); err != nil {
		return nil, answer(err)
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// members are those of a group snapshot. One that the caller's list lacks is an error: the
// caller means another group snapshot.
func (s *Service) members(ctx context.Context, id string, listed []string) ([]Volume, error) {
	all, err := s.engine.Members(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if len(listed) > 0 && !slices.Contains(listed, v.Handle.String()) {
			return nil, fmt.Errorf("group snapshot %s has snapshot %s, which snapshot_ids lack: %w", id, v.Handle, ErrInvalid)
		}
	}
	return all, nil
}

// GetVolumeGroupSnapshot is CSI's.
func (s *Service) GetVolumeGroupSnapshot(ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	id := req.GetGroupSnapshotId()
	if id == "" {
		return nil, missing("group_snapshot_id")
	}
	var all []Volume
	var err error
	if setID.MatchString(id) {
		all, err = s.members(ctx, id, req.GetSnapshotIds())
	}
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("group snapshot %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, answer(err)
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: groupSnapshot(id, all)}, nil
}
