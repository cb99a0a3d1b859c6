package cleaner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

const (
	testNode  = "node-1"
	diskA     = "5000c500a0000001"
	diskB     = "5000c500b0000001"
	uuidFS    = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidRaw   = "aaaaaaaa-0000-4000-8000-000000000002"
	uuidOther = "bbbbbbbb-0000-4000-8000-000000000001"
	chunk     = 4096
	size      = 5*chunk + 512
)

var canary = []byte("CANARY-OF-AN-EARLIER-TENANT")

// header stands for a file system: what comes after it is its content.
func header(uuid string) []byte { return []byte("FILESYSTEM " + uuid + "\n") }

// errKilled is what a kill -9 looks like from within.
var errKilled = errors.New("killed")

// part is a partition in memory.
type part struct {
	disk    nodedisks.Disk
	spec    nodedisks.Partition
	data    []byte
	mounted bool
	pinned  []string
	number  string
	lies    func(*Sight) // of whoever is asked about it
	rotten  bool         // it keeps a byte, whatever is written
	noTrim  bool         // discards do nothing
}

// world is a node in memory: what is on the disks, and who says what of them.
type world struct {
	t     testing.TB
	parts map[string]*part
	file  nodedisks.File
	dir   string
	api   client.WithWatch
	// at is called before and after each effect, and may be the end.
	at      func(boundary string)
	writes  map[string]int // effects on each partition
	hang    map[string]chan struct{}
	release func()
}

func newWorld(t testing.TB, funcs interceptor.Funcs) *world {
	t.Helper()
	w := &world{t: t, parts: map[string]*part{}, dir: t.TempDir(), at: func(string) {}, writes: map[string]int{}, hang: map[string]chan struct{}{}, release: func() {}}
	fs := nodedisks.Partition{UUID: uuidFS, Filesystem: "ext4", MountPoint: "/mnt/a", StorageClass: "local-ssd"}
	raw := nodedisks.Partition{UUID: uuidRaw, StorageClass: "local-raw"}
	other := nodedisks.Partition{UUID: uuidOther, Filesystem: "xfs", MountPoint: "/mnt/b", StorageClass: "local-ssd"}
	a := nodedisks.Disk{ID: diskA, Group: "data", Role: v1alpha1.RoleStatic, Partitions: []nodedisks.Partition{fs, raw}}
	b := nodedisks.Disk{ID: diskB, Group: "data", Role: v1alpha1.RoleStatic, Partitions: []nodedisks.Partition{other}}
	w.file = nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks", Disks: []nodedisks.Disk{a, b}}
	for i, p := range []*part{{disk: a, spec: fs}, {disk: a, spec: raw}, {disk: b, spec: other}} {
		p.number, p.data, p.mounted = fmt.Sprintf("8:%d", i+1), make([]byte, size), p.spec.Filesystem != ""
		p.soil()
		w.parts[p.spec.UUID] = p
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, eventsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w.api = fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(funcs).WithStatusSubresource(&corev1.PersistentVolume{}).
		WithObjects(&v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: testNode}}).Build()
	return w
}

// soil fills a partition with a tenant's data, to its last byte.
func (p *part) soil() {
	for n := 0; n < len(p.data); n += copy(p.data[n:], canary) {
		continue
	}
	if p.spec.Filesystem != "" {
		copy(p.data, header("of-"+p.spec.UUID))
	}
}

// residue says whether any byte of a tenant is left.
func (p *part) residue() bool { return bytes.Contains(p.data, canary[:8]) }

func (p *part) sum() string { return fmt.Sprintf("%x", sha256.Sum256(p.data)) }

// volume puts the released volume of a partition into the cluster.
func (w *world) volume(uuid string) *corev1.PersistentVolume {
	w.t.Helper()
	pv := w.object(uuid)
	phase := pv.Status.Phase
	if err := w.api.Create(context.Background(), pv); err != nil {
		w.t.Fatal(err)
	}
	pv.Status.Phase = phase
	if err := w.api.Status().Update(context.Background(), pv); err != nil {
		w.t.Fatal(err)
	}
	if err := (Histories{w.dir}).NoteBound(uuid, tenancy(pv)); err != nil { // while it was
		w.t.Fatal(err)
	}
	return pv
}

func (w *world) object(uuid string) *corev1.PersistentVolume {
	p := w.parts[uuid]
	mode, path := corev1.PersistentVolumeFilesystem, p.spec.MountPoint
	if path == "" {
		mode, path = corev1.PersistentVolumeBlock, "/dev/disk/by-partuuid/"+uuid
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: local.VolumeName(p.disk.ID, uuid), UID: "uid-of-the-volume",
			Labels:      map[string]string{v1alpha1.LabelNode: testNode, v1alpha1.LabelDisk: diskid.Label(p.disk.ID)},
			Annotations: map[string]string{v1alpha1.AnnotationDisk: p.disk.ID, v1alpha1.AnnotationPartition: uuid, local.AnnotationProvisioner: local.Provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: p.spec.StorageClass, VolumeMode: &mode, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: "data", UID: "uid-of-the-claim"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{testNode}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased},
	}
}

