package lvm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"holdfast.dev/provisioners/lvm/vg"
)

// clockSkew is how far a claim's time of creation and this node's clock may differ.
const clockSkew = 2 * time.Minute

// Owner is for whom a volume is made. It goes into tags and nowhere else.
type Owner struct{ Claim, UID, Class, MountOptions, Reclaim string }

// CreateRequest is a volume to make.
type CreateRequest struct {
	Kind  Kind
	Name  string // as CSI gave it: the same name is the same volume
	Spec  Spec
	Size  int64 // bytes, at least
	Limit int64 // bytes, at most; 0 for none
	Owner Owner
	// Source, when set, is a thin volume or snapshot that it begins as a copy of.
	Source *Handle
	// Born is when the name was thought of first; zero when that is not known.
	Born time.Time
	// Avoid are disks of other claims of the same groups: disk id to claim.
	AvoidRequired, AvoidPreferred map[string]string
	// Group, when set, is the UUID of the volume group that it must be made in.
	Group string

	// set is the group snapshot that a snapshot is a member of, whose request has that nonce.
	set, setNonce string

	copied int64 // bytes to copy from the source; 0 when there are none

	// fetch, when set, asks the node that the source is on; incoming is its answer.
	fetch    func(context.Context) (*incoming, error)
	incoming *incoming
}

