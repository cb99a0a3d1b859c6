package lvm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// twoNodes are: n1 has the source, n2 the claim.
type twoNodes struct {
	t        testing.TB
	api      client.Client
	from, to *world
	at       map[*world]*lvm.Transfers
	address  map[*world]string
	stop     map[*world]func()
	class    storagev1.StorageClass
	claim    *corev1.PersistentVolumeClaim
	source   lvm.Handle
}

// newTwoNodes makes a source of 8 MiB on n1 and a claim on n2 of 16 MiB. kind is what the
// claim names.
func newTwoNodes(t testing.TB, kind string, from, to map[string]string, fs string) *twoNodes {
	p := &twoNodes{t: t, from: newWorld(t), at: map[*world]*lvm.Transfers{}, address: map[*world]string{}, stop: map[*world]func(){}}
	other := groups()[1:]
	other[0].Disks = []string{"disk-c"}
	p.to = newWorld(t, other...)
	p.to.node = "n2"
	p.to.restart()
	p.to.host.With("hf-b", func(g *lvmfake.Group) { g.Residue = []string{earlier} })
	v := p.from.must("src", from, fs, 8*mib)
	p.source = v.Handle

	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "src", Labels: map[string]string{v1alpha1.LabelNode: "n1"}}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "src", UID: "uid-src"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: lvm.DriverName, VolumeHandle: v.Handle.String()}}}}
	src := claimOf("src", nil)
	src.Annotations["volume.kubernetes.io/selected-node"], src.Spec.VolumeName, src.Status.Phase = "n1", "src", corev1.ClaimBound
	p.claim = claimOf("new", nil)
	p.claim.Annotations["volume.kubernetes.io/selected-node"] = "n2"
	p.claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("16Mi")
	if fs == lvm.Block {
		mode := corev1.PersistentVolumeBlock
		p.claim.Spec.VolumeMode = &mode
	}
	p.claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: "src"}
	objects := []client.Object{volume, src, p.claim}
	if kind == "VolumeSnapshot" {
		snap, err := p.from.engine.Snapshot(t.Context(), v.Handle, lvm.CreateRequest{Name: "snap"})
		if err != nil {
			t.Fatal(err)
		}
		p.source = snap.Handle
		object := func(kind, ns, name string, labels map[string]any, rest map[string]any) *unstructured.Unstructured {
			rest["apiVersion"], rest["kind"] = "snapshot.storage.k8s.io/v1", kind
			rest["metadata"] = map[string]any{"namespace": ns, "name": name, "labels": labels}
			return &unstructured.Unstructured{Object: rest}
		}
		objects = append(objects,
			object("VolumeSnapshot", "ns", "src", nil, map[string]any{"status": map[string]any{"boundVolumeSnapshotContentName": "content", "readyToUse": true}}),
			object("VolumeSnapshotContent", "", "content", map[string]any{"snapshot.storage.kubernetes.io/managed-by": "n1"}, map[string]any{
				"spec":   map[string]any{"driver": lvm.DriverName, "volumeSnapshotRef": map[string]any{"namespace": "ns", "name": "src"}},
				"status": map[string]any{"snapshotHandle": snap.Handle.String()}}))
	}
	p.api = fake.NewClientBuilder().WithObjects(objects...).Build()
	p.class = storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{"pool": "db"}}
	for k, v := range to {
		p.class.Parameters[k] = v
	}
	if fs != lvm.Block {
		p.class.Parameters["csi.storage.k8s.io/fstype"] = fs
	}
	p.start(p.from)
	p.start(p.to)
	return p
}

// start starts the transfers of a node's driver, as a new process does.
func (p *twoNodes) start(w *world) {
	p.t.Helper()
	if p.stop[w] != nil {
		p.stop[w]()
	}
	t, err := lvm.NewTransfers(w.engine, p.api, system, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.at[w], p.address[w] = t, l.Addr().String()
	if err := t.Publish(p.t.Context(), metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: w.node, UID: "u"}, p.address[w]); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- t.Serve(ctx, l) }()
	p.stop[w] = func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("serve: %v", err)
		}
	}
	p.t.Cleanup(cancel)
}

