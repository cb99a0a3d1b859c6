package nodeprep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
)

// Exit codes of node-prepare.
const (
	ExitOK       = 0 // the node is as its flavor says, or --apply would make it so
	ExitFailed   = 1 // something could not be read or done
	ExitBadInput = 2 // a flag or the flavor is wrong; nothing was read of the disks
	ExitRefused  = 3 // a disk is refused or missing, or the node lacks disks; the rest was done
)

// BadInput is an error of the person's input.
type BadInput struct{ Err error }

func (e *BadInput) Error() string { return e.Err.Error() }
func (e *BadInput) Unwrap() error { return e.Err }

// ErrRefused is returned when the node is not as its flavor says after all that could be done.
var ErrRefused = errors.New("the node is not as its flavor says")

// ExitCode is the exit code of an error of Run.
func ExitCode(err error) int {
	var bad *BadInput
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &bad):
		return ExitBadInput
	case errors.Is(err, ErrRefused):
		return ExitRefused
	}
	return ExitFailed
}

const callTimeout = 10 * time.Second

// Run is the whole of node-prepare: it prints the plan to out and, with Apply,
// carries it out and prints what is left. What it does meanwhile goes to progress.
func Run(ctx context.Context, o Options, out, progress io.Writer) (err error) {
	if err := o.Validate(); err != nil {
		return &BadInput{err}
	}
	say, err := ask(ctx, o)
	if err != nil {
		return err
	}
	host, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = host.Close() }() // what was written is durable
	programs, err := hostfs.Open("/")
	if err != nil {
		return err
	}
	defer func() { _ = programs.Close() }() // read only
	if o.Apply && !o.UnitsOnly {
		if _, err := host.Lstat("/run/systemd/system"); err != nil { // sd_booted(3)
			return &BadInput{errors.New("check --units-only: systemd does not run here (add --units-only to write mount units for the next boot)")}
		}
	}
	store, err := OpenStore(host, host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	_, lookErr := hostexec.LookPath("udevadm")
	p := &Preparer{
		Host: &Host{FS: host, Exec: hostexec.Run, Flags: HostFlags{FS: host}, Stat: StatNode, Progress: progress}, Files: host, Store: store, Programs: programs, NewUUID: uuid.NewString, Raw: RawDevice,
		UnitsOnly: o.UnitsOnly, Udev: lookErr == nil && o.HostRoot == "/", Progress: progress,
	}
	return p.Run(ctx, o, say, out)
}

// Said is what the API server, or a file, says.
type Said struct {
	Flavor    *v1alpha1.NodeFlavor
	Closed    map[string]string
	ClosedErr error
	Asked     []string
}

// Run plans, prints, and with Apply acts and prints again.
func (p *Preparer) Run(ctx context.Context, o Options, say *Said, out io.Writer) error {
	look := func() (*Input, *Plan, error) {
		in, err := p.Look(ctx, say.Flavor)
		if err != nil {
			return nil, nil, err
		}
		in.Closed, in.ClosedErr, in.Asked = say.Closed, say.ClosedErr, say.Asked
		in.Tokens, in.Replace, in.Certify = o.Wipe, o.Replace, o.Certify
		return in, BuildPlan(*in), nil
	}
	in, plan, err := look()
	if err != nil {
		return err
	}
	var applied, unmet error
	if o.Apply {
		unmet = plan.unmet(o)
		if applied = p.Apply(ctx, in, plan); ctx.Err() != nil {
			return errors.Join(applied, ctx.Err())
		}
		// The tokens and replacements were for that plan; what is left is told without them.
		o.Wipe, o.Replace = nil, nil
		if _, plan, err = look(); err != nil {
			return errors.Join(applied, err)
		}
	}
	if err := plan.Print(out, o.Output, o.Apply); err != nil {
		return errors.Join(applied, err)
	}
	switch {
	case applied != nil && unmet != nil:
		return fmt.Errorf("%w\n%v", applied, unmet) //nolint:errorlint // what failed decides the exit code, and only that is to be found
	case applied != nil:
		return applied
	case unmet != nil:
		return unmet
	case !plan.Complete():
		return ErrRefused
	case o.Apply && plan.Work():
		return errors.New("something is left to do (run again)")
	}
	return nil
}

