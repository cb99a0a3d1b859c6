package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/lab/qmp"
)

// machine answers commands as QEMU would: answer returns the lines that it
// writes for a command, none for one that hangs.
func machine(t *testing.T, greeting string, answer func(command string) []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() }) // it may be closed already
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return // the test is over
		}
		defer func() { _ = conn.Close() }() // the test is over
		fmt.Fprintln(conn, greeting)
		in := bufio.NewScanner(conn)
		for in.Scan() {
			var request struct{ Execute string }
			if json.Unmarshal(in.Bytes(), &request) != nil {
				return
			}
			for _, line := range answer(request.Execute) {
				if line == "DIE" {
					return
				}
				fmt.Fprintln(conn, line)
			}
		}
	}()
	return path
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}`

func dial(t *testing.T, answer func(string) []string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), machine(t, greeting, func(command string) []string {
		if command == "qmp_capabilities" {
			return []string{`{"return": {}}`}
		}
		return answer(command)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it may be closed already
	return c
}

func TestDo(t *testing.T) {
	c := dial(t, func(command string) []string {
		switch command {
		case "query-status":
			return []string{`{"event": "RESUME", "data": {}}`, `{"return": {"status": "running"}}`}
		case "die":
			return []string{"DIE"}
		default:
			return []string{`{"error": {"class": "CommandNotFound", "desc": "no such command"}}`}
		}
	})
	var out struct{ Status string }
	if err := c.Do(t.Context(), "query-status", nil, &out); err != nil || out.Status != "running" {
		t.Errorf("got %+v, %v", out, err)
	}
	var refused *qmp.Error
	if err := c.Do(t.Context(), "nonsense", nil, nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "nonsense: no such command") {
		t.Errorf("a refused command: %v", err)
	}
	if err := c.Do(t.Context(), "die", nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a machine that dies: %v", err)
	}
}

// The answer to a command that was given up must not be taken for the next one's.
func TestHungMachine(t *testing.T) {
	c := dial(t, func(string) []string { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	later, cancelLater := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancelLater()
	if err := c.Do(later, "query-status", nil, nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command after one that was given up: %v, want that it is refused at once", err)
	}
}

func TestDialGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	path := machine(t, greeting, func(string) []string { return nil })
	if _, err := qmp.Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAwait(t *testing.T) {
	c := dial(t, func(command string) []string {
		if command == "device_del" {
			return []string{
				`{"event": "DEVICE_DELETED", "data": {"path": "/x"}}`, `{"return": {}}`,
				`{"event": "DEVICE_DELETED", "data": {"device": "dev-a"}}`,
			}
		}
		return []string{"DIE"}
	})
	mark := c.Mark()
	if err := c.Do(t.Context(), "device_del", map[string]any{"id": "dev-a"}, nil); err != nil {
		t.Fatal(err)
	}
	of := func(device string) func(qmp.Event) bool {
		return func(e qmp.Event) bool {
			var d struct{ Device string }
			return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &d) == nil && d.Device == device
		}
	}
	if _, err := c.Await(t.Context(), mark, of("dev-a")); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Await(ctx, mark, of("dev-b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an event that does not come: %v", err)
	}
	if err := c.Do(t.Context(), "die", nil, nil); err == nil {
		t.Error("the machine lives on")
	}
	if _, err := c.Await(t.Context(), mark, of("dev-b")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the machine is gone: %v", err)
	}
}
