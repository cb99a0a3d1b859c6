package rollout_test

import (
	"fmt"
	"strings"

	"holdfast.dev/gitops/rollout"
)

// finish is the rest of the story when nothing bad happens any more: agents come
// back, work and are well, people approve what waits for it, time passes. With
// sick set, what fails stays so. Every rollout must end: everywhere, taken back,
// or halted where a person is told. known, which may be nil, has the keys of
// worlds that are known to end well.
func (w *world) finish(sick bool, known map[[16]byte]bool) error {
	var visited [][16]byte
	w.frozen, w.mute = false, false
	for i := range w.members {
		if !sick {
			w.members[i].refuses = 0
		}
		if !w.members[i].up {
			w.setUp(i, true)
		}
	}
	rounds := 20 + 8*len(w.members)
	for range rounds {
		if known != nil {
			k := w.key()
			if known[k] {
				break
			}
			visited = append(visited, k)
		}
		for i := range w.members {
			m := &w.members[i]
			switch {
			case !m.current || !m.heardCurrent || !m.heard || m.cond == progressing || m.cond != m.heardCond:
				w.work(i, well)
				w.work(i, well)
			case m.cond == failing && !sick:
				w.work(i, well)
			}
		}
		w.tick()
		if _, err := w.hub(-1); err != nil {
			return err
		}
		for i, st := range w.last.Rings {
			if st.WaitsFor == "approval" {
				w.approve(i)
			}
		}
		if done, err := w.ended(sick); err != nil {
			return err
		} else if done {
			break
		}
	}
	if known == nil {
		if done, err := w.ended(sick); err != nil || !done {
			return fmt.Errorf("the rollout is stuck after %d rounds (%w):\n%s", rounds, err, w)
		}
	} else if len(visited) == rounds {
		return broken("the rollout is stuck:\n%s", w)
	}
	for _, k := range visited {
		known[k] = true
	}
	return nil
}

// ended is true when nothing is left to do.
func (w *world) ended(sick bool) (bool, error) {
	rolledOut, halted := true, false
	refused := ""
	for i, m := range w.members {
		has := m.published == w.want && !m.lost
		rolledOut = rolledOut && has
		if !has && m.refuses&(1<<w.want) != 0 {
			refused = w.f.names[i]
		}
		if rec := w.state.Clusters[w.f.names[i]]; w.state.Rollback != nil && rec.Good != "" && rec.Good != digest(m.published) && !w.noWayBack(w.f.names[i]) {
			return false, nil
		}
	}
	for _, r := range w.last.Rings {
		halted = halted || r.Phase == rollout.Halted || r.WaitsFor == "plan" && refused != "" && strings.Contains(r.Message, "refuses")
		if r.Phase != rollout.Passed && r.Action == "" && r.Message == "" {
			return false, broken("ring %s is %s and says nothing", r.Name, r.Phase)
		}
	}
	return rolledOut || w.state.Rollback != nil || sick && halted, nil
}
