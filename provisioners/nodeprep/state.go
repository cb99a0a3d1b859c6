package nodeprep

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// StatePath is where the state file lies below the host's root.
const StatePath = "/var/lib/holdfast/nodeprep/state.json"

const stateVersion = 1

// Phase is how far one effect is. It is durable.
type Phase string

// Phases. Begun is written before the effect, Made after it was seen.
const (
	Planned Phase = ""
	Begun   Phase = "begun"
	Made    Phase = "made"
)

// State is what node preparation knows of its own doings.
type State struct {
	Version int `json:"version"`
	// Secret makes tokens those of this node.
	Secret string `json:"secret"`
	// Disks by disk id.
	Disks map[string]*Record `json:"disks"`
	// Wipes by disk id; an entry stays when its disk is prepared.
	Wipes map[string]*Wipe `json:"wipes,omitempty"`
	// VolumeGroups by name.
	VolumeGroups map[string]*VolumeGroup `json:"volumeGroups,omitempty"`
	// Replaced are the records of disks whose place another one took.
	Replaced map[string]*Record `json:"replaced,omitempty"`
}

// Record is what one disk is to become, and how far it is.
type Record struct {
	Group      string            `json:"group"`
	Role       v1alpha1.DiskRole `json:"role"`
	Media      v1alpha1.Media    `json:"media"`
	Slot       string            `json:"slot,omitempty"`
	Size       int64             `json:"size"`
	SectorSize int64             `json:"sectorSize"`
	// Emptied is set when the disk's contents were given up with a token.
	Emptied bool `json:"emptied,omitempty"`
	// Between is what a disk with a weak id had between its first and last MiB when it
	// was taken or emptied, as Content has it: empty for nothing but zeros.
	Between string `json:"between,omitempty"`
	// Certify is set when each raw partition is read to its last byte before the disk is
	// listed. It is set when the record is made, and never on a disk that was listed.
	Certify bool `json:"certify,omitempty"`
	// Table, or PV.
	Table *Table `json:"table,omitempty"`
	PV    *PV    `json:"pv,omitempty"`
	// ReplacedBy is the disk that took this one's place.
	ReplacedBy string `json:"replacedBy,omitempty"`
}

// Table is a partition table.
type Table struct {
	Phase      Phase            `json:"phase"`
	GUID       string           `json:"guid"`
	Partitions []TablePartition `json:"partitions"`
}

// TablePartition is one partition and its file system.
type TablePartition struct {
	UUID         string              `json:"uuid"`
	Start        int64               `json:"start"` // bytes
	Size         int64               `json:"size"`  // bytes
	StorageClass string              `json:"storageClass"`
	Filesystem   v1alpha1.Filesystem `json:"filesystem,omitempty"`
	FSUUID       string              `json:"fsUUID,omitempty"`
	Phase        Phase               `json:"phase,omitempty"` // of the file system, or of the reading of a raw one
	Zero         int64               `json:"zero,omitempty"`  // bytes of a raw one that were read as zero so far
	MkfsOptions  []string            `json:"mkfsOptions,omitempty"`
	MountOptions []string            `json:"mountOptions,omitempty"`
	MountPoint   string              `json:"mountPoint,omitempty"`
}

// PV is an LVM physical volume.
type PV struct {
	Phase       Phase  `json:"phase"`
	UUID        string `json:"uuid"` // as LVM writes it
	VolumeGroup string `json:"volumeGroup"`
	// Joined is the phase of the disk's becoming part of its volume group.
	Joined Phase `json:"joined"`
}

// VolumeGroup is an LVM volume group.
type VolumeGroup struct {
	Phase  Phase                      `json:"phase"`
	Group  string                     `json:"group"`
	Intent string                     `json:"intent"` // a UUID, in a tag of the volume group
	Spread v1alpha1.VolumeGroupSpread `json:"spread"`
	UUID   string                     `json:"uuid,omitempty"`
	// Percent of the volume group that its thin pool takes; 0 for none.
	Percent  int32  `json:"percent,omitempty"`
	ThinPool string `json:"thinPool,omitempty"`
	Pool     Phase  `json:"pool,omitempty"` // phase of the thin pool
}

// Wipe is a token's use.
type Wipe struct {
	// Nonce makes the disk's next token another one; it changes with each use.
	Nonce string `json:"nonce"`
	Phase Phase  `json:"phase"`
	// Token is the one in use while Phase is Begun: it may end what it began, and nothing else.
	Token string `json:"token,omitempty"`
	// Traces are what was found on the disk that the token gave up.
	Traces []string `json:"traces,omitempty"`
}

