//go:build root

package nodeprep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"holdfast.dev/e2e/node/disk"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/output"
	"holdfast.dev/provisioners/nodeprep"
)

const (
	rootEnv = "NODEPREP_TEST_ROOT" // the run below is node-prepare's, in a process of its own
	killEnv = "NODEPREP_TEST_KILL" // programs that it may run before it is killed
	wipeEnv = "NODEPREP_TEST_WIPE"
)

// enter gives the tests a mount namespace of their own, or is the process that is killed.
func enter() error {
	if root := os.Getenv(rootEnv); root != "" {
		os.Exit(killable(root))
	}
	return disk.EnterNamespace()
}

// killable is node-prepare below a root, with the real programs but for
// systemctl, which mounts by itself. It kills itself before or after a program.
func killable(root string) int {
	left, err := strconv.Atoi(os.Getenv(killEnv))
	if err != nil {
		return 9
	}
	boundary := func() {
		if left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		left--
	}
	if err := tellMounts(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	host, err := hostfs.Open(root)
	if err != nil {
		return 9
	}
	programs, err := hostfs.Open("/")
	if err != nil {
		return 9
	}
	data, err := os.ReadFile(filepath.Join(root, "flavor.yaml"))
	if err != nil {
		return 9
	}
	flavor, err := nodeprep.ParseFlavor("flavor.yaml", data)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	looks := []string{"blkid", "lsblk", "e2fsck", "xfs_repair"}
	run := func(ctx context.Context, timeout time.Duration, c hostexec.Command) ([]byte, error) {
		if slices.Contains(looks, c.Path) || c.Path == "wipefs" && c.Args[0] == "--no-act" {
			return hostexec.Run(ctx, timeout, c)
		}
		boundary()
		defer boundary()
		switch {
		case c.Path == "systemctl" && c.Args[0] == "start":
			return nil, errors.Join(mountUnit(root, c.Args[1]), tellMounts(root))
		case c.Path == "systemctl":
			return nil, nil
		case c.Path == "lvm": // there is no device mapper on every machine that runs this
			c.Args = append([]string{c.Args[0], "--driverloaded", "n"}, c.Args[1:]...)
		}
		return hostexec.Run(ctx, timeout, c)
	}
	store, err := nodeprep.OpenStore(host, host)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	o := nodeprep.Options{Apply: true, Output: output.Table, Certify: true}
	if id, token, ok := strings.Cut(os.Getenv(wipeEnv), "="); ok {
		o.Wipe = map[string]string{id: token}
	}
	p := &nodeprep.Preparer{
		Host: &nodeprep.Host{FS: host, Exec: run, Flags: nodeprep.HostFlags{FS: host}, Stat: nodeprep.StatNode}, Files: host, Store: store, Programs: programs,
		NewUUID: uuid.NewString, Raw: nodeprep.RawDevice, Progress: os.Stderr,
	}
	if err := p.Run(context.Background(), o, &nodeprep.Said{Flavor: flavor}, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return nodeprep.ExitCode(err)
	}
	return 0
}

// tellMounts writes the mount table as a process sees it whose root is root.
func tellMounts(root string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	data = bytes.ReplaceAll(data, []byte(" "+root+"/mnt/"), []byte(" /mnt/"))
	return os.WriteFile(filepath.Join(root, "proc/1/mountinfo"), data, 0o644)
}

// mountUnit does what systemd does with a mount unit.
func mountUnit(root, unit string) error {
	text, err := os.ReadFile(filepath.Join(root, "etc/systemd/system", unit))
	if err != nil {
		return err
	}
	get := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindSubmatch(text)
		return string(m[1])
	}
	id := filepath.Base(get("What"))
	parts, err := filepath.Glob(filepath.Join(root, "sys/block/loop*/loop*p*"))
	if err != nil {
		return err
	}
	for _, part := range parts {
		node := "/dev/" + filepath.Base(part)
		out, err := hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "blkid", Args: []string{"-p", "-o", "value", "-s", "UUID", node}})
		if err != nil || strings.TrimSpace(string(out)) != id {
			continue
		}
		at := filepath.Join(root, get("Where"))
		args := []string{"-t", get("Type"), "-o", get("Options"), node, at}
		if _, err := hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "mount", Args: args}); err != nil {
			return err
		}
		file := filepath.Join(at, "written-by-a-pod")
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return os.WriteFile(file, []byte(id), 0o644)
		}
		return nil
	}
	return fmt.Errorf("no device has %s", id)
}

// machine is a root directory with loop devices as its only disks.
type machine struct {
	t     *testing.T
	root  string
	loops []string
}

