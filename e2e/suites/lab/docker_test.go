//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/guest"
	"holdfast.dev/internal/nodedisks"
)

const (
	plugin        = "holdfast-docker-volume"
	pluginSocket  = "/run/docker/plugins/holdfast.sock"
	pluginState   = "/run/holdfast/docker-volume"
	pluginMounts  = "/var/lib/holdfast/docker-volume"
	preparedDisks = "/root/np/etc/disks.yaml" // of testNodePrepare
	dockerRoot    = "/root/docker"
	// dockerPatience is for a few commands of Docker: each starts programs of 50 MB, and a
	// container takes an emulated processor ten seconds and more.
	dockerPatience = 6 * time.Minute
	// tenant is in the file that a container writes.
	tenant = "holdfast-tenant-of-docker"
)

// dockerHost is a node on which Docker runs with the volume plugin, over a volume group
// that node-prepare has made.
type dockerHost struct {
	n     *lab.Node
	group nodedisks.VolumeGroup
}

// testDocker: Debian's Docker, as systemd runs it, gets its volumes from
// holdfast-docker-volume, as its README installs it, over the volume group of
// testNodePrepare. Nothing of it stays in the node.
func testDocker(t *testing.T) {
	h := startDocker(t, l.Nodes[1])
	h.create(t)
	h.share(t)
	h.forgetAll(t)
	h.killDocker(t)
	h.remove(t)
	h.stop(t)
}

// script runs in a node with patience. No docker reads the rest of the script, which is on
// standard input.
func (h *dockerHost) script(ctx context.Context, script string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	out, err := h.n.Run(ctx, "docker() { command docker \"$@\" </dev/null; }\n"+fmt.Sprintf(script, args...))
	return strings.TrimSpace(out), err
}

// run runs a script that must end well, and returns what it said.
func (h *dockerHost) run(t *testing.T, script string, args ...any) string {
	t.Helper()
	return have[string](t)(h.script(t.Context(), script, args...))
}

// refused runs a script that must fail and say why.
func (h *dockerHost) refused(t *testing.T, why, script string, args ...any) {
	t.Helper()
	out, err := h.script(t.Context(), script, args...)
	var exit *guest.ExitError
	if !errors.As(err, &exit) || !strings.Contains(out, why) {
		t.Fatalf("%s: got %v and %q, want a refusal with %q", fmt.Sprintf(script, args...), err, out, why)
	}
}

// startDocker installs the plugin and starts it and Docker. The node's disks.yaml is
// node-prepare's own until stop.
func startDocker(t *testing.T, n *lab.Node) *dockerHost {
	t.Helper()
	h := &dockerHost{n: n}
	file := have[*nodedisks.File](t)(nodedisks.Parse(preparedDisks, []byte(sh(t, n, "cat %s", preparedDisks))))
	if len(file.VolumeGroups) != 1 || file.VolumeGroups[0].ThinPool == "" {
		t.Fatalf("node-prepare made the volume groups %v, want one with a thin pool", file.VolumeGroups)
	}
	h.group = file.VolumeGroups[0]
	h.run(t, `cp -p %[1]s %[1]s.lab
cp %[2]s %[1]s.new
mv %[1]s.new %[1]s
install -m 755 %[3]s/%[4]s /usr/local/sbin/
install -m 644 %[3]s/%[4]s.service /etc/systemd/system/
# Docker leaves the network to the kubelet.
echo '{"bridge": "none", "iptables": false, "ip-forward": false, "data-root": "%[5]s"}' > /etc/docker/daemon.json
mkdir -p /root/tools/bin
cp /bin/busybox /root/tools/bin/
for a in sh cat cp dd seq sha256sum sleep sync; do ln -sf busybox /root/tools/bin/$a; done
tar -C /root/tools -cf /root/tools.tar .
systemctl daemon-reload
systemctl enable --quiet %[4]s`, nodedisks.Path, preparedDisks, lab.PayloadDir, plugin, dockerRoot)
	h.begin(t)
	return h
}

// begin starts Docker, and so the plugin, which its service wants. An import is all that
// brings an image here.
func (h *dockerHost) begin(t *testing.T) {
	t.Helper()
	start := time.Now()
	h.run(t, `systemctl reset-failed docker.service docker.socket || true
systemctl start docker.service
systemctl is-active %s
docker import /root/tools.tar tools:1`, plugin)
	t.Logf("Docker runs and has an image after %.0f s", time.Since(start).Seconds())
}