// nonce is a hash of all that makes a request this one and no other.
func (r CreateRequest) nonce() string {
	if r.setNonce != "" {
		return r.setNonce
	}
	source := ""
	if r.Source != nil {
		source = r.Source.String()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %d %q %+v", r.Kind, r.Name, r.Size, r.Limit, source, r.Spec))
	return hex.EncodeToString(sum[:8])
}

// Create makes a volume, or finds the one that the same request made before. A
// volume that an earlier attempt left half made was never published: it is
// removed and made anew, so that mkfs runs only on what lvcreate made right before.
func (e *Engine) Create(ctx context.Context, r CreateRequest) (Volume, error) {
	name := lvName(r.Kind, r.Name)
	unlock, err := e.lock(name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	have, err := e.existing(ctx, r, name)
	if err != nil {
		return Volume{}, err
	}
	if have != nil {
		v, again, err := e.resume(ctx, r, have)
		if err != nil || !again {
			return v, err
		}
	}
	thin := false
	switch {
	case r.fetch != nil:
		if _, err := e.choose(ctx, r, false); err != nil { // nobody is asked for what has no room here
			return Volume{}, err
		}
		if r.incoming, err = r.fetch(ctx); err != nil {
			return Volume{}, err
		}
		defer r.incoming.close()
		if err := r.takes(r.incoming.size, r.incoming.fs); err != nil {
			return Volume{}, err
		}
		r.copied = r.incoming.size
	case r.Source != nil:
		var free func()
		if thin, free, err = e.source(ctx, &r); err != nil {
			return Volume{}, err
		}
		defer free()
	}
	g, err := e.choose(ctx, r, thin)
	if err != nil {
		return Volume{}, err
	}
	if thin {
		return e.clone(ctx, g, r, name)
	}
	return e.make(ctx, g, r, name)
}

// bytes is the size of a new volume: what is asked for, or what is copied into it.
func (r CreateRequest) bytes() int64 { return max(r.Size, r.copied) }

// existing finds the volume of that name in whatever group it is. A group that
// cannot be read may have it, from before this process began, unless the name
// is younger than that.
func (e *Engine) existing(ctx context.Context, r CreateRequest, name string) (*Volume, error) {
	e.settle(ctx)
	young := !r.Born.IsZero() && r.Born.After(e.started.Add(clockSkew))
	var found *Volume
	var unread error
	for _, g := range e.groups {
		s, _, err := g.last()
		// The name of a volume of Docker's is its own in every pool.
		if g.info.Pool == r.Spec.Pool || r.Kind == KindDocker {
			switch {
			case !g.sure(name):
				unread = errors.Join(unread, fmt.Errorf("the end of the last command in %s is not known", g.info.Name), err)
			case s == nil && !young:
				unread = errors.Join(unread, fmt.Errorf("%s was not read yet", g.info.Name), err)
			case s != nil && !young:
				unread = errors.Join(unread, s.Complete())
			}
		}
		if s == nil {
			continue
		}
		if lv := s.Find(name); lv != nil {
			if found != nil {
				return nil, fmt.Errorf("volume %s is in volume groups %s and %s (remove the one that is not needed): %w", name, found.Info.Name, g.info.Name, ErrRefused)
			}
			v := e.volume(g, lv)
			found = &v
		}
	}
	if found == nil && unread != nil {
		return nil, fmt.Errorf("make volume %s: it may be in a group that cannot be read: %w: %w", name, ErrUnavailable, unread)
	}
	return found, nil
}

// resume decides about a volume of the wanted name that is there already.
func (e *Engine) resume(ctx context.Context, r CreateRequest, v *Volume) (_ Volume, again bool, _ error) {
	if !v.LV.Tags.Ours() {
		return Volume{}, false, fmt.Errorf("volume %s/%s lacks the tags of this driver (rename or remove it): %w", v.Info.Name, v.LV.Name, ErrRefused)
	}
	if v.Kind() != r.Kind {
		return Volume{}, false, fmt.Errorf("volume %s/%s was made as a %s and has another's name (rename it back): %w", v.Info.Name, v.LV.Name, v.Kind(), ErrRefused)
	}
	phase, nonce := v.LV.Tags.Intent()
	switch {
	case phase == vg.Creating, phase == vg.Deleting: // whoever began to delete it meant to end it
		e.log.Info("half made or half deleted volume is made anew", "volume", v.LV.Name, "group", v.Info.Name, "phase", phase)
		return Volume{}, true, e.remove(ctx, e.byUUID[v.Info.UUID], v.LV)
	case nonce != r.nonce():
		return Volume{}, false, fmt.Errorf("volume %s was made by another request (other size, class or source): %w", r.Name, ErrExists)
	case v.LV.Size < r.Size: // a copy of an earlier version of this driver that did not get its size yet
		g := e.byUUID[v.Info.UUID]
		if err := e.grow(ctx, g, v.LV.Name, r.Size); err != nil {
			return Volume{}, false, err
		}
		s, _, _ := g.last()
		return e.volume(g, s.Find(v.LV.Name)), false, nil
	}
	return *v, false, nil
}

// choose asks for the quarantine right before it picks a group.
func (e *Engine) choose(ctx context.Context, r CreateRequest, clone bool) (*group, error) {
	w := r.Spec.want(r.bytes())
	w.AvoidRequired, w.AvoidPreferred = r.AvoidRequired, r.AvoidPreferred
	w.Group = r.Group
	if clone {
		if w.Group != "" && w.Group != r.Source.Group {
			return nil, fmt.Errorf("%w: the scheduler chose volume group %s, and a copy is made in that of its source, %s", vg.ErrNoRoom, w.Group, r.Source.Group)
		}
		w.Group = r.Source.Group
	}
	e.settle(ctx)
	q := e.quarantine(ctx)
	c, err := vg.Choose(e.Candidates(q), w)
	if errors.Is(err, vg.ErrNoRoom) && q.Err == nil { // somebody else may have made room
		for _, g := range e.groups {
			if g.info.Pool == w.Pool {
				g.suspect()
			}
		}
		e.settle(ctx)
		c, err = vg.Choose(e.Candidates(q), w)
	}
	if err != nil {
		return nil, err
	}
	if size := c.Group.RoundUp(r.bytes(), r.Spec.Stripes); r.Limit > 0 && size > r.Limit {
		return nil, fmt.Errorf("size %d is %d in extents of %d bytes, more than the limit %d: %w", r.Size, size, c.Group.ExtentSize, r.Limit, ErrOutOfRange)
	}
	return e.byUUID[c.Group.UUID], nil
}

// tags of a new volume in a phase.
func (e *Engine) tags(r CreateRequest, phase string) vg.Tags {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // crypto/rand: it never fails
	t := vg.Tags{vg.Tag(vg.KeyID, hex.EncodeToString(id)), vg.Tag(vg.KeyKind, string(r.Kind)), vg.IntentTag(phase, r.nonce())}
	for _, kv := range [][2]string{
		{vg.KeyPV, r.Name}, {vg.KeyCluster, e.cluster}, {vg.KeyPVC, r.Owner.Claim}, {vg.KeyClass, r.Owner.Class}, {vg.KeyOptions, r.Owner.MountOptions},
		{vg.KeyReclaim, r.Owner.Reclaim}, {vg.KeyFS, r.Spec.FS}, {vg.KeyWipe, r.Spec.Wipe}, {vg.KeySet, r.set},
	} {
		if kv[1] != "" {
			t = append(t, vg.Tag(kv[0], kv[1]))
		}
	}
	if r.Spec.Stripes > 1 {
		t = append(t, vg.Tag(vg.KeyStripes, strconv.FormatInt(r.Spec.Stripes, 10)))
	}
	if r.Spec.Thin && r.Spec.Overcommit > 1 {
		t = append(t, vg.Tag(vg.KeyOvercommit, strconv.FormatFloat(r.Spec.Overcommit, 'g', -1, 64)))
	}
	if r.Source != nil {
		t = append(t, vg.Tag(vg.KeySource, r.Source.LV))
	}
	if phase == vg.Creating && r.Owner.UID != "" {
		t = append(t, vg.Tag(vg.KeyClaim, r.Owner.UID))
	}
	return t
}

func addTags(args []string, tags vg.Tags) []string {
	for _, t := range tags {
		args = append(args, "--addtag", t)
	}
	return args
}

// make creates, formats and marks a new volume: two commands of LVM, one for a raw
// thin volume, which needs no step in between.
func (e *Engine) make(ctx context.Context, g *group, r CreateRequest, name string) (Volume, error) {
	phase := vg.Creating
	if r.Spec.FS == Block && r.Source == nil && r.Spec.Thin {
		phase = vg.Ready // a thin pool zeroes what it hands out
	}
	tags := e.tags(r, phase)
	err := e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		if s.Find(name) != nil {
			return nil, fmt.Errorf("volume %s: it appeared meanwhile: %w", name, ErrBusy)
		}
		size := s.RoundUp(r.bytes(), r.Spec.Stripes)
		w := r.Spec.want(r.bytes())
		c := vg.Candidate{Group: s, Pool: g.info.Pool, Thin: g.info.ThinPool}
		if room := c.Room(w); room < size {
			return nil, fmt.Errorf("%w: %d bytes are wanted, %s has %d", vg.ErrNoRoom, size, s.Name, room)
		}
		bytes := strconv.FormatInt(size, 10) + "b"
		// -y and no terminal: LVM wipes signatures that it finds in a new thick volume, and asks nobody.
		args := []string{"lvcreate", "-y", "-n", name}
		lv := vg.LV{Name: name, Size: size, Tags: tags, Attr: "-wi-a-----", DataPercent: vg.Unknown, MetadataPercent: vg.Unknown, Created: e.now().Unix()}
		if r.Spec.Thin {
			args = append(args, "--type", "thin", "--thinpool", g.info.ThinPool, "-V", bytes)
			lv.Attr, lv.Pool = "Vwi-a-t---", g.info.ThinPool
		} else {
			args = append(args, "-W", "y", "-Z", "y", "-L", bytes)
			if r.Spec.Stripes > 1 {
				args = append(args, "--type", "striped", "-i", strconv.FormatInt(r.Spec.Stripes, 10), "-I", strconv.FormatInt(r.Spec.StripeSize, 10)+"b")
			} else {
				args = append(args, "--type", "linear")
			}
		}
		return &change{lv: name, args: append(addTags(args, tags), g.info.Name), names: `"` + name + `" created`,
			apply: func(s *vg.Group) { allocate(s, lv, r.Spec.Stripes) },
			done:  func(s *vg.Group) bool { l := s.Find(name); return l != nil && l.Tags.Has(tags[0]) }}, nil
	})
	if err != nil {
		return Volume{}, fmt.Errorf("make volume %s: %w", name, err)
	}
	if phase == vg.Creating {
		step := e.format
		switch {
		case r.incoming != nil:
			step = e.receive
		case r.Source != nil:
			step = e.fill
		case r.Spec.FS == Block:
			step = e.zero
		}
		if err := step(ctx, g, r, name); err != nil {
			return Volume{}, err
		}
		if err := e.mark(ctx, g, name, tags[0], vg.Ready); err != nil {
			return Volume{}, err
		}
	}
	s, _, _ := g.last()
	lv := s.Find(name)
	if lv == nil {
		return Volume{}, fmt.Errorf("volume %s vanished after it was made: %w", name, ErrUnavailable)
	}
	return e.volume(g, lv), nil
}

