//go:build lab

package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/internal/nodedisks"
)

const (
	pool = "db"
	// Disks of the second node that node-prepare gets; larger than all others, so
	// that a flavor can ask for them.
	rawDisk, groupDisk = "blank", "blankgroup"
	gib                = int64(1) << 30
)

// addVolumeDisks gives each node a disk that becomes a volume group, and the second
// one two more for node-prepare. They are files with holes.
func addVolumeDisks(o *lab.Options) {
	disk := func(node int, name string, size int64) lab.Disk {
		return lab.Disk{Disk: machine.Disk{Name: name, Bus: machine.SCSI, Size: size,
			Serial: strings.ToUpper(name) + fmt.Sprint(node), WWN: 0x5000c500a1c00000 + uint64(node)<<8 + uint64(size>>30)}}
	}
	for i := range o.Nodes {
		d := disk(i+1, "lvm", 5*gib)
		d.Pool = pool
		o.Nodes[i].Disks = append(o.Nodes[i].Disks, d)
	}
	o.Nodes[1].Disks = append(o.Nodes[1].Disks, disk(2, rawDisk, 8*gib), disk(2, groupDisk, 12*gib))
	o.Addons = append(o.Addons, "lvm-csi-driver", "storage-scheduler")
	for _, name := range []string{"node-prepare", "lvm.test", plugin} {
		o.Programs = append(o.Programs, filepath.Join(binDir, name))
	}
	o.Programs = append(o.Programs, "../../../provisioners/docker/"+plugin+".service")
}

// flavor asks for the two disks of the second node that nothing else is on.
const flavor = `apiVersion: holdfast.dev/v1alpha1
kind: NodeFlavor
metadata: {name: lab}
spec:
  disks:
  - {name: system, role: system, count: 1}
  - name: groups
    role: lvm
    count: 1
    minSize: 10Gi
    layout: {volumeGroup: {spread: PerDisk, thinPoolPercent: 40}}
  - name: parts
    role: static
    count: 1
    minSize: 7Gi
    layout:
      partitions:
      - {size: 512Mi, filesystem: xfs, storageClass: local-ssd, mountOptions: [noatime]}
      - {size: 256Mi, filesystem: ext4, count: 2, storageClass: local-ssd}
      - {storageClass: local-raw}
`

// testNodePrepare: node-prepare on a machine with systemd, udev and a device mapper.
// It sees directories of its own in place of the node's /etc/holdfast and state.
func testNodePrepare(t *testing.T) {
	n := l.Nodes[1]
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	prepare := func(args string) string {
		t.Helper()
		return have[string](t)(n.Run(ctx, fmt.Sprintf(`mkdir -p /root/np/etc /root/np/lib /etc/holdfast /var/lib/holdfast
cat > /root/np/flavor.yaml <<'END'
%sEND
unshare --mount sh -c 'mount --bind /root/np/etc /etc/holdfast; mount --bind /root/np/lib /var/lib/holdfast; %s/node-prepare --flavor-file /root/np/flavor.yaml %s' 2>&1`, flavor, lab.PayloadDir, args)))
	}
	t.Log(prepare("--apply"))
	again := prepare("")
	if !strings.Contains(again, "as its flavor says") {
		t.Errorf("a second run says\n%s", again)
	}
	data := []byte(have[string](t)(n.Run(t.Context(), "cat /root/np/etc/disks.yaml")))
	file := have[*nodedisks.File](t)(nodedisks.Parse("disks.yaml", data))
	mounted := 0
	for _, d := range file.Disks {
		for _, p := range d.Partitions {
			if p.MountPoint == "" {
				continue
			}
			mounted++
			if got := sh(t, n, "findmnt -nro FSTYPE,PARTUUID %s", p.MountPoint); got != p.Filesystem+" "+p.UUID {
				t.Errorf("%s is %q, want %s on %s", p.MountPoint, got, p.Filesystem, p.UUID)
			}
		}
	}
	if mounted != 3 || len(file.VolumeGroups) != 1 {
		t.Fatalf("disks.yaml has %d mounts and %d volume groups:\n%s", mounted, len(file.VolumeGroups), data)
	}
	g := file.VolumeGroups[0]
	if got := sh(t, n, "lvs --noheadings -o lv_attr %s/%s", g.Name, g.ThinPool); !strings.HasPrefix(got, "twi-a") {
		t.Errorf("thin pool %s/%s is %q", g.Name, g.ThinPool, got)
	}
	if got := sh(t, n, "vgs --noheadings -o vg_uuid %s", g.Name); got != g.UUID {
		t.Errorf("volume group %s is %s, disks.yaml says %s", g.Name, got, g.UUID)
	}
}

