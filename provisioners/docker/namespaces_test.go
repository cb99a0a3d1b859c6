package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/docker"
)

// proc writes a /proc with these processes: number, mount namespace, mounts.
func proc(t *testing.T, processes ...[3]string) *hostfs.FS {
	t.Helper()
	dir := t.TempDir()
	for _, p := range processes {
		d := filepath.Join(dir, "proc", p[0])
		if err := os.MkdirAll(filepath.Join(d, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("mnt:["+p[1]+"]", filepath.Join(d, "ns/mnt")); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"mountinfo": p[2], "comm": "postgres\n"} {
			if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// TestUsers: which mounts keep a volume when ours goes.
func TestUsers(t *testing.T) {
	const target = "/var/lib/holdfast/docker-volume/hfd-db"
	id := 100
	line := func(number, at, optional string) string {
		id++ // each mount has its own
		return strings.ReplaceAll(fmt.Sprintf("%d 1 %s / %s rw,relatime %s - xfs /dev/mapper/x rw\n", id, number, at, optional), "  ", " ")
	}
	host := [3]string{"1", "1", line("253:7", target, "shared:40")}
	for name, tc := range map[string]struct {
		reason string
		others [][3]string
		want   string
	}{
		"Nobody":       {"our own mount is no user", nil, ""},
		"Container":    {"a container has it where it was asked for, without propagation", [][3]string{{"70", "2", line("253:7", "/var/lib/postgresql", "")}}, "process 70 (postgres) at /var/lib/postgresql"},
		"Slave":        {"a volume with bind-propagation=rslave is at another path", [][3]string{{"70", "2", line("253:7", "/data", "master:40")}}, "process 70 (postgres) at /data"},
		"Service":      {"a service of systemd with a namespace of its own gets our unmount", [][3]string{{"70", "2", line("253:7", target, "shared:41 master:40")}}, ""},
		"RootOfHost":   {"a container that has / with propagation gets it too", [][3]string{{"70", "2", line("253:7", "/host"+target, "master:40")}}, ""},
		"PrivateRoot":  {"one that has / without propagation keeps it", [][3]string{{"70", "2", line("253:7", "/host"+target, "")}}, "at /host" + target},
		"OtherDevice":  {"another volume", [][3]string{{"70", "2", line("253:8", "/data", "")}}, ""},
		"HostItself":   {"a bind mount by a person, or by a runtime of virtual machines", [][3]string{{"1", "1", host[2] + line("253:7", "/mnt", "")}}, "a mount of the host at /mnt"},
		"SameNS":       {"processes of the host's own namespace are looked at once", [][3]string{{"70", "1", line("253:7", "/data", "")}}, ""},
		"SameMount":    {"a process 1 that hides its namespace: others of the host's looked like users of it, and nothing could be removed", [][3]string{{"70", "2", host[2]}}, ""},
		"NoMountTable": {"a process that ended", [][3]string{{"70", "2", ""}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			all := [][3]string{host}
			for _, o := range tc.others {
				if o[0] == "1" {
					all = nil
				}
			}
			users, err := docker.NewProcOf(proc(t, append(all, tc.others...)...), 253, 7).Users(t.Context(), "/dev/hf-a/hfd-db", target)
			got := strings.Join(users, "; ")
			if err != nil || tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, %v, want %q; reason: %s", got, err, tc.want, tc.reason)
			}
		})
	}
	if _, err := docker.NewProcOf(proc(t), 253, 7).Users(t.Context(), "/dev/x/y", target); err == nil {
		t.Error("a host without a mount table has no users")
	}
}
