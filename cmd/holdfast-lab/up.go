package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/internal/hostexec"
)

// upLine is the last line that a lab in the background prints.
const upLine = "the lab is up"

// stopTimeout is for a lab that did not come up and is told to end.
const stopTimeout = time.Minute

func newUp() *cobra.Command {
	var o lab.Options
	var nodes int
	var background bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a lab with Holdfast on it, and leave it running until down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if background {
				return serve(cmd.Context(), o, nodes)
			}
			return up(cmd.Context(), cmd.OutOrStdout(), o, nodes)
		},
	}
	c.Flags().StringVar(&o.BinDir, "bin-dir", "bin", "directory with Holdfast's programs, the kubelet and images")
	c.Flags().StringVar(&o.LogDir, "log-dir", "bin/lab-logs/up", "where logs go that stay when the lab ends")
	c.Flags().IntVar(&nodes, "nodes", 2, "number of nodes; each takes 2 GiB of memory and two processors, which may be shared")
	c.Flags().BoolVar(&background, "serve", false, "be the lab's process")
	if err := c.Flags().MarkHidden("serve"); err != nil {
		panic(err) // it is defined above
	}
	return c
}

// up starts the lab's process, shows its progress and leaves it to itself.
func up(ctx context.Context, out io.Writer, o lab.Options, nodes int) error {
	running, err := lab.Running()
	if err != nil {
		return err
	}
	for _, i := range running {
		if i.Detached {
			return fmt.Errorf("a lab runs already (process %d): end it with \"make lab-down\", or see it with \"holdfast-lab info\"", i.PID)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.LogDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(o.LogDir, "lab.log")
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the lab's process has its own
	process, err := hostexec.StartDetached(hostexec.Command{Path: self,
		Args: []string{"up", "--serve", "--bin-dir", o.BinDir, "--log-dir", o.LogDir, "--nodes", fmt.Sprint(nodes)}}, log)
	if err != nil {
		return err
	}
	progress, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = progress.Close() }() // read only
	if err := follow(ctx, out, progress, process); err != nil {
		process.Stop(stopTimeout)
		return fmt.Errorf("the lab did not come up (its log is %s): %w", path, err)
	}
	return printInfo(out, process.PID())
}

// follow copies the lab's log to out until the lab is up. The error is that of
// a lab that has ended before.
func follow(ctx context.Context, out io.Writer, log io.Reader, process *hostexec.Process) error {
	in := bufio.NewReader(log)
	var line strings.Builder
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		part, err := in.ReadString('\n')
		line.WriteString(part)
		if err == nil {
			if strings.HasPrefix(line.String(), upLine) {
				return nil
			}
			if _, err := io.WriteString(out, line.String()); err != nil {
				return err
			}
			line.Reset()
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		select {
		case <-process.Done():
			_, err := io.Copy(out, in) // what it said at last
			return errors.Join(errors.New("it has ended"), process.Err(), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// serve is the lab's process.
func serve(ctx context.Context, o lab.Options, nodes int) (err error) {
	o.Detached, o.Log = true, os.Stdout
	for i := range nodes {
		o.Nodes = append(o.Nodes, lab.ExampleNode(i+1))
	}
	l, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	if err := l.Rollout(ctx); err != nil {
		logs := filepath.Join(o.LogDir, "failure")
		// The first error says more; ctx may have ended.
		if cerr := l.CollectLogs(context.WithoutCancel(ctx), logs); cerr == nil {
			fmt.Println("logs of the nodes are in", logs)
		}
		return err
	}
	fmt.Println(upLine)
	return l.Serve(ctx)
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab, and remove what a lab that was killed left behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			did, err := lab.Down(cmd.Context())
			if len(did) == 0 && err == nil {
				did = []string{"there is no lab"}
			}
			for _, d := range did {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), d); err != nil {
					return err
				}
			}
			return err
		},
	}
}

func newDo() *cobra.Command {
	var help strings.Builder
	help.WriteString("Let something happen to a node. The actions and their arguments are:\n\n")
	for _, a := range lab.Actions {
		fmt.Fprintf(&help, "  %-30s %s\n", strings.TrimSpace(a.Name+" "+a.Args), a.Help)
	}
	fmt.Fprintf(&help, "\nDisks are named by their places: %s. What node preparation makes of them\nis mounted below /mnt/holdfast of the node.", strings.Join(diskNames(), ", "))
	c := &cobra.Command{
		Use: "do NODE ACTION [ARGUMENT...]", Short: "Let a disk, the power, the network or the kernel of a node fail, or undo it", Long: help.String(),
		Example: "  holdfast-lab do n1 pull nvme\n  holdfast-lab do n1 swap nvme NEW0001 0",
		Args:    cobra.MinimumNArgs(2), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := theLab()
			if err != nil {
				return err
			}
			return lab.Ask(cmd.Context(), i, args)
		},
	}
	c.Flags().SetInterspersed(false) // -30m is an argument
	return c
}

func diskNames() []string {
	var names []string
	for _, d := range lab.ExampleNode(1).Disks {
		names = append(names, fmt.Sprintf("%s (%s)", d.Name, map[machine.Bus]string{machine.ATA: "SATA", machine.SCSI: "SAS", machine.NVMe: "NVMe"}[d.Bus]))
	}
	return names
}