// impatient gives both nodes a short deadline for what hangs.
func (p *twoNodes) impatient() {
	for _, w := range []*world{p.from, p.to} {
		w.block = 250 * time.Millisecond
		w.restart()
		p.start(w)
	}
}

// revive starts what was killed anew.
func (p *twoNodes) revive() {
	for _, w := range []*world{p.from, p.to} {
		if w.host.Dead() {
			w.restart()
			p.start(w)
		}
	}
}

func (p *twoNodes) provision() (controller.ProvisioningState, error) {
	pv := lvm.NewProvisioner(lvm.NewService(p.to.engine, "test", nil), p.api, p.at[p.to], slog.New(slog.DiscardHandler))
	_, state, err := pv.Provision(p.t.Context(), controller.ProvisionOptions{PVC: p.claim, PVName: "new", SelectedNodeName: "n2", StorageClass: &p.class})
	return state, err
}

// leftovers are the volumes on n1 that were not there before.
func (p *twoNodes) leftovers() (names []string) {
	for _, l := range p.from.host.Volumes("hf-a") {
		if l.Name != "hfv-src" && l.Name != "hfs-snap" {
			names = append(names, l.Name)
		}
	}
	return names
}

// settled waits until n1 has nothing left of a transfer, as its daemon's loop sees to.
func (p *twoNodes) settled() bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if len(p.leftovers()) == 0 {
			return true
		}
		_ = p.from.engine.RefreshAll(p.t.Context())
		_ = p.from.engine.FinishTransfers(p.t.Context())
	}
	return false
}

// wrong says what is wrong with the copy when it is ready, and with the source ever.
func (p *twoNodes) wrong() string {
	if l := p.from.find("hf-a", "hfv-src"); l == nil || l.Data != "data of src" || l.Formats > 1 {
		return fmt.Sprintf("the source is %+v", l)
	}
	for _, l := range p.to.host.Volumes("hf-b") {
		if phase, _ := vg.Tags(l.Tags).Intent(); phase == vg.Ready && (l.Data != "data of src" || l.Formats != 0 || l.Unsynced || vg.Tags(l.Tags).Get(vg.KeyFS) == lvm.Block && len(l.Residue) > 0) {
			return fmt.Sprintf("the copy is ready and is %+v", l)
		}
	}
	return ""
}

// whole says what is missing at the end.
func (p *twoNodes) whole() string {
	l := p.to.find("hf-b", "hfv-new")
	switch {
	case l == nil || len(p.to.host.Volumes("hf-b")) != 1:
		return fmt.Sprintf("there are %d volumes", len(p.to.host.Volumes("hf-b")))
	case l.Size != 16*mib || !strings.HasPrefix(vg.Tags(l.Tags).Get(vg.KeyIntent), vg.Ready+"/"):
		return fmt.Sprintf("the copy is %+v", l)
	case !p.settled():
		return fmt.Sprintf("n1 has %v", p.leftovers())
	}
	return p.wrong()
}

type transferCase struct {
	name, kind string
	from, to   map[string]string
	fs         string
}

func transferCases() []transferCase {
	return []transferCase{
		{"clone-thin", "PersistentVolumeClaim", thin, thin, lvm.Ext4},
		{"clone-thick-block", "PersistentVolumeClaim", thick, thick, lvm.Block},
		{"restore-to-thick", "VolumeSnapshot", thin, thick, lvm.Ext4},
	}
}

func TestCopyFromAnotherNode(t *testing.T) {
	for _, c := range transferCases() {
		t.Run(c.name, func(t *testing.T) {
			p := newTwoNodes(t, c.kind, c.from, c.to, c.fs)
			if _, err := p.provision(); err != nil {
				t.Fatal(err)
			}
			if msg := p.whole(); msg != "" {
				t.Error(msg)
			}
			if l := p.to.find("hf-b", "hfv-new"); c.fs != lvm.Block && l.FS != c.fs {
				t.Errorf("the copy is %+v", l)
			}
		})
	}
}

