package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
)

const (
	// DefaultAnswer is how long a call may take: Docker waits two minutes
	// (volume/drivers/proxy.go, longTimeout).
	DefaultAnswer = 100 * time.Second
	// glance is how long a look at what is there may take.
	glance = 20 * time.Second
)

// Namespaces finds who else has a volume.
type Namespaces interface {
	// Users are the processes whose mount namespace shows the device, and the mounts of the
	// host itself, but for the mount at target and what follows it.
	Users(ctx context.Context, device, target string) ([]string, error)
}

// Config is what a Driver is made of.
type Config struct {
	Engine     *lvm.Engine
	Groups     []lvm.GroupInfo // those of the engine
	Mounts     lvm.Mounts
	Present    func(device string) (bool, error)
	Records    Records
	Namespaces Namespaces
	MountDir   string // volumes are mounted below it
	Boot       string // id of the running kernel
	Defaults   Defaults
	Answer     time.Duration // how long a call may take
	Metrics    *Metrics      // may be nil
	Log        *slog.Logger
}

// Driver is volume.Driver over the engine. All methods may be called at once; those
// on one volume take turns. Every change is idempotent.
type Driver struct {
	Config

	ctx   context.Context // of the process: the library hands on none
	locks locks

	mu sync.Mutex
	// told are the holders that this very process told Docker of, by logical volume.
	told map[string]map[string]bool
}

var _ volume.Driver = (*Driver)(nil)

// NewDriver makes a driver whose calls end with ctx. It runs nothing.
func NewDriver(ctx context.Context, c Config) *Driver {
	return &Driver{Config: c, ctx: ctx, told: map[string]map[string]bool{}}
}

// call runs one call with its deadline, and counts it.
func (d *Driver) call(method, name string, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(d.ctx, d.Answer)
	defer cancel()
	start := time.Now()
	err := f(ctx)
	took := time.Since(start)
	d.Metrics.call(method, err, took)
	args := []any{"method", method, "volume", name, "took", took.Round(time.Millisecond).String()}
	switch {
	case err == nil:
		d.Log.Debug("call", args...)
	case method == "Get" && errors.Is(err, lvm.ErrNotFound): // Docker asks before it creates
		d.Log.Debug("call", append(args, "error", err)...)
	default:
		d.Log.Info("call failed", append(args, "error", err)...)
	}
	return err
}

// target is where a volume is mounted.
func (d *Driver) target(lv string) string { return filepath.Join(d.MountDir, lv) }

// Capabilities is volume.Driver's: a volume is on one host.
func (*Driver) Capabilities() *volume.CapabilitiesResponse {
	return &volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: "local"}}
}

// Create is volume.Driver's. What an earlier attempt left half made is made anew.
func (d *Driver) Create(r *volume.CreateRequest) error {
	return d.call("Create", r.Name, func(ctx context.Context) error {
		req, err := parseVolume(r.Name, r.Options, d.Defaults, d.Groups)
		if err != nil {
			return fmt.Errorf("create volume: %w", err)
		}
		unlock, err := d.locks.lock(ctx, lvm.KindDocker.LV(r.Name))
		if err != nil {
			return fmt.Errorf("create volume %s: %w", r.Name, err)
		}
		defer unlock()
		if _, err := d.Engine.Create(ctx, req); err != nil {
			return fmt.Errorf("create volume %s: %w", r.Name, err)
		}
		return nil
	})
}

// seen are Docker's volumes as they are known now; the groups that never could be read
// are left out. It runs nothing.
func (d *Driver) seen() []lvm.Volume {
	var all []lvm.Volume
	for _, c := range d.Engine.Candidates(lvm.Quarantine{}) {
		if c.Group == nil {
			continue
		}
		i := slices.IndexFunc(d.Groups, func(g lvm.GroupInfo) bool { return g.UUID == c.Group.UUID })
		for _, lv := range c.Group.LVs {
			v := lvm.Volume{Handle: lvm.Handle{Group: c.Group.UUID, LV: lv.Name}, Info: d.Groups[i], LV: lv}
			if mine(v) {
				all = append(all, v)
			}
		}
	}
	return all
}

// mine says whether a volume is one of Docker's: by its tags, which must agree with the
// name of the logical volume.
func mine(v lvm.Volume) bool {
	name := v.LV.Tags.Get(vg.KeyPV)
	return v.LV.Tags.Ours() && v.Kind() == lvm.KindDocker && checkName(name) == nil && lvm.KindDocker.LV(name) == v.LV.Name
}

func nameOf(v lvm.Volume) string { return v.LV.Tags.Get(vg.KeyPV) }

// find is the volume of that name. It is lvm.ErrNotFound only when every group was read
// and is whole; what is known of others will do while one of them hangs.
func (d *Driver) find(ctx context.Context, name string) (lvm.Volume, error) {
	if err := checkName(name); err != nil {
		return lvm.Volume{}, err
	}
	v, n := d.named(name)
	if n == 0 {
		_, err := d.Engine.Volumes(ctx) // reads what is in doubt, and waits a second for it
		if v, n = d.named(name); n == 0 {
			return lvm.Volume{}, d.absent(name, err)
		}
	}
	if n > 1 {
		return lvm.Volume{}, fmt.Errorf("volume %s is in more than one volume group (remove the one that is not needed with lvremove): %w", name, lvm.ErrRefused)
	}
	return v, nil
}

