package server

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cliflag "k8s.io/component-base/cli/flag"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	controllermanageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	kubescheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubescheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// serviceCIDR holds the cluster IPs of Services; its first address is in the
// API server's certificate.
const serviceCIDR = "10.96.0.0/16"

// run is a component that is ready to run until its context ends.
type run func(ctx context.Context) error

// newAPIServer configures kube-apiserver to serve on l.
func newAPIServer(ctx context.Context, p *pki, etcdEndpoint string, l net.Listener, extra []string) (run, error) {
	s := apiserveroptions.NewServerRunOptions()
	ip := l.Addr().(*net.TCPAddr).IP.String()
	args := []string{
		"--etcd-servers=" + etcdEndpoint,
		"--bind-address=" + ip,
		"--advertise-address=" + ip,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + p.file("ca.crt"),
		"--tls-cert-file=" + p.file("apiserver.crt"),
		"--tls-private-key-file=" + p.file("apiserver.key"),
		"--kubelet-client-certificate=" + p.file("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + p.file("apiserver-kubelet-client.key"),
		"--enable-bootstrap-token-auth=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.file("sa.pub"),
		"--service-account-signing-key-file=" + p.file("sa.key"),
		"--allow-privileged=true",
		"--profiling=false",
		"--shutdown-delay-duration=0",
		"--shutdown-send-retry-after=false",
	}
	if l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		// An EndpointSlice must not name a loopback address.
		args = append(args, "--endpoint-reconciler-type=none")
	}
	if err := parse("kube-apiserver", s.Flags(), args, extra); err != nil {
		return nil, err
	}
	s.SecureServing.Listener = l
	s.SecureServing.BindPort = l.Addr().(*net.TCPAddr).Port
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	completed, err := s.Complete(ctx)
	if err != nil {
		return nil, fmt.Errorf("complete options of kube-apiserver: %w", err)
	}
	if err := utilerrors.NewAggregate(completed.Validate()); err != nil {
		return nil, fmt.Errorf("check options of kube-apiserver: %w", err)
	}
	return func(ctx context.Context) error { return apiserver.Run(ctx, completed) }, nil
}

// newControllerManager configures kube-controller-manager without a port.
func newControllerManager(ctx context.Context, p *pki, kubeconfig string, o *Options) (run, error) {
	s, err := controllermanageroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make options of kube-controller-manager: %w", err)
	}
	known, disabled, aliases := controllermanager.KnownControllers(), controllermanager.ControllersDisabledByDefault(), controllermanager.ControllerAliases()
	err = parse("kube-controller-manager", s.Flags(known, disabled, aliases), []string{
		"--kubeconfig=" + kubeconfig,
		"--secure-port=0",
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + p.file("ca.crt"),
		"--cluster-signing-cert-file=" + p.file("ca.crt"),
		"--cluster-signing-key-file=" + p.file("ca.key"),
		"--service-account-private-key-file=" + p.file("sa.key"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--allocate-node-cidrs=false",
		"--node-monitor-grace-period=" + o.NodeMonitorGracePeriod.String(),
		// FlexVolume makes its directory, in /usr by default, and makes it again
		// when it is removed. Where none can be made it turns itself off.
		"--flex-volume-plugin-dir=/proc/no-flexvolume",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}, o.ControllerManagerArgs)
	if err != nil {
		return nil, err
	}
	c, err := s.Config(ctx, known, disabled, aliases)
	if err != nil {
		return nil, fmt.Errorf("configure kube-controller-manager: %w", err)
	}
	return func(ctx context.Context) error { return controllermanager.Run(ctx, c.Complete()) }, nil
}

// newScheduler configures kube-scheduler without a port. synced returns when
// it has seen every object and begins to schedule.
func newScheduler(ctx context.Context, kubeconfig string, o *Options) (_ run, synced run, _ error) {
	s := kubescheduleroptions.NewOptions()
	err := parse("kube-scheduler", *s.Flags, []string{
		"--kubeconfig=" + kubeconfig,
		"--secure-port=0",
		"--leader-elect=false",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}, o.SchedulerArgs)
	if err != nil {
		return nil, nil, err
	}
	cc, sched, err := kubescheduler.Setup(ctx, s)
	if err != nil {
		return nil, nil, fmt.Errorf("configure kube-scheduler: %w", err)
	}
	return func(ctx context.Context) error { return kubescheduler.Run(ctx, cc, sched) }, sched.WaitForHandlersSync, nil
}

func parse(component string, sets cliflag.NamedFlagSets, args, extra []string) error {
	fs := pflag.NewFlagSet(component, pflag.ContinueOnError)
	for _, s := range sets.FlagSets {
		fs.AddFlagSet(s)
	}
	if err := fs.Parse(append(args, extra...)); err != nil {
		return fmt.Errorf("read flags of %s: %w", component, err)
	}
	return nil
}