// cleaning is a new process of the cleaner.
func (w *world) cleaning(method wipe.Method) (*Cleaning, *Cluster) {
	c := &Cluster{
		Node: testNode, Methods: local.Classes{"local-ssd": method, "local-raw": method}, Live: w.api, Disks: w, Looker: w, History: Histories{w.dir}.Load, Now: time.Now,
	}
	return &Cleaning{
		Records: Records{w.dir}, Histories: Histories{w.dir}, Disk: w, Filesystem: w, Volume: deletes{c, w}, Chunk: chunk, Now: time.Now,
		Progress: func(Job, Step, int64) {},
	}, c
}

func (w *world) prover(c *Cluster) *Prover {
	return &Prover{Dir: w.dir, Looker: w, Disk: w, Absent: c.Absent, Chunk: chunk, Now: time.Now}
}

// deletes makes the deletion of a volume an effect with two boundaries.
type deletes struct {
	*Cluster
	w *world
}

func (d deletes) Delete(ctx context.Context, j Job) error {
	d.w.at("before Delete")
	err := d.Cluster.Delete(ctx, j)
	d.w.at("after Delete")
	return err
}

func (w *world) Disks(context.Context) (*nodedisks.File, error) { return &w.file, nil }

func (w *world) Sight(_ context.Context, d nodedisks.Disk, spec nodedisks.Partition) (Sight, error) {
	p := w.parts[spec.UUID]
	s := Sight{
		Device: &local.Device{Name: "dev-" + spec.UUID, Partition: true, DiskID: d.ID, PartitionUUID: spec.UUID, Bytes: int64(len(p.data)), Number: p.number},
		Disks:  1, Pinned: p.pinned,
	}
	if p.mounted {
		s.Points = []string{spec.MountPoint}
	}
	if p.lies != nil {
		p.lies(&s)
	}
	return s, nil
}

func (w *world) byDevice(j Job) *part {
	for _, p := range w.parts {
		if p.number == j.Number {
			return p
		}
	}
	w.t.Fatalf("device %s of nobody", j.Number)
	return nil
}

func (w *world) effect(p *part, what string, do func()) {
	w.at("before " + what)
	do()
	w.writes[p.spec.UUID]++
	w.at("after " + what)
}

func (w *world) Shape(_ context.Context, j Job) (Shape, error) {
	p := w.byDevice(j)
	var uuid string
	if _, err := fmt.Sscanf(string(p.data[:64]), "FILESYSTEM %s\n", &uuid); err != nil {
		return Shape{}, nil
	}
	return Shape{UUID: uuid}, nil
}

func (w *world) Unmount(_ context.Context, j Job) error {
	p := w.byDevice(j)
	w.effect(p, "Unmount", func() { p.mounted = false })
	return nil
}

func (w *world) Format(_ context.Context, j Job, s Shape) error {
	p := w.byDevice(j)
	if p.mounted || len(p.pinned) > 0 {
		return wipe.ErrBusy
	}
	w.effect(p, "half of Format", func() { copy(p.data, "FILE") })
	w.effect(p, "Format", func() { copy(p.data, header(s.UUID)) })
	return nil
}

func (w *world) Mount(_ context.Context, j Job, s Shape) error {
	p := w.byDevice(j)
	w.effect(p, "Mount", func() { p.mounted = true })
	if !p.pristine() {
		return errors.New("not pristine")
	}
	return nil
}

// pristine is an empty file system and nothing else.
func (p *part) pristine() bool {
	_, rest, ok := bytes.Cut(p.data, []byte("\n"))
	return ok && bytes.HasPrefix(p.data, []byte("FILESYSTEM ")) && len(bytes.Trim(rest, "\x00")) == 0
}

func (w *world) Open(_ context.Context, j Job) (Opened, error) {
	p := w.byDevice(j)
	if p.mounted || len(p.pinned) > 0 {
		return nil, fmt.Errorf("open: %w", wipe.ErrBusy)
	}
	return &opened{w, p}, nil
}

type opened struct {
	w *world
	p *part
}

func (o *opened) Size() int64  { return int64(len(o.p.data)) }
func (o *opened) Sync() error  { return nil }
func (o *opened) Close() error { return nil }

func (o *opened) Erase(how wipe.Method, off, n int64) error {
	if c := o.w.hang[o.p.disk.ID]; c != nil {
		<-c
	}
	o.w.effect(o.p, fmt.Sprintf("%s at %d", how, off), func() {
		if how != wipe.Zero && o.p.noTrim {
			return
		}
		clear(o.p.data[off : off+n])
		if o.p.rotten {
			o.p.data[off] = 'x'
		}
	})
	return nil
}

func (o *opened) ReadAt(p []byte, off int64) (int, error) { return copy(p, o.p.data[off:]), nil }

// offerable is what the provisioner would offer: no volume stands, and the
// partition is known to be clean.
func (w *world) offerable(uuid string) bool {
	p := w.parts[uuid]
	if w.api.Get(context.Background(), client.ObjectKey{Name: local.VolumeName(p.disk.ID, uuid)}, &corev1.PersistentVolume{}) == nil {
		return false
	}
	if p.spec.Filesystem != "" {
		return p.mounted && p.pristine()
	}
	_, err := os.Stat(filepath.Join(w.dir, nodedisks.CertificateName(uuid)))
	return err == nil
}
