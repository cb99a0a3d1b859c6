package cluster

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/internal/hostexec"
)

// defaultBinary is where the program is when nobody says.
func defaultBinary() (string, error) {
	if b := os.Getenv(binaryEnv); b != "" {
		return b, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	b := filepath.Join(root, "bin", "holdfast-cluster")
	if _, err := os.Stat(b); err != nil {
		return "", fmt.Errorf("%w: build it with \"make build\" or set %s", err, binaryEnv)
	}
	return b, nil
}

// binaryEnv names the program, for tests outside of the source tree.
const binaryEnv = "HOLDFAST_CLUSTER_BINARY"

// moduleRoot is the nearest directory above the working directory with this module's go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find source tree: %w", err)
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module holdfast.dev\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find source tree: not inside it; set %s", binaryEnv)
		}
		dir = up
	}
}

// buildTimeout is for a machine that compiles Kubernetes for the first time.
const buildTimeout = 40 * time.Minute

// Build builds holdfast-cluster in the source tree that holds the working
// directory and returns its path; with $HOLDFAST_CLUSTER_BINARY set, it returns
// that. With a warm build cache and nothing changed it takes a second or two,
// the first time minutes. Several processes may call it at once.
func Build(ctx context.Context) (string, error) {
	if b := os.Getenv(binaryEnv); b != "" {
		return b, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin", "holdfast-cluster")
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", fmt.Errorf("build control plane: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	unlock, err := lockFile(ctx, filepath.Join(root, "bin", ".holdfast-cluster.lock"))
	if err != nil {
		return "", fmt.Errorf("build control plane: %w", err)
	}
	defer unlock()
	args, env := buildSettings(bin)
	_, err = hostexec.Run(ctx, buildTimeout, hostexec.Command{
		Path: "go", Dir: root, Env: append(os.Environ(), env...),
		Args: append(append([]string{"build"}, args...), "-o", bin, "./cmd/holdfast-cluster"),
	})
	if err != nil {
		return "", fmt.Errorf("build control plane: %w", err)
	}
	return bin, nil
}

// buildSettings repeats the settings that the program at path was built with:
// with others the go command would compile all of Kubernetes again.
func buildSettings(path string) (args, env []string) {
	ldflags := "-s -w"
	if info, err := buildinfo.ReadFile(path); err == nil {
		for _, s := range info.Settings {
			switch s.Key {
			case "-ldflags":
				ldflags = s.Value
			case "-trimpath":
				args = append(args, "-trimpath="+s.Value)
			case "CGO_ENABLED":
				env = append(env, "CGO_ENABLED="+s.Value)
			}
		}
	}
	return append(args, "-ldflags="+ldflags), env
}

// lockFile locks a file, which is made if it is not there.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := datadir.Lock(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
