package monitoring

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/internal/hostexec"
)

const (
	// readyTimeout is long: machines boot on the same cores.
	readyTimeout = time.Minute
	readyPoll    = 50 * time.Millisecond
	callTimeout  = 10 * time.Second
	stopGrace    = 10 * time.Second
	// portTries is how often a port may be lost to somebody else.
	portTries = 3
	tailBytes = 2 << 10
)

// daemon is one of the two programs.
type daemon struct {
	program, address string
	process          *hostexec.Process
	log              *os.File
}

// startDaemon starts a program on a free port, with its log at <program>.log in
// dir, and returns when it is ready.
func startDaemon(ctx context.Context, c *http.Client, program, dir string, args func(address string) ([]string, error)) (*daemon, error) {
	for try := 1; ; try++ {
		d, err := launch(program, dir, args)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", program, err)
		}
		if err = d.ready(ctx, c); err == nil {
			return d, nil
		}
		d.stop()
		// Between the look for a free port and the use of it somebody may take it.
		if try < portTries && strings.Contains(d.tail(), "address already in use") {
			continue
		}
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
}

func launch(program, dir string, args func(address string) ([]string, error)) (*daemon, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	argv, err := args(address)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, program+".log"))
	if err != nil {
		return nil, err
	}
	// No variable of the caller changes what they do.
	process, err := hostexec.Start(hostexec.Command{Path: program, Args: argv, Dir: dir, Env: []string{}, Stdout: log, Stderr: log})
	if err != nil {
		_ = log.Close() // nothing is in it
		return nil, err
	}
	return &daemon{program: program, address: address, process: process, log: log}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func (d *daemon) url() string { return "http://" + d.address }

// ready waits until the program says that it is.
func (d *daemon) ready(ctx context.Context, c *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := get(ctx, c, d.url()+"/-/ready", func(*http.Response) error { return nil })
		select {
		case <-d.process.Done():
			return d.ended()
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case <-d.process.Done():
			return d.ended()
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w: %s", err, d.tail())
		case <-tick.C:
		}
	}
}

// ended says how the process ended, with the end of its log.
func (d *daemon) ended() error {
	if err := d.process.Err(); err != nil {
		return err
	}
	return fmt.Errorf("it ended by itself: %s", d.tail())
}

// explain adds to the error of a call that the program is gone, if it is.
func (d *daemon) explain(err error) error {
	select {
	case <-d.process.Done():
		return fmt.Errorf("%w: %s is gone: %w", err, d.program, d.ended())
	default:
		return err
	}
}

func (d *daemon) stop() {
	d.process.Stop(stopGrace)
	_ = d.log.Close() // nobody writes to it any more
}

// tail is the end of the log.
func (d *daemon) tail() string {
	data, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-tailBytes):]))
}

// get reads an answer of code 200.
func get(ctx context.Context, c *http.Client, url string, read func(*http.Response) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what was needed is read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return read(resp)
}
