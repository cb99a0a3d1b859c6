package lvm

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strings"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm/inventory"
	"holdfast.dev/provisioners/lvm/vg"
)

// WriteInventory prints the Inventory of this node as JSON. It fails when a volume group
// of disks.yaml cannot be read as a whole: a list that lacks volumes must not look
// like one that does not.
func WriteInventory(ctx context.Context, w io.Writer, hostRoot, node string) error {
	root, err := hostfs.Open(hostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	disks, err := ReadDisks(root)
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
func (e *Engine) Inventory(ctx context.Context) (*inventory.Inventory, error) {
	if err := e.RefreshAll(ctx); err != nil {
		return nil, err
	}
	all, err := e.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	inv := &inventory.Inventory{Node: e.node, Volumes: []inventory.Volume{}}
	for _, v := range all {
		t := v.LV.Tags
		inv.Volumes = append(inv.Volumes, inventory.Volume{
			Handle: v.Handle.String(), Kind: string(v.Kind()), Phase: v.Phase(), Name: t.Get(vg.KeyPV), Claim: t.Get(vg.KeyPVC), Class: t.Get(vg.KeyClass),
			Cluster: t.Get(vg.KeyCluster), Filesystem: t.Get(vg.KeyFS), MountOptions: t.Get(vg.KeyOptions), Bytes: v.LV.Size, Source: t.Get(vg.KeySource),
			Disks: v.Info.Disks, Media: v.Info.Media,
		})
	}
	slices.SortFunc(inv.Volumes, func(a, b inventory.Volume) int { return strings.Compare(a.Handle, b.Handle) })
	return inv, nil
}