// testLVM runs the LVM driver's conformance suite on the second node: the same that its
// machine in memory passes.
func testLVM(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	n := l.Nodes[1]
	out, err := n.Run(ctx, "cd /root && HOLDFAST_LVM_DISKS=/etc/holdfast/disks.yaml HOLDFAST_LVM_RESULT=/root/lvm.json "+lab.PayloadDir+"/lvm.test -test.run TestConformanceOfAMachine -test.v 2>&1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// That it ended well says little of a program that may have tried nothing. What holds it
	// tells by name, and that these are all cases it has looked at itself.
	var held map[string][]string
	if err := json.Unmarshal([]byte(sh(t, n, "cat /root/lvm.json")), &held); err != nil {
		t.Fatalf("read the suite's result: %v\n%s", err, out)
	}
	for _, want := range []string{"thinxfs", "ext4", "block", "Counted", "Copies", "Devices", "Zeroes"} {
		if !slices.ContainsFunc(slices.Collect(maps.Values(held)), func(g []string) bool { return slices.Contains(g, want) }) {
			t.Errorf("case %s was not tried or does not hold: %v\n%s", want, held, out)
		}
	}
}

// volumesPillar are the storage classes: released local volumes are cleaned.
const volumesPillar = `local-volume-provisioner:
  storageClasses:
  - {name: local-ssd, reclaimPolicy: Delete, clean: zero}
lvm-csi-driver:
  storageClasses:
  - {name: lvm-thin, fstype: ext4, parameters: {pool: db, type: thin}}
  - {name: lvm-linear, fstype: xfs, parameters: {pool: db, type: linear}}
`

// testPushVolumes is testPush with what else there is for volumes among the addons.
func testPushVolumes(t *testing.T) {
	must(t, l.Fleet.Edit("salt/states/top.sls", "    - disk-monitor\n", "    - disk-monitor\n    - lvm-csi-driver\n    - storage-scheduler\n"))
	must(t, l.Fleet.AddFile("salt/pillar/common.sls", volumesPillar))
	testPush(t)
}

// testClaims: claims of a pod become logical volumes of its node, keep what is written
// over a restart of the pod, are limited as their class of attributes says, grow while
// they are mounted, and are gone with the claims.
func testClaims(t *testing.T) {
	ctx := t.Context()
	n := l.Nodes[0]
	for name, iops := range map[string]string{"bronze": "500", "silver": "700"} {
		must(t, l.Client.Create(ctx, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name},
			DriverName: v1alpha1.DriverLVM, Parameters: map[string]string{"readIOPS": iops}}))
	}
	claims := []*corev1.PersistentVolumeClaim{
		claim("rows", "lvm-thin", "64Mi", corev1.PersistentVolumeFilesystem),
		claim("log", "lvm-linear", "320Mi", corev1.PersistentVolumeFilesystem),
		claim("raw", "lvm-linear", "32Mi", corev1.PersistentVolumeBlock),
	}
	claims[0].Spec.VolumeAttributesClassName = ptr.To("bronze")
	for _, c := range claims {
		must(t, l.Client.Create(ctx, c))
	}
	start := time.Now()
	p := newPod(t, n, "writer", `dd if=/dev/urandom of=/rows/data bs=64k count=64 conv=fsync status=none
cp /rows/data /log/data; sync /log/data
dd if=/rows/data of=/dev/raw bs=64k oflag=direct status=none
cp /rows/data /scratch/data; sync /scratch/data`, claims...)
	scratch := corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: v1alpha1.DriverLVM,
		FSType: ptr.To("ext4"), VolumeAttributes: map[string]string{"pool": pool, "type": "thin", "size": "32Mi"}}}}
	p.Spec.Volumes = append(p.Spec.Volumes, scratch)
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "scratch", MountPath: "/scratch"})
	must(t, l.Client.Create(ctx, p))
	finishPod(t, p)
	t.Logf("three volumes, and one of the pod's own, made, mounted and written %.1f s after their claims", time.Since(start).Seconds())

	p = newPod(t, n, "reader", `cmp /rows/data /log/data
dd if=/dev/raw bs=64k count=64 iflag=direct status=none | cmp - /rows/data
for i in $(seq 300); do [ "$(df --output=size -BM /rows | tail -n 1 | tr -dc 0-9)" -lt 100 ] || exit 0; sleep 1; done
echo 'the file system does not grow' >&2; exit 1`, claims...)
	must(t, l.Client.Create(ctx, p))
	limited := func(iops string) {
		t.Helper()
		eventually(t, patience, "reads limited to "+iops+" a second", func() (bool, error) {
			out, err := n.Run(ctx, "grep -rhs --include=io.max riops="+iops+" /sys/fs/cgroup/kubepods.slice || true")
			return strings.TrimSpace(out) != "", err
		})
	}
	limited("500")
	patch := client.MergeFrom(claims[0].DeepCopy())
	claims[0].Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("128Mi")
	claims[0].Spec.VolumeAttributesClassName = ptr.To("silver")
	must(t, l.Client.Patch(ctx, claims[0], patch))
	limited("700")
	finishPod(t, p)

	var capacities storagev1.CSIStorageCapacityList
	must(t, l.Client.List(ctx, &capacities, client.InNamespace(lab.SystemNamespace)))
	if want := 2 * len(l.Nodes); len(capacities.Items) != want {
		t.Errorf("%d CSIStorageCapacity objects, want %d", len(capacities.Items), want)
	}
	for _, c := range claims {
		pv := boundTo(t, c)
		if id := have[string](t)(n.DiskID("lvm")); pv.Annotations[v1alpha1.AnnotationDisk] != id || pv.Labels[v1alpha1.LabelNode] != n.Name {
			t.Errorf("volume %s says it is on disk %q of node %q, want %s of %s", pv.Name, pv.Annotations[v1alpha1.AnnotationDisk], pv.Labels[v1alpha1.LabelNode], id, n.Name)
		}
	}
	giveUp(t, claims)
	if left := sh(t, n, "lvs --noheadings -o lv_name,lv_tags hf-lvm | grep hf.id || true"); left != "" {
		t.Errorf("logical volumes that no claim has: %s", left)
	}
	awaitHealthy(t)
}

