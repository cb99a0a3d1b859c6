package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/fleet"
)

// pruneGrace is how long after a change of the files nothing is pruned: a pass of
// kube-addon-manager that read the files before could make it anew.
const pruneGrace = 3 * time.Minute

// folderPrefix begins the names of our folders, beside those of others.
const folderPrefix = "holdfast-"

// addonFiles is the directory that the unmodified kube-addon-manager applies, one
// folder an addon. A folder is exchanged whole (renameat2, RENAME_EXCHANGE): a pass
// sees the files before or those after. Were it to meet both, kubectl fails on the
// file that is gone, and then prunes nothing.
type addonFiles struct{ dir string }

// staging is beside dir, on the same file system: whatever is below dir is applied.
func (f addonFiles) staging() string { return filepath.Join(filepath.Dir(f.dir), ".holdfast-staging") }

func (f addonFiles) folder(addon string) string { return filepath.Join(f.dir, folderPrefix+addon) }

// read returns an addon's files, and since when they are so.
func (f addonFiles) read(addon string) (files map[string][]byte, since time.Time, err error) {
	files = map[string][]byte{}
	info, err := os.Stat(f.folder(addon))
	if errors.Is(err, fs.ErrNotExist) {
		return files, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	entries, err := os.ReadDir(f.folder(addon))
	if err != nil {
		return nil, time.Time{}, err
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(f.folder(addon), e.Name())); err != nil {
			return nil, time.Time{}, err
		}
	}
	return files, info.ModTime(), nil
}

// write makes an addon's folder hold exactly files; none removes it.
func (f addonFiles) write(addon string, files map[string][]byte) error {
	if err := os.RemoveAll(f.staging()); err != nil { // what a killed agent left
		return err
	}
	if err := errors.Join(os.MkdirAll(f.staging(), 0o700), os.MkdirAll(f.dir, 0o755)); err != nil {
		return err
	}
	next := filepath.Join(f.staging(), addon)
	if err := os.Mkdir(next, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeSynced(filepath.Join(next, name), files[name]); err != nil {
			return err
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, f.folder(addon), unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(files) > 0:
		err = os.Rename(next, f.folder(addon))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && len(files) == 0:
		err = os.Remove(f.folder(addon)) // it is empty
	}
	if err != nil {
		return fmt.Errorf("exchange folder %s: %w", f.folder(addon), err)
	}
	return os.RemoveAll(f.staging())
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

// leaveFiles makes the addon's folder what the bundle says. Objects of the
// data-bearing kinds stay in it until a person approved their deletion: what is
// not in the folder kube-addon-manager prunes, by name, and asks nobody. It
// returns since when the folder is so.
func (a *Agent) leaveFiles(ctx context.Context, addon string, objects []*unstructured.Unstructured) (time.Time, error) {
	f := addonFiles{a.opts.AddonsDir}
	was, since, err := f.read(addon)
	if err != nil {
		return since, fmt.Errorf("read addon files: %w", err)
	}
	want := map[string][]byte{}
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return since, err
		}
		want[fileName(o)] = data
	}
	for name, data := range was {
		if _, there := want[name]; !there && !a.mayGo(ctx, data) {
			want[name] = data
		}
	}
	if maps.EqualFunc(was, want, func(x, y []byte) bool { return string(x) == string(y) }) {
		return since, nil
	}
	if err := f.write(addon, want); err != nil {
		return since, fmt.Errorf("write addon files: %w", err)
	}
	a.log.Info("addon files written", "addon", addon, "files", len(want))
	return time.Now(), nil
}

func fileName(o *unstructured.Unstructured) string {
	gk := o.GroupVersionKind().GroupKind()
	return strings.ToLower(gk.String()) + "_" + o.GetNamespace() + "_" + strings.ReplaceAll(o.GetName(), ":", "__") + ".yaml"
}

// mayGo is true when a file that the bundle no longer has may be removed. Of the
// data-bearing kinds that needs a person's approval of the very object.
func (a *Agent) mayGo(ctx context.Context, data []byte) bool {
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, &o.Object); err != nil {
		return false
	}
	if !slices.Contains(heldKinds, o.GetKind()) {
		return true
	}
	i := slices.IndexFunc(a.deletions, func(d fleet.Deletion) bool {
		return d.Kind == o.GetKind() && d.Namespace == o.GetNamespace() && d.Name == o.GetName()
	})
	if i < 0 {
		return false
	}
	live := o.DeepCopy()
	err := a.apply.rec.Client.Get(ctx, client.ObjectKeyFromObject(o), live)
	return err == nil && string(live.GetUID()) == a.deletions[i].UID && live.GetLabels()[v1alpha1.LabelAddon] != ""
}
