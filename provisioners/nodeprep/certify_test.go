package nodeprep_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/nodeprep"
)

// inRaw is within the raw partition of allKinds, between two samples.
const inRaw = (96*mib-4096)/256*150/4096*4096 + 8192

// certified is the certificate of the one raw partition, nil for none.
func (w *world) certified() *nodedisks.Certificate {
	w.t.Helper()
	for _, d := range w.listed().Disks {
		for _, p := range d.Partitions {
			data, err := os.ReadFile(w.path(path.Join(nodedisks.CertificateDir, nodedisks.CertificateName(p.UUID))))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			w.must(err)
			c, err := nodedisks.ParseCertificate(data)
			w.must(err)
			if p.Filesystem != "" || c.Disk != d.ID || c.Partition != p.UUID || c.Bytes != 54*mib {
				w.t.Errorf("certificate %+v of partition %+v", c, p)
			}
			return c
		}
	}
	return nil
}

// A raw partition is certified when it was read, or zeroed and read, to its last byte,
// and then its volume needs no cleaner.
func TestRawPartitionIsCertified(t *testing.T) {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[1:2]}}
	cases := map[string]struct {
		reason    string
		certify   bool
		data      []int64 // places of earlier data
		certified bool
		zeroed    bool
	}{
		"Blank":    {"all of it is zero", true, nil, true, false},
		"NotAsked": {"only samples were read", false, nil, false, false},
		"Hidden":   {"the samples of a blank disk do not show it: it is somebody's", true, []int64{inRaw}, false, false},
		"GivenUp":  {"the disk was given up with a token", true, []int64{2*mib + 5, inRaw}, true, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			setup := func(t *testing.T) (*world, nodeprep.Options) {
				w := newWorld(t)
				w.add("sdb", 96*mib)
				for _, at := range tc.data {
					w.put("sdb", at, []byte("old data"))
				}
				o := nodeprep.Options{Apply: true, Certify: tc.certify}
				if len(tc.data) > 1 {
					w.put("sdb", 0, []byte("an edge"))
					o.Wipe = map[string]string{"wwn-sdb": w.token(f, "wwn-sdb")}
				}
				return w, o
			}
			check := func(t *testing.T, w *world) {
				t.Helper()
				if c := w.certified(); (c != nil) != tc.certified {
					t.Errorf("certificate %+v; reason: %s", c, tc.reason)
				}
				if len(tc.data) > 0 {
					gone := !slices.Equal(w.get("sdb3", inRaw-41*mib, 8), []byte("old data"))
					if gone != tc.zeroed {
						t.Errorf("the data is gone: %v; reason: %s", gone, tc.reason)
					}
				}
			}
			w, o := setup(t)
			w.passed = 0
			if out, err, _ := w.prepare(f, o, -1); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			total := w.passed
			check(t, w)
			for n := 0; n < total; n += 7 {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					w, o := setup(t)
					w.prepare(f, o, n) //nolint:errcheck // it was cut
					out, err, _ := w.prepare(f, o, -1)
					if err != nil { // the token is used up
						out, err, _ = w.prepare(f, nodeprep.Options{Apply: true, Certify: tc.certify}, -1)
					}
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					check(t, w)
				})
			}
		})
	}
}

// Once a disk was listed its raw partitions are whoever's uses them: they are never read, zeroed
// or certified again, whatever else is lost.
func TestListedRawPartitionIsLeftAlone(t *testing.T) {
	f := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: allKinds().Spec.Disks[1:2]}}
	for _, first := range []bool{true, false} {
		w := newWorld(t)
		w.add("sdb", 96*mib)
		if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Certify: first}, -1); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.must(os.RemoveAll(w.path(nodedisks.CertificateDir)))
		w.must(os.Remove(w.path(nodedisks.Path)))
		w.put("sdb3", 5*mib, []byte("somebody's data"))
		before := w.sums("sdb3")
		if out, err, _ := w.prepare(f, nodeprep.Options{Apply: true, Certify: true}, -1); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := w.sums("sdb3"); got["sdb3"] != before["sdb3"] || w.certified() != nil {
			t.Errorf("certified at first: %v; it was touched, or certified again", first)
		}
	}
}
