package fleet

import (
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // windows have time zones, and the hub's image has no files of them

	"go.yaml.in/yaml/v3"

	"holdfast.dev/gitops/rollout"
)

// Ring is the clusters that receive a change together.
type Ring struct {
	Name string
	// Select is what a cluster's labels must be, all of them; az and cluster are labels too.
	Select map[string]string
	// Soak is how long the ring must be healthy before the next one starts.
	Soak time.Duration
	// MaxUnavailable is how many of its clusters may be on their way at once; at least 1.
	MaxUnavailable int
	// Timeout is how long a cluster may take from publication to healthy.
	Timeout time.Duration
	// Windows in which the ring may receive a change, its own or else the fleet's; none means always.
	Windows []rollout.Window
	// Freezes of the fleet and of the ring.
	Freezes []rollout.Freeze
	// Approval is true when a person must approve each change of the ring.
	Approval bool
	// Rollback is true when a failure takes a change back; one that a cluster
	// reports must stand for RollbackAfter.
	Rollback      bool
	RollbackAfter time.Duration
	// Clusters are the names of the ring's clusters, in the order of the file.
	Clusters []string
	// Line is where the ring is written.
	Line int
}

const (
	// DefaultTimeout is a ring's progress deadline unless it says otherwise.
	DefaultTimeout = 10 * time.Minute
	// DefaultRollbackAfter is how long a failure must stand, unless the ring says
	// otherwise: an API server that restarts is no reason to go back.
	DefaultRollbackAfter = 15 * time.Second
)

type ringDocument struct {
	Name           string            `yaml:"name"`
	Select         map[string]string `yaml:"select"`
	Soak           string            `yaml:"soak"`
	MaxUnavailable *int              `yaml:"maxUnavailable"`
	Timeout        string            `yaml:"timeout"`
	Approval       string            `yaml:"approval"`
	OnFailure      string            `yaml:"onFailure"`
	RollbackAfter  string            `yaml:"rollbackAfter"`
	Windows        []windowDocument  `yaml:"windows"`
	Freeze         []freezeDocument  `yaml:"freeze"`
}

// ringNodes are the parts of a ring whose entries have lines of their own.
type ringNodes struct {
	Windows []yaml.Node `yaml:"windows"`
	Freeze  []yaml.Node `yaml:"freeze"`
}

type windowDocument struct {
	Days     []string `yaml:"days"`
	From     string   `yaml:"from"`
	To       string   `yaml:"to"`
	Timezone string   `yaml:"timezone"`
}

type freezeDocument struct {
	From   string `yaml:"from"`
	Until  string `yaml:"until"`
	Reason string `yaml:"reason"`
}

func (c *compiler) ring(f *Fleet, n *yaml.Node, windows []rollout.Window, freezes []rollout.Freeze) {
	var d ringDocument
	var nodes ringNodes
	if err := n.Decode(&d); err != nil {
		c.fault(n.Line, "", "%s", err.Error())
		return
	}
	if err := n.Decode(&nodes); err != nil {
		c.fault(n.Line, "", "%s", err.Error())
		return
	}
	if !c.name(n.Line, "ring", d.Name) {
		return
	}
	if i := slices.IndexFunc(f.Rings, func(r Ring) bool { return r.Name == d.Name }); i >= 0 {
		c.fault(n.Line, "rename or remove one", "the ring %q is there twice, first in line %d", d.Name, f.Rings[i].Line)
		return
	}
	r := Ring{Name: d.Name, Select: d.Select, MaxUnavailable: 1, Timeout: DefaultTimeout, RollbackAfter: DefaultRollbackAfter,
		Windows: windows, Freezes: slices.Concat(freezes, c.freezes(nodes.Freeze)), Line: n.Line}
	if nodes.Windows != nil { // an empty list of its own is open always
		r.Windows = c.windows(nodes.Windows)
	}
	if len(d.Select) == 0 {
		c.fault(n.Line, "write select: {az: az1} or another label", "the ring %q selects by no label", d.Name)
	}
	if d.MaxUnavailable != nil {
		r.MaxUnavailable = *d.MaxUnavailable
		if r.MaxUnavailable < 1 {
			c.fault(n.Line, "write 1 or more", "maxUnavailable of the ring %q is %d: no cluster could ever change", d.Name, r.MaxUnavailable)
		}
	}
	if d.Soak != "" {
		r.Soak = c.duration(n.Line, d.Name, "soak", d.Soak, 0)
	}
	if d.Timeout != "" {
		r.Timeout = c.duration(n.Line, d.Name, "timeout", d.Timeout, time.Second)
	}
	c.policy(n.Line, &d, &r)
	f.Rings = append(f.Rings, r)
}

