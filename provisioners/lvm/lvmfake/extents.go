package lvmfake

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Area is physical extents: the first one, and the one after the last.
type Area struct{ From, To int64 }

func (a Area) String() string { return fmt.Sprintf("/dev/sdx:%d-%d", a.From, a.To-1) }

// parseArea reads what LVM's commands take, such as /dev/sdx:5-9.
func parseArea(s string) (Area, error) {
	m := regexp.MustCompile(`^/dev/sdx:(\d+)-(\d+)$`).FindStringSubmatch(s)
	if m == nil {
		return Area{}, exit(5, "Physical Volume %q not found", s)
	}
	from, err1 := strconv.ParseInt(m[1], 10, 64)
	last, err2 := strconv.ParseInt(m[2], 10, 64)
	if err1 != nil || err2 != nil || last < from {
		return Area{}, exit(3, "Physical extents end value %s is less than start value %s.", m[2], m[1])
	}
	return Area{from, last + 1}, nil
}

// used are the areas of all volumes, in order.
func (g *Group) used() []Area {
	var all []Area
	for _, l := range g.LVs {
		all = append(all, l.Areas...)
	}
	slices.SortFunc(all, func(a, b Area) int { return int(a.From - b.From) })
	return all
}

// allocate gives a volume n more extents, the first that are free within where (the
// whole disk when it is empty), and what was left on them, unless they were zeroed
// and not given away since.
func (g *Group) allocate(l *LV, n int64, where []Area) error {
	if len(where) == 0 {
		where = []Area{{0, g.Extents}}
	}
	var got []Area
	for _, w := range where {
		at := w.From
		for _, u := range append(g.used(), Area{w.To, w.To}) {
			if u.To <= at {
				continue
			}
			if end := min(u.From, w.To, at+n); end > at {
				got = append(got, Area{at, end})
				n -= end - at
			}
			at = max(at, u.To)
		}
	}
	if n > 0 {
		return exit(5, "Insufficient suitable allocatable extents for logical volume %s: %d more extents required", l.Name, n)
	}
	for _, a := range got {
		if !slices.ContainsFunc(g.clean, func(c Area) bool { return c.From <= a.From && a.To <= c.To }) {
			l.Residue = append(l.Residue, g.Residue...) // the worst case: the very extents that others had
		}
	}
	g.clean = slices.DeleteFunc(g.clean, func(c Area) bool {
		return slices.ContainsFunc(got, func(a Area) bool { return a.From < c.To && c.From < a.To })
	})
	l.Areas = append(l.Areas, got...)
	return nil
}

// freed takes note of what is left on the extents of a volume that is removed.
func (g *Group) freed(l *LV) {
	left := slices.Clone(l.Residue)
	if l.Data != "" {
		left = append(left, l.Data)
	}
	if len(left) == 0 && l.zeroed >= l.Size {
		g.clean = append(g.clean, l.Areas...)
	}
	g.Residue = append(g.Residue, left...)
}

// segments are the rows of the report that say where volumes lie.
func (g *Group) segments(names []string) []map[string]string {
	rows := []map[string]string{}
	for _, name := range names {
		var areas []string
		for _, a := range g.LVs[name].Areas {
			areas = append(areas, a.String())
		}
		rows = append(rows, map[string]string{"lv_name": name, "seg_pe_ranges": strings.Join(areas, " ")})
	}
	return rows
}

// overwrite takes note of bytes that were written over. Only a volume that was so from
// its front to its end shows nothing of others.
func (l *LV) overwrite(from, n int64) {
	if from <= l.zeroed {
		l.zeroed = max(l.zeroed, from+n)
	}
	if l.zeroed >= l.Size {
		l.Residue = nil
	}
}
