package lvm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/bounded"
)

const (
	annTransferAddress     = DriverName + "/transfer-address"
	annTransferCertificate = DriverName + "/transfer-certificate" // SHA-256, hex
	leasePrefix            = "lvm-csi-driver-"

	transferPath  = "/v1/transfer"
	headerSize    = "Holdfast-Size"
	headerFS      = "Holdfast-Filesystem"
	maxTransfers  = 2 // in each direction
	transferBlock = 1 << 20
	zeroStep      = 64 << 20 // zeroed by one call
	maxReason     = 1 << 10
)

// Transfers carry volumes from node to node: a claim whose source lies on another node
// gets a copy of its bytes. The node of the claim asks, the source's node serves.
//
// Who is who. Each driver makes a key and a self-signed certificate when it starts, and
// writes address and fingerprint into the Lease lvm-csi-driver-NODE, which the
// admission policy lets that node's driver alone write. Both sides of a TLS 1.3
// connection have a certificate, and each compares the other's with the Lease of the
// node that it should be. There is no token that a node could pass on.
//
// What is served. The request names a claim, by namespace, name and UID, and the handle
// that is expected. The server asks the API server about that claim: it is not bound
// yet, its selected node is the one that asks, and its data source, in its own
// namespace, is the volume or snapshot of that handle. That and no other is read.
//
//	GET /v1/transfer?node=N&namespace=NS&claim=C&uid=U&source=HANDLE
//	200, Holdfast-Size: bytes, Holdfast-Filesystem: xfs, ext4 or block; else text
//
// The body is frames, from the front of the volume to its end. A frame is one byte of
// kind and a length of 8 bytes, big-endian:
//
//	D n, n bytes   the next n bytes of the volume, 1 MiB at most
//	Z n            the next n bytes are zero
//	E n, 32 bytes  the end: n is the volume's size, then the SHA-256 of all frames before
//	F n, n bytes   the server gives up; why
//
// A body without E, with another sum, size or order, is no copy. A volume of a thin pool
// is served from a snapshot that lives as long as the request, kind transfer; another
// one, and a snapshot, is locked meanwhile. Nothing waits for ever: each block read,
// sent, received or written has a deadline of its own (Deadlines.Block).
type Transfers struct {
	engine    *Engine
	api       client.Client
	namespace string
	log       *slog.Logger
	cert      tls.Certificate
	rate      flowcontrol.PassiveRateLimiter
	in, out   chan struct{} // one token for each transfer under way
	tell      func(claim *corev1.PersistentVolumeClaim, message string)
}

// NewTransfers makes a key. api must not be cached. tell makes an Event of a claim; it
// may be nil.
func NewTransfers(e *Engine, api client.Client, namespace string, log *slog.Logger, tell func(claim *corev1.PersistentVolumeClaim, message string)) (*Transfers, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: e.node}, NotBefore: e.now().Add(-time.Hour), NotAfter: e.now().AddDate(100, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	if tell == nil {
		tell = func(*corev1.PersistentVolumeClaim, string) {}
	}
	return &Transfers{engine: e, api: api, namespace: namespace, log: log, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		rate: flowcontrol.NewTokenBucketPassiveRateLimiter(5, 20), in: make(chan struct{}, maxTransfers), out: make(chan struct{}, maxTransfers), tell: tell}, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// begin takes a token without waiting for one.
func begin(slots chan struct{}) (ok bool) {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// Publish writes the address and the certificate of this node into its Lease. It writes
// only what differs.
func (t *Transfers) Publish(ctx context.Context, owner metav1.OwnerReference, address string) error {
	want := map[string]string{annTransferAddress: address, annTransferCertificate: fingerprint(t.cert.Certificate[0])}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: leasePrefix + t.engine.node, Namespace: t.namespace,
		Labels: map[string]string{managedBy: "lvm-csi-driver", v1alpha1.LabelNode: t.engine.node}, Annotations: want, OwnerReferences: []metav1.OwnerReference{owner}}}
	have := &coordinationv1.Lease{}
	err := t.api.Get(ctx, client.ObjectKeyFromObject(lease), have)
	switch {
	case apierrors.IsNotFound(err):
		err = t.api.Create(ctx, lease)
	case err == nil && (have.Annotations[annTransferAddress] != address || have.Annotations[annTransferCertificate] != want[annTransferCertificate] || have.Labels[v1alpha1.LabelNode] != t.engine.node):
		have.Labels, have.Annotations, have.OwnerReferences = lease.Labels, want, lease.OwnerReferences
		err = t.api.Update(ctx, have)
	}
	if err != nil {
		return fmt.Errorf("publish address in lease %s: %w", lease.Name, err)
	}
	return nil
}

