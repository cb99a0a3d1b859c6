package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/render"
)

// asker is a hub that loses answers for a while.
type asker struct {
	question []byte
	mu       sync.Mutex
	lose     int
	did      []string // "GET id", "lost id", "POST id what went wrong"
}

func (a *asker) do(_ context.Context, _ time.Duration, method, path string, body []byte) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := strings.TrimPrefix(path, "/plans/")
	switch {
	case method == http.MethodGet:
		a.did = append(a.did, "GET "+id)
		return a.question, nil
	case a.lose > 0:
		a.lose--
		a.did = append(a.did, "lost "+id)
		return nil, errors.New("connection reset")
	}
	var rep protocol.PlanReport
	err := json.Unmarshal(body, &rep)
	a.did = append(a.did, strings.TrimSpace("POST "+id+" "+rep.Error))
	return nil, err
}

func (a *asker) since() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.did = nil }()
	return a.did
}

// aQuestion is a small bundle of cluster c, as the hub sends it.
func aQuestion(t *testing.T) []byte {
	t.Helper()
	files := map[string][]byte{}
	for name, text := range map[string]string{
		"fleet.yaml":          "apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n- {name: c, az: az1, kubernetes: \"1.36\"}\nrings:\n- {name: all, select: {az: az1}}\n",
		"salt/pillar/top.sls": "base: {}\n", "salt/pillar/none.sls": "{}\n", "salt/states/top.sls": "base:\n  '*':\n  - one\n",
		"addons/one/addon.yaml":          "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: one\nversion: 0.1.0\nsummary: test\norder: 10\nhealth: {timeout: 1s}\nupgradeNotes: none\n",
		"salt/states/one/init.sls":       "/etc/kubernetes/addons/one/map.yaml:\n  file.managed:\n  - source: salt://one/files/map.yaml\n",
		"salt/states/one/files/map.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: default}\n",
	} {
		files[name] = []byte(text)
	}
	tree, err := render.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	res, err := render.Fleet(t.Context(), tree, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(protocol.PlanFiles(res.Bundles["c"].Files))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestQuestions: an answer that does not arrive is sent again, as the hub waited for a
// lost one for up to 84 minutes; a question that is put twice is answered once; and no
// question waits behind another with its bundle in memory.
func TestQuestions(t *testing.T) {
	question := aQuestion(t)
	synctest.Test(t, func(t *testing.T) {
		scheme := runtime.NewScheme()
		if err := v1alpha1.AddToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		free := make(chan struct{}) // the API server answers
		c := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, _ client.WithWatch, _ client.ObjectList, _ ...client.ListOption) error {
				select {
				case <-free:
					return errors.New("no")
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		}).Build()
		hub := &asker{question: question}
		p, err := newPlanner(Options{Cluster: "c"}, c, hub)
		if err != nil {
			t.Fatal(err)
		}
		take := func(reason, id string, hubs bool, want ...string) {
			t.Helper()
			if err := p.take(t.Context(), id, hubs, slog.New(slog.DiscardHandler)); err != nil {
				t.Errorf("%s: %v", reason, err)
			}
			synctest.Wait()
			got := hub.since()
			slices.Sort(got) // the answer to one question and the next are on their way at once
			if !slices.Equal(got, want) {
				t.Errorf("%s: the agent did %q, want %q", reason, got, want)
			}
		}
		const busy, superseded = "the agent is at work on another question; ask again in a minute", "the hub has asked something else meanwhile; ask again in a minute"
		take("a person's", "p1", false, "GET p1")
		take("the same again", "p1", false)
		take("the hub's own", "h1", true, "GET h1", "POST p1 "+superseded)
		take("a person's beside it", "p2", false, "POST p2 "+busy)
		take("the hub's own once more", "h1", true)
		hub.lose = 3
		close(free)
		synctest.Wait()
		take("while the answer is being sent", "h1", true, "lost h1")
		time.Sleep(2*retryAfter + 4*retryAfter)
		synctest.Wait()
		if got, want := hub.since(), []string{"lost h1", "lost h1"}; !slices.Equal(got, want) {
			t.Errorf("the agent did %q, want %q", got, want)
		}
		time.Sleep(4 * retryAfter)
		synctest.Wait()
		if got, want := hub.since(), []string{"POST h1 read addon statuses: no"}; !slices.Equal(got, want) {
			t.Errorf("the agent did %q, want %q", got, want)
		}
		take("what was answered, and is asked all the same", "h1", true, "GET h1", "POST h1 read addon statuses: no")
		hub.lose = 1000
		take("nobody hears", "h2", true, "GET h2", "lost h2")
		time.Sleep(protocol.TrialWait(2) + time.Minute)
		synctest.Wait()
		tries := len(hub.since())
		time.Sleep(time.Hour)
		if more := hub.since(); tries < 3 || tries > 10 || len(more) > 0 {
			t.Errorf("%d tries to answer while the hub waits, and %d more", tries, len(more))
		}
	})
}
