package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"holdfast.dev/addons"
	"holdfast.dev/kustomize"
	"holdfast.dev/salt"
)

// Cache keeps rendered units by key, a string of hexadecimal digits. Losing an
// entry costs a render and changes nothing. Put may be called by several
// goroutines at once.
type Cache interface {
	Get(key string) (data []byte, ok bool, err error)
	Put(key string, data []byte) error
}

// rendererVersion is part of every key. Raise it when the same input renders to
// other bytes than before.
const rendererVersion = "4"

// maxTraces bounds how many traces are kept for one static key; the newest stay.
const maxTraces = 256

// trace says that a unit whose static inputs are the key's, and whose reads give
// these values, renders to output. The scheme is that of constructive traces
// (Mokhov, Mitchell, Peyton Jones: Build Systems à la Carte, section 4.2.3).
type trace struct {
	Reads []salt.Read `json:"reads"`
	// Output is the SHA-256 of the output's encoding, and its key.
	Output string `json:"output"`
}

func (t trace) matches(in salt.Inputs) bool {
	return !slices.ContainsFunc(t.Reads, func(r salt.Read) bool { return in.Hash(r.Path) != r.Hash })
}

// staticKey hashes every file that the unit can be made from. Nothing else in
// the repository can be reached by its rendering; what it reads of pillar and
// grains is in its traces.
func staticKey(t Tree, u *unit) string {
	h := sha256.New()
	h.Write(fmt.Appendf(nil, "holdfast render %s\x00%s\x00", rendererVersion, u.addon.Name))
	k := u.kustomizeUnit()
	// The folders' order counts, and not only their files.
	h.Write(fmt.Appendf(nil, "%q\x00", k.Folders(t)))
	for _, p := range u.files(t) {
		sum := t.sums[p]
		h.Write(append([]byte(p), 0))
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// files lists every file that the unit can be made from, but for those outside
// of its folders that its traces name.
func (u *unit) files(t Tree) []string {
	return slices.Concat(t.Under(addons.Dir+"/"+u.addon.Name), t.Under(salt.StatesDir+"/"+u.addon.Name), u.kustomizeUnit().Inputs(t))
}

func (u *unit) kustomizeUnit() kustomize.Unit {
	return kustomize.Unit{Addon: u.addon.Name, AZ: u.cluster.AZ, Cluster: u.cluster.Name}
}

// traces are the known traces of one static key, newest last.
type traces struct {
	cache Cache
	key   string
	list  []trace
	dirty bool
}

func loadTraces(cache Cache, key string) (*traces, error) {
	t := &traces{cache: cache, key: key}
	if cache == nil {
		return t, nil
	}
	data, ok, err := cache.Get(key)
	if err != nil || !ok {
		return t, err
	}
	t.list = decodeTraces(key, data)
	return t, nil
}

// encodeTraces writes traces with a hash of them: a trace that has lost a read by a
// damage, and is JSON still, would match what it must not.
func encodeTraces(key string, list []trace) ([]byte, error) {
	data, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("write traces: %w", err)
	}
	return fmt.Appendf(nil, "%s\n%s", traceSum(key, data), data), nil
}

// decodeTraces returns none for a damaged entry, which costs a render.
func decodeTraces(key string, data []byte) (list []trace) {
	sum, data, _ := bytes.Cut(data, []byte("\n"))
	if string(sum) != traceSum(key, data) || json.Unmarshal(data, &list) != nil {
		return nil
	}
	return list
}

func traceSum(key string, data []byte) string {
	sum := sha256.Sum256(append([]byte(key), data...))
	return hex.EncodeToString(sum[:])
}

// find returns the output that a rendering with these inputs would have, or nil,
// with the reads that tell so.
func (t *traces) find(in salt.Inputs) (*output, trace, error) {
	for i := len(t.list) - 1; i >= 0; i-- {
		if !t.list[i].matches(in) {
			continue
		}
		data, ok, err := t.cache.Get(t.list[i].Output)
		if err != nil {
			return nil, trace{}, err
		}
		if out, same := decodeOutput(data, t.list[i].Output); ok && same {
			return out, t.list[i], nil
		}
	}
	return nil, trace{}, nil
}

// add notes a rendering.
func (t *traces) add(reads []salt.Read, out *output) error {
	if t.cache == nil {
		return nil
	}
	data, key := out.encode()
	if err := t.cache.Put(key, data); err != nil {
		return err
	}
	t.list = append(t.list, trace{reads, key})
	if n := len(t.list); n > maxTraces {
		t.list = slices.Clone(t.list[n-maxTraces:])
	}
	t.dirty = true
	return nil
}

// save writes the traces back if there is a new one.
func (t *traces) save() error {
	if !t.dirty {
		return nil
	}
	data, err := encodeTraces(t.key, t.list)
	if err != nil {
		return err
	}
	return t.cache.Put(t.key, data)
}

// output is what a unit renders to.
type output struct {
	Digest  string           // of the objects' files: see digestFiles
	Objects []renderedObject // sorted by path
}

// renderedObject is one object of a unit.
type renderedObject struct {
	Path string
	// Text is canonical YAML, which nobody changes.
	Text []byte
	// ID is kind.group namespace/name; File and Line are where it is written.
	ID   string
	File string
	Line int
}

// encode writes the digest, and of each object its path, id, file, line and text: each as
// its length and its bytes. Whole fleets are read of this.
func (o *output) encode() (data []byte, key string) {
	put := func(s string) { data = append(binary.AppendUvarint(data, uint64(len(s))), s...) }
	put(o.Digest)
	for _, r := range o.Objects {
		for _, s := range []string{r.Path, r.ID, r.File, strconv.Itoa(r.Line), string(r.Text)} {
			put(s)
		}
	}
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:])
}

// decodeOutput reads an encoded output; false when it is not what key says.
func decodeOutput(data []byte, key string) (*output, bool) {
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != key {
		return nil, false
	}
	whole := true
	next := func() []byte {
		size, n := binary.Uvarint(data)
		if whole = whole && n > 0 && size <= uint64(len(data)-n); !whole {
			return nil
		}
		part := data[n : n+int(size) : n+int(size)]
		data = data[n+int(size):]
		return part
	}
	o := &output{Digest: string(next())}
	for whole && len(data) > 0 {
		r := renderedObject{Path: string(next()), ID: string(next()), File: string(next())}
		line, err := strconv.Atoi(string(next()))
		r.Line, r.Text = line, next()
		whole = whole && err == nil
		o.Objects = append(o.Objects, r)
	}
	return o, whole
}