func newMachine(t *testing.T, sizes ...int64) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	m.must(os.MkdirAll(filepath.Join(m.root, "proc/sys/kernel"), 0o755))
	bind := func(from, to string) {
		to = filepath.Join(m.root, to)
		m.must(os.MkdirAll(to, 0o755))
		m.must(syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, ""))
		t.Cleanup(func() { _ = syscall.Unmount(to, syscall.MNT_DETACH) })
	}
	bind("/dev", "dev")
	bind("/sys/devices", "sys/devices")
	bind("/sys/dev/block", "sys/dev/block")
	m.must(os.MkdirAll(filepath.Join(m.root, "proc/1"), 0o755))
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	m.must(err)
	m.must(os.WriteFile(filepath.Join(m.root, "proc/sys/kernel/osrelease"), release, 0o644))
	m.must(os.MkdirAll(filepath.Join(m.root, "sys/block"), 0o755))
	for i, size := range sizes {
		m.plug(filepath.Join(m.root, fmt.Sprintf("disk%d.img", i)), size)
	}
	t.Cleanup(m.unlock)
	return m
}

func (m *machine) must(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatal(err)
	}
}

func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := hostexec.Run(m.t.Context(), time.Minute, hostexec.Command{Path: name, Args: args})
	m.must(err)
	return strings.TrimSpace(string(out))
}

func (m *machine) plug(image string, size int64) {
	m.t.Helper()
	m.must(os.WriteFile(image, nil, 0o644))
	m.must(os.Truncate(image, size))
	dev := filepath.Base(m.run("losetup", "--find", "--show", "--partscan", image))
	m.loops = append(m.loops, dev)
	m.t.Cleanup(func() {
		m.unmount()
		_, _ = hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "partx", Args: []string{"--delete", "/dev/" + dev}})
		_, _ = hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "losetup", Args: []string{"--detach", "/dev/" + dev}})
	})
	m.must(os.Symlink("../devices/virtual/block/"+dev, filepath.Join(m.root, "sys/block", dev)))
}

func (m *machine) mountPoints() []string {
	points, err := filepath.Glob(filepath.Join(m.root, "mnt/holdfast/*"))
	m.must(err)
	return points
}

func (m *machine) unmount() {
	for _, p := range m.mountPoints() {
		_ = syscall.Unmount(p, syscall.MNT_DETACH)
	}
}

// unlock lets the directory of the test be removed.
func (m *machine) unlock() {
	m.unmount()
	for _, p := range m.mountPoints() {
		_, _ = hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "chattr", Args: []string{"-i", p}})
	}
}

// prepare runs node-prepare in a process that is killed at a boundary.
func (m *machine) prepare(kill int, wipe string) (code int, out string) {
	m.t.Helper()
	var said, complained bytes.Buffer // of two writers at once
	_, err := hostexec.Run(m.t.Context(), 5*time.Minute, hostexec.Command{
		Path: os.Args[0], Stdout: &said, Stderr: &complained,
		Env: append(os.Environ(), rootEnv+"="+m.root, killEnv+"="+strconv.Itoa(kill), wipeEnv+"="+wipe),
	})
	out = said.String() + complained.String()
	if err == nil {
		return 0, out
	}
	var e *hostexec.Error
	if !errors.As(err, &e) {
		m.t.Fatal(err)
	}
	return e.ExitCode, out
}

func (m *machine) flavor(text string) {
	m.must(os.WriteFile(filepath.Join(m.root, "flavor.yaml"), []byte(text), 0o644))
}

const realFlavor = `apiVersion: holdfast.dev/v1alpha1
kind: NodeFlavor
metadata: {name: real}
spec:
  disks:
  - name: data
    role: static
    count: 1
    minSize: 400Mi
    layout:
      partitions:
      - {count: 2, size: 24Mi, filesystem: ext4, storageClass: local, mkfsOptions: [-m, "0"], mountOptions: [noatime]}
      - {size: 16Mi, storageClass: raw}
      - {filesystem: xfs, storageClass: local-xfs}
  - {name: db, role: lvm, count: 1, minSize: 100Mi, layout: {volumeGroup: {}}}
  - {name: wide, role: lvm, count: 2, minSize: 50Mi, layout: {volumeGroup: {spread: All}}}
`

