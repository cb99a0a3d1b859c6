package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"holdfast.dev/e2e/node/disk"
)

// Client speaks to the fault API of one node. It is safe for concurrent use.
type Client struct {
	http http.Client
}

// NewClient is a client of the node that listens on socket.
func NewClient(socket string) *Client {
	return &Client{http: http.Client{Timeout: faultDeadline, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close frees the client's connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// State is the node as it is now.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	return s, c.do(ctx, http.MethodGet, "/v1/state", &s)
}

// Fail makes a disk unreadable and returns when the kernel has logged a failed read.
func (c *Client) Fail(ctx context.Context, name string) (disk.Fault, error) {
	var f disk.Fault
	return f, c.disk(ctx, name, "fail", &f)
}

// ReadError reads once more from a failed disk.
func (c *Client) ReadError(ctx context.Context, name string) (disk.Fault, error) {
	var f disk.Fault
	return f, c.disk(ctx, name, "error", &f)
}

// Restore makes a failed disk whole, with its contents and its id.
func (c *Client) Restore(ctx context.Context, name string) (disk.Disk, error) {
	var d disk.Disk
	return d, c.disk(ctx, name, "restore", &d)
}

// Remove pulls a disk out.
func (c *Client) Remove(ctx context.Context, name string) (disk.Disk, error) {
	var d disk.Disk
	return d, c.disk(ctx, name, "remove", &d)
}

// Reinsert puts a pulled disk back.
func (c *Client) Reinsert(ctx context.Context, name string) (disk.Disk, error) {
	var d disk.Disk
	return d, c.disk(ctx, name, "reinsert", &d)
}

// Replace puts a new, prepared disk into the slot; the result has its new id.
func (c *Client) Replace(ctx context.Context, name string) (disk.Disk, error) {
	var d disk.Disk
	return d, c.disk(ctx, name, "replace", &d)
}

// KillPod sends SIGKILL to a pod's processes and returns their ids.
func (c *Client) KillPod(ctx context.Context, namespace, name string) ([]int, error) {
	var k Killed
	err := c.do(ctx, http.MethodPost, "/v1/pods/"+url.PathEscape(namespace)+"/"+url.PathEscape(name)+"/kill", &k)
	return k.PIDs, err
}

func (c *Client) disk(ctx context.Context, name, verb string, out any) error {
	return c.do(ctx, http.MethodPost, "/v1/disks/"+url.PathEscape(name)+"/"+verb, out)
}

func (c *Client) do(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask node: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("read answer of node: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p problem
		if json.Unmarshal(body, &p) != nil || p.Error == "" {
			p.Error = resp.Status
		}
		return errors.New(p.Error)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("read answer of node: %w", err)
	}
	return nil
}
