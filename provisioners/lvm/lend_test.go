package lvm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

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
		"BeingDeleted": {func(p *twoNodes, _ *asker, _ url.Values) {
			p.change(func(c *corev1.PersistentVolumeClaim) { c.Finalizers = []string{"kubernetes.io/pvc-protection"} })
			if err := p.api.Delete(t.Context(), p.claim.DeepCopy()); err != nil {
				t.Fatal(err)
			}
		}, 403},
		"LeaseOfNobody": {func(p *twoNodes, _ *asker, _ url.Values) {
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "lvm-csi-driver-n2"}}
			if err := p.api.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil {
				t.Fatal(err)
			}
			lease.Labels = nil
			if err := p.api.Update(t.Context(), lease); err != nil {
				t.Fatal(err)
			}
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

// A source that is being deleted may be wiped in part, and nobody can tell from what was
// known of it before its lock was had.
func TestSourceIsLockedBeforeItIsLookedAt(t *testing.T) {
	p := newTwoNodes(t, "PersistentVolumeClaim", thick, thick, lvm.Ext4)
	p.from.restart() // its group is not known
	p.start(p.from)
	var deleted error
	first := true
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Sub() == "fullreport" && first {
			first = false
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			deleted = p.from.engine.Delete(ctx, p.source)
		}
		return lvmfake.Honest
	})
	if _, err := p.provision(); err != nil || p.whole() != "" {
		t.Errorf("%v, %s", err, p.whole())
	}
	if !errors.Is(deleted, lvm.ErrBusy) {
		t.Errorf("while the source is looked at, it is deleted: %v", deleted)
	}
}

// A thin source is not locked here. One that is being deleted is none any more, not even
// when its deletion began after the group was chosen.
func TestSourceThatIsBeingDeletedIsNotCopied(t *testing.T) {
	w := newWorld(t)
	src := w.must("src", map[string]string{"type": "thin", "wipe": "discard"}, lvm.XFS, gib)
	var engine *lvm.Engine
	deleting := false
	engine = lvm.NewEngine(lvm.EngineOptions{Node: "n1", Cluster: "c1", Groups: w.infos, Host: w.host, Mounts: w.host, Deadlines: quick(), Log: slog.New(slog.DiscardHandler),
		Quarantine: func(ctx context.Context) lvm.Quarantine { // asked right before the copy is made
			if !deleting {
				deleting = true
				w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
					if c.Sub() == "lvremove" {
						return lvmfake.Fail
					}
					return lvmfake.Honest
				})
				if err := engine.Delete(ctx, src.Handle); err == nil {
					t.Error("the source is gone")
				}
			}
			return lvm.Quarantine{}
		}})
	r := w.request("copy", thin, lvm.XFS, gib)
	r.Source = &src.Handle
	if _, err := engine.Create(t.Context(), r); !errors.Is(err, lvm.ErrBusy) || w.find("hf-a", "hfv-copy") != nil {
		t.Errorf("%v, %+v", err, w.find("hf-a", "hfv-copy"))
	}
}

// What has the name of a transfer's snapshot and is none by its tags is somebody's.
func TestVolumeWithTheNameOfATransferStays(t *testing.T) {
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
	for _, tags := range [][]string{nil, p.from.find("hf-a", "hfv-src").Tags} {
		p.from.host.With("hf-a", func(g *lvmfake.Group) {
			g.LVs["hfx-uid-new"] = &lvmfake.LV{Name: "hfx-uid-new", UUID: "x", Size: 4 * mib, Tags: tags, Data: "x"}
		})
		p.from.restart()
		p.start(p.from)
		if _, err := p.provision(); err == nil || p.from.find("hf-a", "hfx-uid-new") == nil {
			t.Errorf("with the tags %q: %v", tags, err)
		}
	}
}

