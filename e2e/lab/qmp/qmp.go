// Package qmp speaks the QEMU Machine Protocol
// (https://www.qemu.org/docs/master/interop/qmp-spec.html): one command at a
// time, each with a deadline, and the events that were seen meanwhile.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Event is something that happened in the machine without being asked for.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// Client is a connection to one machine. Its methods may be called concurrently.
type Client struct {
	conn net.Conn
	mu   sync.Mutex // one command at a time: answers come in order

	replies chan reply
	ended   chan struct{} // closed when the connection is

	events struct {
		sync.Mutex
		seen    []Event
		changed chan struct{} // closed and made anew at each event
	}
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// Dial connects to the UNIX socket at path and ends the negotiation.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	c := &Client{conn: conn, replies: make(chan reply, 1), ended: make(chan struct{})}
	c.events.changed = make(chan struct{})
	in := bufio.NewScanner(conn)
	in.Buffer(nil, 16<<20)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes the read below
	greeted := in.Scan()
	if !stop() || !greeted {
		return nil, fmt.Errorf("connect to QEMU: no greeting: %w", errors.Join(context.Cause(ctx), in.Err(), conn.Close()))
	}
	go c.read(in)
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *Client) read(in *bufio.Scanner) {
	defer close(c.ended)
	for in.Scan() {
		var m struct {
			reply
			Event
		}
		if json.Unmarshal(in.Bytes(), &m) != nil {
			return // not QMP any more
		}
		if m.Name == "" {
			select {
			case c.replies <- m.reply:
			default: // the answer to a command that was given up
			}
			continue
		}
		c.events.Lock()
		c.events.seen = append(c.events.seen, m.Event)
		close(c.events.changed)
		c.events.changed = make(chan struct{})
		c.events.Unlock()
	}
}

// Do executes a command and decodes what it returns into out, unless that is
// nil. The error wraps *Error when QEMU refused. A command without an answer
// when ctx ends closes the connection: later answers could not be told apart.
func (c *Client) Do(ctx context.Context, command string, args, out any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("QEMU command %s: %w", command, err)
	}
	if _, err := c.conn.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("QEMU command %s: %w", command, err)
	}
	select {
	case r := <-c.replies:
		if r.Error != nil {
			return fmt.Errorf("QEMU command %s: %w", command, r.Error)
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(r.Return, out); err != nil {
			return fmt.Errorf("QEMU command %s: read its answer: %w", command, err)
		}
		return nil
	case <-c.ended:
		return fmt.Errorf("QEMU command %s: the machine is gone: %w", command, net.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("QEMU command %s: %w", command, errors.Join(ctx.Err(), c.conn.Close()))
	}
}

// Mark is the number of events seen so far, for Await.
func (c *Client) Mark() int {
	c.events.Lock()
	defer c.events.Unlock()
	return len(c.events.seen)
}

// Await waits for the first event after mark for which match holds.
func (c *Client) Await(ctx context.Context, mark int, match func(Event) bool) (Event, error) {
	for {
		c.events.Lock()
		seen, changed := c.events.seen, c.events.changed
		c.events.Unlock()
		for ; mark < len(seen); mark++ {
			if match(seen[mark]) {
				return seen[mark], nil
			}
		}
		select {
		case <-changed:
		case <-c.ended:
			return Event{}, fmt.Errorf("wait for an event of QEMU: the machine is gone: %w", net.ErrClosed)
		case <-ctx.Done():
			return Event{}, fmt.Errorf("wait for an event of QEMU: %w", ctx.Err())
		}
	}
}

// Close ends the connection. The machine goes on.
func (c *Client) Close() error { return c.conn.Close() }
