package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"holdfast.dev/provisioners/lvm/vg"
)

// CreateSnapshot is CSI's.
func (s *Service) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	switch {
	case req.GetName() == "":
		return nil, missing("name")
	case req.GetSourceVolumeId() == "":
		return nil, missing("source_volume_id")
	}
	spec, err := snapshotSpec(req.GetParameters())
	if err != nil {
		return nil, answer(err)
	}
	h, err := ParseHandle(req.GetSourceVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	v, err := s.engine.Snapshot(ctx, h, CreateRequest{Name: req.GetName(), Spec: spec})
	if err != nil {
		return nil, answer(err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshot(v)}, nil
}

// snapshotSpec reads the parameters of a VolumeSnapshotClass.
func snapshotSpec(params map[string]string) (Spec, error) {
	s := Spec{}
	for k, v := range params {
		switch {
		case k == keyOvercommit:
			if remedy := setters()[k](&s, v); remedy != "" {
				return Spec{}, fieldError(k, v, remedy)
			}
		case !strings.HasPrefix(k, sidecarKeys):
			return Spec{}, fieldError(k, v, "unknown; a VolumeSnapshotClass of this driver knows overcommit alone")
		}
	}
	return s, nil
}

func snapshot(v Volume) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: v.Handle.String(), SourceVolumeId: Handle{Group: v.Handle.Group, LV: v.LV.Tags.Get(vg.KeySource)}.String(),
		GroupSnapshotId: v.LV.Tags.Get(vg.KeySet), SizeBytes: v.LV.Size, CreationTime: timestamppb.New(time.Unix(v.LV.Created, 0)), ReadyToUse: v.Phase() == vg.Ready}
}

// DeleteSnapshot is CSI's.
func (s *Service) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if req.GetSnapshotId() == "" {
		return nil, missing("snapshot_id")
	}
	v, err := s.lookup(ctx, req.GetSnapshotId())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, answer(err) // it may be a member of a group snapshot
	}
	if set := v.LV.Tags.Get(vg.KeySet); err == nil && set != "" {
		return nil, answer(fmt.Errorf("snapshot %s is a member of group snapshot %s (delete that): %w", req.GetSnapshotId(), set, ErrRefused))
	}
	if err := s.delete(ctx, req.GetSnapshotId()); err != nil {
		return nil, answer(err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// ListSnapshots is CSI's.
func (s *Service) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if id := req.GetSnapshotId(); id != "" {
		v, err := s.lookup(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound) || err == nil && v.Kind() != KindSnapshot:
			return &csi.ListSnapshotsResponse{}, nil
		case err != nil:
			return nil, answer(err)
		}
		return &csi.ListSnapshotsResponse{Entries: []*csi.ListSnapshotsResponse_Entry{{Snapshot: snapshot(v)}}}, nil
	}
	all, err := s.list(ctx, true)
	if err != nil {
		return nil, answer(err)
	}
	if src := req.GetSourceVolumeId(); src != "" {
		all = slices.DeleteFunc(all, func(v Volume) bool { return snapshot(v).GetSourceVolumeId() != src })
	}
	part, next, err := page(all, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	out := &csi.ListSnapshotsResponse{NextToken: next}
	for _, v := range part {
		out.Entries = append(out.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshot(v)})
	}
	return out, nil
}
