package hub_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
)

func TestHook(t *testing.T) {
	f := newFleet(t)
	repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	good := f.git(f.work, "rev-parse", "HEAD")
	f.edit("salt/states/top.sls", "base:", "base: {% if %}")
	bad := f.commit("broken jinja") // no hook is installed here
	none := strings.Repeat("0", 40)
	cases := map[string]struct{ reason, line, want string }{
		"Good":   {"what renders is taken", none + " " + good + " refs/heads/main", ""},
		"Other":  {"branches of people are not looked at", none + " " + bad + " refs/heads/draft", ""},
		"Broken": {"file and line reach the person who pushes", good + " " + bad + " refs/heads/main", "salt/states/top.sls:2:"},
		"Delete": {"deleting main would orphan the fleet", good + " " + none + " refs/heads/main", "must not be deleted"},
		"Hub's":  {"the rendered branches are the hub's", none + " " + good + " refs/heads/rendered/canary", "belongs to the hub"},
		"Root":   {"a branch called rendered would be in the way of rendered/…", none + " " + good + " refs/heads/rendered", "belongs to the hub"},
		"Stand":  {"a replace ref shows something else under the name of a commit", none + " " + bad + " refs/replace/" + good, "stand for the one that it names"},
		"Mend":   {"and may be taken away", bad + " " + none + " refs/replace/" + good, ""},
		"Refs":   {"and so is its state", none + " " + good + " refs/holdfast/accepted", "belongs to the hub"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(tc.line+"\n"))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
			var refused *hub.RefusedError
			if name == "Broken" && !errors.As(err, &refused) {
				t.Errorf("%T is not a RefusedError", err)
			}
		})
	}
}