// Real disks, real programs, kill -9 before and after those that change
// something. A file system beside them stays as it is, to the byte.
func TestKilledOnRealDisks(t *testing.T) {
	for kill := 0; ; kill += 9 { // each of the 88 takes some seconds; the model of a host has them all
		done := false
		t.Run(fmt.Sprint(kill), func(t *testing.T) {
			m := newMachine(t, 448<<20, 128<<20, 64<<20, 64<<20, 128<<20)
			m.flavor(realFlavor)
			canary := filepath.Join(m.root, "disk4.img")
			m.run("mkfs.ext4", "-q", "/dev/"+m.loops[4])
			m.run("sync", canary)
			before, err := os.ReadFile(canary)
			m.must(err)
			code, out := m.prepare(kill, "")
			done = code == 0
			if !done && code != -1 {
				t.Fatalf("exit code %d\n%s", code, out)
			}
			for range 2 {
				if code, out = m.prepare(-1, ""); code != 0 {
					t.Fatalf("exit code %d\n%s", code, out)
				}
			}
			if strings.Contains(out, "format") || strings.Contains(out, ": partition") {
				t.Errorf("a further run is not idle:\n%s", out)
			}
			points := m.mountPoints()
			if len(points) != 3 {
				t.Errorf("mount points %v", points)
			}
			for _, p := range points {
				if _, err := os.ReadFile(filepath.Join(p, "written-by-a-pod")); err != nil {
					t.Errorf("what a pod wrote is lost: %v", err)
				}
			}
			after, err := os.ReadFile(canary)
			m.must(err)
			if !bytes.Equal(before, after) {
				t.Error("the disk beside them was changed")
			}
			data, err := os.ReadFile(filepath.Join(m.root, nodedisks.Path))
			m.must(err)
			f, err := nodedisks.Parse(nodedisks.Path, data)
			if err != nil || len(f.Disks) != 4 || len(f.VolumeGroups) != 2 {
				t.Errorf("%v\n%s", err, data)
			}
			for _, p := range f.Disks[slices.IndexFunc(f.Disks, func(d nodedisks.Disk) bool { return d.Group == "data" })].Partitions {
				_, err := os.ReadFile(filepath.Join(m.root, nodedisks.CertificateDir, nodedisks.CertificateName(p.UUID)))
				if (err == nil) != (p.Filesystem == "") {
					t.Errorf("certificate of partition %s with file system %q: %v", p.UUID, p.Filesystem, err)
				}
			}
			if kill == 0 {
				t.Logf("%s\n%s", out, data)
				m.run("sfdisk", "--verify", "/dev/"+m.loops[0])
				m.unmount()
				for _, p := range points {
					if err := os.WriteFile(filepath.Join(p, "x"), nil, 0o644); !errors.Is(err, os.ErrPermission) {
						t.Errorf("the directory below the mount can be written to: %v", err)
					}
				}
			}
		})
		if done || t.Failed() {
			t.Logf("%d boundaries", kill)
			return
		}
	}
}

// The kernel's own refusal: nothing in sysfs or the mount table says that the
// disk is in use, and an exclusive open does.
func TestClaimedDiskIsNotTaken(t *testing.T) {
	m := newMachine(t, 64<<20)
	m.flavor(strings.ReplaceAll(realFlavor[:strings.Index(realFlavor, "  - name: data")], "\n\n", "\n") + "  - {name: wide, role: lvm, count: 1, layout: {volumeGroup: {}}}\n")
	x, err := os.OpenFile("/dev/"+m.loops[0], os.O_RDONLY|syscall.O_EXCL, 0)
	m.must(err)
	code, out := m.prepare(-1, "")
	m.must(x.Close())
	if code != nodeprep.ExitRefused || !strings.Contains(out, "claimed by something in the kernel") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out := m.prepare(-1, ""); code != 0 {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// A real file system, given up with its token, killed at each boundary of it.
func TestWipedRealDisk(t *testing.T) {
	tokenRE := regexp.MustCompile(`--wipe (\S+=\S+)`)
	for kill := 0; ; kill += 3 {
		done := false
		t.Run(fmt.Sprint(kill), func(t *testing.T) {
			m := newMachine(t, 448<<20)
			m.flavor(realFlavor[:strings.Index(realFlavor, "  - {name: db")])
			dev := "/dev/" + m.loops[0]
			m.must(os.WriteFile(filepath.Join(m.root, "table"), []byte("label: gpt\n,100M\n,\n"), 0o644))
			script, err := os.Open(filepath.Join(m.root, "table"))
			m.must(err)
			_, err = hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "sfdisk", Args: []string{dev}, Stdin: script})
			m.must(errors.Join(err, script.Close()))
			m.run("partx", "--update", dev)
			m.run("mkfs.ext4", "-q", dev+"p1")
			m.run("mkfs.ext4", "-q", dev+"p2")
			code, out := m.prepare(-1, "")
			match := tokenRE.FindStringSubmatch(out)
			if code != nodeprep.ExitRefused || match == nil {
				t.Fatalf("exit code %d\n%s", code, out)
			}
			code, out = m.prepare(kill, match[1])
			if done = code == 0; !done && code != -1 {
				t.Fatalf("exit code %d\n%s", code, out)
			}
			if !done {
				// Once the wipe is recorded the token is used up, and to give it again is a slip.
				if code, out = m.prepare(-1, match[1]); code != 0 && code != nodeprep.ExitRefused {
					t.Fatalf("exit code %d\n%s", code, out)
				}
				// A loop device's id names a place: its begun wipe needs the token of what is there now.
				if again := tokenRE.FindStringSubmatch(out); again != nil {
					match = again
					if code, out = m.prepare(-1, match[1]); code != 0 {
						t.Fatalf("exit code %d\n%s", code, out)
					}
				}
				if code, out = m.prepare(-1, ""); code != 0 {
					t.Fatalf("exit code %d\n%s", code, out)
				}
			}
			if code, out = m.prepare(-1, match[1]); code == 0 || len(m.mountPoints()) != 3 {
				t.Errorf("the token is taken again, or not all is mounted: %d\n%s", code, out)
			}
		})
		if done || t.Failed() {
			t.Logf("%d boundaries", kill)
			return
		}
	}
}
