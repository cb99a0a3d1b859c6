package cleaner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/internal/nodedisks"
)

// Tenancy is one volume of a partition, with one claim.
type Tenancy struct {
	Volume  types.UID `json:"volume"`
	Claim   types.UID `json:"claim"`
	Created int64     `json:"created"` // of the volume, by the API server's clock, in Unix seconds
	Time    time.Time `json:"time"`    // when it was noted, for people
}

// History is what the node itself knows of the volumes that a partition had. A
// cluster may be set back to what it was, a disk is not: what the API server says of
// a volume is not believed when the node knows better.
type History struct {
	// Bound are the volumes that were seen Bound, which is the PV controller's word that
	// the claim was there; the latest last.
	Bound []Tenancy `json:"bound,omitempty"`
	// Cleaned are the volumes that were cleaned; the latest last.
	Cleaned []Tenancy `json:"cleaned,omitempty"`
}

func tenancy(pv *corev1.PersistentVolume) Tenancy {
	return Tenancy{Volume: pv.UID, Claim: pv.Spec.ClaimRef.UID, Created: created(pv)}
}

func created(pv *corev1.PersistentVolume) int64 {
	if pv.CreationTimestamp.IsZero() {
		return 0
	}
	return pv.CreationTimestamp.Unix()
}

// cleaned says when the data of a volume was cleaned, and how that is known: it was this
// volume or this claim, or it is older than a volume that was cleaned since.
func (h History) cleaned(pv *corev1.PersistentVolume) (t Tenancy, how string) {
	is := tenancy(pv)
	for _, c := range h.Cleaned {
		switch {
		case c.Volume == is.Volume:
			return c, "this volume was cleaned"
		case c.Claim == is.Claim:
			return c, "a volume of this claim was cleaned"
		case is.Created < c.Created:
			return c, "a newer volume of its partition was cleaned"
		}
	}
	return Tenancy{}, ""
}

// bound says whether the volume was seen Bound to its claim.
func (h History) bound(pv *corev1.PersistentVolume) bool {
	for _, b := range h.Bound {
		if b.Volume == pv.UID && b.Claim == pv.Spec.ClaimRef.UID {
			return true
		}
	}
	return false
}

const (
	historySuffix = ".history"
	keptTenancies = 1000 // of each kind; older ones are known by the time of their making
	maxHistory    = 1 << 20
)

// Histories are the histories of one node's partitions, in a directory that only
// root writes.
type Histories struct{ Dir string }

func (s Histories) path(partition string) string {
	return filepath.Join(s.Dir, partition+historySuffix)
}

// Load reads the history of a partition. That there is none is an empty one; one that cannot
// be read is an error.
func (s Histories) Load(partition string) (History, error) {
	var h History
	f, err := os.Open(s.path(partition))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read history of partition %s: %w", partition, err)
	}
	defer func() { _ = f.Close() }() // read only
	if err := json.NewDecoder(io.LimitReader(f, maxHistory)).Decode(&h); err != nil {
		return h, fmt.Errorf("read history %s: %w (without it nothing of the partition is cleaned; clean it by hand, then remove the file)", s.path(partition), err)
	}
	return h, nil
}

// NoteBound notes durably that a volume was seen Bound.
func (s Histories) NoteBound(partition string, t Tenancy) error {
	return s.note(partition, t, func(h *History) *[]Tenancy { return &h.Bound })
}

// NoteCleaned notes durably that a volume was cleaned.
func (s Histories) NoteCleaned(partition string, t Tenancy) error {
	return s.note(partition, t, func(h *History) *[]Tenancy { return &h.Cleaned })
}

// noting is held from reading a history to writing it: a cleaning ends while the
// controller notes that a volume is Bound.
var noting sync.Mutex

func (s Histories) note(partition string, t Tenancy, list func(*History) *[]Tenancy) error {
	noting.Lock()
	defer noting.Unlock()
	h, err := s.Load(partition)
	if err != nil {
		return err
	}
	l := list(&h)
	for _, have := range *l {
		if have.Volume == t.Volume && have.Claim == t.Claim {
			return nil
		}
	}
	*l = append(*l, t)
	*l = (*l)[max(0, len(*l)-keptTenancies):]
	if err := nodedisks.WriteDurably(s.path(partition), h); err != nil {
		return fmt.Errorf("write history of partition %s: %w", partition, err)
	}
	return nil
}
