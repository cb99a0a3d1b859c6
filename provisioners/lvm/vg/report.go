package vg

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ReportArgs are the arguments of lvm(8) that make it report one group in a way
// that ParseReport understands. One command, so that all of it is of one moment:
// LVM holds the group's lock meanwhile. Each kind of report must be configured:
// fullreport makes all five (lvmreport(7)).
func ReportArgs(group string) []string {
	return []string{"fullreport", "--reportformat", "json", "--units", "b", "--nosuffix", "--binary",
		"--configreport", "vg", "-o", "vg_name,vg_uuid,vg_extent_size,vg_extent_count,vg_free_count,vg_seqno,vg_missing_pv_count,vg_partial,vg_exported,pv_count,lv_count",
		"--configreport", "pv", "-o", "pv_name,pv_uuid,pv_missing,pv_pe_count,pv_pe_alloc_count,pv_allocatable",
		"--configreport", "lv", "-o", "lv_name,lv_uuid,lv_attr,lv_size,lv_tags,pool_lv,origin,data_percent,metadata_percent,lv_health_status,lv_time",
		"--configreport", "pvseg", "-o", "pvseg_start",
		"--configreport", "seg", "-o", "lv_name,seg_pe_ranges",
		group}
}

type row map[string]string

type report struct {
	Report []struct {
		VG []row `json:"vg"`
		PV []row `json:"pv"`
		LV []row `json:"lv"`
		SG []row `json:"seg"`
	} `json:"report"`
}

// ParseReport reads what the command of ReportArgs printed. Anything that is not
// exactly one whole group of that UUID is an error, an empty answer most of all, and
// so is one with fewer rows than the group itself counts: a volume that is not listed
// is taken for one that is not there.
//
// lv_count counts what lv_is_visible says (vg_visible_lvs in lib/metadata/vg.c, _lvcount_disp
// in lib/report/report.c), and without --all exactly those have a row (process_each_lv_in_vg
// in tools/toollib.c): no parts of a pool or of a RAID, no spare metadata, no lock volume, no
// origin of a sparse snapshot. Historical volumes, of --history, have rows and are not
// counted; so more rows than counted are no error. pv_count is the length of the list that
// process_each_pv_in_vg goes through, missing ones included. Looked up in LVM 2.03.16 and 2.03.39.
func ParseReport(data []byte, uuid string) (*Group, error) {
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("parse report of volume group %s: %w", uuid, err)
	}
	if len(r.Report) != 1 || len(r.Report[0].VG) != 1 {
		return nil, fmt.Errorf("parse report of volume group %s: it tells of %d groups, not of one", uuid, len(r.Report))
	}
	p := parser{}
	v := r.Report[0].VG[0]
	g := &Group{
		Name: p.text(v, "vg_name"), UUID: p.text(v, "vg_uuid"),
		ExtentSize: p.number(v, "vg_extent_size"), Extents: p.number(v, "vg_extent_count"), FreeExtents: p.number(v, "vg_free_count"),
		Seqno: p.number(v, "vg_seqno"), Missing: p.number(v, "vg_missing_pv_count"), Partial: p.flag(v, "vg_partial"), Exported: p.flag(v, "vg_exported"),
	}
	for _, v := range r.Report[0].PV {
		g.PVs = append(g.PVs, PV{
			Name: p.text(v, "pv_name"), UUID: p.text(v, "pv_uuid"), Missing: p.flag(v, "pv_missing"), Allocatable: p.flag(v, "pv_allocatable"),
			Extents: p.number(v, "pv_pe_count"), Allocated: p.number(v, "pv_pe_alloc_count"),
		})
	}
	for _, v := range r.Report[0].LV {
		g.LVs = append(g.LVs, LV{
			Name: p.text(v, "lv_name"), UUID: p.text(v, "lv_uuid"), Attr: p.text(v, "lv_attr"), Size: p.number(v, "lv_size"),
			Tags: ParseTags(p.maybe(v, "lv_tags")), Pool: p.maybe(v, "pool_lv"), Origin: p.maybe(v, "origin"), Health: p.maybe(v, "lv_health_status"),
			DataPercent: p.percent(v, "data_percent"), MetadataPercent: p.percent(v, "metadata_percent"), Created: p.time(v, "lv_time"),
		})
	}
	for _, v := range r.Report[0].SG {
		if lv := g.Find(v["lv_name"]); lv != nil {
			lv.Areas = append(lv.Areas, strings.Fields(v["seg_pe_ranges"])...)
		}
	}
	pvs, lvs := p.number(v, "pv_count"), p.number(v, "lv_count")
	switch {
	case p.err != nil:
	case g.UUID != uuid:
		p.err = fmt.Errorf("it is of another group, %s with UUID %s (is the disk a copy, or was the name used again?)", g.Name, g.UUID)
	case len(g.PVs) == 0:
		p.err = errors.New("it names no physical volume")
	case int64(len(g.PVs)) < pvs, int64(len(g.LVs)) < lvs:
		p.err = fmt.Errorf("it lists %d of %d physical volumes and %d of %d logical volumes", len(g.PVs), pvs, len(g.LVs), lvs)
	case g.ExtentSize <= 0:
		p.err = fmt.Errorf("the extent size is %d", g.ExtentSize)
	}
	if p.err != nil {
		return nil, fmt.Errorf("parse report of volume group %s: %w", uuid, p.err)
	}
	return g, nil
}

// parser keeps the first error.
type parser struct{ err error }

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// maybe is a field that must be there and may be empty.
func (p *parser) maybe(r row, name string) string {
	v, ok := r[name]
	if !ok {
		p.fail("field %s is not there", name)
	}
	return v
}

func (p *parser) text(r row, name string) string {
	v := p.maybe(r, name)
	if v == "" {
		p.fail("field %s is empty", name)
	}
	return v
}

func (p *parser) number(r row, name string) int64 {
	v := p.text(r, name)
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		p.fail("field %s is %q, not a number", name, v)
	}
	return n
}

// flag is a field of --binary: 0, 1, or -1 when LVM does not know.
func (p *parser) flag(r row, name string) bool {
	switch v := p.text(r, name); v {
	case "0":
		return false
	case "1":
		return true
	default:
		p.fail("field %s is %q, not 0 or 1", name, v)
		return false
	}
}

func (p *parser) percent(r row, name string) float64 {
	v := p.maybe(r, name)
	if v == "" || v == "-1" || v == "-1.00" {
		return Unknown
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f < 0 {
		p.fail("field %s is %q, not a percentage", name, v)
	}
	return f
}

// time is lv_time, which is empty for volumes of old versions. A person may have
// set another format (report/time_format): then it is 0, which is no time at all.
func (p *parser) time(r row, name string) int64 {
	v := strings.TrimSpace(p.maybe(r, name))
	t, err := time.Parse("2006-01-02 15:04:05 -0700", v)
	if err != nil {
		return 0
	}
	return t.Unix()
}
