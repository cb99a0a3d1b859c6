package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// finish is what the daemon of n2 does when it starts, and now and then.
func (p *twoNodes) finish() error {
	return errors.Join(p.to.engine.RefreshAll(p.t.Context()), p.to.engine.FinishUnready(p.t.Context(), p.api))
}

func (p *twoNodes) deleteClaim() {
	p.t.Helper()
	p.remove(p.claim.DeepCopy())
}

// killed runs f on n2, whose driver dies at a step, and starts it anew. It says whether f
// got so far.
func (p *twoNodes) killed(step int, mode lvmfake.Mode, f func()) bool {
	p.to.host.Calls()
	p.to.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.N == step {
			return mode
		}
		return lvmfake.Honest
	})
	f()
	died := p.to.host.Dead()
	p.to.restart()
	return died
}

// TestClaimGoesWhileTheDriverIsDown kills the driver at each step of a copy, deletes the
// claim, and kills the next driver at each step of what it does then. Half a copy of a
// claim that nobody asked for again stayed for ever.
func TestClaimGoesWhileTheDriverIsDown(t *testing.T) {
	halves, wholes := 0, 0
	for _, mode := range []lvmfake.Mode{lvmfake.KillBefore, lvmfake.KillAfter} {
		for step, died := 1, true; died; step++ {
			for again, more := 1, true; more; again++ {
				p := newTwoNodes(t, "VolumeSnapshot", thin, thick, lvm.Ext4)
				died = p.killed(step, mode, func() { _, _ = p.provision() })
				p.stop[p.from]()
				p.stop[p.to]()
				if !died {
					break
				}
				p.deleteClaim()
				left := 0
				if l := p.to.find("hf-b", "hfv-new"); l != nil && strings.HasPrefix(vg.Tags(l.Tags).Get(vg.KeyIntent), vg.Ready+"/") {
					left = 1 // its object may be somewhere
					wholes++
				} else if l != nil {
					halves++
				}
				more = p.killed(again, mode, func() { _ = p.finish() })
				err := p.finish()
				if all := p.to.host.Volumes("hf-b"); err != nil || len(all) != left || p.wrong() != "" {
					t.Errorf("mode %d, steps %d and %d: %v, %s, %+v", mode, step, again, err, p.wrong(), all)
				}
				p.to.host.With("hf-b", func(g *lvmfake.Group) {
					if all := strings.Join(g.Residue, ", "); strings.Contains(all, "data of src") {
						t.Errorf("mode %d, steps %d and %d: on free extents are %s", mode, step, again, all)
					}
				})
			}
		}
	}
	t.Logf("%d times half a copy, %d times a whole one", halves, wholes)
	if halves < 50 || wholes == 0 {
		t.Error("that is too few")
	}
}