// peer is what a node's Lease says.
func (t *Transfers) peer(ctx context.Context, node string) (address, certificate string, _ error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lease := &coordinationv1.Lease{}
	if err := t.api.Get(ctx, client.ObjectKey{Namespace: t.namespace, Name: leasePrefix + node}, lease); err != nil {
		return "", "", fmt.Errorf("read lease %s%s: %w", leasePrefix, node, err)
	}
	address, certificate = lease.Annotations[annTransferAddress], lease.Annotations[annTransferCertificate]
	if lease.Labels[v1alpha1.LabelNode] != node || len(certificate) != 2*sha256.Size {
		return "", "", fmt.Errorf("lease %s has no certificate of node %s: %w", lease.Name, node, ErrInvalid)
	}
	return address, certificate, nil
}

// Kinds of frames.
const (
	frameData   = 'D'
	frameZero   = 'Z'
	frameEnd    = 'E'
	frameFailed = 'F'
)

// frameWriter writes frames and keeps the sum of what it wrote.
type frameWriter struct {
	w     io.Writer
	sum   hash.Hash
	total int64
}

func newFrameWriter(w io.Writer) *frameWriter { return &frameWriter{w: w, sum: sha256.New()} }

func (f *frameWriter) frame(kind byte, n int64, data []byte) error {
	head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(n))
	for _, part := range [][]byte{head, data} {
		if len(part) == 0 {
			continue
		}
		f.sum.Write(part)
		if _, err := f.w.Write(part); err != nil {
			return err
		}
	}
	if kind == frameData || kind == frameZero {
		f.total += n
	}
	return nil
}

func (f *frameWriter) end() error { return f.frame(frameEnd, f.total, f.sum.Sum(nil)) }

// frameReader reads frames, and believes the end of none but a whole volume.
type frameReader struct {
	r    io.Reader
	sum  hash.Hash
	at   int64 // bytes of the volume so far
	size int64
	buf  []byte
}

func newFrameReader(r io.Reader, size int64) *frameReader {
	return &frameReader{r: r, sum: sha256.New(), size: size, buf: make([]byte, transferBlock)}
}

// next is the next part of the volume: n bytes, zeroes when data is nil. It is io.EOF
// after a whole volume and nothing else. data is good until the next call.
func (f *frameReader) next() (data []byte, n int64, _ error) {
	var head [9]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, 0, fmt.Errorf("it ends at byte %d of %d: %w", f.at, f.size, torn(err))
	}
	n = int64(binary.BigEndian.Uint64(head[1:]))
	switch head[0] {
	case frameData, frameZero:
		if n <= 0 || n > f.size-f.at || head[0] == frameData && n > transferBlock {
			return nil, 0, fmt.Errorf("a frame of %d bytes at byte %d of %d: %w", n, f.at, f.size, errTransfer)
		}
	case frameEnd:
		return nil, 0, f.last(n)
	case frameFailed:
		why := make([]byte, min(max(n, 0), maxReason))
		if _, err := io.ReadFull(f.r, why); err != nil {
			return nil, 0, fmt.Errorf("it ends at byte %d of %d: %w", f.at, f.size, torn(err))
		}
		return nil, 0, fmt.Errorf("the source gives up at byte %d of %d: %q: %w", f.at, f.size, why, errTransfer)
	default:
		return nil, 0, fmt.Errorf("a frame of the unknown kind %q: %w", head[0], errTransfer)
	}
	f.sum.Write(head[:])
	f.at += n
	if head[0] == frameZero {
		return nil, n, nil
	}
	data = f.buf[:n]
	if _, err := io.ReadFull(f.r, data); err != nil {
		return nil, 0, fmt.Errorf("it ends before byte %d of %d: %w", f.at, f.size, torn(err))
	}
	f.sum.Write(data)
	return data, n, nil
}

