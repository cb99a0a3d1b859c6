package cleaner

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// approve is a person's word that the data of a volume is not wanted.
func (w *world) approve(uuid string) {
	w.t.Helper()
	var pv corev1.PersistentVolume
	if err := w.api.Get(context.Background(), client.ObjectKeyFromObject(w.object(uuid)), &pv); err != nil {
		w.t.Fatal(err)
	}
	pv.Annotations[local.AnnotationApproved] = string(pv.Spec.ClaimRef.UID)
	if err := w.api.Update(context.Background(), &pv); err != nil {
		w.t.Fatal(err)
	}
}

// tenant is whoever has had the partition since it was cleaned.
func (p *part) tenant() []byte {
	data := []byte("DATA OF THE NEXT TENANT")
	copy(p.data[len(p.data)/2:], data)
	return data
}

// A cluster's etcd is set back to before a volume was cleaned: the volume is there
// again, Released, and its partition has the next tenant's data. Killed at any
// boundary before, that data is neither wiped nor certified as clean.
func TestClusterSetBack(t *testing.T) {
	for _, uuid := range []string{uuidFS, uuidRaw} {
		for kill := 0; ; kill++ {
			w := newWorld(t, interceptor.Funcs{})
			w.volume(uuid)
			n := 0
			w.at = func(string) {
				if n++; n == kill {
					panic(errKilled)
				}
			}
			killed, err := w.life(uuid, wipe.Discard)
			w.at = func(string) {}
			if !killed && err != nil {
				t.Fatal(err)
			}
			if kill > 0 && !killed {
				break
			}
			for range 3 {
				if w.offerable(uuid) {
					break
				}
				if _, err := w.life(uuid, wipe.Discard); err != nil {
					t.Logf("kill %d: %v", kill, err)
				}
			}
			if !w.offerable(uuid) {
				t.Fatalf("kill %d: not offered", kill)
			}
			// It is offered, and its certificate used up; then the cluster is set back.
			if err := nodedisks.RevokeCertificate(w.dir, uuid); err != nil {
				t.Fatal(err)
			}
			p := w.parts[uuid]
			data := p.tenant()
			w.volume(uuid)
			before := p.sum()
			for range 3 {
				_, err = w.life(uuid, wipe.Discard)
			}
			if p.sum() != before || !bytes.Contains(p.data, data) || w.offerable(uuid) {
				t.Fatalf("kill %d: the next tenant's data was wiped, or is offered: %v", kill, err)
			}
			if kill == 0 {
				var no *Refusal
				if !errors.As(err, &no) || no.Reason != ReasonAlreadyCleaned {
					t.Errorf("error %v", err)
				}
			}
		}
	}
}

// Killed after the volume was deleted and before anything else was written: the
// record is all that knows of it. Another volume of the partition must not make it forgotten.
func TestRecordOfADeletedVolumeIsKept(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	w.volume(uuidFS)
	w.at = func(b string) {
		if b == "after Delete" {
			panic(errKilled)
		}
	}
	if killed, err := w.life(uuidFS, wipe.Discard); !killed {
		t.Fatal(err)
	}
	w.at = func(string) {}
	c, _ := w.cleaning(wipe.Discard)
	next := Job{Volume: w.object(uuidFS).Name, UID: "of-the-next", Claim: "of-the-next", Disk: diskA, Partition: uuidFS, Bytes: size, Number: w.parts[uuidFS].number}
	if _, err := c.begin(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	h, err := c.Histories.Load(uuidFS)
	if err != nil {
		t.Fatal(err)
	}
	if _, how := h.cleaned(w.object(uuidFS)); how == "" {
		t.Error("it is forgotten")
	}
}

// Volumes come back from a backup before their claims: the PV controller calls them
// Released. They wait until a person says what is wanted, and that is seen.
func TestVolumesRestoredBeforeTheirClaims(t *testing.T) {
	for _, uuid := range []string{uuidFS, uuidRaw} {
		w := newWorld(t, interceptor.Funcs{})
		w.volume(uuid)
		if err := os.Remove(filepath.Join(w.dir, uuid+historySuffix)); err != nil {
			t.Fatal(err)
		}
		before := w.parts[uuid].sum()
		c, _ := w.start(t)
		eventually(t, c, func() bool {
			return testutil.ToFloat64(c.Metrics.waiting.WithLabelValues(string(ReasonNeverBound))) == 1 && w.events("VolumeNotCleaned") == 1
		})
		if w.parts[uuid].sum() != before {
			t.Fatal("it was cleaned")
		}
	}
}

// A volume that was seen Bound by an earlier process is cleaned when it is released.
func TestBoundVolumeIsRemembered(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	pv := w.volume(uuidRaw)
	if err := os.Remove(filepath.Join(w.dir, uuidRaw+historySuffix)); err != nil {
		t.Fatal(err)
	}
	pv.Status.Phase = corev1.VolumeBound
	if err := w.api.Status().Update(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	c, _ := w.start(t)
	eventually(t, c, func() bool {
		h, err := (Histories{w.dir}).Load(uuidRaw)
		return err == nil && h.bound(pv)
	})
	pv.Status.Phase = corev1.VolumeReleased
	if err := w.api.Status().Update(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, func() bool { return w.offerable(uuidRaw) && !w.parts[uuidRaw].residue() })
}

// A cleaning ends while the controller notes that volumes are Bound. What one of them noted
// and the other one wrote over would be a tenant's data that is wiped, or never cleaned.
func TestNotesOfTwoAtOnce(t *testing.T) {
	const n = 20
	h := Histories{Dir: t.TempDir()}
	var wg sync.WaitGroup
	for i := range n {
		volume := Tenancy{Volume: types.UID(strconv.Itoa(i))}
		for _, note := range []func(string, Tenancy) error{h.NoteBound, h.NoteCleaned} {
			wg.Go(func() {
				if err := note("p", volume); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	got, err := h.Load("p")
	if err != nil || len(got.Bound) != n || len(got.Cleaned) != n {
		t.Errorf("%d Bound and %d cleaned are noted of %d each, %v", len(got.Bound), len(got.Cleaned), n, err)
	}
}
