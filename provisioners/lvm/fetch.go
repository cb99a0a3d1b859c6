package lvm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/provisioners/lvm/vg"
)

// tellEvery is how often a long transfer tells how far it is, tellFirst when it does so
// for the first time.
const (
	tellFirst = time.Minute
	tellEvery = 5 * time.Minute
)

// incoming is a volume that another node's driver sends.
type incoming struct {
	size     int64
	fs       string
	frames   *frameReader
	progress func(at int64) // told after each frame
	close    func()
}

// fetch asks the driver of a node for the source of a claim. The claim is looked up
// first: without it the volume is nobody's, and what there is of it has been removed.
func (t *Transfers) fetch(ctx context.Context, node string, claim *corev1.PersistentVolumeClaim, source Handle) (*incoming, error) {
	if err := wanted(ctx, t.api, claim); err != nil {
		return nil, err
	}
	address, certificate, err := t.peer(ctx, node)
	switch {
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return nil, fmt.Errorf("%w: the source is on node %s, whose driver gives nothing to other nodes (value transferPort of the addon)", vg.ErrNoRoom, node)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !begin(t.in) {
		return nil, fmt.Errorf("%d volumes are copied to node %s already: %w", maxTransfers, t.engine.node, ErrBusy)
	}
	in, err := t.request(ctx, node, address, certificate, claim, source)
	if err != nil {
		<-t.in
		return nil, fmt.Errorf("copy %s of node %s: %w", source, node, err)
	}
	end := in.close
	in.close = func() { end(); <-t.in }
	in.progress = t.progress(claim, node, in.size)
	return in, nil
}

// wanted is nil for a claim that is there now and has no volume, and ErrNotFound for one
// that is gone, or has one, by the API server's own word.
func wanted(ctx context.Context, api client.Reader, claim *corev1.PersistentVolumeClaim) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := client.ObjectKeyFromObject(claim)
	var now corev1.PersistentVolumeClaim
	switch err := api.Get(ctx, key, &now); {
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse), err == nil && now.UID != claim.UID:
		return fmt.Errorf("claim %s is gone: %w", key, ErrNotFound)
	case err != nil:
		return fmt.Errorf("read claim %s: %w: %w", key, ErrUnavailable, err)
	case now.Spec.VolumeName != "":
		return fmt.Errorf("claim %s has volume %s: %w", key, now.Spec.VolumeName, ErrNotFound)
	}
	return nil
}

// request sends the request and reads the answer's head.
func (t *Transfers) request(ctx context.Context, node, address, certificate string, claim *corev1.PersistentVolumeClaim, source Handle) (*incoming, error) {
	limit := t.engine.deadlines.Block
	head := limit + 3*t.engine.deadlines.Change // the other side makes a snapshot before
	tr := &http.Transport{
		DialContext: (&net.Dialer{Timeout: callTimeout}).DialContext, TLSHandshakeTimeout: callTimeout, ResponseHeaderTimeout: head,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 8 << 10,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // the very certificate is compared below
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &t.cert, nil },
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || fingerprint(s.PeerCertificates[0].Raw) != certificate {
					return fmt.Errorf("who answers at %s has not the certificate of the Lease of node %s", address, node)
				}
				return nil
			},
		},
	}
	q := url.Values{"node": {t.engine.node}, "namespace": {claim.Namespace}, "claim": {claim.Name}, "uid": {string(claim.UID)}, "source": {source.String()}}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: address, Path: transferPath, RawQuery: q.Encode()}).String(), nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	resp, err := tr.RoundTrip(req) //nolint:bodyclose // incoming.close does
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	body := &patientReader{r: resp.Body, limit: limit, cause: func() error { return context.Cause(ctx) }}
	body.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("node %s sent nothing for %s: %w", node, limit, ErrUnavailable)) })
	body.timer.Stop() // nobody reads yet
	in := &incoming{fs: resp.Header.Get(headerFS), close: func() {
		body.timer.Stop()
		cancel(nil)
		_ = resp.Body.Close() // what is not read is not wanted
		tr.CloseIdleConnections()
	}}
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(body, maxReason)) // as much as there is
		in.close()
		kind := ErrUnavailable
		if resp.StatusCode == http.StatusTooManyRequests {
			kind = ErrBusy
		}
		return nil, fmt.Errorf("it answers %d: %q: %w", resp.StatusCode, why, kind)
	}
	in.size, err = strconv.ParseInt(resp.Header.Get(headerSize), 10, 64)
	if err != nil || in.size <= 0 || in.size > MaxSize || in.size%512 != 0 {
		in.close()
		return nil, fmt.Errorf("it answers a size of %q: %w", resp.Header.Get(headerSize), errTransfer)
	}
	in.frames = newFrameReader(body, in.size)
	return in, nil
}