func (d *Driver) named(name string) (found lvm.Volume, n int) {
	for _, v := range d.seen() {
		if nameOf(v) == name {
			found, n = v, n+1
		}
	}
	return found, n
}

// absent is lvm.ErrNotFound when the volume is certainly not there.
func (d *Driver) absent(name string, unread error) error {
	for _, c := range d.Engine.Candidates(lvm.Quarantine{}) {
		if c.Group != nil {
			unread = errors.Join(unread, c.Group.Complete())
		}
	}
	if unread != nil {
		return fmt.Errorf("volume %s may be in a volume group that cannot be read: %w: %w", name, lvm.ErrUnavailable, unread)
	}
	return fmt.Errorf("volume %s: %w", name, lvm.ErrNotFound)
}

// ready is the volume of that name, when it is one that can be used.
func (d *Driver) ready(ctx context.Context, name string) (lvm.Volume, error) {
	v, err := d.find(ctx, name)
	if err != nil {
		return v, err
	}
	switch v.Phase() {
	case vg.Ready:
		return v, nil
	case vg.Deleting:
		return v, fmt.Errorf("volume %s is being deleted, which goes on by itself: %w", name, lvm.ErrNotFound)
	}
	return v, fmt.Errorf("volume %s is half made; create it again: %w", name, lvm.ErrNotFound)
}

// List is volume.Driver's. Volumes of a group that hangs are told as they were seen last.
func (d *Driver) List() (*volume.ListResponse, error) {
	out := &volume.ListResponse{Volumes: []*volume.Volume{}}
	err := d.call("List", "", func(ctx context.Context) error {
		if slices.ContainsFunc(d.Engine.Candidates(lvm.Quarantine{}), func(c vg.Candidate) bool { return c.Group == nil }) {
			if _, err := d.Engine.Volumes(ctx); err != nil {
				d.Log.Info("not every volume is listed", "error", err)
			}
		}
		for _, v := range d.seen() {
			if v.Phase() == vg.Ready {
				out.Volumes = append(out.Volumes, &volume.Volume{Name: nameOf(v), CreatedAt: created(v)})
			}
		}
		slices.SortFunc(out.Volumes, func(a, b *volume.Volume) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
	return out, err
}

// created is when a volume was made, or empty.
func created(v lvm.Volume) string {
	if v.LV.Created == 0 {
		return ""
	}
	return time.Unix(v.LV.Created, 0).UTC().Format(time.RFC3339)
}

// Get is volume.Driver's. A volume that is half made or half deleted is none: Docker
// would take it for one that it need not create.
func (d *Driver) Get(r *volume.GetRequest) (*volume.GetResponse, error) {
	var out *volume.GetResponse
	err := d.call("Get", r.Name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, glance)
		defer cancel()
		v, err := d.ready(ctx, r.Name)
		if err != nil {
			return err
		}
		m, err := d.mountpoint(v.LV.Name)
		if err != nil {
			return err
		}
		out = &volume.GetResponse{Volume: &volume.Volume{Name: r.Name, Mountpoint: m, CreatedAt: created(v), Status: d.status(v)}}
		return nil
	})
	return out, err
}

// status is what docker volume inspect shows of a volume.
func (d *Driver) status(v lvm.Volume) map[string]any {
	kind := "linear"
	switch {
	case v.LV.Thin():
		kind = "thin"
	case v.LV.Tags.Get(vg.KeyStripes) != "":
		kind = "striped"
	}
	s := map[string]any{
		"bytes": v.LV.Size, optKind: kind, optFS: v.LV.Tags.Get(vg.KeyFS), optWipe: v.LV.Tags.Get(vg.KeyWipe), optGroup: v.Info.Name, optPool: v.Info.Pool,
		"lv": v.LV.Name, "disks": v.Info.Disks, "holders": 0, "condition": "",
	}
	var wrong []string
	if sick := v.LV.Sick(); sick != "" {
		wrong = append(wrong, sick)
	}
	for _, c := range d.Engine.Candidates(lvm.Quarantine{}) {
		if c.Group != nil && c.Group.UUID == v.Info.UUID && c.Err != nil {
			wrong = append(wrong, "as it was seen last: "+c.Err.Error())
		}
	}
	switch rec, err := d.Records.Load(v.LV.Name); {
	case err != nil:
		wrong = append(wrong, err.Error())
	case rec != nil:
		s["holders"] = len(rec.Holders)
	}
	s["condition"] = strings.Join(wrong, "; ")
	return s
}

// mountpoint is where a volume is mounted now, or empty.
func (d *Driver) mountpoint(lv string) (string, error) {
	m, _, err := d.Mounts.At(d.target(lv), "")
	if err != nil || m == nil {
		return "", err
	}
	return m.Target, nil
}

// Path is volume.Driver's.
func (d *Driver) Path(r *volume.PathRequest) (*volume.PathResponse, error) {
	out := &volume.PathResponse{}
	err := d.call("Path", r.Name, func(context.Context) error {
		err := checkName(r.Name)
		if err == nil {
			out.Mountpoint, err = d.mountpoint(lvm.KindDocker.LV(r.Name))
		}
		return err
	})
	return out, err
}