// allocate enters a new volume into what was read. Which physical volume it got is
// known again after the next report; of one group on one disk it is known now.
func allocate(s *vg.Group, lv vg.LV, stripes int64) {
	s.LVs = append(s.LVs, lv)
	if lv.Pool != "" {
		return
	}
	take(s, lv.Size/s.ExtentSize, stripes)
}

// take counts extents as used: from the physical volumes with most room, as many
// as there are stripes at once.
func take(s *vg.Group, extents, stripes int64) {
	s.FreeExtents -= extents
	for extents > 0 {
		order := make([]int, 0, len(s.PVs))
		for i, p := range s.PVs {
			if p.Allocatable && !p.Missing && p.Extents > p.Allocated {
				order = append(order, i)
			}
		}
		if len(order) == 0 {
			return
		}
		slices.SortStableFunc(order, func(a, b int) int {
			return int((s.PVs[b].Extents - s.PVs[b].Allocated) - (s.PVs[a].Extents - s.PVs[a].Allocated))
		})
		order = order[:min(len(order), max(1, int(stripes)))]
		share := (extents + int64(len(order)) - 1) / int64(len(order))
		for _, i := range order {
			n := min(share, extents, s.PVs[i].Extents-s.PVs[i].Allocated)
			s.PVs[i].Allocated += n
			extents -= n
		}
	}
}

