package lvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"holdfast.dev/provisioners/lvm/vg"
)

// Service answers CSI calls. It translates them for the Engine and decides nothing.
type Service struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	csi.UnimplementedGroupControllerServer

	engine  *Engine
	version string
	qos     QoS
	// guard, when it is set, says why a volume that DeleteVolume is asked for must stay.
	guard func(context.Context, Handle) error
}

// NewService makes the service of an engine. qos may be nil: then volumes take no
// limits.
func NewService(e *Engine, version string, qos QoS) *Service {
	return &Service{engine: e, version: version, qos: qos}
}

// code is the code of an error, CSI specification 1.12 "Error Scheme".
func code(err error) codes.Code {
	for _, k := range []struct {
		err  error
		code codes.Code
	}{
		{ErrInvalid, codes.InvalidArgument}, {ErrNotFound, codes.NotFound}, {ErrExists, codes.AlreadyExists}, {ErrBusy, codes.Aborted},
		{ErrInUse, codes.FailedPrecondition}, {ErrRefused, codes.FailedPrecondition}, {ErrHeld, codes.FailedPrecondition}, {ErrOutOfRange, codes.OutOfRange},
		{vg.ErrNoRoom, codes.ResourceExhausted}, {ErrUnavailable, codes.Unavailable}, {vg.ErrIncomplete, codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded}, {context.Canceled, codes.Canceled},
	} {
		if errors.Is(err, k.err) {
			return k.code
		}
	}
	return codes.Internal
}

// answer gives an error its code.
func answer(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code(err), err.Error())
}

func missing(field string) error {
	return status.Errorf(codes.InvalidArgument, "%s is missing", field)
}

// GetPluginInfo is CSI's.
func (s *Service) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: DriverName, VendorVersion: s.version}, nil
}

// GetPluginCapabilities is CSI's.
func (s *Service) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

// Probe is CSI's. A node without any group is ready: it has nothing to offer.
func (s *Service) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// capability reads what kind of access is asked for: block, or a file system of a kind.
func capability(caps ...*csi.VolumeCapability) (filesystem string, options []string, err error) {
	for i, c := range caps {
		var f string
		switch t := c.GetAccessType().(type) {
		case *csi.VolumeCapability_Block:
			f = Block
		case *csi.VolumeCapability_Mount:
			if f = t.Mount.GetFsType(); f == "" {
				f = XFS
			}
			options = t.Mount.GetMountFlags()
		default:
			return "", nil, fmt.Errorf("volume capability %d is neither block nor mount: %w", i, ErrInvalid)
		}
		if i > 0 && f != filesystem {
			return "", nil, fmt.Errorf("volume capabilities ask for %s and for %s: %w", filesystem, f, ErrInvalid)
		}
		filesystem = f
		switch m := c.GetAccessMode().GetMode(); m {
		case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
			csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		default:
			return "", nil, fmt.Errorf("access mode %s: a volume is on one node (use ReadWriteOnce or ReadWriteOncePod): %w", m, ErrInvalid)
		}
	}
	return filesystem, options, nil
}
