package nodedisks

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"holdfast.dev/internal/atomicfile"
)

// CertificateDir is where certificates lie below the host's root. Only root
// writes there.
const CertificateDir = "/var/lib/holdfast/local"

// Certificate says that a raw partition has nobody's data. Node preparation
// writes one for a raw partition of a disk that it has prepared and not listed yet, the
// cleaner for one that has no volume, each when it has read every byte of it as zero. It is good for one
// volume.
type Certificate struct {
	ID        string    `json:"id"` // random; what is used up
	Disk      string    `json:"disk"`
	Partition string    `json:"partition"`
	Bytes     int64     `json:"bytes"` // size of the partition
	By        string    `json:"by"`    // node-preparation, local-volume-cleaner, or a person
	Time      time.Time `json:"time"`
}

// CertificateName is the name of a partition's certificate in its directory.
func CertificateName(partition string) string { return partition + ".clean" }

// ParseCertificate decodes a certificate.
func ParseCertificate(data []byte) (*Certificate, error) {
	var c Certificate
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	if c.ID == "" || c.Disk == "" || !uuidRE.MatchString(c.Partition) || c.Bytes <= 0 {
		return nil, errors.New("parse certificate: it names no id, disk, partition or size")
	}
	return &c, nil
}

// WriteCertificate puts c into dir, durably. It is there whole or not at all.
func WriteCertificate(dir string, c Certificate) error {
	if err := WriteDurably(filepath.Join(dir, CertificateName(c.Partition)), c); err != nil {
		return fmt.Errorf("write certificate of partition %s: %w", c.Partition, err)
	}
	return nil
}

// RevokeCertificate removes the certificate of a partition, durably. That there
// is none is success.
func RevokeCertificate(dir, partition string) error {
	if err := atomicfile.Remove(filepath.Join(dir, CertificateName(partition))); err != nil {
		return fmt.Errorf("revoke certificate of partition %s: %w", partition, err)
	}
	return nil
}

// WriteDurably writes v as JSON to a file that anybody may read; see atomicfile.Write.
func WriteDurably(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(name, append(data, '\n'), 0o644)
}
