package cleaner

import (
	"context"
	"fmt"
	"time"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// Looker looks at a partition.
type Looker interface {
	Sight(ctx context.Context, d nodedisks.Disk, p nodedisks.Partition) (Sight, error)
}

// Prover reads raw partitions that have no volume and no certificate: of a node
// made anew, or after a crash between the deletion of a volume and its
// certificate. It writes to none.
type Prover struct {
	Dir    string // of certificates
	Looker Looker
	Disk   Disk
	// Absent errs unless the API server says that there is no such volume.
	Absent func(ctx context.Context, volume string) error
	Chunk  int64
	Rate   int64
	Now    func() time.Time
}

// Run certifies a raw partition when every byte of it is zero, and says whether it was.
func (v *Prover) Run(ctx context.Context, d nodedisks.Disk, p nodedisks.Partition) (bool, error) {
	volume := local.VolumeName(d.ID, p.UUID)
	if err := v.Absent(ctx, volume); err != nil {
		return false, err
	}
	s, err := v.Looker.Sight(ctx, d, p)
	if no := (Facts{Sight: s, SightErr: err}).sight(d, p); no != nil {
		return false, no
	}
	dev, err := v.Disk.Open(ctx, Job{Device: s.Device.Name, Number: s.Device.Number})
	if err != nil {
		return false, err
	}
	clean, err := v.verify(ctx, dev, s.Device.Bytes)
	if cerr := dev.Close(); err == nil {
		err = cerr
	}
	if err != nil || !clean {
		return false, err
	}
	// Nobody else makes volumes but the provisioner, which needs the certificate, and people.
	if err := v.Absent(ctx, volume); err != nil {
		return false, err
	}
	return true, nodedisks.WriteCertificate(v.Dir, certificate(d.ID, p.UUID, s.Device.Bytes, v.Now()))
}

func (v *Prover) verify(ctx context.Context, dev Opened, want int64) (bool, error) {
	if dev.Size() != want {
		return false, fmt.Errorf("the device has %d bytes, the partition %d", dev.Size(), want)
	}
	return wipe.Verify(ctx, dev, wipe.Plan{Chunk: v.Chunk, Rate: v.Rate}, func(int64) error { return nil })
}
