package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"time"
)

// proxyDialTimeout is short: a machine is up or it is not.
const proxyDialTimeout = 5 * time.Second

// Proxy is an HTTP proxy into the network: CONNECT for the API server's way to
// kubelets, plain requests for Prometheus. It can also listen on a UNIX socket.
type Proxy struct {
	server http.Server
	ln     net.Listener
	done   chan struct{}
}

// StartProxy listens on a network and address of net.Listen, such as "tcp" and
// "127.0.0.1:0".
func (n *Network) StartProxy(network, address string) (*Proxy, error) {
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	transport := &http.Transport{DialContext: n.dialForProxy, ResponseHeaderTimeout: 30 * time.Second}
	plain := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	p := &Proxy{ln: ln, done: make(chan struct{})}
	p.server = http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			n.tunnel(w, r)
			return
		}
		if !r.URL.IsAbs() {
			http.Error(w, "this is a proxy: give a whole URL", http.StatusBadRequest)
			return
		}
		plain.ServeHTTP(w, r)
	})}
	go func() {
		defer close(p.done)
		_ = p.server.Serve(ln) // until Close
	}()
	return p, nil
}

// Address is what the proxy listens on.
func (p *Proxy) Address() string { return p.ln.Addr().String() }

// Close ends the proxy; tunnels end with their ends.
func (p *Proxy) Close() error {
	err := p.server.Close()
	<-p.done
	return err
}

func (n *Network) dialForProxy(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, proxyDialTimeout)
	defer cancel()
	return n.DialContext(ctx, network, address)
}

func (n *Network) tunnel(w http.ResponseWriter, r *http.Request) {
	out, err := n.dialForProxy(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }() // both ways are over
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = in.Close() }() // both ways are over
	if _, err := io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	over := make(chan struct{}, 2)
	pass := func(dst io.Writer, src io.Reader) {
		if _, err := io.Copy(dst, src); err == nil || errors.Is(err, net.ErrClosed) {
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // the other side may have closed already
			}
		}
		over <- struct{}{}
	}
	go pass(out, buffered)
	go pass(in, out)
	<-over
	<-over
}