// TestOnlyWhatNobodyWantsIsFinished: half a copy goes by the API server's own word about
// its very claim, and what may be anything else stays.
func TestOnlyWhatNobodyWantsIsFinished(t *testing.T) {
	retag := func(key, value string) func(*twoNodes) {
		return func(p *twoNodes) {
			p.to.host.With("hf-b", func(g *lvmfake.Group) {
				lv := g.LVs["hfv-new"]
				lv.Tags = slices.DeleteFunc(slices.Clone(lv.Tags), func(tag string) bool { return strings.HasPrefix(tag, key+"=") })
				if value != "" {
					lv.Tags = append(lv.Tags, vg.Tag(key, value))
				}
			})
		}
	}
	answer := func(err error) func(*twoNodes) {
		return func(p *twoNodes) {
			p.api = interceptor.NewClient(p.api.(client.WithWatch), interceptor.Funcs{Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return err
			}})
		}
	}
	for name, c := range map[string]struct {
		reason string
		change func(p *twoNodes) // after the claim was deleted
		goes   bool
		says   string
	}{
		"Gone": {"nobody asks for it any more", func(*twoNodes) {}, true, ""},
		"MadeAnew": {"a claim of its name is another one", func(p *twoNodes) {
			c := p.claim.DeepCopy()
			c.UID = "uid-next"
			p.create(c)
		}, true, ""},
		"HasAVolume": {"it was sent to another node meanwhile", func(p *twoNodes) {
			c := p.claim.DeepCopy()
			c.Spec.VolumeName = "elsewhere"
			p.create(c)
		}, true, ""},
		"There":        {"the provisioner makes it anew", func(p *twoNodes) { p.create(p.claim.DeepCopy()) }, false, ""},
		"NoAnswer":     {"nobody knows", answer(errors.New("connection refused")), false, "connection refused"},
		"Proxy":        {"a proxy's 404 says nothing of the claim", answer(apierrors.NewGenericServerResponse(http.StatusNotFound, "get", corev1.Resource("persistentvolumeclaims"), "new", "404 page not found", 0, true)), false, "the volume group does not answer"},
		"OtherCluster": {"its disk came from another cluster, whose claim it is", retag(vg.KeyCluster, "c0"), false, ""},
		"NoCluster":    {"the same of one that did not say", retag(vg.KeyCluster, ""), false, ""},
		"NoUID":        {"external-provisioner asked for it, and asks again", retag(vg.KeyClaim, ""), false, ""},
		"NoClaim":      {"it cannot be asked about", retag(vg.KeyPVC, ""), false, ""},
		"OtherKind":    {"it is not what this driver makes for claims", retag(vg.KeyKind, string(lvm.KindDocker)), false, ""},
		"Ready":        {"it may have an object, and data of its own", retag(vg.KeyIntent, vg.Ready+"/0011223344556677"), false, ""},
		"Open":         {"somebody looks at it", func(p *twoNodes) { p.to.host.With("hf-b", func(g *lvmfake.Group) { g.LVs["hfv-new"].Open = true }) }, false, "in use"},
		"NoDisk":       {"its group is not whole", func(p *twoNodes) { p.to.host.With("hf-b", func(g *lvmfake.Group) { g.Missing = true }) }, false, "lvchange"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTwoNodes(t, "PersistentVolumeClaim", thin, thick, lvm.Ext4)
			if !p.killed(5, lvmfake.KillAfter, func() { _, _ = p.provision() }) || len(p.to.host.Volumes("hf-b")) != 1 {
				t.Fatalf("half a copy: %+v", p.to.host.Volumes("hf-b"))
			}
			p.deleteClaim()
			c.change(p)
			p.to.restart()
			err := p.finish()
			if n := len(p.to.host.Volumes("hf-b")); (n == 0) != c.goes || (err == nil) != (c.says == "") || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%s: %d volumes, %v", c.reason, n, err)
			}
		})
	}
}

// A copy under way is left alone, also when its claim is gone: the provisioner ends it.
func TestCopyUnderWayIsNotFinished(t *testing.T) {
	p := newTwoNodes(t, "PersistentVolumeClaim", thin, thick, lvm.Ext4)
	writing := make(chan struct{}, 10)
	p.to.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "write" {
			writing <- struct{}{}
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	ended := make(chan error, 1)
	go func() { _, err := p.provision(); ended <- err }()
	<-writing
	p.deleteClaim()
	if err := p.finish(); err != nil || len(p.to.host.Volumes("hf-b")) != 1 {
		t.Errorf("%v, %+v", err, p.to.host.Volumes("hf-b"))
	}
	p.to.host.Misbehave(nil)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// It is whole now: its object is made, is released, and takes it along.
	if err := p.finish(); err != nil || p.whole() != "" || vg.Tags(p.to.find("hf-b", "hfv-new").Tags).Get(vg.KeyClaim) != "" {
		t.Errorf("%v, %s, %+v", err, p.whole(), p.to.find("hf-b", "hfv-new"))
	}
}

// What is no copy is begun and left in the same way.
func TestClaimWithoutASourceGoesToo(t *testing.T) {
	w := newWorld(t)
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "mkfs.xfs" {
			return lvmfake.KillAfter
		}
		return lvmfake.Honest
	})
	if _, err := w.provision(claimOf("c", nil)); err == nil || len(w.host.Volumes("hf-a")) != 1 {
		t.Fatalf("%v, %+v", err, w.host.Volumes("hf-a"))
	}
	w.restart()
	if err := errors.Join(w.engine.RefreshAll(t.Context()), w.engine.FinishUnready(t.Context(), fake.NewClientBuilder().Build())); err != nil || len(w.host.Volumes("hf-a")) != 0 {
		t.Errorf("%v, %+v", err, w.host.Volumes("hf-a"))
	}
}
