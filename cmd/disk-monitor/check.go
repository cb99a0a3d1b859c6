package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/daemon"
	"holdfast.dev/monitor"
	"holdfast.dev/monitor/verdict"
)

// Exit codes of node-problem-detector's custom plugins
// (pkg/custompluginmonitor/types/types.go): anything else is unknown too.
const (
	checkOK      = 0
	checkBad     = 1
	checkUnknown = 2
)

// checks are what can be asked for: each is to be a node condition of its own,
// for node-problem-detector lets rules that share one overwrite each other.
var checks = map[string]func(*v1alpha1.ComputeNodeStatus) (code int, line string){
	"failed":   func(s *v1alpha1.ComputeNodeStatus) (int, string) { return checkState(s, v1alpha1.DiskFailed) },
	"missing":  checkMissing,
	"degraded": func(s *v1alpha1.ComputeNodeStatus) (int, string) { return checkState(s, v1alpha1.DiskDegraded) },
	"flavor": func(s *v1alpha1.ComputeNodeStatus) (int, string) {
		return checkCondition(s, v1alpha1.ConditionFlavorSatisfied, "as the flavor says")
	},
	"watched": checkWatched,
}

const checkUsage = `Usage: disk-monitor check [-socket FILE] [-max-length 80] [-timeout 3s] CHECK

Asks the disk-monitor of this node, in one short line and an exit code as
node-problem-detector's custom plugins have it: 0 all is well, 1 it is not, 2 unknown.

CHECK is one of
  failed    a disk has failed
  missing   a disk that the node must have is missing
  degraded  a disk works with warnings
  flavor    the node has fewer disks than its flavor says
  watched   disks, kernel log or health cannot be read
`

// question is what the command line of a check asks.
type question struct {
	socket  string
	length  int
	timeout time.Duration
	check   string
}

func parseCheck(args []string) (q question, err error) {
	fs := flag.NewFlagSet("disk-monitor check", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), checkUsage); fs.PrintDefaults() }
	fs.StringVar(&q.socket, "socket", monitor.DefaultSocket, "the daemon's UNIX socket")
	fs.IntVar(&q.length, "max-length", 80, "longest line, in bytes; node-problem-detector cuts at its max_output_length")
	fs.DurationVar(&q.timeout, "timeout", 3*time.Second, "how long to wait for the daemon")
	if err := daemon.Parse(fs, args); err != nil {
		return q, err
	}
	q.check = fs.Arg(0)
	known := strings.Join(slices.Sorted(maps.Keys(checks)), ", ")
	switch {
	case fs.NArg() == 0:
		return q, fmt.Errorf("check: name one of %s", known)
	case checks[q.check] == nil:
		return q, fmt.Errorf("check: there is no check %q: name one of %s", q.check, known)
	case fs.NArg() > 1:
		return q, fmt.Errorf("check: %q is too much: give one check, after the flags", fs.Arg(1))
	case q.length < 1:
		return q, fmt.Errorf("check: -max-length %d is less than 1", q.length)
	case q.timeout <= 0:
		return q, fmt.Errorf("check: -timeout %s is not positive", q.timeout)
	}
	return q, nil
}

// runCheck answers on w, and returns the exit code.
func runCheck(ctx context.Context, w io.Writer, args []string) int {
	q, err := parseCheck(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			daemon.Fail("disk-monitor", err)
		}
		return checkUnknown
	}
	code, line := checkUnknown, ""
	status, err := askDaemon(ctx, q.socket, q.timeout)
	if err != nil {
		line = err.Error()
	} else {
		code, line = checks[q.check](status)
	}
	fmt.Fprintln(w, short(line, q.length))
	return code
}

// askDaemon gets the status that the daemon has now.
func askDaemon(ctx context.Context, socket string, timeout time.Duration) (*v1alpha1.ComputeNodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://disk-monitor/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		what := "disk-monitor does not answer"
		if _, serr := os.Stat(socket); serr != nil {
			what, err = "no disk-monitor runs here", serr
		}
		return nil, fmt.Errorf("%s: %w: %s", what, cause(err), socket)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("disk-monitor does not answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("disk-monitor: %s", strings.TrimSpace(string(data)))
	}
	status := &v1alpha1.ComputeNodeStatus{}
	if err := json.Unmarshal(data, status); err != nil {
		return nil, fmt.Errorf("disk-monitor's answer: %w", err)
	}
	return status, nil
}

// cause is the innermost error. Those around it say the URL and the socket, which
// leaves no room for it where a line is short.
func cause(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}

func checkState(s *v1alpha1.ComputeNodeStatus, state v1alpha1.DiskState) (int, string) {
	var bad []string
	for _, d := range s.Disks {
		if d.State != state {
			continue
		}
		// The id comes last: it may be cut.
		name := d.ID
		if f := verdict.Decisive(&d); f != nil && f.Class != v1alpha1.FaultMissing {
			name = string(f.Class) + " " + name
		}
		if d.Device != "" {
			name = d.Device + " " + name
		}
		bad = append(bad, name)
	}
	what := strings.ToLower(string(state))
	switch {
	case len(bad) == 0:
		return checkOK, fmt.Sprintf("none of %d disks is %s", len(s.Disks), what)
	case len(bad) == 1:
		return checkBad, what + ": " + bad[0]
	}
	return checkBad, fmt.Sprintf("%d disks %s: %s", len(bad), what, strings.Join(bad, ", "))
}

// checkMissing knows nothing while the disks cannot be listed.
func checkMissing(s *v1alpha1.ComputeNodeStatus) (int, string) {
	code, line := checkState(s, v1alpha1.DiskMissing)
	if read, why := checkCondition(s, v1alpha1.ConditionInventoryRead, ""); code == checkOK && read != checkOK {
		return checkUnknown, why
	}
	return code, line
}

func checkCondition(s *v1alpha1.ComputeNodeStatus, kind, well string) (int, string) {
	c := meta.FindStatusCondition(s.Conditions, kind)
	switch {
	case c == nil:
		return checkUnknown, kind + " is not known"
	case c.Status == metav1.ConditionTrue:
		return checkOK, well
	case c.Status == metav1.ConditionFalse:
		return checkBad, c.Message
	}
	return checkUnknown, c.Message
}

func checkWatched(s *v1alpha1.ComputeNodeStatus) (int, string) {
	for _, kind := range []string{v1alpha1.ConditionInventoryRead, v1alpha1.ConditionKernelLogRead, v1alpha1.ConditionHealthRead} {
		if !slices.ContainsFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == kind }) {
			continue // disks are not asked, or it has not begun
		}
		if code, why := checkCondition(s, kind, ""); code != checkOK {
			return code, why
		}
	}
	return checkOK, fmt.Sprintf("%d disks are watched", len(s.Disks))
}

// short cuts a line to so many bytes, between two characters.
func short(line string, length int) string {
	line = strings.Join(strings.Fields(line), " ")
	if len(line) <= length {
		return line
	}
	n := length
	for n > 0 && !utf8.RuneStart(line[n]) {
		n--
	}
	return line[:n]
}
