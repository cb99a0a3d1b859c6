//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	o.Addons = append(o.Addons, "lvm-csi-driver")
	for _, name := range []string{"node-prepare", "lvm.test"} {
		o.Programs = append(o.Programs, filepath.Join(binDir, name))
	}
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
	out, err := n.Run(ctx, "cd /root && HOLDFAST_LVM_DISKS=/etc/holdfast/disks.yaml "+lab.PayloadDir+"/lvm.test -test.run TestConformanceOfAMachine -test.v 2>&1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(out, "--- PASS"); n < 5 {
		t.Errorf("only %d tests passed:\n%s", n, out)
	}
}

// lvmPillar are the storage classes of the driver.
const lvmPillar = `lvm-csi-driver:
  storageClasses:
  - {name: lvm-thin, fstype: ext4, parameters: {pool: db, type: thin}}
  - {name: lvm-linear, fstype: xfs, parameters: {pool: db, type: linear}}
`

// testPushLVM is testPush with the LVM driver among the addons.
func testPushLVM(t *testing.T) {
	must(t, l.Fleet.Edit("salt/states/top.sls", "    - disk-monitor\n", "    - disk-monitor\n    - lvm-csi-driver\n"))
	must(t, l.Fleet.AddFile("salt/pillar/common.sls", lvmPillar))
	testPush(t)
}

// testClaims: claims of a pod become logical volumes of its node, keep what is written
// over a restart of the pod, grow while they are mounted, and are gone with the claims.
func testClaims(t *testing.T) {
	ctx := t.Context()
	n := l.Nodes[0]
	claims := []*corev1.PersistentVolumeClaim{
		claim("rows", "lvm-thin", "64Mi", corev1.PersistentVolumeFilesystem),
		claim("log", "lvm-linear", "320Mi", corev1.PersistentVolumeFilesystem),
		claim("raw", "lvm-linear", "32Mi", corev1.PersistentVolumeBlock),
	}
	for _, c := range claims {
		must(t, l.Client.Create(ctx, c))
	}
	start := time.Now()
	runPod(t, n, "writer", `dd if=/dev/urandom of=/rows/data bs=64k count=64 conv=fsync status=none
cp /rows/data /log/data; sync /log/data
dd if=/rows/data of=/dev/raw bs=64k oflag=direct status=none`)
	t.Logf("three volumes made, mounted and written %.1f s after their claims", time.Since(start).Seconds())

	patch := client.MergeFrom(claims[0].DeepCopy())
	claims[0].Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("128Mi")
	must(t, l.Client.Patch(ctx, claims[0], patch))
	runPod(t, n, "reader", `cmp /rows/data /log/data
dd if=/dev/raw bs=64k count=64 iflag=direct status=none | cmp - /rows/data
for i in $(seq 300); do [ "$(df --output=size -BM /rows | tail -n 1 | tr -dc 0-9)" -lt 100 ] || exit 0; sleep 1; done
echo 'the file system does not grow' >&2; exit 1`)

	var capacities storagev1.CSIStorageCapacityList
	must(t, l.Client.List(ctx, &capacities, client.InNamespace(lab.SystemNamespace)))
	if want := 2 * len(l.Nodes); len(capacities.Items) != want {
		t.Errorf("%d CSIStorageCapacity objects, want %d", len(capacities.Items), want)
	}
	volumes := map[string]bool{}
	for _, c := range claims {
		must(t, l.Client.Get(ctx, client.ObjectKeyFromObject(c), c))
		var pv corev1.PersistentVolume
		must(t, l.Client.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, &pv))
		if id := have[string](t)(n.DiskID("lvm")); pv.Annotations[v1alpha1.AnnotationDisk] != id || pv.Labels[v1alpha1.LabelNode] != n.Name {
			t.Errorf("volume %s says it is on disk %q of node %q, want %s of %s", pv.Name, pv.Annotations[v1alpha1.AnnotationDisk], pv.Labels[v1alpha1.LabelNode], id, n.Name)
		}
		volumes[pv.Name] = true
		must(t, l.Client.Delete(ctx, c))
	}
	eventually(t, patience, "the volumes gone", func() (bool, error) {
		for name := range volumes {
			var pv corev1.PersistentVolume
			if err := l.Client.Get(ctx, client.ObjectKey{Name: name}, &pv); !apierrors.IsNotFound(err) {
				return false, errors.Join(err, fmt.Errorf("%s is %s", name, pv.Status.Phase))
			}
		}
		return true, nil
	})
	if left := sh(t, n, "lvs --noheadings -o lv_name,lv_tags hf-lvm | grep hf.id || true"); left != "" {
		t.Errorf("logical volumes that no claim has: %s", left)
	}
	awaitHealthy(t)
}

func claim(name, class, size string, mode corev1.PersistentVolumeMode) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeMode: &mode,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
}

// runPod runs a script to its end in a pod with the claims of testClaims, and removes
// the pod.
func runPod(t *testing.T, n *lab.Node, name, script string) {
	t.Helper()
	ctx := t.Context()
	volume := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](0), AutomountServiceAccountToken: ptr.To(false),
		NodeSelector: map[string]string{corev1.LabelHostname: n.Name},
		Containers: []corev1.Container{{Name: "main", Image: have[string](t)(l.Image("storage-tools")), Command: []string{"bash", "-euc", script},
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			VolumeMounts:             []corev1.VolumeMount{{Name: "rows", MountPath: "/rows"}, {Name: "log", MountPath: "/log"}},
			VolumeDevices:            []corev1.VolumeDevice{{Name: "raw", DevicePath: "/dev/raw"}},
		}},
		Volumes: []corev1.Volume{volume("rows"), volume("log"), volume("raw")},
	}}
	must(t, l.Client.Create(ctx, pod))
	// A kubelet looks for file systems to grow when it looks at a pod again, every
	// minute or two (pkg/kubelet/volumemanager/populator, checkVolumeFSResize).
	eventually(t, 2*patience, "end of pod "+name, func() (bool, error) {
		if err := l.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return false, err
		}
		if pod.Status.Phase == corev1.PodFailed {
			t.Fatalf("pod %s failed: %v", name, pod.Status.ContainerStatuses)
		}
		if pod.Status.Phase != corev1.PodSucceeded {
			return false, fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return true, nil
	})
	must(t, l.Client.Delete(ctx, pod))
	eventually(t, patience, "pod "+name+" gone", func() (bool, error) {
		err := l.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
