package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
)

// Login connects a person to the machine whose sshd is reached at address: to a
// shell, with a terminal of that size unless width is 0, or to one command. The
// machine's key is not checked: it is on this host's loopback.
func Login(ctx context.Context, address, keyFile, command string, width, height int) error {
	pem, err := os.ReadFile(keyFile)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return fmt.Errorf("log in: read %s: %w", keyFile, err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("log in: %w: %w", ErrAway, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return errors.Join(fmt.Errorf("log in: %w: %w", ErrAway, err), conn.Close())
	}
	client := ssh.NewClient(c, channels, requests)
	defer func() { _ = client.Close() }() // the session has ended
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	defer func() { _ = session.Close() }() // it has ended
	session.Stdin, session.Stdout, session.Stderr = os.Stdin, os.Stdout, os.Stderr
	if command != "" {
		return session.Run(command)
	}
	if width > 0 {
		if err := session.RequestPty("xterm", height, width, ssh.TerminalModes{}); err != nil {
			return fmt.Errorf("log in: %w", err)
		}
	}
	if err := session.Shell(); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return session.Wait()
}
