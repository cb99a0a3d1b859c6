package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// volumes makes the volumes of pods.
type volumes struct {
	client kubernetes.Interface
	root   string
	objs   objects
}

// file is one file of a volume that comes from the API.
type file struct {
	data []byte
	mode os.FileMode
	uid  int // -1 keeps the owner
}

// volume is a volume on this machine.
type volume struct {
	path string
	// refresh is when its content must be made anew; zero for never.
	refresh time.Time
}

// kubeAccess is where the service account is in every container
// (plugin/pkg/admission/serviceaccount DefaultAPITokenMountPath).
const kubeAccess = "/var/run/secrets/kubernetes.io/serviceaccount"

// configRefresh is how often ConfigMaps and Secrets of volumes are read again.
const configRefresh = time.Minute

// make makes one volume, or makes its content anew.
func (v *volumes) make(ctx context.Context, pod *corev1.Pod, podDir string, vol *corev1.Volume) (volume, error) {
	dir := filepath.Join(podDir, "volumes", vol.Name)
	files := map[string]file{}
	out := volume{path: dir}
	var err error
	switch src := vol.VolumeSource; {
	case src.HostPath != nil:
		return v.hostPath(src.HostPath)
	case src.PersistentVolumeClaim != nil:
		return v.claim(ctx, pod.Namespace, src.PersistentVolumeClaim.ClaimName)
	case src.EmptyDir != nil:
		return out, makeDir(dir, 0o777)
	case src.Projected != nil:
		out.refresh, err = v.projected(ctx, pod, src.Projected, files)
	case src.ConfigMap != nil:
		out.refresh = time.Now().Add(configRefresh)
		err = v.configMap(ctx, pod.Namespace, &corev1.ConfigMapProjection{LocalObjectReference: src.ConfigMap.LocalObjectReference, Items: src.ConfigMap.Items, Optional: src.ConfigMap.Optional}, mode(src.ConfigMap.DefaultMode), files)
	case src.Secret != nil:
		out.refresh = time.Now().Add(configRefresh)
		err = v.secret(ctx, pod.Namespace, &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: src.Secret.SecretName}, Items: src.Secret.Items, Optional: src.Secret.Optional}, mode(src.Secret.DefaultMode), files)
	case src.DownwardAPI != nil:
		err = downward(pod, src.DownwardAPI.Items, mode(src.DownwardAPI.DefaultMode), files)
	default:
		return volume{}, fmt.Errorf("volume %s is of a kind that this node does not have", vol.Name)
	}
	if err != nil {
		return volume{}, fmt.Errorf("volume %s: %w", vol.Name, err)
	}
	if err := writeVolume(dir, files, fsGroup(pod)); err != nil {
		return volume{}, fmt.Errorf("volume %s: %w", vol.Name, err)
	}
	return out, nil
}

func mode(m *int32) os.FileMode {
	if m == nil {
		return 0o644
	}
	return os.FileMode(*m)
}

func makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// projected gathers a projected volume and says when to do it again.
func (v *volumes) projected(ctx context.Context, pod *corev1.Pod, src *corev1.ProjectedVolumeSource, files map[string]file) (time.Time, error) {
	var refresh time.Time
	sooner := func(t time.Time) {
		if refresh.IsZero() || t.Before(refresh) {
			refresh = t
		}
	}
	m := mode(src.DefaultMode)
	for _, s := range src.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			t, err := v.token(ctx, pod, s.ServiceAccountToken, m, files)
			if err != nil {
				return refresh, err
			}
			sooner(t)
		case s.ConfigMap != nil:
			if err := v.configMap(ctx, pod.Namespace, s.ConfigMap, m, files); err != nil {
				return refresh, err
			}
			if s.ConfigMap.Name != "kube-root-ca.crt" { // which changes with the cluster only
				sooner(time.Now().Add(configRefresh))
			}
		case s.Secret != nil:
			if err := v.secret(ctx, pod.Namespace, s.Secret, m, files); err != nil {
				return refresh, err
			}
			sooner(time.Now().Add(configRefresh))
		case s.DownwardAPI != nil:
			if err := downward(pod, s.DownwardAPI.Items, m, files); err != nil {
				return refresh, err
			}
		default:
			return refresh, errors.New("projects a source of a kind that this node does not have")
		}
	}
	return refresh, nil
}

// token asks for a token that is bound to the pod. It is renewed when 80 % of
// its life or 24 hours are over (pkg/kubelet/token requiresRefresh).
func (v *volumes) token(ctx context.Context, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection, m os.FileMode, files map[string]file) (time.Time, error) {
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: src.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		req.Spec.Audiences = []string{src.Audience}
	}
	now := time.Now()
	tr, err := v.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, req, metav1.CreateOptions{})
	if err != nil {
		return now, fmt.Errorf("request token: %w", err)
	}
	f := file{data: []byte(tr.Status.Token), mode: m, uid: -1}
	// pkg/volume/projected: the one user of all containers owns the token.
	if uid, ok := onlyUser(pod); ok && os.Geteuid() == 0 {
		f.mode, f.uid = 0o600, int(uid)
	}
	files[src.Path] = f
	life := tr.Status.ExpirationTimestamp.Sub(now)
	return now.Add(min(life*8/10, 24*time.Hour)), nil
}

// fsGroup is the group that owns the pod's volumes, or -1: none, or not root,
// and then the pod's processes are this user's anyway.
func fsGroup(pod *corev1.Pod) int {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil && os.Geteuid() == 0 {
		return int(*sc.FSGroup)
	}
	return -1
}

