package lab

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab/machine"
)

// collectTimeout bounds what is asked of one node, which may be dying.
const collectTimeout = 45 * time.Second

// CollectLogs writes everything that explains a failure into dir: each node's
// console, kubelet and containerd logs (which need no living node), kernel
// log and pod logs (which do), those of the monitoring, its alerts, and the
// cluster's objects. What cannot be had is
// named in dir/missing.txt; an error is of this host.
func (l *Lab) CollectLogs(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil { // of an earlier failure
		return err
	}
	var missing strings.Builder
	miss := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(&missing, "%s: %v\n", what, err)
		}
	}
	for _, n := range l.Nodes {
		to := filepath.Join(dir, n.Name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		files := []string{n.Console(), n.Log("qemu")}
		for _, name := range machine.Logs {
			files = append(files, n.Log(name))
		}
		for _, f := range files {
			miss(f, copyFile(f, filepath.Join(to, filepath.Base(f))))
		}
		miss("kernel log of "+n.Name, n.saveOutput(ctx, "dmesg --time-format iso", filepath.Join(to, "dmesg.log")))
		miss("journal of "+n.Name, n.saveOutput(ctx, "journalctl --boot --no-pager --lines 3000", filepath.Join(to, "journal.log")))
		miss("pod logs of "+n.Name, n.savePodLogs(ctx, to))
	}
	for _, f := range l.Monitoring.Logs() {
		miss(f, copyFile(f, filepath.Join(dir, filepath.Base(f))))
	}
	miss("alerts", l.saveAlerts(ctx, filepath.Join(dir, "alerts.yaml")))
	objects := filepath.Join(dir, "objects")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		return err
	}
	for name, list := range map[string]client.ObjectList{
		"nodes": &corev1.NodeList{}, "pods": &corev1.PodList{}, "events": &corev1.EventList{}, "daemonsets": &appsv1.DaemonSetList{},
		"persistentvolumes": &corev1.PersistentVolumeList{}, "persistentvolumeclaims": &corev1.PersistentVolumeClaimList{},
		"computenodes": &v1alpha1.ComputeNodeList{}, "remediations": &v1alpha1.RemediationList{}, "addonstatuses": &v1alpha1.AddonStatusList{},
	} {
		miss(name, l.saveObjects(ctx, list, filepath.Join(objects, name+".yaml")))
	}
	if missing.Len() == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "missing.txt"), []byte(missing.String()), 0o644)
}

func (n *Node) saveOutput(ctx context.Context, script, file string) error {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	out, err := n.Run(ctx, script)
	return errors.Join(err, os.WriteFile(file, []byte(out), 0o644))
}

func (n *Node) savePodLogs(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	out, err := n.Run(ctx, "cd /var/log; tar -cf - pods 2>/dev/null || [ $? -eq 1 ] # 1: a log grew meanwhile")
	if err != nil {
		return err
	}
	return untar(strings.NewReader(out), dir)
}

// PodLog is the log of an addon's pod on a node as kubectl logs has it: the API server
// asks the kubelet.
func (l *Lab) PodLog(ctx context.Context, app, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	var pods corev1.PodList
	if err := l.Client.List(ctx, &pods, client.InNamespace(SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": app}); err != nil {
		return "", err
	}
	i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	if i < 0 {
		return "", fmt.Errorf("no pod of %s is on %s", app, node)
	}
	clients, err := kubernetes.NewForConfig(l.Cluster.RESTConfig())
	if err != nil {
		return "", err
	}
	out, err := clients.CoreV1().Pods(SystemNamespace).GetLogs(pods.Items[i].Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	return string(out), err
}

// untar unpacks the files of an archive below dir, and nothing else.
func untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		f, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

func (l *Lab) saveAlerts(ctx context.Context, file string) error {
	alerts, err := l.Monitoring.Alerts(ctx)
	if err != nil {
		return err
	}
	data, err := yaml.Marshal(alerts)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func (l *Lab) saveObjects(ctx context.Context, list client.ObjectList, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := l.Client.List(ctx, list); err != nil {
		return err
	}
	data, err := yaml.Marshal(list)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