// unmet says which of the person's own words were not followed.
func (p *Plan) unmet(o Options) error {
	var errs []error
	for _, r := range p.Disks {
		if o.Wipe[r.Disk] != "" && !r.wipe && r.Condition != Networked { // of which there is a problem
			errs = append(errs, fmt.Errorf("%w: --wipe %s: the token is not the disk's, or was used: %s", ErrRefused, r.Disk, cmp.Or(r.Refused, r.Has, "there is nothing to give up")))
		}
	}
	for _, why := range p.Problems {
		errs = append(errs, fmt.Errorf("%w: %s", ErrRefused, why))
	}
	return errors.Join(errs...)
}

// ask reads the flavor and, where the node is named, what its ComputeNode says.
func ask(ctx context.Context, o Options) (*Said, error) {
	say := &Said{}
	if o.FlavorFile != "" {
		data, err := os.ReadFile(o.FlavorFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &BadInput{fmt.Errorf("check --flavor-file: %w", err)}
		}
		if err != nil {
			return nil, fmt.Errorf("read flavor: %w", err)
		}
		if say.Flavor, err = ParseFlavor(filepath.Base(o.FlavorFile), data); err != nil {
			return nil, &BadInput{err}
		}
	}
	if o.NodeName == "" {
		return say, nil
	}
	api, err := connect(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return say, say.Ask(ctx, api, o.NodeName)
}

func connect(kubeconfig string) (client.Client, error) {
	var cfg *rest.Config
	var err error
	if kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else {
		cfg, err = config.GetConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent, cfg.Timeout = "node-prepare", callTimeout
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("build scheme: %w", err)
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, v1alpha1.GroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	for _, kind := range []string{"ComputeNode", "NodeFlavor"} {
		mapper.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	return client.New(cfg, client.Options{Scheme: scheme, Mapper: mapper})
}

// Ask reads the node's flavor, unless there is one already, and its
// ComputeNode. A node without a ComputeNode is new and has no bad disk that is
// known; that the answer is lacking closes every disk.
func (s *Said) Ask(ctx context.Context, api client.Reader, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*callTimeout)
	defer cancel()
	if s.Flavor == nil {
		var n corev1.Node
		if err := api.Get(ctx, client.ObjectKey{Name: node}, &n); err != nil {
			return fmt.Errorf("read node %s: %w (give --flavor-file to do without)", node, err)
		}
		name := n.Labels[v1alpha1.LabelFlavor]
		if name == "" {
			return &BadInput{fmt.Errorf("node %s has no label %s (label it, or give --flavor-file)", node, v1alpha1.LabelFlavor)}
		}
		var f v1alpha1.NodeFlavor
		if err := api.Get(ctx, client.ObjectKey{Name: name}, &f); err != nil {
			return fmt.Errorf("read flavor %s of node %s: %w", name, node, err)
		}
		if err := CheckFlavor(&f); err != nil {
			return &BadInput{fmt.Errorf("check flavor %s: %w", name, err)}
		}
		s.Flavor = &f
	}
	var cn v1alpha1.ComputeNode
	err := api.Get(ctx, client.ObjectKey{Name: node}, &cn)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return nil
	}
	if err != nil {
		s.ClosedErr = fmt.Errorf("read compute node %s: %w", node, err)
		return nil
	}
	s.Closed = map[string]string{}
	for _, d := range cn.Status.Disks {
		if d.State == v1alpha1.DiskFailed {
			s.Closed[d.ID] = "the disk monitor says that it has failed"
		}
	}
	for _, q := range cn.Spec.Quarantine {
		s.Closed[q.Disk] = fmt.Sprintf("it is quarantined: %s by %s", q.Reason, q.By)
	}
	for _, r := range cn.Spec.Replacements {
		s.Asked = append(s.Asked, r.Disk)
	}
	return nil
}