// canary is in every file that a tenant of testScheduler writes.
const canary = "holdfast-tenant-of-a-group"

// testScheduler: claims of one group are on different disks, whatever provisions them;
// a pod that asks for more disks than there are is told so; and what the claims leave
// behind on the local disks is gone before these are offered again.
func testScheduler(t *testing.T) {
	ctx := t.Context()
	n := l.Nodes[0]
	grouped := func(name, class, size string) *corev1.PersistentVolumeClaim {
		c := claim(name, class, size, corev1.PersistentVolumeFilesystem)
		c.Labels = map[string]string{v1alpha1.LabelAntiAffinity: "ledger"}
		must(t, l.Client.Create(ctx, c))
		return c
	}
	scheduled := func(name, script string, claims ...*corev1.PersistentVolumeClaim) *corev1.Pod {
		p := newPod(t, n, name, script, claims...)
		p.Spec.SchedulerName = "storage-scheduler"
		must(t, l.Client.Create(ctx, p))
		return p
	}
	claims := []*corev1.PersistentVolumeClaim{grouped("first", lab.StorageClass, "64Mi"), grouped("second", lab.StorageClass, "64Mi"), grouped("third", "lvm-thin", "32Mi")}
	p := scheduled("grouped", fmt.Sprintf(`for d in first second third; do for i in $(seq 200); do echo "%s $i"; done > /$d/rows; sync /$d/rows; done`, canary), claims...)
	finishPod(t, p)
	disks := map[string]string{}
	devices := map[string]string{}
	for _, c := range claims {
		pv := boundTo(t, c)
		id := pv.Annotations[v1alpha1.AnnotationDisk]
		if other, ok := disks[id]; ok {
			t.Errorf("claims %s and %s are both on disk %q", other, c.Name, id)
		}
		disks[id] = c.Name
		if uuid := pv.Annotations[v1alpha1.AnnotationPartition]; uuid != "" {
			devices[c.Name] = "/dev/disk/by-partuuid/" + uuid
			if sh(t, n, "grep -ac %s %s || true", canary, devices[c.Name]) == "0" {
				t.Errorf("%s does not have what was written to claim %s", devices[c.Name], c.Name)
			}
		}
	}
	if len(devices) != 2 {
		t.Errorf("%d of the claims are on partitions, want 2: %v", len(devices), devices)
	}

	// One disk with a partition is left for the group.
	more := []*corev1.PersistentVolumeClaim{grouped("fourth", lab.StorageClass, "64Mi"), grouped("fifth", lab.StorageClass, "64Mi")}
	p = scheduled("crowd", "true", more...)
	eventually(t, patience, "the scheduler's no to pod crowd", func() (bool, error) {
		if err := l.Client.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return false, err
		}
		for _, c := range p.Status.Conditions {
			if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse {
				continue
			}
			if strings.Contains(c.Message, "group "+namespace+"/ledger") {
				return true, nil
			}
			return false, errors.New(c.Message)
		}
		return false, fmt.Errorf("pod crowd is %s", p.Status.Phase)
	})
	removePod(t, p)

	giveUp(t, append(claims, more...))
	awaitHealthy(t) // each disk is an Available volume again
	for name, device := range devices {
		if left := sh(t, n, "grep -ac %s %s || true", canary, device); left != "0" {
			t.Errorf("%s lines of claim %s are left on %s", left, name, device)
		}
	}
}

