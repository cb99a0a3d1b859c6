package lvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar tells the kubelet of the driver, as node-driver-registrar does
// (k8s.io/kubelet pluginregistration v1): the kubelet watches the directory for sockets.
type registrar struct {
	registration.UnimplementedRegistrationServer
	endpoint string
	log      *slog.Logger
	refused  func(error)
}

// GetInfo is the kubelet's question.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: DriverName, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus is the kubelet's answer.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.log.Info("registered with the kubelet")
	} else {
		r.refused(fmt.Errorf("the kubelet refuses the driver: %s", s.GetError()))
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// Register serves the registration socket until ctx ends. endpoint is the CSI socket as
// the kubelet sees it. A refusal ends it with an error: the next start asks again.
func Register(ctx context.Context, dir, endpoint string, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l, err := listen(ctx, filepath.Join(dir, DriverName+"-reg.sock"))
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	registration.RegisterRegistrationServer(srv, &registrar{endpoint: endpoint, log: log, refused: cancel})
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	err = srv.Serve(l)
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			return cause
		}
		return nil
	}
	return fmt.Errorf("serve registration: %w", err)
}
