package lvm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"holdfast.dev/provisioners/lvm/vg"
)

const (
	defaultSize = 1 << 30
	// minimum sizes of file systems: mkfs.xfs makes none below 300 MiB (xfsprogs 5.19,
	// mkfs/xfs_mkfs.c), ext4 below 16 MiB has no journal.
	minXFS  = 300 << 20
	minExt4 = 16 << 20
	// MaxSize is more bytes than any volume has.
	MaxSize = 1 << 53
)

// ControllerGetCapabilities is CSI's.
func (s *Service) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	types := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT, csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME, csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_GET_VOLUME, csi.ControllerServiceCapability_RPC_VOLUME_CONDITION,
	}
	if s.qos != nil {
		types = append(types, csi.ControllerServiceCapability_RPC_MODIFY_VOLUME)
	}
	for _, t := range types {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return r, nil
}

// extras are what a caller in this process knows beyond CSI.
type extras struct {
	owner                         Owner
	born                          time.Time
	avoidRequired, avoidPreferred map[string]string
	group                         string // UUID
	// fetch is that of a source on another node.
	fetch func(context.Context) (*incoming, error)
}

// CreateVolume is CSI's.
func (s *Service) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	x := extras{}
	if ns, name := req.GetParameters()[keyPVCNamespace], req.GetParameters()[keyPVCName]; name != "" {
		x.owner.Claim = ns + "/" + name
	}
	return s.create(ctx, req, x)
}

func (s *Service) create(ctx context.Context, req *csi.CreateVolumeRequest, x extras) (*csi.CreateVolumeResponse, error) {
	r, err := s.createRequest(req)
	if err != nil {
		return nil, answer(err)
	}
	r.Owner, r.Born, r.AvoidRequired, r.AvoidPreferred, r.Group = x.owner, x.born, x.avoidRequired, x.avoidPreferred, x.group
	if src := req.GetVolumeContentSource(); src != nil {
		h, err := s.source(ctx, src, x.fetch != nil)
		if err != nil {
			return nil, answer(err)
		}
		r.Source = &h
	}
	r.fetch = x.fetch
	v, err := s.engine.Create(ctx, r)
	if err != nil {
		return nil, answer(err)
	}
	if m := req.GetMutableParameters(); len(m) > 0 {
		if err := s.modify(ctx, v.Handle, m); err != nil {
			return nil, answer(err)
		}
	}
	out := s.describe(v)
	out.ContentSource = req.GetVolumeContentSource()
	return &csi.CreateVolumeResponse{Volume: out}, nil
}

// createRequest checks everything that can be checked without looking at the node.
func (s *Service) createRequest(req *csi.CreateVolumeRequest) (CreateRequest, error) {
	switch {
	case req.GetName() == "":
		return CreateRequest{}, missing("name")
	case len(req.GetVolumeCapabilities()) == 0:
		return CreateRequest{}, missing("volume_capabilities")
	}
	filesystem, _, err := capability(req.GetVolumeCapabilities()...)
	if err != nil {
		return CreateRequest{}, err
	}
	spec, err := ParseSpec(req.GetParameters(), filesystem)
	if err != nil {
		return CreateRequest{}, err
	}
	size, limit, err := sizes(req.GetCapacityRange(), spec.FS)
	if err != nil {
		return CreateRequest{}, err
	}
	if err := s.reachable(req.GetAccessibilityRequirements()); err != nil {
		return CreateRequest{}, err
	}
	if m := req.GetMutableParameters(); len(m) > 0 {
		if _, err := s.limits(m); err != nil {
			return CreateRequest{}, err
		}
	}
	return CreateRequest{Kind: KindVolume, Name: req.GetName(), Spec: spec, Size: size, Limit: limit}, nil
}

// MinSize is the least bytes that a file system needs; 0 for none.
func MinSize(filesystem string) int64 {
	return map[string]int64{XFS: minXFS, Ext4: minExt4}[filesystem]
}