// A thick source is read as it is. One whose deletion has begun may be wiped in part.
func TestThickSourceThatIsBeingDeletedIsNotCopied(t *testing.T) {
	p := newTwoNodes(t, "PersistentVolumeClaim", thick, thick, lvm.Ext4)
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Sub() == "lvremove" {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	if err := p.from.engine.Delete(t.Context(), p.source); err == nil {
		t.Fatal("the source is gone")
	}
	p.from.host.Misbehave(nil)
	if _, err := p.provision(); err == nil || !strings.Contains(err.Error(), "it is in phase deleting") || len(p.to.host.Volumes("hf-b")) != 0 {
		t.Errorf("%v, %+v", err, p.to.host.Volumes("hf-b"))
	}
}

// TestFetchesAreBounded: a node fetches two volumes at a time, and asks nobody for a third.
func TestFetchesAreBounded(t *testing.T) {
	p := newTwoNodes(t, "VolumeSnapshot", thin, thin, lvm.Ext4)
	reading := make(chan struct{}, 10)
	p.from.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "read" {
			reading <- struct{}{}
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	provisioner := lvm.NewProvisioner(lvm.NewService(p.to.engine, "test", nil), p.api, p.at[p.to], slog.New(slog.DiscardHandler))
	fetch := func(name, kind string) error {
		c := p.claim.DeepCopy()
		c.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: c.Annotations}
		c.Spec.DataSource.Kind = kind
		p.create(c)
		_, _, err := provisioner.Provision(t.Context(), controller.ProvisionOptions{PVC: c, PVName: name, SelectedNodeName: "n2", StorageClass: &p.class})
		return err
	}
	ended := make(chan error, 2)
	for name, kind := range map[string]string{"c1": "VolumeSnapshot", "c2": "PersistentVolumeClaim"} {
		go func() { ended <- fetch(name, kind) }()
		select {
		case <-reading:
		case err := <-ended:
			t.Fatalf("nothing is read for %s: %v", name, err)
		}
	}
	if err := fetch("c3", "PersistentVolumeClaim"); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "2 volumes are copied to node n2 already") {
		t.Errorf("the third one: %v", err)
	}
	p.from.host.Misbehave(nil)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := fetch("c4", "VolumeSnapshot"); err != nil || len(p.to.host.Volumes("hf-b")) != 3 {
		t.Errorf("after them: %v, %d volumes", err, len(p.to.host.Volumes("hf-b")))
	}
}

// What is published is mended: a Lease that lost its label is no node's, and nobody would
// fetch from that node again.
func TestLeaseIsMended(t *testing.T) {
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thin, lvm.Ext4)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "lvm-csi-driver-n1"}}
	read := func() *coordinationv1.Lease {
		t.Helper()
		if err := p.api.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil {
			t.Fatal(err)
		}
		return lease.DeepCopy()
	}
	whole := read()
	for what, spoil := range map[string]func(*coordinationv1.Lease){
		"label":       func(l *coordinationv1.Lease) { l.Labels = nil },
		"certificate": func(l *coordinationv1.Lease) { delete(l.Annotations, "lvm.holdfast.dev/transfer-certificate") },
		"address":     func(l *coordinationv1.Lease) { l.Annotations["lvm.holdfast.dev/transfer-address"] = "127.0.0.1:1" },
	} {
		spoilt := read()
		spoil(spoilt)
		if err := p.api.Update(t.Context(), spoilt); err != nil {
			t.Fatal(err)
		}
		if err := p.at[p.from].Publish(t.Context(), metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u"}, p.address[p.from]); err != nil {
			t.Fatal(err)
		}
		if now := read(); !maps.Equal(now.Labels, whole.Labels) || !maps.Equal(now.Annotations, whole.Annotations) {
			t.Errorf("%s: it is %v, %v", what, now.Labels, now.Annotations)
		}
	}
	if _, err := p.provision(); err != nil || p.whole() != "" {
		t.Errorf("%v, %s", err, p.whole())
	}
}
