package rollout

import "fmt"

// beginRollback takes the rollout back when a ring that says so has a cluster
// that failed and has an earlier digest to go to.
func (d *decider) beginRollback(views []view) {
	for i, r := range d.in.Rings {
		v := &views[i]
		if v.back == "" {
			continue
		}
		s := d.write()
		s.Rollback = &Rollback{Ring: r.Name, Cluster: v.back, Digest: d.in.Clusters[v.back].Want, Reason: v.backReason, At: d.in.Now}
		delete(s.Passed, r.Name) // a cluster that came late failed what the others had proved
		return
	}
}

// rollback sends every cluster to the digest with which its ring last passed.
// Windows and approvals do not hold it; a freeze does.
func (d *decider) rollback() {
	rb := d.state.Rollback
	for _, r := range d.in.Rings {
		v := d.lookBack(r)
		st := RingStatus{Name: r.Name, Phase: Waiting, Clusters: len(r.Clusters), Healthy: v.healthy, Silent: v.silent, WaitsFor: "repair",
			Message: "the rollout was taken back", Action: "push a repair, git revert, or try again with holdfast retry"}
		if r.Name == rb.Ring {
			st.Message = fmt.Sprintf("cluster %s: %s; taken back at %s", rb.Cluster, rb.Reason, rb.At.UTC().Format("2006-01-02T15:04:05Z"))
		}
		switch n := len(v.sick) + len(v.well) + v.held; {
		case n > 0:
			st.Phase, st.WaitsFor = RollingBack, "health"
			if h := d.frozen(r); h != nil {
				st.Phase, st.WaitsFor, st.Until, st.Action = Held, h.waits, h.until, h.action
				st.Message += "; " + h.message
				break
			}
			st.Message += fmt.Sprintf("; %d of %d clusters still to go back", n, len(r.Clusters))
			d.goBack(r, &v)
		case len(v.noWayBack) > 0:
			st.Phase = Halted
		case r.Name == rb.Ring || v.returned > 0:
			st.Phase = RolledBack
		case v.healthy+v.silent == len(r.Clusters):
			st.Phase, st.WaitsFor, st.Message, st.Action = Passed, "", "", ""
		}
		if len(v.noWayBack) > 0 {
			st.Message += fmt.Sprintf("; cluster %s cannot go back: the bundle that it had is not in what the hub knows that it published", v.noWayBack[0])
			if n := len(v.noWayBack) - 1; n > 0 {
				st.Message += fmt.Sprintf(" (and %d more clusters of the ring)", n)
			}
		}
		d.out.Rings = append(d.out.Rings, st)
	}
}

// backView is one ring on its way back.
type backView struct {
	healthy, silent   int // at the wanted digest, and agents that say nothing
	sick, well        []string
	noWayBack         []string // that cannot go back, and stay
	held, unavailable int
	returned          int
}

func (d *decider) lookBack(r Ring) backView {
	var v backView
	for _, name := range r.Clusters {
		c, rec := d.in.Clusters[name], d.state.Clusters[name]
		if c.Contact == Silent {
			v.silent++
		}
		if c.Published == c.Want && c.healthy() {
			v.healthy++
		}
		timeout := later(c.PublishedAt, d.in.Since).Add(r.Timeout)
		switch {
		case rec.Good == "": // there is nothing to go back to
		case c.Published == rec.Good:
			if c.Published != c.Want {
				v.returned++
			}
			// What is on its way back takes up room, but not for ever: a cluster
			// that does not recover must not keep the others at what is bad.
			if !c.runs(rec.Good) && c.Contact != Silent && d.in.Now.Before(timeout) {
				v.unavailable++
				d.recheck(timeout)
			}
		case c.NoWayBack != "" && c.NoWayBack == rec.GoodRevision:
			v.noWayBack = append(v.noWayBack, name)
			// The same: it stays where it is until a person pushes something.
			if !c.steady() && c.Contact != Silent && d.in.Now.Before(timeout) {
				v.unavailable++
				d.recheck(timeout)
			}
		case c.steady():
			v.well = append(v.well, name)
		case c.Contact == Unknown:
			v.held++ // its agent will say how it is
			v.unavailable++
		default:
			v.sick = append(v.sick, name)
		}
	}
	return v
}

func (d *decider) goBack(r Ring, v *backView) {
	back := func(name string) {
		rec := d.state.Clusters[name]
		d.out.Publish = append(d.out.Publish, Publication{Cluster: name, Digest: rec.Good, Revision: rec.GoodRevision})
	}
	for _, name := range v.sick {
		back(name)
	}
	// The clusters that are sick and go back now count as well.
	unavailable := v.unavailable + len(v.sick)
	for _, name := range v.well {
		if unavailable < max(1, r.MaxUnavailable) {
			back(name)
			unavailable++
		}
	}
}
