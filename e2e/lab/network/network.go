// Package network joins lab machines to one Ethernet without touching the
// network of this host: a switch and a gateway in this process
// (github.com/containers/gvisor-tap-vsock), which QEMU reaches over a UNIX
// socket. It needs no root, and nothing of it is visible from outside.
//
//	10.77.0.0/16    the network; machines at 10.77.0.11, 10.77.0.12, …
//	10.77.N.0/24    the pods of the N-th machine, which answers ARP for them
//	10.77.0.2       127.0.0.1 of this host, as machines and pods see it
//	10.77.0.1       the gateway, which connections from this host come from
//
// Machines have no default route: nothing leads out of this network but to
// the loopback address.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"github.com/sirupsen/logrus"
)

// Addresses of the network.
const (
	Subnet  = "10.77.0.0/16"
	Gateway = "10.77.0.1"
	Host    = "10.77.0.2" // this host's 127.0.0.1
	mtu     = 1500
)

// MachineAddress is the address of the n-th machine, from 1.
func MachineAddress(n int) string { return fmt.Sprintf("10.77.0.%d", 10+n) }

// PodSubnet is the subnet of the n-th machine's pods.
func PodSubnet(n int) string { return fmt.Sprintf("10.77.%d.0/24", n) }

// MAC is the address of the n-th machine's network card (locally administered).
func MAC(n int) string { return fmt.Sprintf("52:54:00:4d:00:%02x", n) }

// Network is a running network. Its methods may be called concurrently.
type Network struct {
	vn     *virtualnetwork.VirtualNetwork
	ln     net.Listener
	socket string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start starts a network. Machines connect to the UNIX socket that is made at
// path (QEMU: -netdev stream,addr.type=unix).
func Start(path string) (*Network, error) {
	// The library tells its logger's default of every machine that loses its power.
	logrus.SetLevel(logrus.PanicLevel)
	vn, err := virtualnetwork.New(&types.Configuration{
		MTU: mtu, Subnet: Subnet, GatewayIP: Gateway, GatewayMacAddress: "52:54:00:4d:ff:01",
		GatewayVirtualIPs: []string{Host}, NAT: map[string]string{Host: "127.0.0.1"}, Protocol: types.QemuProtocol,
	})
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &Network{vn: vn, ln: ln, socket: path, cancel: cancel}
	n.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			n.wg.Go(func() {
				// A machine that loses its power ends this with an error, which is no news.
				_ = vn.AcceptQemu(ctx, conn)
				_ = conn.Close()
			})
		}
	})
	return n, nil
}

// Socket is the path that machines connect to.
func (n *Network) Socket() string { return n.socket }

// DialContext connects to a machine or pod by its address.
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := n.vn.DialContextTCP(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s in the lab's network: %w", address, err)
	}
	return conn, nil
}

// Close ends the network. Machines still running are cut off.
func (n *Network) Close() error {
	n.cancel()
	err := n.ln.Close()
	n.wg.Wait()
	if rerr := os.Remove(n.socket); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}
