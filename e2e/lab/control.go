package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// doTimeout bounds one action; a restart of an emulated machine is the longest.
const doTimeout = 10 * time.Minute

// Serve takes actions on the lab's control socket until ctx ends.
func (l *Lab) Serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /do", func(w http.ResponseWriter, r *http.Request) {
		var args []string
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&args)
		if err == nil {
			err = l.Do(r.Context(), args)
		}
		l.say("do %s: %v", strings.Join(args, " "), err)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		}
	})
	ln, err := net.Listen("unix", l.Info().Control)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // what it does ends with ctx
	defer stop()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Ask has a lab of another process do an action; see Do.
func Ask(ctx context.Context, i Info, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, doTimeout)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", i.Control)
	}}}
	defer c.CloseIdleConnections()
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/do", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the lab: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	said, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("ask the lab: %w", err)
	}
	return errors.New(strings.TrimSpace(string(said)))
}
