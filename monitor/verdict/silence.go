package verdict

import "time"

// SilenceStep is how long a disk may answer nothing while requests wait for it. It
// is the time that the kernel gives most requests: 30 s of SCSI and ATA disks
// (drivers/scsi/sd.h SD_TIMEOUT) and of NVMe (nvme_core.io_timeout).
const SilenceStep = 30 * time.Second

// Traffic is what the kernel counts of a disk's requests.
type Traffic struct {
	Answered uint64 // since the disk is there
	Waiting  uint64 // sent to the disk and not answered
}

// Silence watches disks that have requests and answer none. Not every driver has
// a timeout that would be logged (virtio-scsi waits for ever), and no line tells of
// a request before that is over. The zero Silence has seen no disk.
//
// A flush that hangs alone is seen where the kernel counts a request from the moment that it is
// submitted (Linux 6.12.117 and 7.0, bdev_count_inflight in block/genhd.c: the write that asks for the flush is
// counted). Older kernels (5.10.262, 6.1.176) count what has been handed to the driver: block/blk-flush.c
// holds the write back and sends a flush of its own, which belongs to no device
// (blk_kick_flush) and is in no count, nor in /sys/block/*/inflight. The fields 16 and 17 of stat, flushes and the time
// that they took, grow when one has ended (blk_account_io_flush): they are the same of a disk that has no flush
// and of one that has had one for minutes. So nothing is concluded from them but an answer.
type Silence struct {
	Step  time.Duration // zero is SilenceStep
	disks map[string]silence
}

type silence struct {
	answered uint64
	since    time.Time
	told     int
}

// Silent is one disk's silence.
type Silent struct {
	Since   time.Time
	Steps   []time.Time // that have ended since the last look
	Waiting uint64
}

// Look takes in a look at the disks' traffic, by id, and returns the disks that
// have been silent for a further step. A look sees no more than that nothing
// was answered since the one before, so the silence may be older than Since.
func (s *Silence) Look(disks map[string]Traffic, at time.Time) map[string]Silent {
	step := s.Step
	if step == 0 {
		step = SilenceStep
	}
	found, next := map[string]Silent{}, map[string]silence{}
	for id, t := range disks {
		if t.Waiting == 0 {
			continue
		}
		d, ok := s.disks[id]
		if !ok || d.answered != t.Answered {
			d = silence{answered: t.Answered, since: at}
		}
		var steps []time.Time
		for end := d.since.Add(step * time.Duration(d.told+1)); !end.After(at); end = end.Add(step) {
			steps = append(steps, end)
			d.told++
		}
		if len(steps) > 0 {
			found[id] = Silent{Since: d.since, Steps: steps, Waiting: t.Waiting}
		}
		next[id] = d
	}
	s.disks = next
	return found
}