// last judges the end.
func (f *frameReader) last(n int64) error {
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(f.r, sum[:]); err != nil {
		return fmt.Errorf("its sum is cut off: %w", torn(err))
	}
	var more [1]byte
	switch _, err := io.ReadFull(f.r, more[:]); {
	case n != f.size || f.at != f.size:
		return fmt.Errorf("it has %d bytes of %d and ends as one of %d: %w", f.at, f.size, n, errTransfer)
	case !bytes.Equal(sum[:], f.sum.Sum(nil)):
		return fmt.Errorf("its SHA-256 is another: %w", errTransfer)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("it goes on after its end: %w", errTransfer)
	}
	return io.EOF
}

// errTransfer is a body that is no copy.
var errTransfer = fmt.Errorf("the transfer is not whole: %w", ErrUnavailable)

// torn is the error of a body that stops: never io.EOF, which is a whole volume.
func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTransfer
	}
	return fmt.Errorf("%w: %w", errTransfer, err)
}

// RawDevice is a volume's device that is read or written by this process, past the page
// cache. Each call may hang as long as the disk does.
type RawDevice interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is in bytes.
	Size() int64
	// Zero makes n bytes read as zeroes.
	Zero(off, n int64) error
	// Sync returns when what was written is on the disk.
	Sync() error
}

// device gives each call of a RawDevice a deadline. What hangs longer is left behind
// and keeps the device open, so that nothing removes the volume under it.
type device struct {
	raw    RawDevice
	limit  time.Duration
	busy   sync.WaitGroup
	closed func()
}

// open opens a device. closed is called when it is closed again, or could not be opened.
func (e *Engine) open(ctx context.Context, name string, write bool, closed func()) (*device, error) {
	d := &device{limit: e.deadlines.Block, closed: closed}
	err := d.do(ctx, "open "+name, func() error {
		raw, err := e.host.Open(name, write)
		if err == nil {
			d.raw = raw
		}
		return err
	})
	if err != nil {
		_ = d.close() // opening is what failed
		return nil, err
	}
	return d, nil
}

func (d *device) do(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.limit, fmt.Errorf("%s: no answer of the disk in %s: %w", what, d.limit, ErrUnavailable))
	defer cancel()
	d.busy.Add(1)
	_, err := bounded.Call(ctx, func() (struct{}, error) {
		defer d.busy.Done()
		return struct{}{}, f()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// close closes the device as soon as nothing uses it any more.
func (d *device) close() error {
	closed := make(chan error, 1)
	go func() {
		d.busy.Wait()
		var err error
		if d.raw != nil {
			err = d.raw.Close()
		}
		d.closed()
		closed <- err
	}()
	t := time.NewTimer(d.limit)
	defer t.Stop()
	select {
	case err := <-closed:
		return err
	case <-t.C:
		return fmt.Errorf("close: no answer of the disk in %s: %w", d.limit, ErrUnavailable)
	}
}

// refusal is an error that is answered with a status of HTTP.
type refusal struct {
	code int
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func forbid(format string, args ...any) error {
	return &refusal{http.StatusForbidden, fmt.Errorf(format, args...)}
}