func claim(name, class, size string, mode corev1.PersistentVolumeMode) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeMode: &mode,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
}

// boundTo is the volume of a claim.
func boundTo(t *testing.T, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	t.Helper()
	must(t, l.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c))
	var pv corev1.PersistentVolume
	must(t, l.Client.Get(t.Context(), client.ObjectKey{Name: c.Spec.VolumeName}, &pv))
	return &pv
}

// giveUp deletes claims and waits until their volumes are gone.
func giveUp(t *testing.T, claims []*corev1.PersistentVolumeClaim) {
	t.Helper()
	ctx := t.Context()
	volumes := map[string]types.UID{}
	for _, c := range claims {
		must(t, l.Client.Get(ctx, client.ObjectKeyFromObject(c), c))
		if c.Spec.VolumeName != "" {
			volumes[c.Spec.VolumeName] = boundTo(t, c).UID
		}
		must(t, l.Client.Delete(ctx, c))
	}
	eventually(t, 2*patience, "the volumes gone", func() (bool, error) {
		for name, uid := range volumes {
			var pv corev1.PersistentVolume
			if err := l.Client.Get(ctx, client.ObjectKey{Name: name}, &pv); client.IgnoreNotFound(err) != nil {
				return false, err
			}
			if pv.UID == uid {
				return false, fmt.Errorf("%s is %s", name, pv.Status.Phase)
			}
		}
		return true, nil
	})
}

// newPod is a pod on a node that runs a script once, with claims at /NAME or, raw, at
// /dev/NAME.
func newPod(t *testing.T, n *lab.Node, name, script string, claims ...*corev1.PersistentVolumeClaim) *corev1.Pod {
	t.Helper()
	c := corev1.Container{Name: "main", Image: have[string](t)(l.Image("storage-tools")), Command: []string{"bash", "-euc", script},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](0), AutomountServiceAccountToken: ptr.To(false),
		NodeSelector: map[string]string{corev1.LabelHostname: n.Name},
	}}
	for _, pvc := range claims {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: pvc.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pvc.Name}}})
		if *pvc.Spec.VolumeMode == corev1.PersistentVolumeBlock {
			c.VolumeDevices = append(c.VolumeDevices, corev1.VolumeDevice{Name: pvc.Name, DevicePath: "/dev/" + pvc.Name})
		} else {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: pvc.Name, MountPath: "/" + pvc.Name})
		}
	}
	pod.Spec.Containers = []corev1.Container{c}
	return pod
}

// finishPod waits for the end of a pod's script and removes the pod.
func finishPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	// A kubelet looks for file systems to grow when it looks at a pod again, every
	// minute or two (pkg/kubelet/volumemanager/populator, checkVolumeFSResize).
	eventually(t, 2*patience, "end of pod "+pod.Name, func() (bool, error) {
		if err := l.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return false, err
		}
		if pod.Status.Phase == corev1.PodFailed {
			t.Fatalf("pod %s failed: %v", pod.Name, pod.Status.ContainerStatuses)
		}
		if pod.Status.Phase != corev1.PodSucceeded {
			return false, fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.Conditions)
		}
		return true, nil
	})
	removePod(t, pod)
}

func removePod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	must(t, l.Client.Delete(t.Context(), pod))
	eventually(t, patience, "pod "+pod.Name+" gone", func() (bool, error) {
		err := l.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