// mark moves a volume to another phase: one command, under LVM's own lock, which
// does nothing unless the group, the volume and its present phase are exactly these.
func (e *Engine) mark(ctx context.Context, g *group, name, idTag, phase string) error {
	return e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		lv := s.Find(name)
		if lv == nil || !lv.Tags.Has(idTag) {
			return nil, fmt.Errorf("volume %s is not the one it was: %w", name, ErrRefused)
		}
		now, nonce := lv.Tags.Intent()
		if now == phase {
			return nil, nil
		}
		if phase == vg.Ready && now != vg.Creating {
			return nil, fmt.Errorf("volume %s is in phase %s: %w", name, now, ErrBusy)
		}
		old, next := vg.IntentTag(now, nonce), vg.IntentTag(phase, nonce)
		args := []string{"lvchange", "--deltag", old, "--addtag", next}
		claim := vg.Tag(vg.KeyClaim, lv.Tags.Get(vg.KeyClaim))
		if phase == vg.Ready && lv.Tags.Has(claim) {
			args = append(args, "--deltag", claim)
		}
		return &change{
			lv:    name,
			args:  append(args, "-S", selection(g.info.UUID, idTag, old), g.info.Name),
			names: g.info.Name + "/" + name + " changed",
			apply: func(s *vg.Group) {
				lv := s.Find(name)
				lv.Tags[slices.Index(lv.Tags, old)] = next
				if phase == vg.Ready {
					lv.Tags = slices.DeleteFunc(lv.Tags, func(t string) bool { return t == claim })
				}
			},
			done: func(s *vg.Group) bool { l := s.Find(name); return l != nil && l.Tags.Has(idTag) && l.Tags.Has(next) },
		}, nil
	})
}

// selection is a condition on one volume, lvmreport(7). Tags have no quotes.
func selection(group, idTag, intentTag string) string {
	return fmt.Sprintf(`vg_uuid="%s" && lv_tags={"%s"} && lv_tags={"%s"}`, group, idTag, intentTag)
}