// A source in use: a thin one is copied as of one moment, a thick one is not copied.
func TestCopyFromAnotherNodeOfASourceInUse(t *testing.T) {
	use := func(p *twoNodes) {
		if _, err := p.from.host.Run(t.Context(), 0, "mount", "-t", "ext4", "/dev/hf-a/hfv-src", "/somewhere"); err != nil {
			t.Fatal(err)
		}
	}
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
	use(p)
	writes := sync.OnceFunc(func() {
		go p.from.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-src"].Data = "later data" })
	})
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "read" { // the pod writes on
			writes()
		}
		return lvmfake.Honest
	})
	if _, err := p.provision(); err != nil {
		t.Fatal(err)
	}
	if l := p.to.find("hf-b", "hfv-new"); l.Data != "data of src" || !p.settled() {
		t.Errorf("the copy is %+v, n1 has %v", l, p.leftovers())
	}
	p = newTwoNodes(t, "PersistentVolumeClaim", thick, thin, lvm.Ext4)
	use(p)
	if state, err := p.provision(); err == nil || !strings.Contains(err.Error(), "stop what uses it") || state != controller.ProvisioningInBackground {
		t.Errorf("a thick source in use: %v, %v", state, err)
	}
	if n := len(p.to.host.Volumes("hf-b")); n != 0 {
		t.Errorf("there are %d volumes", n)
	}
}

// TestTransferCrashes interrupts a copy at each step of either node, in each way.
func TestTransferCrashes(t *testing.T) {
	for _, c := range transferCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it waits for what hangs
			crashTransfer(t, c)
		})
	}
}

func crashTransfer(t *testing.T, c transferCase) {
	runs := 0
	p := newTwoNodes(t, c.kind, c.from, c.to, c.fs)
	steps := map[bool]int{}
	p.from.host.Calls()
	p.to.host.Calls()
	if _, err := p.provision(); err != nil || p.whole() != "" {
		t.Fatalf("%s without any fault: %v, %s", c.name, err, p.whole())
	}
	steps[true], steps[false] = len(p.from.host.Calls()), len(p.to.host.Calls())
	for source, n := range steps {
		for step := 1; step <= n; step++ {
			for _, mode := range faults {
				runs++
				if msg := interruptTransfer(t, c, source, step, mode); msg != "" {
					t.Errorf("%s, on the source %v, step %d of %d, mode %d: %s", c.name, source, step, n, mode, msg)
				}
			}
		}
	}
	t.Logf("%d runs", runs)
	if runs < 100 {
		t.Errorf("only %d runs", runs)
	}
}

func interruptTransfer(t *testing.T, c transferCase, source bool, step int, mode lvmfake.Mode) string {
	p := newTwoNodes(t, c.kind, c.from, c.to, c.fs)
	p.impatient()
	defer func() { p.stop[p.from](); p.stop[p.to]() }()
	w := p.to
	if source {
		w = p.from
	}
	w.host.Calls()
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		lies := mode == lvmfake.Empty || mode == lvmfake.Garbage || mode == lvmfake.LieNotFound
		if c.N != step || lies && c.Program != "lvm" {
			return lvmfake.Honest
		}
		return mode
	})
	_, err := p.provision()
	if msg := p.wrong(); msg != "" {
		return "right after the fault: " + msg
	}
	p.revive()
	w.host.Misbehave(nil)
	for range 30 {
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // what was left behind ends
		_, err = p.provision()
		if msg := p.wrong(); msg != "" {
			return msg
		}
		p.revive()
	}
	if err != nil {
		return "it does not end well after all faults are over: " + err.Error()
	}
	p.revive()
	return p.whole()
}

// peer is a driver of n1 that the test plays.
func (p *twoNodes) peer(h http.HandlerFunc) *httptest.Server {
	p.t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.StartTLS()
	p.t.Cleanup(srv.Close)
	p.lease("n1", srv.Listener.Addr().String(), srv.Certificate().Raw)
	return srv
}

func (p *twoNodes) lease(node, address string, cert []byte) {
	p.t.Helper()
	sum := sha256.Sum256(cert)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lvm-csi-driver-" + node, Namespace: system, Labels: map[string]string{v1alpha1.LabelNode: node},
		Annotations: map[string]string{"lvm.holdfast.dev/transfer-address": address, "lvm.holdfast.dev/transfer-certificate": hex.EncodeToString(sum[:])}}}
	if err := errors.Join(client.IgnoreNotFound(p.api.Delete(p.t.Context(), lease.DeepCopy())), p.api.Create(p.t.Context(), lease)); err != nil {
		p.t.Fatal(err)
	}
}

