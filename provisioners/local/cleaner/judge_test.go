package cleaner

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// good are facts under which a partition may be cleaned.
func good(t testing.TB, uuid string) Facts {
	w := newWorld(t, interceptor.Funcs{})
	p := w.parts[uuid]
	s, err := w.Sight(context.Background(), p.disk, p.spec)
	if err != nil {
		t.Fatal(err)
	}
	s.Device.Holders = nil
	return Facts{
		Node: testNode, Volume: w.object(uuid), Methods: local.Classes{"local-ssd": wipe.Discard, "local-raw": wipe.Zero},
		ComputeNode: &v1alpha1.ComputeNode{}, Disks: &w.file, Sight: s, History: History{Bound: []Tenancy{tenancy(w.object(uuid))}},
	}
}

// spoils are single reasons not to clean. Each is enough.
var spoils = map[string]struct {
	want  Reason
	spoil func(*Facts)
}{
	"bound":                   {ReasonNotReleased, func(f *Facts) { f.Volume.Status.Phase = corev1.VolumeBound }},
	"failed":                  {ReasonNotReleased, func(f *Facts) { f.Volume.Status.Phase = corev1.VolumeFailed }},
	"no phase":                {ReasonNotReleased, func(f *Facts) { f.Volume.Status.Phase = "" }},
	"retain":                  {ReasonNotReleased, func(f *Facts) { f.Volume.Spec.PersistentVolumeReclaimPolicy = "Retain" }},
	"recycle":                 {ReasonNotReleased, func(f *Facts) { f.Volume.Spec.PersistentVolumeReclaimPolicy = "Recycle" }},
	"no claim":                {ReasonNotReleased, func(f *Facts) { f.Volume.Spec.ClaimRef = nil }},
	"sentinel":                {ReasonNotReleased, func(f *Facts) { f.Volume.Spec.ClaimRef.UID = "" }},
	"on its way":              {ReasonNotReleased, func(f *Facts) { now := metav1.Now(); f.Volume.DeletionTimestamp = &now }},
	"other node":              {ReasonNotOurs, func(f *Facts) { f.Volume.Labels[v1alpha1.LabelNode] = "node-2" }},
	"other provisioner":       {ReasonNotOurs, func(f *Facts) { delete(f.Volume.Annotations, local.AnnotationProvisioner) }},
	"other name":              {ReasonNotOurs, func(f *Facts) { f.Volume.Name = "local-x" }},
	"other partition":         {ReasonNotOurs, func(f *Facts) { f.Volume.Annotations[v1alpha1.AnnotationPartition] = uuidOther }},
	"other disk":              {ReasonNotOurs, func(f *Facts) { f.Volume.Annotations[v1alpha1.AnnotationDisk] = diskB }},
	"label of another disk":   {ReasonNotOurs, func(f *Facts) { f.Volume.Labels[v1alpha1.LabelDisk] = diskB }},
	"class not cleaned":       {ReasonNoMethod, func(f *Facts) { f.Volume.Spec.StorageClassName = "local-hdd" }},
	"not listed":              {ReasonNotListed, func(f *Facts) { f.Disks = &nodedisks.File{} }},
	"role":                    {ReasonNotListed, func(f *Facts) { f.Disks.Disks[0].Role = v1alpha1.RoleLVM }},
	"other path":              {ReasonNotListed, func(f *Facts) { f.Volume.Spec.Local.Path = "/mnt/b" }},
	"affinity to another":     {ReasonNotListed, func(f *Facts) { f.Volume.Spec.NodeAffinity = nil }},
	"claim is there":          {ReasonClaimExists, func(f *Facts) { f.ClaimUID = "uid-of-the-claim" }},
	"claim is restored":       {ReasonClaimExists, func(f *Facts) { f.ClaimUID, f.ClaimVolume = "uid-of-a-new-claim-of-that-name", f.Volume.Name }},
	"claim unknown":           {ReasonClaimUnknown, func(f *Facts) { f.ClaimErr = context.DeadlineExceeded }},
	"cleaned before":          {ReasonAlreadyCleaned, func(f *Facts) { f.History.Cleaned = f.History.Bound }},
	"its claim's data":        {ReasonAlreadyCleaned, func(f *Facts) { f.History.Cleaned = []Tenancy{{Volume: "of-before", Claim: "uid-of-the-claim"}} }},
	"an older volume":         {ReasonAlreadyCleaned, func(f *Facts) { f.History.Cleaned = []Tenancy{{Volume: "of-later", Claim: "of-later", Created: 7}} }},
	"never bound":             {ReasonNeverBound, func(f *Facts) { f.History.Bound = nil }},
	"bound to another":        {ReasonNeverBound, func(f *Facts) { f.History.Bound[0].Claim = "another" }},
	"another one was bound":   {ReasonNeverBound, func(f *Facts) { f.History.Bound[0].Volume = "another" }},
	"approved for another":    {ReasonNeverBound, func(f *Facts) { f.History.Bound, f.Volume.Annotations[local.AnnotationApproved] = nil, "another" }},
	"history unread":          {ReasonUnreadable, func(f *Facts) { f.HistoryErr = errors.New("unexpected end of JSON input") }},
	"no ComputeNode":          {ReasonQuarantineUnknown, func(f *Facts) { f.ComputeNode = nil }},
	"ComputeNode unread":      {ReasonQuarantineUnknown, func(f *Facts) { f.ComputeNodeErr = errors.New("timeout") }},
	"quarantined":             {ReasonQuarantined, func(f *Facts) { f.ComputeNode.Spec.Quarantine = []v1alpha1.Quarantine{{Disk: diskA}} }},
	"marked":                  {ReasonQuarantined, func(f *Facts) { f.Volume.Labels[v1alpha1.LabelQuarantined] = "true" }},
	"failed disk":             {ReasonDiskBad, func(f *Facts) { f.ComputeNode.Status.Disks = []v1alpha1.Disk{{ID: diskA, State: v1alpha1.DiskFailed}} }},
	"missing disk":            {ReasonDiskBad, func(f *Facts) { f.ComputeNode.Status.Disks = []v1alpha1.Disk{{ID: diskA, State: v1alpha1.DiskMissing}} }},
	"unreadable":              {ReasonUnreadable, func(f *Facts) { f.SightErr = errors.New("read holders: timeout") }},
	"tools return nothing":    {ReasonDiskDiffers, func(f *Facts) { f.Sight = Sight{} }},
	"no disk has the id":      {ReasonDiskDiffers, func(f *Facts) { f.Sight.Disks = 0 }},
	"twins":                   {ReasonDiskDiffers, func(f *Facts) { f.Sight.Disks = 2 }},
	"another partition there": {ReasonDiskDiffers, func(f *Facts) { f.Sight.Device.PartitionUUID = uuidOther }},
	"no partition UUID":       {ReasonDiskDiffers, func(f *Facts) { f.Sight.Device.PartitionUUID = "" }},
	"a whole disk":            {ReasonDiskDiffers, func(f *Facts) { f.Sight.Device.Partition = false }},
	"on another disk":         {ReasonDiskDiffers, func(f *Facts) { f.Sight.Device.DiskID = diskB }},
	"over a network":          {ReasonDiskDiffers, func(f *Facts) { f.Sight.Device.Network = "iSCSI" }},
	"no number":               {ReasonUnreadable, func(f *Facts) { f.Sight.Device.Number = "" }},
	"no size":                 {ReasonUnreadable, func(f *Facts) { f.Sight.Device.Bytes = 0 }},
	"held":                    {ReasonInUse, func(f *Facts) { f.Sight.Device.Holders = []string{"dm-0"} }},
	"pinned":                  {ReasonInUse, func(f *Facts) { f.Sight.Pinned = []string{"process 7 (postgres) at /data"} }},
	"in a pod":                {ReasonInUse, func(f *Facts) { f.Sight.Points = append(f.Sight.Points, "/var/lib/kubelet/pods/x") }},
	"mounted twice":           {ReasonInUse, func(f *Facts) { f.Sight.Points = []string{"/mnt/a", "/mnt/a"} }},
}