// create makes a volume of each kind, and one that cannot be.
func (h *dockerHost) create(t *testing.T) {
	h.refused(t, "unknown; known are", "docker volume create -d holdfast -o sise=5Gi bad 2>&1")
	start := time.Now()
	h.run(t, `docker volume create -d holdfast -o size=320Mi -o fsType=xfs -o vg=%s rows
docker volume create -d holdfast -o size=64Mi -o kind=thin -o fsType=ext4 -o mkfsOptions='-m 0' copy`, h.group.Name)
	t.Logf("two volumes made in %.0f s", time.Since(start).Seconds())
	for name, want := range map[string]string{"rows": "hf.fs=xfs", "copy": "hf.fs=ext4"} {
		got := strings.Split(h.run(t, "lvs --noheadings -o lv_tags %s/hfd-%s", h.group.Name, name), ",")
		for _, tag := range []string{want, "hf.kind=docker", "hf.pv=" + name} {
			if !slices.Contains(got, tag) {
				t.Errorf("logical volume hfd-%s has the tags %q, want %s among them", name, got, tag)
			}
		}
	}
	h.run(t, `docker run --rm --network none -v rows:/rows -v copy:/copy tools:1 sh -euc '
for i in $(seq 200); do echo "%s $i"; done > /rows/data
dd if=/dev/urandom bs=64k count=64 >> /rows/data 2>/dev/null
cp /rows/data /copy/data
sha256sum /rows/data /copy/data > /rows/sums
sync'`, tenant)
	h.holders(t, "rows", 0)
	h.holders(t, "copy", 0)
}

// intact has a new container look at what the first one has written.
func (h *dockerHost) intact(t *testing.T) {
	t.Helper()
	h.run(t, "docker run --rm --network none -v rows:/rows -v copy:/copy tools:1 sha256sum -c /rows/sums")
}

// holders waits until so many containers hold a volume, and it is mounted once for them all.
func (h *dockerHost) holders(t *testing.T, volume string, want int) {
	t.Helper()
	mounts := min(want, 1)
	eventually(t, dockerPatience, fmt.Sprintf("%d holders of volume %s, and %d mounts", want, volume, mounts), func() (bool, error) {
		got, err := h.script(t.Context(), `docker volume inspect -f '{{.Status.holders}}' %[1]s
grep -c ' %[2]s/hfd-%[1]s ' /proc/self/mountinfo || true`, volume, pluginMounts)
		if err != nil {
			return false, err
		}
		if got != fmt.Sprintf("%d\n%d", want, mounts) {
			return false, fmt.Errorf("holders and mounts are %q", got)
		}
		return true, nil
	})
}

// kill kills the process of a service with -9 and waits until systemd has started the next.
func (h *dockerHost) kill(t *testing.T, service string) {
	t.Helper()
	show := "systemctl show --property MainPID --value " + service
	before := h.run(t, "%s", show)
	h.run(t, "systemctl kill --signal=KILL %s", service)
	eventually(t, dockerPatience, "another process of "+service, func() (bool, error) {
		now, err := h.script(t.Context(), "systemctl is-active %s; %s", service, show)
		if err != nil {
			return false, err
		}
		_, pid, told := strings.Cut(now, "\n")
		if !told || pid == before || pid == "0" {
			return false, fmt.Errorf("its process is %q", pid)
		}
		return true, nil
	})
}

// share: two containers hold a volume. The plugin that is killed meanwhile costs them
// nothing, and the next one knows them: neither Docker nor anybody else can have the
// volume removed, and it is mounted until the last one ends.
func (h *dockerHost) share(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		h.run(t, "docker run -d --name %s --network none -v rows:/rows tools:1 sleep 100000", name)
	}
	h.holders(t, "rows", 2)
	h.kill(t, plugin)
	h.holders(t, "rows", 2)
	h.run(t, "docker exec two cat /rows/data | cmp - %s/hfd-rows/data", pluginMounts)
	h.refused(t, "volume is in use", "docker volume rm rows 2>&1")
	// Docker would not ask that; perl is in every Debian.
	const ask = `perl -MIO::Socket::UNIX -e '
my $s = IO::Socket::UNIX->new("%s") or die "connect: $!";
my $body = q({"Name":"rows"});
print $s "POST /VolumeDriver.Remove HTTP/1.0\r\nContent-Length: ", length($body), "\r\n\r\n$body";
print while <$s>;'`
	if said := h.run(t, ask, pluginSocket); !strings.Contains(said, "it is in use by process") || !strings.Contains(said, "(sleep) at /rows") {
		t.Fatalf("asked to remove a volume that containers have, the plugin says %q", said)
	}
	h.run(t, "docker rm -f one")
	h.holders(t, "rows", 1)
	h.run(t, "docker rm -f two")
	h.holders(t, "rows", 0)
	if left := h.run(t, "ls -A %s/holders", pluginState); left != "" {
		t.Errorf("records of volumes that nobody has: %s", left)
	}
}