func frame(kind byte, n int64, data string) string {
	return string(binary.BigEndian.AppendUint64([]byte{kind}, uint64(n))) + data
}

func end(size int64, frames string) string {
	sum := sha256.Sum256([]byte(frames))
	return frames + frame('E', size, string(sum[:]))
}

// TestLyingSource: whatever the other side sends, only a whole volume becomes one.
func TestLyingSource(t *testing.T) {
	zero := frame('Z', 8*mib, "")
	block := frame('D', mib, strings.Repeat("x", int(mib)))
	wait := make(chan struct{})
	t.Cleanup(func() { close(wait) })
	for name, c := range map[string]struct {
		size, fs, body, says string
		hang                 bool
	}{
		"Empty":        {body: "", says: "it ends at byte 0"},
		"Short":        {body: zero, says: "it ends at byte 8388608 of 8388608"},
		"CutFrame":     {body: block[:1000], says: "it ends before byte 1048576"},
		"CutHead":      {body: zero[:4], says: "it ends at byte 0"},
		"CutSum":       {body: end(8*mib, zero)[:20], says: "its sum is cut off"},
		"OtherSum":     {body: zero + frame('E', 8*mib, strings.Repeat("s", 32)), says: "its SHA-256 is another"},
		"EarlyEnd":     {body: end(mib, frame('Z', mib, "")), says: "it has 1048576 bytes of 8388608"},
		"EarlyEndLies": {body: end(8*mib, frame('Z', mib, "")), says: "it has 1048576 bytes of 8388608"},
		"Late":         {body: end(8*mib, zero) + "more", says: "it goes on after its end"},
		"TooLong":      {body: end(16*mib, frame('Z', 16*mib, "")), says: "a frame of 16777216 bytes at byte 0"},
		"HugeFrame":    {body: frame('D', 2*mib, strings.Repeat("x", 2<<20)), says: "a frame of 2097152 bytes"},
		"Negative":     {body: frame('Z', -1, ""), says: "a frame of -1 bytes"},
		"UnknownKind":  {body: frame('Q', 1, ""), says: `the unknown kind 'Q'`},
		"GivesUp":      {body: frame('Z', mib, "") + frame('F', 9, "disk died"), says: `the source gives up at byte 1048576 of 8388608: "disk died"`},
		"NoSize":       {size: "-", body: "", says: `a size of "-"`},
		"OddSize":      {size: "1000", body: "", says: `a size of "1000"`},
		"Hangs":        {body: frame('Z', mib, ""), hang: true, says: "node n1 sent nothing for 250ms"},
		"HangsAtOnce":  {body: "", hang: true, says: "node n1 sent nothing for 250ms"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTwoNodes(t, "PersistentVolumeClaim", thin, thick, lvm.Block)
			if c.hang {
				p.impatient()
			}
			p.peer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Holdfast-Size", strconv.FormatInt(8*mib, 10))
				if c.size != "" {
					w.Header().Set("Holdfast-Size", c.size)
				}
				w.Header().Set("Holdfast-Filesystem", lvm.Block)
				w.WriteHeader(http.StatusOK)
				_, _ = io.WriteString(w, c.body) // who hangs up is no error of the test
				_ = http.NewResponseController(w).Flush()
				if c.hang {
					select {
					case <-wait:
					case <-r.Context().Done():
					}
				}
			})
			state, err := p.provision()
			if err == nil || !strings.Contains(err.Error(), c.says) || state != controller.ProvisioningInBackground {
				t.Errorf("%v, %v", state, err)
			}
			for _, l := range p.to.host.Volumes("hf-b") {
				if phase, _ := vg.Tags(l.Tags).Intent(); phase == vg.Ready {
					t.Errorf("it is ready: %+v", l)
				}
			}
			if c.hang { // another volume is not held up
				if _, err := p.to.engine.Create(t.Context(), p.to.request("next", thin, lvm.Ext4, 16*mib)); err != nil {
					t.Error(err)
				}
				return
			}
			p.start(p.from)
			if _, err := p.provision(); err != nil || p.whole() != "" {
				t.Errorf("from an honest source: %v, %s", err, p.whole())
			}
		})
	}
}