// policy reads what a ring says about people and failures.
func (c *compiler) policy(line int, d *ringDocument, r *Ring) {
	switch d.Approval {
	case "", "none":
	case "required":
		r.Approval = true
	default:
		c.fault(line, "write required or none", "approval of the ring %q is %q", d.Name, d.Approval)
	}
	switch d.OnFailure {
	case "", "halt":
	case "rollback":
		r.Rollback = true
	default:
		c.fault(line, "write halt or rollback", "onFailure of the ring %q is %q", d.Name, d.OnFailure)
	}
	if d.RollbackAfter != "" {
		r.RollbackAfter = c.duration(line, d.Name, "rollbackAfter", d.RollbackAfter, 0)
		if !r.Rollback {
			c.fault(line, "write onFailure: rollback, or remove it", "the ring %q has rollbackAfter and never rolls back", d.Name)
		}
	}
}

// maxDuration bounds soak, timeout and rollbackAfter.
const maxDuration = 30 * 24 * time.Hour

func (c *compiler) duration(line int, ring, field, text string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > maxDuration {
		c.fault(line, "write one such as 10m, at most 720h", "%s of the ring %q is %q, which is not a duration of at least %s", field, ring, text, least)
	}
	return d
}

// dayNames in the order of time.Weekday.
var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (c *compiler) windows(nodes []yaml.Node) []rollout.Window {
	var out []rollout.Window
	for i := range nodes {
		n := &nodes[i]
		var d windowDocument
		if err := n.Decode(&d); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		w := rollout.Window{From: c.clock(n.Line, "from", d.From), To: c.clock(n.Line, "to", d.To)}
		if len(d.Days) == 0 {
			c.fault(n.Line, "write days: [mon, tue, wed, thu, fri]", "the window has no days and never opens")
		}
		for _, name := range d.Days {
			day := slices.Index(dayNames, name)
			switch {
			case day < 0:
				c.fault(n.Line, "write "+strings.Join(dayNames, ", "), "the window's day %q is not one", name)
			case w.Days[day]:
				c.fault(n.Line, "remove one", "the window has the day %q twice", name)
			default:
				w.Days[day] = true
			}
		}
		if w.From == w.To && d.From != "" && d.To != "" {
			c.fault(n.Line, `write from: "00:00" and to: "24:00" for the whole day`, "the window ends when it begins, at %s", d.From)
		}
		loc, err := time.LoadLocation(d.Timezone)
		if err != nil || d.Timezone == "" || d.Timezone == "Local" {
			c.fault(n.Line, "write timezone: UTC, or one such as Europe/Berlin", "the window's timezone %q is not one", d.Timezone)
		}
		w.Location = loc
		out = append(out, w)
	}
	return out
}

// clock reads HH:MM as minutes after midnight; the day ends at 24:00.
func (c *compiler) clock(line int, field, text string) int {
	hours, minutes, ok := strings.Cut(text, ":")
	h, err1 := strconv.Atoi(hours)
	m, err2 := strconv.Atoi(minutes)
	if !ok || err1 != nil || err2 != nil || len(hours) != 2 || len(minutes) != 2 || h < 0 || m < 0 || m > 59 || h*60+m > 24*60 || (field == "from" && h == 24) {
		c.fault(line, `write it quoted, as in `+field+`: "09:00"`, "%s of the window is %q, which is not a time of day", field, text)
		return 0
	}
	return h*60 + m
}

func (c *compiler) freezes(nodes []yaml.Node) []rollout.Freeze {
	var out []rollout.Freeze
	for i := range nodes {
		n := &nodes[i]
		var d freezeDocument
		if err := n.Decode(&d); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		f := rollout.Freeze{From: c.moment(n.Line, "from", d.From), Until: c.moment(n.Line, "until", d.Until), Reason: d.Reason}
		if strings.TrimSpace(d.Reason) == "" {
			c.fault(n.Line, "write reason: and why", "the freeze has no reason")
		}
		if !f.Until.IsZero() && !f.Until.After(f.From) {
			c.fault(n.Line, "correct from or until", "the freeze ends before it begins")
		}
		out = append(out, f)
	}
	return out
}

// moment reads an RFC 3339 time; empty is none.
func (c *compiler) moment(line int, field, text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		c.fault(line, `write it with its zone, as in "2026-12-24T18:00:00+01:00"`, "%s of the freeze is %q, which is not a time", field, text)
	}
	return t
}