// onlyUser is the user that every container of the pod runs as, if there is one.
func onlyUser(pod *corev1.Pod) (int64, bool) {
	var uid *int64
	for _, c := range append(append([]corev1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...) {
		u := runAsUser(pod, &c)
		if u == nil || uid != nil && *uid != *u {
			return 0, false
		}
		uid = u
	}
	if uid == nil {
		return 0, false
	}
	return *uid, true
}

func (v *volumes) configMap(ctx context.Context, namespace string, src *corev1.ConfigMapProjection, m os.FileMode, files map[string]file) error {
	cm, err := v.objs.ConfigMap(ctx, namespace, src.Name)
	if absent(err, src.Optional) {
		return nil
	}
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	for k, b := range cm.BinaryData {
		data[k] = b
	}
	return project(data, src.Items, src.Optional, m, files, "ConfigMap "+src.Name)
}

func (v *volumes) secret(ctx context.Context, namespace string, src *corev1.SecretProjection, m os.FileMode, files map[string]file) error {
	s, err := v.objs.Secret(ctx, namespace, src.Name)
	if absent(err, src.Optional) {
		return nil
	}
	if err != nil {
		return err
	}
	return project(s.Data, src.Items, src.Optional, m, files, "Secret "+src.Name)
}

func project(data map[string][]byte, items []corev1.KeyToPath, optional *bool, m os.FileMode, files map[string]file, what string) error {
	if len(items) == 0 {
		for k, b := range data {
			files[k] = file{data: b, mode: m, uid: -1}
		}
		return nil
	}
	for _, it := range items {
		b, ok := data[it.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("%s has no key %s", what, it.Key)
		}
		fm := m
		if it.Mode != nil {
			fm = os.FileMode(*it.Mode)
		}
		files[it.Path] = file{data: b, mode: fm, uid: -1}
	}
	return nil
}

func downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, m os.FileMode, files map[string]file) error {
	for _, it := range items {
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = podField(pod, it.FieldRef)
		case it.ResourceFieldRef != nil:
			v, err = resourceField(pod, &corev1.Container{}, it.ResourceFieldRef)
		}
		if err != nil {
			return fmt.Errorf("file %s: %w", it.Path, err)
		}
		fm := m
		if it.Mode != nil {
			fm = os.FileMode(*it.Mode)
		}
		files[it.Path] = file{data: []byte(v), mode: fm, uid: -1}
	}
	return nil
}

// hostPath maps a path of the host below the node's root.
func (v *volumes) hostPath(src *corev1.HostPathVolumeSource) (volume, error) {
	root, err := os.OpenRoot(v.root)
	if err != nil {
		return volume{}, err
	}
	defer func() { _ = root.Close() }() // read only
	rel := strings.TrimPrefix(path.Clean("/"+src.Path), "/")
	if rel == "" {
		rel = "."
	}
	kind := corev1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		if err := root.MkdirAll(rel, 0o755); err != nil {
			return volume{}, fmt.Errorf("hostPath %s: %w", src.Path, err)
		}
	case corev1.HostPathFileOrCreate:
		f, err := root.OpenFile(rel, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return volume{}, fmt.Errorf("hostPath %s: %w", src.Path, err)
		}
		_ = f.Close() // nothing was written
	}
	if want, ok := hostPathTypes[kind]; ok {
		info, err := root.Stat(rel)
		if err != nil {
			return volume{}, fmt.Errorf("hostPath %s: %w", src.Path, err)
		}
		if !want(info.Mode()) {
			return volume{}, fmt.Errorf("hostPath %s is not a %s", src.Path, kind)
		}
	}
	return volume{path: filepath.Join(v.root, rel)}, nil
}

var hostPathTypes = map[corev1.HostPathType]func(fs.FileMode) bool{
	corev1.HostPathDirectoryOrCreate: fs.FileMode.IsDir,
	corev1.HostPathDirectory:         fs.FileMode.IsDir,
	corev1.HostPathFileOrCreate:      fs.FileMode.IsRegular,
	corev1.HostPathFile:              fs.FileMode.IsRegular,
	corev1.HostPathSocket:            func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 },
	corev1.HostPathCharDev:           func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 },
	corev1.HostPathBlockDev:          func(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 },
}

// claim is the directory of a bound local volume.
func (v *volumes) claim(ctx context.Context, namespace, name string) (volume, error) {
	pvc, err := v.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return volume{}, err
	}
	if pvc.Spec.VolumeName == "" {
		return volume{}, fmt.Errorf("claim %s is not bound", name)
	}
	pv, err := v.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return volume{}, err
	}
	if pv.Spec.Local == nil {
		return volume{}, fmt.Errorf("claim %s is bound to %s, which is not a local volume", name, pv.Name)
	}
	kind := corev1.HostPathDirectory
	return v.hostPath(&corev1.HostPathVolumeSource{Path: pv.Spec.Local.Path, Type: &kind})
}

// writeVolume replaces a volume's content at once, as the kubelet does
// (pkg/volume/util AtomicWriter): names lead through the link ..data, which is
// exchanged when the new content is complete. With a group (not -1) it owns the
// files and may read them (pkg/volume SetVolumeOwnership).
func writeVolume(dir string, files map[string]file, group int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(dir, ".."+time.Now().UTC().Format("2006_01_02_15_04_05.")+"*")
	if err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		p := filepath.Join(fresh, filepath.FromSlash(path.Clean("/"+name)))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, f.data, 0o600); err != nil {
			return err
		}
		if f.uid >= 0 || group >= 0 {
			if err := os.Chown(p, f.uid, group); err != nil {
				return err
			}
		}
		if group >= 0 {
			f.mode |= 0o440
		}
		if err := os.Chmod(p, f.mode); err != nil { // past the umask
			return err
		}
		top, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
		if err := os.Symlink(filepath.Join("..data", top), filepath.Join(dir, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data")) // there is none at first
	tmp := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
		return err
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(dir, old))
}
