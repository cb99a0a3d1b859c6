package lvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// listen makes a unix socket in place of what an earlier process left. The directory
// must be there.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	return l, nil
}

// Serve answers CSI calls on a unix socket until ctx ends; calls under way are ended
// with it. ready, when not nil, is called once it listens.
func Serve(ctx context.Context, socket string, s *Service, m *Metrics, log *slog.Logger, ready func()) error {
	l, err := listen(ctx, socket)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(observe(m, log)))
	csi.RegisterIdentityServer(srv, s)
	csi.RegisterControllerServer(srv, s)
	csi.RegisterNodeServer(srv, s)
	csi.RegisterGroupControllerServer(srv, s)
	stop := context.AfterFunc(ctx, srv.Stop) // every call can be repeated
	defer stop()
	if ready != nil {
		ready()
	}
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve CSI: %w", err)
	}
	return nil
}

// observe counts calls and logs those that change something or fail. Requests are not
// logged: they may carry secrets.
func observe(m *Metrics, log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		start := time.Now()
		out, err := next(ctx, req)
		method, took := path.Base(info.FullMethod), time.Since(start)
		if m != nil {
			m.calls.WithLabelValues(method, status.Code(err).String()).Observe(took.Seconds())
		}
		args := []any{"method", method, "took", took.Round(time.Millisecond).String()}
		if v, ok := req.(interface{ GetVolumeId() string }); ok {
			args = append(args, "volume", v.GetVolumeId())
		}
		if err != nil {
			log.Info("call failed", append(args, "error", err)...)
		} else {
			log.Debug("call", args...)
		}
		return out, err
	}
}