// patientReader waits for the next bytes only so long.
type patientReader struct {
	r     io.Reader
	limit time.Duration
	timer *time.Timer
	cause func() error
}

func (p *patientReader) Read(data []byte) (int, error) {
	p.timer.Reset(p.limit)
	n, err := p.r.Read(data)
	p.timer.Stop()
	if cause := p.cause(); err != nil && cause != nil {
		err = cause // who is hung up on may well end in good order
	}
	return n, err
}

// progress tells the log and the claim how far a long transfer is.
func (t *Transfers) progress(claim *corev1.PersistentVolumeClaim, node string, size int64) func(at int64) {
	begun := time.Now()
	next := begun.Add(tellFirst)
	return func(at int64) {
		if time.Now().Before(next) {
			return
		}
		next = next.Add(tellEvery)
		t.log.Info("volume is copied from another node", "claim", claim.Namespace+"/"+claim.Name, "node", node, "bytes", at, "of", size)
		t.tell(claim, fmt.Sprintf("copying from node %s: %d of %d MiB in %s", node, at>>20, size>>20, time.Since(begun).Round(time.Second)))
	}
}

// receive writes what another node sends into a volume that lvcreate made right before
// in this very call.
func (e *Engine) receive(ctx context.Context, g *group, r CreateRequest, name string) error {
	v, err := e.virgin(ctx, g, r, name)
	if err != nil {
		return err
	}
	d, err := e.open(ctx, v.Device(), true, func() {})
	if err != nil {
		return fmt.Errorf("copy to volume %s: %w", name, err)
	}
	err = e.write(ctx, d, v, r.incoming)
	if bad := d.close(); err == nil {
		err = bad
	}
	if err != nil {
		return fmt.Errorf("copy %s to volume %s: %w", r.Source, name, err)
	}
	return nil
}

// write writes all frames to the device, and makes sure of them on the disk.
func (e *Engine) write(ctx context.Context, d *device, v Volume, in *incoming) error {
	if size := d.raw.Size(); size != v.LV.Size || size < in.size {
		return fmt.Errorf("the device has %d bytes, LVM says %d, the source has %d: %w", size, v.LV.Size, in.size, ErrRefused)
	}
	for at := int64(0); ; {
		data, n, err := in.frames.next()
		switch {
		case errors.Is(err, io.EOF):
			if v.LV.Tags.Get(vg.KeyFS) == Block { // no file system hides the rest
				if err := d.zero(ctx, v, at, v.LV.Size); err != nil {
					return err
				}
			}
			return d.do(ctx, "sync", d.raw.Sync)
		case err != nil:
		case data == nil:
			err = d.zero(ctx, v, at, at+n)
		default:
			err = d.do(ctx, "write", func() error { // data is of a write that is left behind when this returns
				_, err := d.raw.WriteAt(data, at)
				return err
			})
		}
		if err != nil {
			return err
		}
		at += n
		in.progress(at)
	}
}

// zero makes a part of a new volume read as zeroes: its extents had other owners. A pool
// hands out zeroes.
func (d *device) zero(ctx context.Context, v Volume, at, end int64) (err error) {
	for from := at; from < end && err == nil && !v.LV.Thin(); from += zeroStep {
		err = d.do(ctx, "zero", func() error { return d.raw.Zero(from, min(zeroStep, end-from)) })
	}
	return err
}
