package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/atomicfile"
)

const infoFile = "lab.json"

// Info is what a lab tells people and other processes about itself.
type Info struct {
	// PID is the process that runs the lab and ends it on SIGTERM.
	PID int `json:"pid"`
	// Detached is true when no test waits for the lab: lab-down may end it.
	Detached bool `json:"detached"`
	// Started is false while the lab starts: what comes after Logs is not known then.
	Started bool `json:"started"`
	// Dir is the lab's directory, Logs what stays after its end.
	Dir  string `json:"dir"`
	Logs string `json:"logs"`
	// Control is the UNIX socket on which a detached lab takes actions.
	Control         string     `json:"control"`
	Accelerator     string     `json:"accelerator"`
	Kubeconfig      string     `json:"kubeconfig"`
	HubURL          string     `json:"hubURL"`
	Credential      string     `json:"credential"` // file, of the command line
	FleetRepo       string     `json:"fleetRepo"`  // bare
	FleetWork       string     `json:"fleetWork"`  // clone to edit
	PrometheusURL   string     `json:"prometheusURL"`
	AlertmanagerURL string     `json:"alertmanagerURL"`
	Nodes           []NodeInfo `json:"nodes"`
}

// NodeInfo is how a person gets into a node.
type NodeInfo struct {
	Name    string `json:"name"`
	Address string `json:"address"` // in the machines' network
	SSHPort int    `json:"sshPort"` // of 127.0.0.1
	Key     string `json:"key"`     // file
	Console string `json:"console"` // UNIX socket
}

// Info describes the lab.
func (l *Lab) Info() Info {
	i := Info{PID: os.Getpid(), Detached: l.o.Detached, Started: l.started, Dir: l.dir, Logs: l.o.LogDir}
	if !l.started {
		return i
	}
	i.Control, i.Accelerator = filepath.Join(l.dir, "control.sock"), l.Accelerator
	i.Kubeconfig, i.HubURL, i.Credential, i.FleetRepo, i.FleetWork = l.Cluster.Kubeconfig(), l.Fleet.HubURL, l.Fleet.Credential, l.Fleet.Repo, l.Fleet.Work
	i.PrometheusURL, i.AlertmanagerURL = l.Monitoring.PrometheusURL(), l.Monitoring.AlertmanagerURL()
	for _, n := range l.Nodes {
		i.Nodes = append(i.Nodes, NodeInfo{Name: n.Name, Address: n.Address, SSHPort: n.SSHPort, Key: l.keys.Private, Console: n.ConsoleSocket()})
	}
	return i
}

func (l *Lab) writeInfo() error {
	data, err := json.MarshalIndent(l.Info(), "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Replace(filepath.Join(l.dir, infoFile), append(data, '\n'), 0o600)
}

// Running lists this user's labs whose process lives.
func Running() ([]Info, error) {
	files, err := filepath.Glob(filepath.Join(DefaultParent(), "*", infoFile))
	if err != nil {
		return nil, err
	}
	var labs []Info
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		var i Info
		if err := json.Unmarshal(data, &i); err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		held, err := datadir.Held(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		if held {
			labs = append(labs, i)
		}
	}
	return labs, nil
}

// Down ends the detached labs, and removes what labs that were killed left
// behind. A lab that a test runs is left alone. It returns what it did.
func Down(ctx context.Context) (did []string, err error) {
	labs, err := Running()
	if err != nil {
		return nil, err
	}
	for _, i := range labs {
		if !i.Detached {
			did = append(did, fmt.Sprintf("left alone the lab of process %d, which is a test's", i.PID))
			continue
		}
		if err := end(ctx, i); err != nil {
			return did, fmt.Errorf("end the lab of process %d: %w", i.PID, err)
		}
		did = append(did, fmt.Sprintf("ended the lab of process %d; the logs of its control plane and hub are in %s", i.PID, i.Logs))
	}
	removed, err := datadir.RemoveStale(ctx, DefaultParent())
	for _, path := range removed {
		did = append(did, "removed "+path+", which a lab that was killed left behind")
	}
	return did, err
}

// end ends a lab's process: the lock on its directory, which only that process
// can hold, says that the id is still its own. Its children end with it.
func end(ctx context.Context, i Info) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(i.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		if _, err := wait.Until(ctx, time.Minute, "end of the process", func() (bool, error) {
			held, err := datadir.Held(i.Dir)
			return !held, err
		}); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return errors.New("it survives SIGKILL")
}
