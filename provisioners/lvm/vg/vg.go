// Package vg is the pure core of the LVM driver: what LVM reports of a volume
// group, what the tags of logical volumes mean, which group a new volume goes
// to, and which commands a change takes. It runs nothing and reads no clock.
package vg

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Unknown is a percentage that LVM did not tell: it tells none of what is not active.
const Unknown = -1

// Group is one volume group as one report told it.
type Group struct {
	Name, UUID  string
	ExtentSize  int64 // bytes
	Extents     int64
	FreeExtents int64
	Seqno       int64 // of the metadata; each change adds one
	Missing     int64 // physical volumes that LVM does not find
	Partial     bool
	Exported    bool
	PVs         []PV
	LVs         []LV
}

// PV is a physical volume.
type PV struct {
	Name, UUID  string
	Missing     bool
	Allocatable bool
	Extents     int64
	Allocated   int64
}

// LV is a logical volume.
type LV struct {
	Name, UUID string
	Size       int64 // bytes
	Tags       Tags
	Attr       string // lv_attr, lvs(8)
	Pool       string // thin pool of a thin volume
	Origin     string
	Health     string // lv_health_status
	// DataPercent and MetadataPercent are Unknown while the volume is not active.
	DataPercent, MetadataPercent float64
	Created                      int64 // Unix seconds
	// Areas are its extents as LVM's commands take them, such as /dev/sda:5-9. They are
	// of the last report: a change of our own leaves them out.
	Areas []string
}

// ErrIncomplete is in the chain of errors about a group that was not reported
// as a whole: nothing may be concluded from what it lacks.
var ErrIncomplete = errors.New("the volume group is not complete")

// Complete is nil when the report shows the whole group. Only then does a
// logical volume that is not listed not exist.
func (g *Group) Complete() error {
	switch {
	case g.Missing > 0 || g.Partial:
		return fmt.Errorf("volume group %s lacks %d physical volumes: %w", g.Name, g.Missing, ErrIncomplete)
	case g.Exported:
		return fmt.Errorf("volume group %s is exported: %w", g.Name, ErrIncomplete)
	}
	for _, p := range g.PVs {
		if p.Missing {
			return fmt.Errorf("physical volume %s of %s is missing: %w", p.UUID, g.Name, ErrIncomplete)
		}
	}
	return nil
}

// Find returns the volume of that name, or nil.
func (g *Group) Find(name string) *LV {
	for i := range g.LVs {
		if g.LVs[i].Name == name {
			return &g.LVs[i]
		}
	}
	return nil
}

// Clone is a deep copy.
func (g *Group) Clone() *Group {
	c := *g
	c.PVs, c.LVs = slices.Clone(g.PVs), slices.Clone(g.LVs)
	for i := range c.LVs {
		c.LVs[i].Tags = slices.Clone(c.LVs[i].Tags)
	}
	return &c
}

// Free is the bytes that a linear volume may have at most. Physical volumes
// that are missing or closed to allocation do not count.
func (g *Group) Free() int64 {
	var n int64
	for _, p := range g.PVs {
		if !p.Missing && p.Allocatable {
			n += p.Extents - p.Allocated
		}
	}
	return min(n, g.FreeExtents) * g.ExtentSize
}

// FreeStriped is the bytes that a volume over so many stripes may have at most.
func (g *Group) FreeStriped(stripes int64) int64 {
	if stripes <= 1 {
		return g.Free()
	}
	var free []int64
	for _, p := range g.PVs {
		if n := p.Extents - p.Allocated; !p.Missing && p.Allocatable && n > 0 {
			free = append(free, n)
		}
	}
	if int64(len(free)) < stripes {
		return 0
	}
	// LVM places one stripe on each of so many volumes; the smallest of the
	// largest ones bounds a segment. More segments may fit; this is what surely does.
	slices.SortFunc(free, func(a, b int64) int { return int(b - a) })
	return min(free[stripes-1]*stripes, g.FreeExtents/stripes*stripes) * g.ExtentSize
}

// Provisioned is the sum of the virtual sizes in a thin pool.
func (g *Group) Provisioned(pool string) int64 {
	var n int64
	for _, l := range g.LVs {
		if l.Pool == pool {
			n += l.Size
		}
	}
	return n
}

