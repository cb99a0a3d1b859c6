package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Holder is one ID that Docker mounted a volume with.
type Holder struct {
	ID string `json:"id"`
	// Told says that the volume was mounted and that Docker is, or was, told so.
	Told bool `json:"told"`
}

// lost is the ID of holders of which nothing is known: the volume is mounted, and its
// record is not there or cannot be read. It is no ID of Docker's, which are in hexadecimal.
const lost = "(unknown)"

// Record is who holds one volume. Without holders it says that the volume is being
// unmounted.
type Record struct {
	LV      string   `json:"lv"`
	Boot    string   `json:"boot"` // of the kernel: no mount outlives it
	Holders []Holder `json:"holders"`
}

func (r *Record) find(id string) int {
	return slices.IndexFunc(r.Holders, func(h Holder) bool { return h.ID == id })
}

func (r *Record) drop(id string) {
	r.Holders = slices.DeleteFunc(r.Holders, func(h Holder) bool { return h.ID == id })
}

// Records keep who holds which volume, across the death of the process and not across
// that of the kernel. What Save was given is there after it returned, as a whole.
type Records interface {
	// Load is nil without an error when there is no record.
	Load(lv string) (*Record, error)
	Save(r Record) error
	Delete(lv string) error
	// List are the logical volumes that have a record.
	List() ([]string, error)
}

// ErrDamaged is a record that cannot be understood. Whoever held the volume is not known.
var ErrDamaged = errors.New("the record cannot be understood")

// Files are records in a directory, best on a tmpfs: it ends when the mounts end.
type Files struct{ Dir string }

const suffix = ".json"

func (f Files) name(lv string) string { return filepath.Join(f.Dir, lv+suffix) }

// Load is Records'.
func (f Files) Load(lv string) (*Record, error) {
	data, err := os.ReadFile(f.name(lv))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read who holds %s: %w", lv, err)
	}
	var r Record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || r.LV != lv || r.Boot == "" {
		return nil, fmt.Errorf("read who holds %s in %s: %w", lv, f.name(lv), ErrDamaged)
	}
	return &r, nil
}

// Save is Records'. It replaces the file by a rename: a reader, and the next process,
// sees the old one or the new one. It does not wait for a disk; after a power cut
// whatever it left is of another boot, or damaged and without a mount.
func (f Files) Save(r Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write who holds %s: %w", r.LV, err)
	}
	tmp := filepath.Join(f.Dir, "."+r.LV)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write who holds %s: %w", r.LV, err)
	}
	if err := os.Rename(tmp, f.name(r.LV)); err != nil {
		return fmt.Errorf("write who holds %s: %w", r.LV, err)
	}
	return nil
}

// Delete is Records'.
func (f Files) Delete(lv string) error {
	if err := os.Remove(f.name(lv)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove who holds %s: %w", lv, err)
	}
	return nil
}

// List is Records'.
func (f Files) List() ([]string, error) {
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil, fmt.Errorf("list who holds volumes: %w", err)
	}
	var all []string
	for _, e := range entries {
		if lv, ok := strings.CutSuffix(e.Name(), suffix); ok && !strings.HasPrefix(lv, ".") {
			all = append(all, lv)
		}
	}
	return all, nil
}