// done says that every effect on the disk itself is made.
func (r *Record) done() bool {
	switch {
	case r.Table != nil:
		ok := r.Table.Phase == Made
		for _, p := range r.Table.Partitions {
			ok = ok && (p.Filesystem == "" && !r.Certify || p.Phase == Made)
		}
		return ok
	case r.PV != nil:
		return r.PV.Phase == Made && r.PV.Joined == Made
	}
	return true
}

// begun says that an effect on the disk may have happened.
func (r *Record) begun() bool {
	return r.Table != nil && r.Table.Phase != Planned || r.PV != nil && r.PV.Phase != Planned
}

// published is the state as disks.yaml has it: the disks that are made. What
// kept lists and the state does not know is left as it is.
func (s *State) published(kept *nodedisks.File) *nodedisks.File {
	f := &nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks"}
	groups, in := map[string]bool{}, map[string]bool{}
	for _, r := range s.Disks {
		if r.PV != nil && r.done() {
			in[r.PV.VolumeGroup] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.VolumeGroups)) {
		vg := s.VolumeGroups[name]
		if !in[name] || vg.Phase != Made || vg.Percent > 0 && vg.Pool != Made {
			continue
		}
		groups[name] = true
		f.VolumeGroups = append(f.VolumeGroups, nodedisks.VolumeGroup{Name: name, UUID: vg.UUID, Pool: vg.Group, ThinPool: vg.ThinPool})
	}
	for _, id := range slices.Sorted(maps.Keys(s.Disks)) {
		r := s.Disks[id]
		if !r.done() || r.PV != nil && !groups[r.PV.VolumeGroup] {
			continue
		}
		d := nodedisks.Disk{ID: id, Group: r.Group, Role: r.Role, Media: r.Media, Slot: r.Slot}
		if r.PV != nil {
			d.VolumeGroup = r.PV.VolumeGroup
		}
		if r.Table != nil {
			for _, p := range r.Table.Partitions {
				d.Partitions = append(d.Partitions, nodedisks.Partition{
					UUID: p.UUID, Filesystem: string(p.Filesystem), MountPoint: p.MountPoint, StorageClass: p.StorageClass,
				})
			}
		}
		f.Disks = append(f.Disks, d)
	}
	if kept == nil {
		return f
	}
	others := map[string]bool{} // volume groups of disks that the state does not know
	for _, d := range kept.Disks {
		if s.Disks[d.ID] == nil && s.Replaced[d.ID] == nil {
			f.Disks = append(f.Disks, d)
			others[d.VolumeGroup] = true
		}
	}
	for _, g := range kept.VolumeGroups {
		if others[g.Name] && s.VolumeGroups[g.Name] == nil {
			f.VolumeGroups = append(f.VolumeGroups, g)
		}
	}
	return f
}

// Store keeps the state file. One process has it at a time.
type Store struct {
	fs    *hostfs.FS
	files Files
	lock  *os.File
}

// ErrLocked is returned while another node-prepare runs.
var ErrLocked = errors.New("another node-prepare is at work on this node (wait for it to end)")

// OpenStore makes the state's directory and locks it. It reads from f and writes with files.
func OpenStore(f *hostfs.FS, files Files) (*Store, error) {
	dir := path.Dir(StatePath)
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	lock, err := f.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // it holds nothing
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &Store{fs: f, files: files, lock: lock}, nil
}

// Close gives the lock back.
func (s *Store) Close() error { return s.lock.Close() }

// Load reads the state. A node that has none gets a new one. A file that cannot
// be understood is an error and never a new state: what it records is needed to
// tell our own disks from others.
func (s *Store) Load() (*State, error) {
	data, err := s.fs.ReadFile(StatePath)
	if errors.Is(err, fs.ErrNotExist) {
		st := &State{Version: stateVersion, Secret: nonce()}
		return st.filled(), s.Save(st)
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, fmt.Errorf("read state %s: %w (put it back from a backup; without it prepared disks cannot be told from others)", StatePath, err)
	}
	if st.Version != stateVersion || st.Secret == "" {
		return nil, fmt.Errorf("read state %s: version %d is not %d (use the node-prepare that wrote it)", StatePath, st.Version, stateVersion)
	}
	return st.filled(), nil
}

// Save makes the state durable.
func (s *Store) Save(st *State) error {
	data, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return s.files.WriteFile(StatePath, append(data, '\n'), 0o600)
}

func (st *State) filled() *State {
	if st.Disks == nil {
		st.Disks = map[string]*Record{}
	}
	if st.Wipes == nil {
		st.Wipes = map[string]*Wipe{}
	}
	if st.VolumeGroups == nil {
		st.VolumeGroups = map[string]*VolumeGroup{}
	}
	if st.Replaced == nil {
		st.Replaced = map[string]*Record{}
	}
	return st
}

func nonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, crypto/rand
	return hex.EncodeToString(b)
}
