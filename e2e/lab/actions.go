package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/lab/machine"
)

// Action is something that a person can do to a node of a running lab by name;
// see Do. Each undoes another, or is undone by what Undo says.
type Action struct {
	Name, Args, Help string
	run              func(ctx context.Context, n *Node, args []string) error
}

// Actions are all of them, in the order in which they are shown.
var Actions = []Action{
	{"bad-sectors", "DISK FILE", "make the first sector of a file on the disk unreadable", func(ctx context.Context, n *Node, a []string) error {
		_, err := n.BadSectors(ctx, a[0], a[1])
		return err
	}},
	{"read-only", "DISK", "let every write fail", fault(func(f *machine.Fault, _ string) error { f.ReadOnly = true; return nil })},
	{"slow", "DISK IOPS", "let the disk do so many requests a second", fault(func(f *machine.Fault, v string) (err error) {
		f.IOPS, err = strconv.Atoi(v)
		return err
	})},
	{"hung", "DISK", "let the disk answer nothing", fault(func(f *machine.Fault, _ string) error { f.Hung = true; return nil })},
	{"critical-warning", "DISK BITS", "set the critical warning of an NVMe disk, such as 0x04", fault(func(f *machine.Fault, v string) error {
		bits, err := strconv.ParseUint(v, 0, 8)
		f.CriticalWarning = uint8(bits)
		return err
	})},
	{"good", "DISK", "undo all of the above", fault(func(f *machine.Fault, _ string) error { *f = machine.Fault{}; return nil })},
	{"pull", "DISK", "take the disk out", func(ctx context.Context, n *Node, a []string) error { return n.Pull(ctx, a[0]) }},
	{"insert", "DISK", "put the disk back", func(ctx context.Context, n *Node, a []string) error { return n.Insert(ctx, a[0]) }},
	{"swap", "DISK SERIAL WWN", "put a new disk in the place of one that was pulled, and prepare it; WWN is 0 for NVMe", func(ctx context.Context, n *Node, a []string) error {
		wwn, err := strconv.ParseUint(a[2], 0, 64)
		if err != nil {
			return fmt.Errorf("WWN %q is no number", a[2])
		}
		return n.Swap(ctx, a[0], a[1], wwn)
	}},
	{"power-cut", "", "take the power away", func(_ context.Context, n *Node, _ []string) error { n.PowerCut(); return nil }},
	{"power-on", "", "give the power back", func(ctx context.Context, n *Node, _ []string) error { return n.PowerOn(ctx) }},
	{"reboot", "", "restart in an orderly way", func(ctx context.Context, n *Node, _ []string) error { return n.Reboot(ctx) }},
	{"reset", "", "press the reset button", func(ctx context.Context, n *Node, _ []string) error { return n.Reset(ctx) }},
	{"panic", "", "let the kernel panic; it restarts", func(ctx context.Context, n *Node, _ []string) error { return n.Panic(ctx) }},
	{"cut-network", "", "unplug the cable of the cluster's network; shell and console stay", func(ctx context.Context, n *Node, _ []string) error { return n.CutNetwork(ctx, true) }},
	{"restore-network", "", "plug it in again", func(ctx context.Context, n *Node, _ []string) error { return n.CutNetwork(ctx, false) }},
	{"kill-kubelet", "", "kill -9; it starts again", func(ctx context.Context, n *Node, _ []string) error { return n.KillKubelet(ctx) }},
	{"kill-pod", "NAMESPACE NAME", "kill -9 every process of a pod of the node", func(ctx context.Context, n *Node, a []string) error {
		var pod corev1.Pod
		if err := n.lab.Client.Get(ctx, client.ObjectKey{Namespace: a[0], Name: a[1]}, &pod); err != nil {
			return err
		}
		return n.KillPod(ctx, &pod)
	}},
	{"jump-clock", "DURATION", "set the clock off, such as by 2h or -30m", func(ctx context.Context, n *Node, a []string) error {
		d, err := time.ParseDuration(a[0])
		if err != nil {
			return err
		}
		return n.JumpClock(ctx, d)
	}},
	{"restore-clock", "", "set it right", func(ctx context.Context, n *Node, _ []string) error { return n.RestoreClock(ctx) }},
}

// fault is an action that changes what is wrong with a disk.
func fault(change func(f *machine.Fault, value string) error) func(context.Context, *Node, []string) error {
	return func(ctx context.Context, n *Node, a []string) error {
		f, err := n.Fault(a[0])
		if err != nil {
			return err
		}
		if err := change(&f, a[len(a)-1]); err != nil {
			return err
		}
		return n.SetFault(ctx, a[0], f)
	}
}

// Do does an action: args are NODE ACTION and the action's own arguments.
func (l *Lab) Do(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("give a node and an action")
	}
	n := slices.IndexFunc(l.Nodes, func(n *Node) bool { return n.Name == args[0] })
	if n < 0 {
		var names []string
		for _, n := range l.Nodes {
			names = append(names, n.Name)
		}
		return fmt.Errorf("there is no node %q; there are %s", args[0], strings.Join(names, ", "))
	}
	a := slices.IndexFunc(Actions, func(a Action) bool { return a.Name == args[1] })
	if a < 0 {
		return fmt.Errorf("there is no action %q; see holdfast-lab do --help", args[1])
	}
	if want := strings.Fields(Actions[a].Args); len(args)-2 != len(want) {
		return fmt.Errorf("%s needs %d arguments: %s", args[1], len(want), Actions[a].Args)
	}
	l.Nodes[n].acting.Lock()
	defer l.Nodes[n].acting.Unlock()
	if err := Actions[a].run(ctx, l.Nodes[n], args[2:]); err != nil {
		return fmt.Errorf("%s %s: %w", args[0], args[1], err)
	}
	return nil
}