// sizes are the bytes asked for and the limit, which is 0 for none.
func sizes(c *csi.CapacityRange, filesystem string) (size, limit int64, err error) {
	size, limit = c.GetRequiredBytes(), c.GetLimitBytes()
	floor := MinSize(filesystem)
	switch {
	case size < 0 || limit < 0 || size > MaxSize:
		return 0, 0, fmt.Errorf("size %d, limit %d: give a size from 1 to %d bytes: %w", size, limit, int64(MaxSize), ErrOutOfRange)
	case limit > 0 && size > limit:
		return 0, 0, fmt.Errorf("size %d is more than the limit %d: %w", size, limit, ErrOutOfRange)
	case size == 0:
		size = max(floor, defaultSize)
		if limit > 0 {
			size = min(size, limit)
		}
	}
	if size < floor {
		return 0, 0, fmt.Errorf("size %d: the file system %s needs %d bytes at least (ask for more storage): %w", size, filesystem, floor, ErrOutOfRange)
	}
	return size, limit, nil
}

// reachable is nil when this node is among those that the volume may be on.
func (s *Service) reachable(req *csi.TopologyRequirement) error {
	all := slices.Concat(req.GetRequisite(), req.GetPreferred())
	for _, t := range all {
		if t.GetSegments()[TopologyKey] == s.engine.node {
			return nil
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("the volume is wanted on other nodes than %s (each node's driver makes the volumes of its own node): %w", s.engine.node, vg.ErrNoRoom)
}

// source is the volume or snapshot that a new volume begins as a copy of.
func (s *Service) source(ctx context.Context, src *csi.VolumeContentSource, elsewhere bool) (Handle, error) {
	h, err := ParseHandle(sourceID(src))
	if err != nil || elsewhere {
		return h, err
	}
	_, err = s.engine.Volume(ctx, h)
	return h, err
}

func (s *Service) describe(v Volume) *csi.Volume {
	out := &csi.Volume{VolumeId: v.Handle.String(), CapacityBytes: v.LV.Size,
		AccessibleTopology: []*csi.Topology{{Segments: map[string]string{TopologyKey: s.engine.node}}}}
	return out
}

// DeleteVolume is CSI's.
func (s *Service) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, missing("volume_id")
	}
	if h, err := ParseHandle(req.GetVolumeId()); err == nil && s.guard != nil {
		if err := s.guard(ctx, h); err != nil {
			return nil, answer(err)
		}
	}
	if err := s.delete(ctx, req.GetVolumeId()); err != nil {
		return nil, answer(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// delete removes a volume or snapshot. An id that this driver cannot have handed out
// names nothing.
func (s *Service) delete(ctx context.Context, id string) error {
	h, err := ParseHandle(id)
	if err != nil {
		return nil
	}
	return s.engine.Delete(ctx, h)
}

// ValidateVolumeCapabilities is CSI's.
func (s *Service) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case len(req.GetVolumeCapabilities()) == 0:
		return nil, missing("volume_capabilities")
	}
	v, err := s.lookup(ctx, req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	filesystem, _, err := capability(req.GetVolumeCapabilities()...)
	if have := v.LV.Tags.Get(vg.KeyFS); err == nil && filesystem != have {
		err = fmt.Errorf("the volume holds %s, not %s", have, filesystem)
	}
	if err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: req.GetVolumeCapabilities(), VolumeContext: req.GetVolumeContext(), Parameters: req.GetParameters(),
	}}, nil
}

func (s *Service) lookup(ctx context.Context, id string) (Volume, error) {
	h, err := ParseHandle(id)
	if err != nil {
		return Volume{}, err
	}
	return s.engine.Volume(ctx, h)
}

// page cuts a list; a token is the index to go on at.
func page[T any](all []T, token string, limit int32) (part []T, next string, err error) {
	from := 0
	if token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 || from > len(all) {
			return nil, "", status.Errorf(codes.Aborted, "starting_token %q is not one of this list (start anew)", token)
		}
	}
	all = all[from:]
	if limit > 0 && int(limit) < len(all) {
		return all[:limit], strconv.Itoa(from + int(limit)), nil
	}
	return all, "", nil
}