// What can never succeed is refused for good, and what cannot succeed here is for the
// scheduler to hear.
func TestCopyFromAnotherNodeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(p *twoNodes)
		state   controller.ProvisioningState
		code    codes.Code
		says    string
	}{
		"OtherFilesystem": {func(p *twoNodes) { p.class.Parameters["csi.storage.k8s.io/fstype"] = lvm.XFS; p.bytes("400Mi") }, controller.ProvisioningFinished, codes.InvalidArgument, "it holds ext4, xfs is asked for"},
		"Limit": {func(p *twoNodes) {
			p.from.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-src"].Size = 32 * mib })
			p.from.restart()
			p.start(p.from)
			p.claim.Spec.Resources.Limits = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("20Mi")}
		}, controller.ProvisioningFinished, codes.OutOfRange, "more than the limit"},
		"NoRoom":    {func(p *twoNodes) { p.bytes("2000Gi") }, controller.ProvisioningReschedule, codes.ResourceExhausted, "no volume group has room"},
		"ClaimGone": {func(p *twoNodes) { _ = p.api.Delete(t.Context(), p.claim.DeepCopy()) }, controller.ProvisioningFinished, codes.NotFound, "claim ns/new is gone"},
		"NoLease": {func(p *twoNodes) {
			_ = p.api.Delete(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "lvm-csi-driver-n1"}})
		}, controller.ProvisioningReschedule, codes.ResourceExhausted, "whose driver gives nothing to other nodes"},
		"Off":  {func(p *twoNodes) { p.at[p.to] = nil }, controller.ProvisioningReschedule, codes.ResourceExhausted, "a copy is made where its source is"},
		"Down": {func(p *twoNodes) { p.stop[p.from]() }, controller.ProvisioningInBackground, codes.Unavailable, "connection refused"},
		"OtherCertificate": {func(p *twoNodes) { p.lease("n1", p.address[p.from], []byte("another")) }, controller.ProvisioningInBackground, codes.Unavailable,
			"has not the certificate of the Lease of node n1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
			c.prepare(p)
			p.from.host.Calls()
			state, err := p.provision()
			if state != c.state || status.Code(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, %v", state, err)
			}
			if n := len(p.to.host.Volumes("hf-b")); n != 0 {
				t.Errorf("there are %d volumes", n)
			}
			if name == "NoRoom" && len(p.from.host.Calls()) > 0 {
				t.Error("the other node worked for nothing")
			}
			if !p.settled() {
				t.Errorf("n1 has %v", p.leftovers())
			}
		})
	}
}

// TestHalfACopyGoesWithItsClaim: also when the source went too, and nobody can say any more what it was.
func TestHalfACopyGoesWithItsClaim(t *testing.T) {
	for _, source := range []bool{false, true} {
		p := newTwoNodes(t, "PersistentVolumeClaim", thin, thick, lvm.Ext4)
		p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
			if c.Program == "read" {
				return lvmfake.Fail
			}
			return lvmfake.Honest
		})
		if _, err := p.provision(); err == nil || len(p.to.host.Volumes("hf-b")) != 1 {
			t.Fatalf("half a copy: %v, %d volumes", err, len(p.to.host.Volumes("hf-b")))
		}
		if source {
			if err := p.api.Delete(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "src"}}); err != nil {
				t.Fatal(err)
			}
			// The claim is there still: its source may come back.
			if state, err := p.provision(); status.Code(err) != codes.Unavailable || state != controller.ProvisioningInBackground {
				t.Errorf("without its source: %v, %v", state, err)
			}
		}
		if err := p.api.Delete(t.Context(), p.claim.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		if state, err := p.provision(); status.Code(err) != codes.NotFound || state != controller.ProvisioningFinished {
			t.Errorf("the claim is gone: %v, %v", state, err)
		}
		if n := len(p.to.host.Volumes("hf-b")); n != 0 {
			t.Errorf("there are %d volumes", n)
		}
	}
}

// bytes sets what the claim asks for.
func (p *twoNodes) bytes(q string) {
	p.claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(q)
}

// asker is a driver of another node that the test plays.
type asker struct {
	p    *twoNodes
	cert *tls.Certificate
}

