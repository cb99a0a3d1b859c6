package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"holdfast.dev/internal/hostexec"
)

// eager is how often a container that has not passed its startup or readiness
// probe yet is asked. A kubelet asks once a period only; the pods here start in
// milliseconds, and nothing but waiting would come of it. Failures still count
// once a period.
const eager = 200 * time.Millisecond

// probe runs the container's probes until ctx ends.
func (c *container) probe(ctx context.Context, spec *corev1.Container, l *launch) {
	if p := spec.StartupProbe; p != nil {
		if !c.untilStarted(ctx, p, spec, l) {
			return
		}
		c.pod.set(func() { c.state.started, c.state.ready = true, spec.ReadinessProbe == nil })
	}
	var wg sync.WaitGroup
	if p := spec.ReadinessProbe; p != nil {
		wg.Go(func() {
			c.loop(ctx, p, spec, l, "Readiness", true, func(ok bool) bool {
				c.pod.set(func() { c.state.ready = ok && ctx.Err() == nil })
				return true
			})
		})
	}
	if p := spec.LivenessProbe; p != nil {
		wg.Go(func() {
			c.loop(ctx, p, spec, l, "Liveness", false, func(ok bool) bool {
				if !ok {
					c.end("its liveness probe failed")
				}
				return ok
			})
		})
	}
	wg.Wait()
}

func (c *container) untilStarted(ctx context.Context, p *corev1.Probe, spec *corev1.Container, l *launch) (started bool) {
	c.loop(ctx, p, spec, l, "Startup", true, func(ok bool) bool {
		started = ok
		if !ok {
			c.end("its startup probe failed")
		}
		return false
	})
	return started && ctx.Err() == nil
}

// loop probes every period and calls verdict whenever a threshold is reached
// with another result than before; it ends when verdict is false.
func (c *container) loop(ctx context.Context, p *corev1.Probe, spec *corev1.Container, l *launch, what string, hasten bool, verdict func(ok bool) bool) {
	period := seconds(p.PeriodSeconds, 10)
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return
	}
	var good, bad int32
	var last *bool
	counted := time.Now().Add(-period)
	for {
		err := c.ask(ctx, p, spec, l)
		if ctx.Err() != nil {
			return
		}
		due := time.Since(counted) >= period
		switch {
		case err == nil:
			good, bad = good+1, 0
		case due:
			good, bad = 0, bad+1
			counted = time.Now()
			c.pod.host.events.Eventf(c.pod.object(), corev1.EventTypeWarning, "Unhealthy", "%s probe of container %s failed: %v", what, spec.Name, err)
		}
		ok := err == nil && good >= threshold(p.SuccessThreshold, 1)
		failed := err != nil && bad >= threshold(p.FailureThreshold, 3)
		if (ok || failed) && (last == nil || *last != ok) {
			last = &ok
			if !verdict(ok) {
				return
			}
		}
		wait := period
		if hasten && (last == nil || !*last) {
			wait = min(period, eager)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func threshold(n, otherwise int32) int32 {
	if n == 0 {
		return otherwise
	}
	return n
}

func seconds(n, otherwise int32) time.Duration {
	return time.Duration(threshold(n, otherwise)) * time.Second
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// ask runs a probe once.
func (c *container) ask(ctx context.Context, p *corev1.Probe, spec *corev1.Container, l *launch) error {
	timeout := seconds(p.TimeoutSeconds, 1)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		return c.askHTTP(ctx, p.HTTPGet, spec)
	case p.TCPSocket != nil:
		port, err := portNumber(p.TCPSocket.Port, spec)
		if err != nil {
			return err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostPort(orElse(p.TCPSocket.Host, c.pod.ip), port))
		if err != nil {
			return err
		}
		return conn.Close()
	case p.Exec != nil:
		return c.askExec(ctx, timeout, p.Exec.Command, l)
	}
	return errors.New("this node runs httpGet, tcpSocket and exec probes")
}

func (c *container) askHTTP(ctx context.Context, get *corev1.HTTPGetAction, spec *corev1.Container) error {
	port, err := portNumber(get.Port, spec)
	if err != nil {
		return err
	}
	scheme := "http"
	if get.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://%s/%s", scheme, hostPort(orElse(get.Host, c.pod.ip), port), trimSlash(get.Path))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a kubelet does not verify either, pkg/probe/http
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP status %d: %s", resp.StatusCode, body)
	}
	return nil
}

// askExec runs the image's own program beside the container's process.
func (c *container) askExec(ctx context.Context, timeout time.Duration, command []string, l *launch) error {
	if len(command) == 0 || command[0] != l.image.binary {
		return fmt.Errorf("the image has no such program, it has %s alone", l.image.binary)
	}
	cmd := l.command
	cmd.Stdout, cmd.Stderr, cmd.Args = nil, nil, nil
	for _, a := range command[1:] {
		cmd.Args = append(cmd.Args, l.paths.arg(a))
	}
	_, err := hostexec.Run(ctx, timeout, cmd)
	return err
}

func portNumber(p intstr.IntOrString, spec *corev1.Container) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, cp := range spec.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("container has no port named %q", p.StrVal)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func trimSlash(s string) string {
	if len(s) > 0 && s[0] == '/' {
		return s[1:]
	}
	return s
}