// TestJudge: any one reason, alone or with up to three others, keeps the data; with none the
// partition is cleaned.
func TestJudge(t *testing.T) {
	for _, uuid := range []string{uuidFS, uuidRaw} {
		j, no := Judge(good(t, uuid))
		if no != nil {
			t.Fatalf("nothing speaks against it: %v", no)
		}
		if j.Partition != uuid || j.Disk != diskA || j.Bytes != size || j.Claim != "uid-of-the-claim" {
			t.Errorf("job %+v", j)
		}
	}
	if f := good(t, uuidFS); true {
		f.ClaimUID = "uid-of-a-new-claim-of-that-name"
		if _, no := Judge(f); no != nil {
			t.Errorf("a claim made anew has not got the old one's data: %v", no)
		}
	}
	names := make([]string, 0, len(spoils))
	for name, s := range spoils {
		names = append(names, name)
		f := good(t, uuidFS)
		s.spoil(&f)
		if _, no := Judge(f); no == nil || no.Reason != s.want {
			t.Errorf("%s: %v, want %s", name, no, s.want)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		f := good(t, rapid.SampledFrom([]string{uuidFS, uuidRaw}).Draw(rt, "partition"))
		some := rapid.SliceOfN(rapid.SampledFrom(names), 1, 4).Draw(rt, "reasons")
		for _, name := range some {
			func() {
				defer func() { _ = recover() }() // an earlier one has taken away what this one spoils
				spoils[name].spoil(&f)
			}()
		}
		if _, no := Judge(f); no == nil {
			rt.Fatalf("cleaned in spite of %v", some)
		}
	})
}

