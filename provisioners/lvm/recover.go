package lvm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm/vg"
)

// Inventory is what one node's disks say of its volumes.
type Inventory struct {
	Node    string            `json:"node"`
	Volumes []InventoryVolume `json:"volumes"`
}

// InventoryVolume is a logical volume of ours with everything that its tags tell.
type InventoryVolume struct {
	Handle       string         `json:"handle"`
	Kind         Kind           `json:"kind"`
	Phase        string         `json:"phase"`
	Name         string         `json:"name"` // of the PersistentVolume
	Claim        string         `json:"claim,omitempty"`
	Class        string         `json:"class,omitempty"`
	Cluster      string         `json:"cluster,omitempty"`
	Filesystem   string         `json:"filesystem"`
	MountOptions string         `json:"mountOptions,omitempty"`
	Bytes        int64          `json:"bytes"`
	Source       string         `json:"source,omitempty"`
	Disks        []string       `json:"disks"`
	Media        v1alpha1.Media `json:"media,omitempty"`
}

// WriteInventory prints the Inventory of this node as JSON. It fails when a volume group
// of disks.yaml cannot be read as a whole: a list that lacks volumes must not look
// like one that does not.
func WriteInventory(ctx context.Context, w io.Writer, hostRoot, node string) error {
	root, err := hostfs.Open(hostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	disks, err := readDisks(root)
	if err != nil {
		return err
	}
	host := NewNodeHost(root)
	e := NewEngine(EngineOptions{Node: node, Groups: Groups(disks), Host: host, Mounts: host, Deadlines: DefaultDeadlines(), Log: slog.New(slog.DiscardHandler)})
	inv, err := e.Inventory(ctx)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(inv)
}

// Inventory reads all groups anew.
func (e *Engine) Inventory(ctx context.Context) (*Inventory, error) {
	if err := e.RefreshAll(ctx); err != nil {
		return nil, err
	}
	all, err := e.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{Node: e.node, Volumes: []InventoryVolume{}}
	for _, v := range all {
		t := v.LV.Tags
		inv.Volumes = append(inv.Volumes, InventoryVolume{
			Handle: v.Handle.String(), Kind: v.Kind(), Phase: v.Phase(), Name: t.Get(vg.KeyPV), Claim: t.Get(vg.KeyPVC), Class: t.Get(vg.KeyClass),
			Cluster: t.Get(vg.KeyCluster), Filesystem: t.Get(vg.KeyFS), MountOptions: t.Get(vg.KeyOptions), Bytes: v.LV.Size, Source: t.Get(vg.KeySource),
			Disks: v.Info.Disks, Media: v.Info.Media,
		})
	}
	slices.SortFunc(inv.Volumes, func(a, b InventoryVolume) int { return strings.Compare(a.Handle, b.Handle) })
	return inv, nil
}

// Skipped is a volume that gets no PersistentVolume, and why.
type Skipped struct{ Handle, Why string }

// Recover makes the PersistentVolumes of an inventory's volumes again. They retain
// their data whatever their class says, and are bound to the claim of that name once
// it is there: who made the volumes again decides what becomes of them.
func Recover(inv *Inventory) ([]*corev1.PersistentVolume, []Skipped, error) {
	var out []*corev1.PersistentVolume
	var skipped []Skipped
	names := map[string]string{}
	for _, v := range inv.Volumes {
		h, err := ParseHandle(v.Handle)
		if err != nil {
			return nil, nil, fmt.Errorf("read inventory of node %s: %w", inv.Node, err)
		}
		switch {
		case v.Kind != KindVolume:
			skipped = append(skipped, Skipped{v.Handle, "it is a " + string(v.Kind)})
			continue
		case v.Phase != vg.Ready:
			skipped = append(skipped, Skipped{v.Handle, "it is in phase " + v.Phase})
			continue
		case v.Name == "" || v.Filesystem == "":
			skipped = append(skipped, Skipped{v.Handle, "its tags do not name a PersistentVolume and a file system"})
			continue
		case names[v.Name] != "":
			return nil, nil, fmt.Errorf("volumes %s and %s both say that they are %s: look at both, remove one", names[v.Name], v.Handle, v.Name)
		}
		names[v.Name] = v.Handle
		pv := persistentVolume(v.Name, inv.Node, GroupInfo{Disks: v.Disks, Media: v.Media}, h, v.Bytes)
		pv.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}
		mode := corev1.PersistentVolumeFilesystem
		if v.Filesystem == Block {
			mode = corev1.PersistentVolumeBlock
		} else {
			pv.Spec.CSI.FSType = v.Filesystem
		}
		pv.Spec.VolumeMode, pv.Spec.StorageClassName = &mode, v.Class
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		if v.MountOptions != "" {
			pv.Spec.MountOptions = strings.Split(v.MountOptions, ",")
		}
		if ns, name, ok := strings.Cut(v.Claim, "/"); ok {
			// Without a UID it is reserved for the claim of that name
			// (pkg/controller/volume/persistentvolume).
			pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: name}
		}
		out = append(out, pv)
	}
	return out, skipped, nil
}