// forgetAll: what Docker and the plugin have noted is lost; the tags bring the volumes back.
func (h *dockerHost) forgetAll(t *testing.T) {
	h.run(t, `systemctl stop docker.socket docker.service %s
rm -r %s %s`, plugin, dockerRoot, pluginState)
	h.begin(t)
	if got := h.run(t, "docker volume ls -q -f driver=holdfast | sort"); got != "copy\nrows" {
		t.Fatalf("Docker lists the volumes %q, want copy and rows", got)
	}
	h.intact(t)
}

// killDocker: Docker dies while a container has a volume. Its next process ends the
// container; whether it unmounts depends on its version, and a plugin that did not tell
// it of the container sees that nobody has the volume.
func (h *dockerHost) killDocker(t *testing.T) {
	h.run(t, "docker run -d --name three --network none -v copy:/copy tools:1 sleep 100000")
	h.holders(t, "copy", 1)
	h.kill(t, "docker.service")
	h.run(t, "docker rm -f three")
	t.Logf("after its death Docker has unmounted all but %s", h.run(t, "docker volume inspect -f '{{.Status.holders}}' copy"))
	h.intact(t)
	h.kill(t, plugin)
	h.holders(t, "rows", 0)
}

// remove: what was written is gone from the disk with its volume.
func (h *dockerHost) remove(t *testing.T) {
	const count = "grep -zac %s /dev/%s/%s || [ $? = 1 ]" // 2: it is not there, or cannot be read
	if h.run(t, count, tenant, h.group.Name, "hfd-rows") == "0" {
		t.Errorf("the device of volume rows does not have what was written to it")
	}
	where := "lvs --noheadings -o seg_pe_ranges " + h.group.Name + "/%s"
	extents := h.run(t, where, "hfd-rows")
	start := time.Now()
	h.run(t, "docker volume rm rows copy")
	t.Logf("two volumes wiped and removed in %.0f s", time.Since(start).Seconds())
	if got := h.run(t, "docker volume ls -q"); got != "" {
		t.Errorf("Docker still lists the volumes %q", got)
	}
	if got := h.run(t, "lvs --noheadings -o lv_name %s", h.group.Name); got != h.group.ThinPool {
		t.Errorf("volume group %s has the logical volumes %q, want its thin pool %s alone", h.group.Name, got, h.group.ThinPool)
	}
	h.run(t, "lvcreate --yes --zero n --wipesignatures n --size 320M --name probe %s %s", h.group.Name, extents)
	if got := h.run(t, where, "probe"); got != extents {
		t.Fatalf("the extents looked at are %q, those of the volume were %q", got, extents)
	}
	if left := h.run(t, count, tenant, h.group.Name, "probe"); left != "0" {
		t.Errorf("%s lines of volume rows are left on %s", left, extents)
	}
	h.run(t, "lvremove --yes %s/probe", h.group.Name)
}

// stop leaves the node as it was, and says what Docker and the plugin have left in it.
func (h *dockerHost) stop(t *testing.T) {
	left := h.run(t, `systemctl disable --quiet --now %[1]s
systemctl stop docker.socket docker.service
grep -e %[2]s -e %[3]s /proc/self/mountinfo || true
ls -A %[2]s
ctr -n moby containers list -q
dmsetup ls | grep hfd || true
rmdir %[2]s
rm -r %[3]s %[4]s /root/tools /root/tools.tar /usr/local/sbin/%[1]s /etc/systemd/system/%[1]s.service /etc/docker/daemon.json
mv %[5]s.lab %[5]s
systemctl daemon-reload`, plugin, pluginMounts, dockerRoot, pluginState, nodedisks.Path)
	if left != "" {
		t.Errorf("Docker and its plugin leave in the node:\n%s", left)
	}
}
