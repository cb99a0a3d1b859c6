package verdict

import "slices"

// over is t laid over base: what base says and t does not speak of stays as it is, so
// that a later base's further rules and windows hold too.
func (t *Thresholds) over(base *Thresholds) *Thresholds {
	out := &Thresholds{Accepted: t.Accepted}
	for _, r := range base.Rules {
		if !slices.ContainsFunc(t.Rules, func(o Rule) bool { return o.Signal == r.Signal }) {
			out.Rules = append(out.Rules, r)
		}
	}
	for _, r := range t.Rules {
		if !r.Remove {
			out.Rules = append(out.Rules, r)
		}
	}
	for _, w := range base.Windows {
		if !slices.ContainsFunc(t.Windows, w.named) {
			out.Windows = append(out.Windows, w)
		}
	}
	for _, w := range t.Windows {
		if !w.Remove {
			out.Windows = append(out.Windows, w)
		}
	}
	return out
}

func (w *Window) named(o Window) bool { return w.Name == o.Name }
