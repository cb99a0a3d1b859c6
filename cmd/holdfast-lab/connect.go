package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/guest"
)

// theLab is the lab that up left running.
func theLab() (lab.Info, error) {
	running, err := lab.Running()
	if err != nil {
		return lab.Info{}, err
	}
	for _, i := range running {
		if i.Detached && !i.Started {
			return lab.Info{}, fmt.Errorf("the lab of process %d still starts", i.PID)
		}
		if i.Detached {
			return i, nil
		}
	}
	return lab.Info{}, errors.New("no lab runs: start one with \"make lab-up\"")
}

// theNode is a node of it.
func theNode(name string) (lab.NodeInfo, error) {
	i, err := theLab()
	if err != nil {
		return lab.NodeInfo{}, err
	}
	n := slices.IndexFunc(i.Nodes, func(n lab.NodeInfo) bool { return n.Name == name })
	if n < 0 {
		return lab.NodeInfo{}, fmt.Errorf("there is no node %q in the lab", name)
	}
	return i.Nodes[n], nil
}

func newInfo() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "info",
		Short: "Show how to reach everything in the lab",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := theLab()
			if err != nil {
				return err
			}
			switch output {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(i)
			case "":
				return printInfo(cmd.OutOrStdout(), i.PID)
			default:
				return fmt.Errorf("-o %q is not json", output)
			}
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	return c
}

// printInfo shows the lab of a process.
func printInfo(out io.Writer, pid int) error {
	running, err := lab.Running()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(running, func(i lab.Info) bool { return i.PID == pid })
	if at < 0 {
		return fmt.Errorf("the lab of process %d has ended", pid)
	}
	i := running[at]
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := strings.TrimSuffix(self, "/holdfast-lab")
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe lab is up: %d nodes on %s. It stays until \"make lab-down\".\n\n", len(i.Nodes), i.Accelerator)
	fmt.Fprintf(&b, "  export KUBECONFIG=%s\n  export HOLDFAST_HUB=%s HOLDFAST_CREDENTIAL_FILE=%s PATH=%s:$PATH\n", i.Kubeconfig, i.HubURL, i.Credential, bin)
	b.WriteString("  kubectl get nodes,computenodes,pv;  holdfast status;  holdfast disks\n\n")
	for _, n := range i.Nodes {
		fmt.Fprintf(&b, "  %s  shell    holdfast-lab shell %s    (or: ssh -i %s -p %d -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1)\n", n.Name, n.Name, n.Key, n.SSHPort)
		fmt.Fprintf(&b, "      console  holdfast-lab console %s  (or: socat -,raw,echo=0 unix-connect:%s)\n", n.Name, n.Console)
	}
	fmt.Fprintf(&b, "\n  faults         holdfast-lab do --help\n")
	fmt.Fprintf(&b, "  fleet          cd %s, edit, commit, git push %s main\n", i.FleetWork, i.FleetRepo)
	fmt.Fprintf(&b, "  Prometheus     %s/classic/graph\n  Alertmanager   %s\n  logs           %s\n", i.PrometheusURL, i.AlertmanagerURL, i.Logs)
	_, err = io.WriteString(out, b.String())
	return err
}

func newShell() *cobra.Command {
	c := &cobra.Command{
		Use:   "shell NODE [COMMAND...]",
		Short: "Open a shell in a node, or run a command there",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := theNode(args[0])
			if err != nil {
				return err
			}
			return raw(func(width, height int) error {
				return guest.Login(cmd.Context(), fmt.Sprintf("127.0.0.1:%d", n.SSHPort), n.Key, strings.Join(args[1:], " "), width, height)
			}, len(args) == 1)
		},
	}
	c.Flags().SetInterspersed(false) // flags after NODE are the command's
	return c
}

func newConsole() *cobra.Command {
	return &cobra.Command{
		Use:   "console NODE",
		Short: "Talk to a node's serial console (root without a password); Ctrl-] ends it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := theNode(args[0])
			if err != nil {
				return err
			}
			return raw(func(_, _ int) error { return console(cmd.Context(), n.Console) }, true)
		},
	}
}

// raw runs f with the terminal, if there is one, handing on each key.
func raw(f func(width, height int) error, interactive bool) error {
	fd := int(os.Stdin.Fd())
	if !interactive || !term.IsTerminal(fd) {
		return f(0, 0)
	}
	width, height, err := term.GetSize(fd)
	if err != nil {
		return err
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return err
	}
	return errors.Join(f(width, height), term.Restore(fd, before))
}

// endKey is Ctrl-], as telnet has it.
const endKey = 0x1d

func console(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("open console (only one person can at a time): %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is on its way
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	done := make(chan error, 2)
	go func() { _, err := io.Copy(os.Stdout, conn); done <- err }()
	go func() {
		buf := make([]byte, 256)
		for {
			n, err := os.Stdin.Read(buf)
			if i := slices.Index(buf[:n], endKey); i >= 0 {
				_, err = conn.Write(buf[:i])
				done <- err
				return
			}
			if n > 0 {
				if _, err := conn.Write(buf[:n]); err != nil {
					done <- err
					return
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					return // what it says is shown until it ends, or Ctrl-C
				}
				done <- err
				return
			}
		}
	}()
	err = <-done
	if ctx.Err() != nil {
		return nil
	}
	return err
}
