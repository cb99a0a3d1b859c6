package lvm_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// peer is a driver of n1 that the test plays.
func (p *twoNodes) peer(h http.HandlerFunc) *httptest.Server {
	p.t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.StartTLS()
	p.t.Cleanup(srv.Close)
	p.lease("n1", srv.Listener.Addr().String(), srv.Certificate().Raw)
	return srv
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
		"EndLies":      {body: end(mib, zero), says: "it has 8388608 bytes of 8388608 and ends as one of 1048576"},
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
		"GrownByHand": {func(p *twoNodes) { // and the driver does not know: what it knows of is half of the volume
			p.from.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfv-src"].Size = 16 * mib })
		}, controller.ProvisioningInBackground, codes.Unavailable, "the device has 16777216 bytes, LVM says 8388608"},
		"NoRoom":    {func(p *twoNodes) { p.bytes("2000Gi") }, controller.ProvisioningReschedule, codes.ResourceExhausted, "no volume group has room"},
		"ClaimGone": {func(p *twoNodes) { p.deleteClaim() }, controller.ProvisioningFinished, codes.NotFound, "claim ns/new is gone"},
		"NoLease": {func(p *twoNodes) {
			p.remove(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "lvm-csi-driver-n1"}})
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

// TestOnlyANewVolumeIsWritten: what is there after lvcreate is written to when it is empty, of
// the size that LVM tells, and nobody's.
func TestOnlyANewVolumeIsWritten(t *testing.T) {
	for name, spoil := range map[string]func(*lvmfake.LV){
		"OtherSize": func(l *lvmfake.LV) { l.Size = 12 * mib },
		"Signature": func(l *lvmfake.LV) { l.Signature = "LVM2_member" },
		"Open":      func(l *lvmfake.LV) { l.Open = true },
	} {
		p := newTwoNodes(t, "PersistentVolumeClaim", thin, thick, lvm.Ext4)
		var group *lvmfake.Group
		p.to.host.With("hf-b", func(g *lvmfake.Group) { group = g })
		p.to.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
			if c.Program == "blkid" {
				spoil(group.LVs["hfv-new"])
			}
			return lvmfake.Honest
		})
		p.to.host.Calls()
		if _, err := p.provision(); err == nil {
			t.Errorf("%s: it is a copy", name)
		}
		for _, c := range p.to.host.Calls() {
			if c.Program == "write" || c.Program == "zero" {
				t.Errorf("%s: %s", name, c.Line())
			}
		}
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