func (s *Service) list(ctx context.Context, snapshots bool) ([]Volume, error) {
	all, err := s.engine.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v Volume) bool {
		return v.Kind() == KindDocker || (v.Kind() == KindSnapshot) != snapshots || v.Phase() == vg.Creating
	})
	slices.SortFunc(all, func(a, b Volume) int { return strings.Compare(a.Handle.String(), b.Handle.String()) })
	return all, nil
}

// ListVolumes is CSI's.
func (s *Service) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	all, err := s.list(ctx, false)
	if err != nil {
		return nil, answer(err)
	}
	part, next, err := page(all, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	out := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range part {
		out.Entries = append(out.Entries, &csi.ListVolumesResponse_Entry{Volume: s.describe(v), Status: &csi.ListVolumesResponse_VolumeStatus{VolumeCondition: condition(v.LV.Sick())}})
	}
	return out, nil
}

// ControllerGetVolume is CSI's.
func (s *Service) ControllerGetVolume(ctx context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, missing("volume_id")
	}
	v, err := s.lookup(ctx, req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	return &csi.ControllerGetVolumeResponse{Volume: s.describe(v), Status: &csi.ControllerGetVolumeResponse_VolumeStatus{VolumeCondition: condition(v.LV.Sick())}}, nil
}

func condition(wrong string) *csi.VolumeCondition {
	if wrong == "" {
		return &csi.VolumeCondition{Message: "the volume is well"}
	}
	return &csi.VolumeCondition{Abnormal: true, Message: wrong}
}

// GetCapacity is CSI's: of the group of the class's pool that has most room now.
func (s *Service) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if t := req.GetAccessibleTopology(); t != nil && t.GetSegments()[TopologyKey] != s.engine.node {
		return &csi.GetCapacityResponse{}, nil
	}
	filesystem := "" // the class's
	if caps := req.GetVolumeCapabilities(); len(caps) > 0 {
		var err error
		if filesystem, _, err = capability(caps...); err != nil {
			return nil, answer(err)
		}
	}
	params := maps.Clone(req.GetParameters())
	maps.DeleteFunc(params, func(k, _ string) bool { return strings.HasPrefix(k, sidecarKeys) && k != keyFSType })
	var total, largest int64
	s.engine.settle(ctx)
	q := s.engine.quarantine(ctx)
	for _, c := range s.engine.Candidates(q) {
		w := vg.Want{Pool: c.Pool, Overcommit: 1, Stripes: 1}
		if len(params) > 0 {
			spec, err := classSpec(params, filesystem)
			if err != nil {
				return nil, answer(err)
			}
			w = spec.want(0)
		}
		if c.Pool != w.Pool {
			continue
		}
		room := c.Room(w)
		total += room
		largest = max(largest, room)
	}
	return &csi.GetCapacityResponse{AvailableCapacity: total, MaximumVolumeSize: wrapperspb.Int64(largest)}, nil
}

// ControllerExpandVolume is CSI's.
func (s *Service) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, missing("volume_id")
	case req.GetCapacityRange() == nil:
		return nil, missing("capacity_range")
	}
	h, err := ParseHandle(req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	size, limit, err := sizes(req.GetCapacityRange(), Block)
	if err != nil {
		return nil, answer(err)
	}
	v, err := s.engine.Expand(ctx, h, size, limit)
	if err != nil {
		return nil, answer(err)
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.LV.Size, NodeExpansionRequired: v.LV.Tags.Get(vg.KeyFS) != Block}, nil
}

// ControllerModifyVolume is CSI's.
func (s *Service) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, missing("volume_id")
	}
	v, err := s.lookup(ctx, req.GetVolumeId())
	if err != nil {
		return nil, answer(err)
	}
	if err := s.modify(ctx, v.Handle, req.GetMutableParameters()); err != nil {
		return nil, answer(err)
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}
