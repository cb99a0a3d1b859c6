package lvm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/provisioners/lvm/vg"
)

// Limits of a volume's input and output; 0 is none.
type Limits struct{ ReadBPS, WriteBPS, ReadIOPS, WriteIOPS int64 }

// QoS sets limits where the kernel holds them.
type QoS interface {
	// Set limits what the pod may do with the device; pod is the UID in the target path.
	Set(pod, device string, l Limits) error
}

// keyLimits is the tag that keeps a volume's limits: it outlives pods and restarts.
const keyLimits = "hf.limits"

// limits reads the parameters of a VolumeAttributesClass.
func (s *Service) limits(params map[string]string) (Limits, error) {
	var l Limits
	if s.qos == nil {
		return l, fmt.Errorf("limits are turned off on this node (flag --cgroup-root): %w", ErrInvalid)
	}
	known := map[string]*int64{"readBPS": &l.ReadBPS, "writeBPS": &l.WriteBPS, "readIOPS": &l.ReadIOPS, "writeIOPS": &l.WriteIOPS}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		field := known[k]
		if field == nil {
			return l, fieldError(k, params[k], "unknown; known are "+strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		q, err := resource.ParseQuantity(params[k])
		if err != nil || q.Value() < 0 || q.Value() > 1<<50 {
			return l, fieldError(k, params[k], "give a quantity a second such as 100Mi or 2k; 0 is no limit")
		}
		*field = q.Value()
	}
	return l, nil
}

func (l Limits) String() string {
	return fmt.Sprintf("%d:%d:%d:%d", l.ReadBPS, l.WriteBPS, l.ReadIOPS, l.WriteIOPS)
}

func parseLimits(v string) Limits {
	var n [4]int64
	for i, p := range strings.Split(v, ":") {
		if i < len(n) {
			n[i], _ = strconv.ParseInt(p, 10, 64) // 0, no limit, for what is not ours
		}
	}
	return Limits{n[0], n[1], n[2], n[3]}
}

// modify keeps new limits with the volume and sets them where it is published.
func (s *Service) modify(ctx context.Context, h Handle, params map[string]string) error {
	l, err := s.limits(params)
	if err != nil {
		return err
	}
	v, err := s.engine.setTag(ctx, h, keyLimits, l.String())
	if err != nil {
		return err
	}
	there, err := s.engine.host.Present(v.Device())
	if err != nil || !there {
		return err
	}
	mounts, err := s.engine.mounts.Of(v.Device())
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := s.set(v, m.Target, l); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) applyLimits(ctx context.Context, r PublishRequest) error {
	v, err := s.engine.Volume(ctx, r.Handle)
	if err != nil {
		return err
	}
	if t := v.LV.Tags.Get(keyLimits); t != "" {
		return s.set(v, r.Target, parseLimits(t))
	}
	return nil
}

func (s *Service) set(v Volume, target string, l Limits) error {
	pod := podOf(target)
	if pod == "" {
		return nil // a mount that is no pod's
	}
	if err := s.qos.Set(pod, v.Device(), l); err != nil {
		return fmt.Errorf("limit volume %s in pod %s: %w", v.LV.Name, pod, err)
	}
	return nil
}

// podOf is the UID of the pod in a path of the kubelet: …/pods/<uid>/volumes/… for file
// systems, …/publish/<volume>/<uid> for raw volumes (pkg/volume/csi).
func podOf(target string) string {
	p := strings.Split(target, "/")
	if i := slices.Index(p, "pods"); i >= 0 && i+1 < len(p) {
		return p[i+1]
	}
	if i := slices.Index(p, "publish"); i >= 0 && i+2 < len(p) {
		return p[i+2]
	}
	return ""
}

// setTag gives a volume one tag of a key, in one command.
func (e *Engine) setTag(ctx context.Context, h Handle, key, value string) (Volume, error) {
	unlock, err := e.lock(h.LV)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	g, lv, err := e.find(ctx, h)
	if err != nil {
		return Volume{}, err
	}
	idTag, next := vg.Tag(vg.KeyID, lv.Tags.Get(vg.KeyID)), vg.Tag(key, value)
	err = e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		lv := s.Find(h.LV)
		if lv == nil || !lv.Tags.Has(idTag) {
			return nil, fmt.Errorf("volume %s is not the one it was: %w", h.LV, ErrRefused)
		}
		phase, nonce := lv.Tags.Intent()
		if phase != vg.Ready {
			return nil, fmt.Errorf("volume %s is in phase %s: %w", h.LV, phase, ErrBusy)
		}
		if lv.Tags.Has(next) {
			return nil, nil
		}
		args := []string{"lvchange", "--addtag", next}
		old := slices.DeleteFunc(slices.Clone(lv.Tags), func(t string) bool { return !strings.HasPrefix(t, key+"=") })
		for _, t := range old {
			args = append(args, "--deltag", t)
		}
		return &change{
			lv: h.LV, args: append(args, "-S", selection(g.info.UUID, idTag, vg.IntentTag(vg.Ready, nonce)), g.info.Name),
			names: g.info.Name + "/" + h.LV + " changed",
			apply: func(s *vg.Group) {
				lv := s.Find(h.LV)
				lv.Tags = append(slices.DeleteFunc(lv.Tags, func(t string) bool { return slices.Contains(old, t) }), next)
			},
			done: func(s *vg.Group) bool { l := s.Find(h.LV); return l != nil && l.Tags.Has(next) },
		}, nil
	})
	if err != nil {
		return Volume{}, fmt.Errorf("tag volume %s: %w", h.LV, err)
	}
	return e.Volume(ctx, h)
}