func (p *twoNodes) asker() *asker {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return &asker{p, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func (a *asker) query() url.Values {
	return url.Values{"node": {"n2"}, "namespace": {"ns"}, "claim": {"new"}, "uid": {"uid-new"}, "source": {a.p.source.String()}}
}

func (a *asker) ask(method string, q url.Values) (*http.Response, error) {
	cfg := &tls.Config{InsecureSkipVerify: true}
	if a.cert != nil {
		cfg.Certificates = []tls.Certificate{*a.cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(a.p.t.Context(), method, "https://"+a.p.address[a.p.from]+"/v1/transfer?"+q.Encode(), nil)
	if err != nil {
		a.p.t.Fatal(err)
	}
	return tr.RoundTrip(req)
}

// TestOnlyTheClaimsNodeIsServed: a node gets what a claim of its own is to be a copy of,
// and nothing else.
func TestOnlyTheClaimsNodeIsServed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(p *twoNodes, a *asker, q url.Values)
		code    int // 0 for no answer at all
	}{
		"Honest":             {func(*twoNodes, *asker, url.Values) {}, 200},
		"NoCertificate":      {func(_ *twoNodes, a *asker, _ url.Values) { a.cert = nil }, 0},
		"UnknownCertificate": {func(p *twoNodes, a *asker, _ url.Values) { a.cert = p.asker().cert }, 403},
		"OtherNode": {func(p *twoNodes, a *asker, q url.Values) { // it has a Lease of its own, and says so
			a.cert = p.asker().cert
			p.lease("n3", "x", a.cert.Certificate[0])
			q.Set("node", "n3")
		}, 403},
		"OtherNodeInItsName": {func(p *twoNodes, a *asker, _ url.Values) {
			a.cert = p.asker().cert
			p.lease("n3", "x", a.cert.Certificate[0])
		}, 403},
		"NoLease":     {func(_ *twoNodes, _ *asker, q url.Values) { q.Set("node", "n4") }, 403},
		"NoNode":      {func(_ *twoNodes, _ *asker, q url.Values) { q.Del("node") }, 403},
		"NoClaim":     {func(_ *twoNodes, _ *asker, q url.Values) { q.Set("claim", "none") }, 403},
		"OtherUID":    {func(_ *twoNodes, _ *asker, q url.Values) { q.Set("uid", "uid-old") }, 403},
		"OtherSource": {func(p *twoNodes, _ *asker, q url.Values) { q.Set("source", p.source.Group+"/hfv-secret") }, 403},
		"NoSelectedNode": {func(p *twoNodes, _ *asker, _ url.Values) {
			p.change(func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, "volume.kubernetes.io/selected-node") })
		}, 403},
		"Bound": {func(p *twoNodes, _ *asker, _ url.Values) {
			p.change(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "new" })
		}, 403},
		"NoSource": {func(p *twoNodes, _ *asker, _ url.Values) {
			p.change(func(c *corev1.PersistentVolumeClaim) { c.Spec.DataSource = nil })
		}, 403},
		"OtherNamespace": {func(p *twoNodes, _ *asker, q url.Values) {
			c := p.claim.DeepCopy()
			c.ObjectMeta = metav1.ObjectMeta{Namespace: "evil", Name: "new", UID: "uid-evil", Annotations: c.Annotations}
			ns := "ns"
			c.Spec.DataSource, c.Spec.DataSourceRef = nil, &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "src", Namespace: &ns}
			p.create(c)
			q.Set("namespace", "evil")
			q.Set("uid", "uid-evil")
		}, 403},
		"SourceElsewhere": {func(p *twoNodes, _ *asker, _ url.Values) {
			var pv corev1.PersistentVolume
			if err := p.api.Get(t.Context(), types.NamespacedName{Name: "src"}, &pv); err != nil {
				t.Fatal(err)
			}
			pv.Labels[v1alpha1.LabelNode] = "n3"
			if err := p.api.Update(t.Context(), &pv); err != nil {
				t.Fatal(err)
			}
		}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
			a := p.asker()
			p.lease("n2", "x", a.cert.Certificate[0])
			q := a.query()
			c.prepare(p, a, q)
			resp, err := a.ask(http.MethodGet, q)
			if err != nil {
				if c.code != 0 {
					t.Fatal(err)
				}
				return
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close() // read to its end
			if resp.StatusCode != c.code || err != nil {
				t.Fatalf("%d %.100q, %v, want %d", resp.StatusCode, body, err, c.code)
			}
			if c.code != 200 && bytes.Contains(body, []byte("data of")) {
				t.Error("it has data")
			}
			if c.code == 200 && (!bytes.Contains(body, []byte("middle of data of src")) || resp.Header.Get("Holdfast-Size") != "8388608" || resp.Header.Get("Holdfast-Filesystem") != "ext4" || len(body) > 4<<20) {
				t.Errorf("%d bytes, %v", len(body), resp.Header)
			}
			if !p.settled() {
				t.Errorf("n1 has %v", p.leftovers())
			}
		})
	}
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
	a := p.asker()
	p.lease("n2", "x", a.cert.Certificate[0])
	if resp, err := a.ask(http.MethodPost, a.query()); err != nil || resp.StatusCode != http.StatusNotFound || resp.Body.Close() != nil {
		t.Errorf("another method: %v, %v", resp, err)
	}
}