// Limits of a thin pool, in percent of its data and metadata. Beyond them it
// takes no new volume: a full pool stops every volume in it.
const (
	MaxPoolData     = 90
	MaxPoolMetadata = 80
)

// PoolFull says why a thin pool takes nothing new, or is nil. A pool that does not
// tell how full it is, as one that is not active, takes nothing either.
func PoolFull(pool *LV) error {
	switch {
	case pool == nil:
		return errors.New("there is no thin pool")
	case pool.attr(7) != 'z':
		return fmt.Errorf("thin pool %s does not zero what it hands out: a new volume would show old data (lvchange --zero y)", pool.Name)
	case pool.DataPercent == Unknown || pool.MetadataPercent == Unknown:
		return fmt.Errorf("thin pool %s does not tell how full it is (activate it: lvchange -ay)", pool.Name)
	case pool.DataPercent >= MaxPoolData:
		return fmt.Errorf("thin pool %s is %.1f%% full, %d%% is the limit (extend it: lvextend -L +…)", pool.Name, pool.DataPercent, MaxPoolData)
	case pool.MetadataPercent >= MaxPoolMetadata:
		return fmt.Errorf("metadata of thin pool %s is %.1f%% full, %d%% is the limit (extend it: lvextend --poolmetadatasize +…)",
			pool.Name, pool.MetadataPercent, MaxPoolMetadata)
	}
	return nil
}

// Promise is nil when a thin pool may promise so many more bytes, to a volume or to a copy
// of one: each may be written to its end. The error has the numbers.
func (g *Group) Promise(pool string, overcommit float64, more int64) error {
	p := g.Find(pool)
	if err := PoolFull(p); err != nil {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if g.FreeThin(pool, overcommit) >= more {
		return nil
	}
	return fmt.Errorf("%w: %d more bytes are wanted of thin pool %s/%s, which has %d, may promise %d (overcommit %g) and has promised %d, snapshots and copies included "+
		"(extend the pool, delete snapshots, or raise overcommit in the class)", ErrNoRoom, more, g.Name, pool, p.Size, int64(float64(p.Size)*overcommit), overcommit, g.Provisioned(pool))
}

// FreeThin is the bytes of new thin volumes that a pool may promise when it
// may promise overcommit times its size.
func (g *Group) FreeThin(pool string, overcommit float64) int64 {
	p := g.Find(pool)
	if PoolFull(p) != nil {
		return 0
	}
	return max(0, int64(float64(p.Size)*overcommit)-g.Provisioned(pool))
}

// attr is one letter of lv_attr, lvs(8), or '-'.
func (l *LV) attr(i int) byte {
	if i < len(l.Attr) {
		return l.Attr[i]
	}
	return '-'
}

// Thin says whether the volume is thin.
func (l *LV) Thin() bool { return l.attr(0) == 'V' }

// ThinPool says whether it is a thin pool.
func (l *LV) ThinPool() bool { return l.attr(0) == 't' }

// Overcommit is that of the volume's class.
func (l *LV) Overcommit() float64 {
	if f, err := strconv.ParseFloat(l.Tags.Get(KeyOvercommit), 64); err == nil && f >= 1 {
		return f
	}
	return 1
}

// Active says whether the kernel has a device for it.
func (l *LV) Active() bool { return l.attr(4) == 'a' }

// Open says whether something has the device open. Anything but a clear no is yes.
func (l *LV) Open() bool { return l.attr(5) != '-' }

// Sick says what LVM finds wrong with the volume, or is empty.
func (l *LV) Sick() string {
	var bad []string
	switch l.attr(8) {
	case 'p':
		bad = append(bad, "a physical volume under it is missing")
	case 'r':
		bad = append(bad, "it needs a refresh after a write error")
	case 'F':
		bad = append(bad, "its thin pool has failed")
	case 'D':
		bad = append(bad, "its thin pool is out of space")
	case 'M':
		bad = append(bad, "the metadata of its thin pool is read-only")
	}
	if l.Health != "" {
		bad = append(bad, "LVM calls it "+l.Health)
	}
	return strings.Join(bad, ", ")
}

// RoundUp rounds bytes up to whole extents, and to a multiple of the stripes.
func (g *Group) RoundUp(bytes, stripes int64) int64 {
	n := (bytes + g.ExtentSize - 1) / g.ExtentSize
	if stripes > 1 {
		n = (n + stripes - 1) / stripes * stripes
	}
	return n * g.ExtentSize
}
