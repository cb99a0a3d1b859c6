package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"holdfast.dev/api/v1alpha1"
)

// faults stands between an agent and its API server.
type faults struct {
	mu     sync.Mutex
	rng    *rand.Rand
	errors int  // of a hundred requests that fail, half of them after the server did what they ask
	deny   bool // deletions are forbidden
	left   int  // requests until the process is dead; below zero for never
	next   http.RoundTripper
}

var errDead = errors.New("the process is dead")

// verdict says what becomes of a request: whether it reaches the server, and whether
// its answer reaches the agent; if not, what does instead: an error, or a status of HTTP.
func (f *faults) verdict(r *http.Request) (sent, answered bool, code int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return false, false, 0, errDead
	}
	if f.left > 0 {
		if f.left--; f.left == 0 { // killed while it waited for this answer
			return f.rng.IntN(2) == 0, false, 0, errDead
		}
	}
	switch {
	case r.URL.Query().Get("watch") != "" || f.rng.IntN(100) >= f.errors:
	case f.rng.IntN(2) == 0:
		return f.rng.IntN(2) == 0, false, 0, errors.New("connection reset by peer")
	default:
		codes := []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
		return f.rng.IntN(2) == 0, false, codes[f.rng.IntN(len(codes))], nil
	}
	if f.deny && r.Method == http.MethodDelete {
		return false, false, http.StatusForbidden, nil
	}
	return true, true, 0, nil
}

func (f *faults) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, answered, code, err := f.verdict(r)
	if sent {
		resp, rerr := f.next.RoundTrip(r)
		if rerr != nil || answered {
			return resp, rerr
		}
		if cerr := resp.Body.Close(); cerr != nil {
			return nil, cerr
		}
	}
	if err != nil {
		return nil, err
	}
	return refusal(r, code), nil
}

// refusal is an answer as the API server gives it (metav1.Status).
func refusal(r *http.Request, code int) *http.Response {
	reason := strings.ReplaceAll(http.StatusText(code), " ", "")
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":"an injected fault"}`, reason, code)
	return &http.Response{StatusCode: code, Status: fmt.Sprint(code, " ", http.StatusText(code)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

func (f *faults) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// lane makes of one namespace of an API server a cluster of its own for an agent:
// what the agent lists and watches in all namespaces is what that one has, and it sees
// the AddonStatuses, which have no namespace, of the addons that begin with its name.
type lane struct {
	name string
	next http.RoundTripper
}

func (l *lane) RoundTrip(r *http.Request) (*http.Response, error) {
	dir, resource := path.Split(r.URL.Path)
	switch {
	case r.Method != http.MethodGet:
	case resource == "addonstatuses":
		return l.own(l.next.RoundTrip(r))
	case slices.Contains([]string{"configmaps", "serviceaccounts", "roles", "widgets"}, resource) && !strings.Contains(dir, "/namespaces/"):
		r = r.Clone(r.Context())
		r.URL.Path = dir + "namespaces/" + l.name + "/" + resource
	}
	return l.next.RoundTrip(r)
}

// own leaves the lane's own items in the answer to a list.
func (l *lane) own(resp *http.Response, err error) (*http.Response, error) {
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	var list v1alpha1.AddonStatusList
	if err := errors.Join(json.NewDecoder(resp.Body).Decode(&list), resp.Body.Close()); err != nil {
		return nil, err
	}
	list.Items = slices.DeleteFunc(list.Items, func(s v1alpha1.AddonStatus) bool { return !strings.HasPrefix(s.Name, l.name+"-") })
	body, err := json.Marshal(list)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Length")
	return resp, err
}
