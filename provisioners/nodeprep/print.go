package nodeprep

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"holdfast.dev/internal/output"
)

// Print writes the plan: a table for a person at night, JSON or YAML for programs.
func (p *Plan) Print(w io.Writer, f output.Format, applied bool) error {
	if f != output.Table {
		return output.Print(w, f, p, nil, nil)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "NodeFlavor %s. ", p.Flavor)
	switch {
	case applied:
		b.WriteString("This is how the node is now:\n\n")
	default:
		b.WriteString("This is a plan; no disk was changed:\n\n")
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "DISK\tDEVICE\tSIZE\tMEDIA\tGROUP\tSTATE\tWHAT")
	for i := range p.Disks {
		r := &p.Disks[i]
		cells := []string{r.Disk, r.Device, size(r.Size), string(r.Media), r.Group, string(r.Condition)}
		for j, c := range cells {
			if c == "" {
				cells[j] = "-"
			}
		}
		for _, line := range r.lines() {
			fmt.Fprintln(tw, strings.Join(cells, "\t")+"\t"+line)
			cells = make([]string, len(cells))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, v := range p.VolumeGroups {
		switch {
		case v.Refused != "":
			fmt.Fprintf(&b, "\nvolume group %s: REFUSED: %s", v.Name, v.Refused)
		case v.Do != "":
			fmt.Fprintf(&b, "\nvolume group %s: %s", v.Name, v.Do)
		default:
			fmt.Fprintf(&b, "\nvolume group %s: %s", v.Name, v.Has)
		}
	}
	for _, s := range p.Short {
		fmt.Fprintf(&b, "\nSHORT: %s", s)
	}
	for _, s := range p.Problems {
		fmt.Fprintf(&b, "\nPROBLEM: %s", s)
	}
	if !strings.HasSuffix(b.String(), "\n") {
		b.WriteString("\n")
	}
	switch {
	case p.Work() && !applied:
		b.WriteString("\nDo it with --apply.\n")
	case !p.Work() && p.Complete():
		b.WriteString("\nThe node is as its flavor says; there is nothing to do.\n")
	}
	// tabwriter pads lines that have no text in the last columns.
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// lines say what is on the disk and what becomes of it.
func (r *Row) lines() []string {
	var out []string
	if r.Refused != "" {
		out = append(out, "REFUSED: "+r.Refused)
	} else if r.Has != "" {
		out = append(out, r.Has)
	}
	out = append(out, r.Do...)
	if r.Hint != "" {
		out = append(out, r.Hint)
	}
	if r.Weak && len(r.Do) > 0 {
		out = append(out, "its id names a place, not a drive: another drive put there would have it too")
	}
	if len(out) == 0 {
		out = append(out, map[Condition]string{Prepared: "as it should be", Blank: "no group needs it"}[r.Condition])
	}
	return out
}

func size(n int64) string {
	switch {
	case n <= 0:
		return ""
	case n >= 1<<40:
		return fmt.Sprintf("%.1f TiB", float64(n)/(1<<40))
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