// TestAbsenceCleansNothing: objects and APIs are taken away, one and all.
func TestAbsenceCleansNothing(t *testing.T) {
	gone := func(name string) error {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, name)
	}
	noAPI := apierrors.NewGenericServerResponse(http.StatusNotFound, "GET", schema.GroupResource{Group: "x", Resource: "x"}, "x", "404 page not found", 0, true)
	fail := func(kind func(client.Object) bool, err error) interceptor.Funcs {
		return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if kind(obj) {
				return err
			}
			return c.Get(ctx, key, obj, opts...)
		}}
	}
	isPV := func(o client.Object) bool { _, ok := o.(*corev1.PersistentVolume); return ok }
	isPVC := func(o client.Object) bool { _, ok := o.(*corev1.PersistentVolumeClaim); return ok }
	isCN := func(o client.Object) bool { _, ok := o.(*v1alpha1.ComputeNode); return ok }
	all := func(client.Object) bool { return true }
	cases := map[string]struct {
		reason string
		funcs  interceptor.Funcs
		change func(*world)
	}{
		"AllObjects":    {"the cluster was made anew", fail(all, gone("x")), nil},
		"AllAPIs":       {"every CRD and resource is gone", fail(all, noAPI), nil},
		"NoAnswer":      {"the API server hangs", fail(all, context.DeadlineExceeded), nil},
		"Volume":        {"a person has deleted the volume, or all of them", fail(isPV, gone("x")), nil},
		"ClaimAPI":      {"404 of a proxy is not the API server's word about a claim", fail(isPVC, noAPI), nil},
		"ClaimForbid":   {"nor is a refusal", fail(isPVC, apierrors.NewForbidden(schema.GroupResource{}, "x", nil)), nil},
		"ComputeNode":   {"the record of quarantine is gone", fail(isCN, gone("x")), nil},
		"ComputeNodes":  {"its CRD is gone", fail(isCN, noAPI), nil},
		"DisksYAML":     {"node preparation lists nothing", interceptor.Funcs{}, func(w *world) { w.file.Disks = nil }},
		"Devices":       {"sysfs and udev show nothing", interceptor.Funcs{}, func(w *world) { w.lie(func(s *Sight) { *s = Sight{} }) }},
		"UUID":          {"nobody tells the partition's UUID", interceptor.Funcs{}, func(w *world) { w.lie(func(s *Sight) { s.Device.PartitionUUID = "" }) }},
		"MountTable":    {"the mount table is empty: the kernel still refuses a mounted device", interceptor.Funcs{}, func(w *world) { w.lie(func(s *Sight) { s.Points, s.Pinned = nil, nil }) }},
		"Shrunk":        {"sysfs tells another size than the device", interceptor.Funcs{}, func(w *world) { w.lie(func(s *Sight) { s.Device.Bytes -= 512; s.Points = nil }); w.unmountAll() }},
		"ChangesItself": {"what is told changes between two looks", interceptor.Funcs{}, func(w *world) { w.unmountAll(); w.lie(changing()) }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.funcs)
			w.volume(uuidFS)
			w.volume(uuidRaw)
			if tc.change != nil {
				tc.change(w)
			}
			before := map[string]string{}
			for id, p := range w.parts {
				before[id] = p.sum()
			}
			for _, uuid := range []string{uuidFS, uuidRaw} {
				if name == "MountTable" && uuid == uuidRaw {
					continue // it really is free
				}
				c, _ := w.cleaning(wipe.Zero)
				if err := c.Run(t.Context(), w.object(uuid).Name); err == nil {
					t.Errorf("%s was cleaned; reason: %s", uuid, tc.reason)
				}
			}
			for id, p := range w.parts {
				if p.sum() != before[id] {
					t.Errorf("partition %s was written to; reason: %s", id, tc.reason)
				}
			}
		})
	}
}

