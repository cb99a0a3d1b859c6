package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"

	"holdfast.dev/internal/nodedisks"
)

const (
	// OfferedDir is where this daemon notes, below the host's root, which
	// certificates it has used. It is the one directory that it may write.
	OfferedDir = "/var/lib/holdfast/local-offered"
	usedSuffix = ".used"
	keptUsed   = 100 // certificates of one partition that are remembered
	byPerson   = "person"
)

// used is what this daemon has noted of one partition.
type used struct {
	Certificates []string  `json:"certificates"` // their ids, the latest last
	Time         time.Time `json:"time"`
}

// Certified says whether the raw partition p has a certificate that was not used
// yet, and if not, why. The error is for what could not be read.
func (h *Host) Certified(diskID string, p nodedisks.Partition, bytes int64) (id, residue string, err error) {
	u, err := h.used(p.UUID)
	if err != nil {
		return "", "", err
	}
	residue = "no certificate says that it is clean"
	for _, dir := range []string{nodedisks.CertificateDir, OfferedDir} {
		data, err := h.fs.ReadFile(path.Join(dir, nodedisks.CertificateName(p.UUID)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("read certificate of partition %s: %w", p.UUID, err)
		}
		c, err := nodedisks.ParseCertificate(data)
		switch {
		case err != nil:
			return "", "", fmt.Errorf("read certificate of partition %s: %w", p.UUID, err)
		case c.Disk != diskID || c.Partition != p.UUID || c.Bytes != bytes:
			residue = fmt.Sprintf("its certificate is for partition %s of disk %s with %d bytes", c.Partition, c.Disk, c.Bytes)
		case slices.Contains(u.Certificates, c.ID):
			residue = "it was offered since it was last known to be clean"
		default:
			return c.ID, "", nil
		}
	}
	return "", residue, nil
}

func (h *Host) used(partition string) (used, error) {
	var u used
	data, err := h.fs.ReadFile(path.Join(OfferedDir, partition+usedSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &u)
	}
	if err != nil {
		return u, fmt.Errorf("read used certificates of partition %s: %w", partition, err)
	}
	return u, nil
}

// use notes durably that a certificate was used. Only then may its volume be created.
func (h *Host) use(partition, id string) error {
	u, err := h.used(partition)
	if err != nil {
		return err
	}
	if slices.Contains(u.Certificates, id) {
		return nil
	}
	u.Certificates, u.Time = append(u.Certificates, id), time.Now().UTC()
	u.Certificates = u.Certificates[max(0, len(u.Certificates)-keptUsed):]
	if err := nodedisks.WriteDurably(filepath.Join(h.stateDir(), partition+usedSuffix), u); err != nil {
		return fmt.Errorf("note that the certificate of partition %s is used: %w", partition, err)
	}
	return nil
}

// unuse takes a use back, for a volume that was surely not created.
func (h *Host) unuse(partition, id string) error {
	u, err := h.used(partition)
	if err != nil {
		return err
	}
	u.Certificates = slices.DeleteFunc(u.Certificates, func(s string) bool { return s == id })
	return nodedisks.WriteDurably(filepath.Join(h.stateDir(), partition+usedSuffix), u)
}

func (h *Host) stateDir() string {
	if h.state != "" {
		return h.state
	}
	return h.fs.Path(OfferedDir)
}

// certify writes a person's certificate for a raw partition.
func (h *Host) certify(diskID, partition string, bytes int64) error {
	return nodedisks.WriteCertificate(h.stateDir(), nodedisks.Certificate{
		ID: string(uuid.NewUUID()), Disk: diskID, Partition: partition, Bytes: bytes, By: byPerson, Time: time.Now().UTC(),
	})
}
