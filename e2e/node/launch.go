package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"holdfast.dev/internal/hostexec"
)

// launch is a container that is ready to be started.
type launch struct {
	command hostexec.Command
	image   image
	paths   rewriter
}

// prepareError says why a container waits, with the kubelet's word for it.
type prepareError struct {
	reason string
	err    error
}

func (e *prepareError) Error() string { return e.err.Error() }
func (e *prepareError) Unwrap() error { return e.err }

// prepare turns a container into a command of this machine.
func (c *container) prepare(ctx context.Context, spec *corev1.Container) (*launch, error) {
	img, err := c.pod.host.images.pull(spec.Image)
	if err != nil {
		return nil, &prepareError{reason: "ErrImagePull", err: err}
	}
	object := c.pod.object()
	env, err := environment(ctx, object, spec, c.pod.host.objs)
	if err != nil {
		return nil, &prepareError{reason: "CreateContainerConfigError", err: err}
	}
	mounts, err := c.mounts(spec, env)
	if err != nil {
		return nil, &prepareError{reason: "CreateContainerConfigError", err: err}
	}
	r := newRewriter(mounts)
	base := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": object.Name, "HOME": c.pod.workDir()}
	if access := r.value(kubeAccess); access != kubeAccess {
		if base["KUBECONFIG"], err = c.pod.kubeconfig(access); err != nil {
			return nil, &prepareError{reason: "CreateContainerConfigError", err: err}
		}
	}
	cred, err := credential(object, spec, c.pod.host.root)
	if err != nil {
		return nil, &prepareError{reason: "CreateContainerConfigError", err: err}
	}
	command, args := arguments(spec, env, r)
	if len(command) > 0 {
		// The image is one program: /<binary>, also found as <binary> in its PATH.
		if command[0] != img.binary && command[0] != path.Base(img.binary) {
			return nil, &prepareError{reason: "RunContainerError", err: fmt.Errorf("image %s has no %s, it has %s alone", spec.Image, command[0], img.binary)}
		}
		args = append(command[1:], args...)
	}
	dir := c.pod.workDir()
	if spec.WorkingDir != "" {
		if d := r.value(spec.WorkingDir); d != spec.WorkingDir {
			dir = d
		}
	}
	return &launch{image: img, paths: r, command: hostexec.Command{
		Path: img.path, Args: args, Dir: dir, Env: environ(env, base, r), Credential: cred,
	}}, nil
}

// mounts are the container's volumes as paths of this machine.
func (c *container) mounts(spec *corev1.Container, env map[string]string) ([]mount, error) {
	volumes := *c.pod.mounts.Load()
	var out []mount
	for _, m := range spec.VolumeMounts {
		host, ok := volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("volume %s is not there", m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expansion.Expand(m.SubPathExpr, expansion.MappingFuncFor(env))
		}
		if sub != "" {
			if !filepath.IsLocal(sub) {
				return nil, fmt.Errorf("sub path %q leaves volume %s", sub, m.Name)
			}
			host = filepath.Join(host, sub)
			if _, err := os.Stat(host); errors.Is(err, os.ErrNotExist) {
				if err := makeDir(host, 0o777); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, mount{inside: path.Clean(m.MountPath), host: host})
	}
	return out, nil
}

func runAsUser(pod *corev1.Pod, c *corev1.Container) *int64 {
	if sc := c.SecurityContext; sc != nil && sc.RunAsUser != nil {
		return sc.RunAsUser
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.RunAsUser
	}
	return nil
}

// credential is the user that the container runs as: that of its security
// context, else root, as which images of this node are built. Without root,
// everything runs as the user that runs the node.
func credential(pod *corev1.Pod, c *corev1.Container, root string) (*syscall.Credential, error) {
	uid := runAsUser(pod, c)
	if nonRoot(pod, c) && (uid == nil || *uid == 0) {
		return nil, errors.New("container has runAsNonRoot and image will run as root")
	}
	if os.Geteuid() != 0 || uid == nil {
		return nil, nil
	}
	cred := &syscall.Credential{}
	var gid *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		gid = sc.RunAsGroup
		for _, g := range sc.SupplementalGroups {
			cred.Groups = append(cred.Groups, uint32(g)) // the API server admits 32 bits
		}
		if sc.FSGroup != nil {
			cred.Groups = append(cred.Groups, uint32(*sc.FSGroup)) // as above
		}
	}
	if sc := c.SecurityContext; sc != nil && sc.RunAsGroup != nil {
		gid = sc.RunAsGroup
	}
	if *uid < 0 || *uid > math.MaxUint32 {
		return nil, fmt.Errorf("user %d is not one", *uid)
	}
	cred.Uid = uint32(*uid)
	if gid != nil {
		cred.Gid = uint32(*gid) // as above
	}
	if cred.Uid != 0 {
		if closed := unreachable(root); closed != "" {
			return nil, fmt.Errorf("user %d cannot reach the node's root: run chmod o+x %s", cred.Uid, closed)
		}
	}
	return cred, nil
}

func nonRoot(pod *corev1.Pod, c *corev1.Container) bool {
	if sc := c.SecurityContext; sc != nil && sc.RunAsNonRoot != nil {
		return *sc.RunAsNonRoot
	}
	sc := pod.Spec.SecurityContext
	return sc != nil && sc.RunAsNonRoot != nil && *sc.RunAsNonRoot
}

// unreachable is the first directory above or at dir that others may not pass.
func unreachable(dir string) string {
	at := "/"
	for el := range strings.SplitSeq(strings.TrimPrefix(dir, "/"), "/") {
		at = filepath.Join(at, el)
		if info, err := os.Stat(at); err == nil && info.Mode().Perm()&0o001 == 0 {
			return at
		}
	}
	return ""
}