func (p *twoNodes) create(o client.Object) {
	p.t.Helper()
	o.SetResourceVersion("")
	if err := p.api.Create(p.t.Context(), o); err != nil {
		p.t.Fatal(err)
	}
}

// change changes the claim in the API server.
func (p *twoNodes) change(f func(*corev1.PersistentVolumeClaim)) {
	p.t.Helper()
	c := p.claim.DeepCopy()
	if err := p.api.Get(p.t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		p.t.Fatal(err)
	}
	f(c)
	if err := p.api.Update(p.t.Context(), c); err != nil {
		p.t.Fatal(err)
	}
}

// TestTransfersAreBounded: two at a time, and a source that is being read stays as it is.
func TestTransfersAreBounded(t *testing.T) {
	p := newTwoNodes(t, "VolumeSnapshot", thin, thin, lvm.Ext4)
	a := p.asker()
	p.lease("n2", "x", a.cert.Certificate[0])
	reading := make(chan string, 10)
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "read" {
			reading <- c.Args[0]
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	ask := func(claim, kind, source string) int {
		c := p.claim.DeepCopy()
		c.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: claim, UID: types.UID(claim), Annotations: c.Annotations}
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: "src"}
		p.create(c)
		q := a.query()
		q.Set("claim", claim)
		q.Set("uid", claim)
		q.Set("source", source)
		resp, err := a.ask(http.MethodGet, q)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close() // it is not read
		return resp.StatusCode
	}
	go ask("c1", "VolumeSnapshot", p.source.String())
	<-reading
	if err := p.from.engine.Delete(t.Context(), p.source); !errors.Is(err, lvm.ErrBusy) {
		t.Errorf("a snapshot that is being read is deleted: %v", err)
	}
	go ask("c2", "PersistentVolumeClaim", handle("hfv-src").String())
	if dev := <-reading; !strings.HasPrefix(dev, "/dev/hf-a/hfx-") {
		t.Errorf("%s is read", dev)
	}
	for _, l := range p.from.host.Volumes("hf-a") {
		if phase, _ := vg.Tags(l.Tags).Intent(); strings.HasPrefix(l.Name, "hfx-") && phase != vg.Creating {
			t.Errorf("the snapshot of a transfer is %s: somebody may take it for a volume", phase)
		}
	}
	// The volume itself is free meanwhile.
	if _, err := p.from.engine.Expand(t.Context(), handle("hfv-src"), 12*mib, 0); err != nil {
		t.Error(err)
	}
	if err := p.from.engine.FinishTransfers(t.Context()); err != nil || !slices.ContainsFunc(p.from.host.Volumes("hf-a"), func(l lvmfake.LV) bool { return strings.HasPrefix(l.Name, "hfx-") }) {
		t.Errorf("the snapshot of a transfer under way is gone: %v", err)
	}
	if code := ask("c3", "PersistentVolumeClaim", handle("hfv-src").String()); code != http.StatusTooManyRequests {
		t.Errorf("the third one gets %d", code)
	}
	p.from.host.Misbehave(nil)
	if !p.settled() {
		t.Errorf("n1 has %v", p.leftovers())
	}
}
