package repair

import (
	"context"
	"strings"

	"holdfast.dev/remediation/marks"
)

// confirmQuarantine waits until every volume of the disk carries its marks. It
// has no effect of its own: the quarantine controller puts them on.
type confirmQuarantine struct{ *API }

func (s *confirmQuarantine) Run(ctx context.Context, p *Plan) (Outcome, error) {
	volumes, err := s.volumes(ctx, p)
	if err != nil {
		return Outcome{}, err
	}
	var open []string
	for i := range volumes {
		if pv := &volumes[i]; pv.DeletionTimestamp == nil && !marks.On(pv) {
			open = append(open, pv.Name)
		}
	}
	if len(open) > 0 {
		return Outcome{Message: "waits for the quarantine of " + strings.Join(open, ", ")}, nil
	}
	return Outcome{Done: true}, nil
}
