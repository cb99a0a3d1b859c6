package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
)

// helperEnv makes the test binary start a cluster in the directory it names
// and wait to be killed.
const helperEnv = "HOLDFAST_TEST_START_IN"

func TestMain(m *testing.M) {
	if parent := os.Getenv(helperEnv); parent != "" {
		os.Exit(helper(parent))
	}
	os.Exit(cluster.Main(m))
}

// started is what the helper prints.
type started struct {
	PID int
	Dir string
}

func helper(parent string) int {
	c, err := cluster.Start(context.Background(), cluster.Options{Name: "orphan", Parent: parent, Binary: os.Getenv("HOLDFAST_CLUSTER_BINARY")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(started{PID: c.PID(), Dir: c.Dir()}); err != nil {
		return 1
	}
	<-c.Done()
	return 1
}

func clientset(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func admin(t *testing.T, c *cluster.Cluster) *kubernetes.Clientset {
	t.Helper()
	return clientset(t, c.RESTConfig())
}

func withKubeconfig(t *testing.T, path string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	return clientset(t, config)
}

// eventually polls until check succeeds.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := wait.Until(ctx, 30*time.Second, what, func() (bool, error) { return true, check(ctx) }); err != nil {
		t.Fatal(err)
	}
}

// processes are the live processes of a process group. A zombie is not alive,
// but while other threads of it are, it still holds files and locks.
func processes(t *testing.T, group int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue // it ended meanwhile
		}
		// proc(5): pid (comm) state ppid pgrp …, and comm may hold anything.
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) < 3 || f[2] != strconv.Itoa(group) {
			continue
		}
		if threads, _ := os.ReadDir(filepath.Join(filepath.Dir(s), "task")); f[0] == "Z" && len(threads) <= 1 {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