func (w *world) lie(f func(*Sight)) {
	for _, p := range w.parts {
		p.lies = f
	}
}

func (w *world) unmountAll() {
	for _, p := range w.parts {
		p.mounted = false
	}
}

// changing tells one device first and another after.
func changing() func(*Sight) {
	n := 0
	return func(s *Sight) {
		s.Points = nil
		if n++; n%2 == 0 {
			s.Device.Name = "sdz1"
		}
	}
}

// A certificate of earlier times must not outlive the use of the volume.
func TestStaleCertificateIsRevoked(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	pv := w.volume(uuidRaw)
	if err := nodedisks.WriteCertificate(w.dir, certificate(diskA, uuidRaw, size, time.Now())); err != nil {
		t.Fatal(err)
	}
	w.at = func(string) { panic(errKilled) }
	if killed, _ := w.life(uuidRaw, wipe.Discard); !killed {
		t.Fatal("not killed")
	}
	if err := w.api.Delete(t.Context(), pv); err != nil { // a person
		t.Fatal(err)
	}
	if w.offerable(uuidRaw) {
		t.Error("offered with a tenant's data, by a certificate from before it")
	}
}

// What cannot be erased is not offered.
func TestDeviceThatKeepsBytes(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	w.parts[uuidRaw].rotten = true
	w.volume(uuidRaw)
	for _, m := range wipe.Methods() {
		if _, err := w.life(uuidRaw, m); !errors.Is(err, wipe.ErrNotZero) || !strings.Contains(err.Error(), "read at 0") {
			t.Errorf("%s: %v", m, err)
		}
	}
	if w.offerable(uuidRaw) {
		t.Error("offered")
	}
}

// A volume that somebody has changed since it was judged stays, and its partition
// is not certified: nobody knows who has had it.
func TestChangedVolumeStays(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{Delete: func(context.Context, client.WithWatch, client.Object, ...client.DeleteOption) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "persistentvolumes"}, "x", errors.New("it was changed"))
	}})
	pv := w.volume(uuidRaw)
	if _, err := w.life(uuidRaw, wipe.Discard); !apierrors.IsConflict(err) {
		t.Fatalf("error %v", err)
	}
	if err := w.api.Get(t.Context(), client.ObjectKeyFromObject(pv), pv); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, nodedisks.CertificateName(uuidRaw))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a certificate: %v", err)
	}
}
