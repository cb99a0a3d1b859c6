package lvm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/provisioners/lvm/vg"
)

// Serve serves this node's volumes on a listener until ctx ends.
func (t *Transfers) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: t, ReadHeaderTimeout: callTimeout, IdleTimeout: callTimeout, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(t.log.Handler(), slog.LevelDebug), // whoever reaches the port can make these
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{t.cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert},
		Protocols:   new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { // requests end with ctx; whoever is cut off begins anew
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = errors.Join(srv.Shutdown(ctx), srv.Close())
	})
	err := srv.ServeTLS(l, "", "")
	if stop() {
		return fmt.Errorf("serve transfers: %w", errors.Join(err, srv.Close()))
	}
	<-stopped
	return nil
}

// ServeHTTP answers one request for a volume.
func (t *Transfers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	log := t.log.With("from", r.RemoteAddr, "node", r.URL.Query().Get("node"), "claim", r.URL.Query().Get("namespace")+"/"+r.URL.Query().Get("claim"))
	err := t.lend(w, r, log)
	if err == nil {
		return
	}
	log.Info("volume is not given to another node", "error", err)
	code := http.StatusServiceUnavailable
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		code = refused.code
	}
	http.Error(w, err.Error(), code)
}

// lend finds out what may be served, and serves it. An error is one before the first byte.
func (t *Transfers) lend(w http.ResponseWriter, r *http.Request, log *slog.Logger) error {
	switch {
	case r.Method != http.MethodGet || r.URL.Path != transferPath:
		return &refusal{http.StatusNotFound, errors.New("there is nothing here")}
	case !t.rate.TryAccept(): // each costs a request to the API server
		return &refusal{http.StatusTooManyRequests, errors.New("too many requests")}
	}
	h, uid, err := t.authorize(r)
	if err != nil {
		return err
	}
	if !begin(t.out) {
		return &refusal{http.StatusTooManyRequests, fmt.Errorf("node %s gives away %d volumes already", t.engine.node, maxTransfers)}
	}
	defer func() { <-t.out }()
	v, release, err := t.engine.lend(r.Context(), h, uid)
	if err != nil {
		return err
	}
	d, err := t.engine.open(r.Context(), v.Device(), false, release)
	if err != nil {
		return err
	}
	if size := d.raw.Size(); size != v.LV.Size {
		return errors.Join(fmt.Errorf("the device has %d bytes, LVM says %d: %w", size, v.LV.Size, ErrRefused), d.close())
	}
	begun := time.Now()
	err = t.send(r.Context(), w, v, d)
	if bad := d.close(); err == nil && bad != nil {
		log.Info("device of a volume that was sent is not closed", "volume", v.LV.Name, "error", bad)
	}
	if err != nil {
		log.Info("volume is not sent to its end", "volume", v.LV.Name, "error", err)
		return nil // a body without its last frame says so
	}
	log.Info("volume sent", "volume", v.LV.Name, "bytes", v.LV.Size, "took", time.Since(begun).Round(time.Millisecond).String())
	return nil
}

// authorize is what a request may have: the handle, and the UID of the claim.
func (t *Transfers) authorize(r *http.Request) (Handle, string, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	q := r.URL.Query()
	node, key, uid := q.Get("node"), client.ObjectKey{Namespace: q.Get("namespace"), Name: q.Get("claim")}, q.Get("uid")
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || node == "" || key.Namespace == "" || key.Name == "" || uid == "" {
		return Handle{}, "", forbid("a certificate, node, namespace, claim and uid are needed")
	}
	_, want, err := t.peer(ctx, node)
	switch {
	case apierrors.IsNotFound(err), errors.Is(err, ErrInvalid), err == nil && want != fingerprint(r.TLS.PeerCertificates[0].Raw):
		return Handle{}, "", forbid("the certificate is not that of node %q (its Lease says so)", node)
	case err != nil:
		return Handle{}, "", err
	}
	var claim corev1.PersistentVolumeClaim
	if err := t.api.Get(ctx, key, &claim); apierrors.IsNotFound(err) {
		return Handle{}, "", forbid("there is no claim %s", key)
	} else if err != nil {
		return Handle{}, "", fmt.Errorf("read claim %s: %w", key, err)
	}
	switch {
	case string(claim.UID) != uid:
		return Handle{}, "", forbid("claim %s has another UID", key)
	case claim.Annotations[annSelectedNode] != node:
		return Handle{}, "", forbid("the selected node of claim %s is not %s", key, node)
	case claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil:
		return Handle{}, "", forbid("claim %s has its volume or is being deleted", key)
	}
	src, on, err := contentSource(ctx, t.api, &claim)
	switch {
	case errors.Is(err, ErrInvalid):
		return Handle{}, "", forbid("%w", err)
	case err != nil:
		return Handle{}, "", err
	case src == nil || sourceID(src) != q.Get("source"):
		return Handle{}, "", forbid("claim %s has another source than %q", key, q.Get("source"))
	case on != t.engine.node:
		return Handle{}, "", forbid("the source of claim %s is on node %q, this is %s", key, on, t.engine.node)
	}
	h, err := ParseHandle(sourceID(src))
	if err != nil {
		return Handle{}, "", forbid("%w", err)
	}
	return h, uid, nil
}

// send writes the whole device as frames.
func (t *Transfers) send(ctx context.Context, w http.ResponseWriter, v Volume, d *device) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(headerSize, strconv.FormatInt(v.LV.Size, 10))
	w.Header().Set(headerFS, v.LV.Tags.Get(vg.KeyFS))
	out := newFrameWriter(&patientWriter{w: w, c: http.NewResponseController(w), limit: d.limit})
	var zeroes int64
	flush := func() (err error) {
		if zeroes > 0 {
			err = out.frame(frameZero, zeroes, nil)
		}
		zeroes = 0
		return err
	}
	buf, nothing := make([]byte, transferBlock), make([]byte, transferBlock)
	for at := int64(0); at < v.LV.Size; {
		n := min(transferBlock, v.LV.Size-at)
		block := buf[:n] // of a read that is left behind when this returns
		err := d.do(ctx, "read", func() error {
			_, err := d.raw.ReadAt(block, at)
			return err
		})
		if err != nil {
			why := err.Error()
			why = why[:min(len(why), maxReason)]
			return errors.Join(err, out.frame(frameFailed, int64(len(why)), []byte(why)))
		}
		at += n
		// A run of zeroes ends now and then: its frames are the sign of life of a long one.
		if bytes.Equal(block, nothing[:n]) {
			if zeroes += n; zeroes >= zeroStep {
				err = flush()
			}
		} else if err = flush(); err == nil {
			err = out.frame(frameData, n, block)
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	if err := errors.Join(flush(), out.end()); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// patientWriter gives each write to a connection a deadline of its own.
type patientWriter struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	limit time.Duration
}

func (p *patientWriter) Write(data []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	n, err := p.w.Write(data)
	if err == nil && len(data) < transferBlock { // zeroes and ends are to be seen at once
		err = p.c.Flush()
	}
	return n, err
}

// lend makes a volume or snapshot ready to be read for another node. release ends that;
// the device must be closed then.
func (e *Engine) lend(ctx context.Context, h Handle, uid string) (_ Volume, release func(), _ error) {
	v, unlock, err := e.take(ctx, h)
	if err != nil {
		return Volume{}, nil, err
	}
	switch kind := v.Kind(); {
	case kind == KindVolume && v.LV.Thin():
		defer unlock()
		return e.lendMoment(ctx, e.byUUID[h.Group], &v.LV, uid)
	case kind == KindVolume || kind == KindSnapshot:
		err = e.quiet(ctx, v)
	default:
		err = fmt.Errorf("copy of %s: it is a %s: %w", h.LV, kind, ErrRefused)
	}
	if err != nil {
		unlock()
		return Volume{}, nil, err
	}
	return v, unlock, nil
}

// lendMoment makes a snapshot of a thin volume, for one transfer. It is never ready, so
// that nothing else takes it, and whoever finds it without a transfer removes it.
func (e *Engine) lendMoment(ctx context.Context, g *group, src *vg.LV, uid string) (_ Volume, release func(), err error) {
	name := lvName(KindTransfer, uid)
	unlock, err := e.lock(name)
	if err != nil {
		return Volume{}, nil, err
	}
	// Its own time: it is called when the request has ended, however that was.
	release = func() {
		defer unlock()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.deadlines.Change)
		defer cancel()
		if err := e.dropMoment(ctx, g, name); err != nil {
			e.log.Info("snapshot of a transfer stays for now", "volume", name, "group", g.info.Name, "error", err)
		}
	}
	if err := e.dropMoment(ctx, g, name); err != nil { // of a request that ended with the process
		unlock()
		return Volume{}, nil, err
	}
	r := CreateRequest{Kind: KindTransfer, Name: uid, Source: &Handle{Group: g.info.UUID, LV: src.Name}, Spec: Spec{FS: src.Tags.Get(vg.KeyFS), Thin: true, Overcommit: src.Overcommit()}}
	v, err := e.copyThin(ctx, g, r, name, *src, true)
	if err == nil {
		err = e.activate(ctx, v)
	}
	if err != nil {
		release()
		return Volume{}, nil, err
	}
	return v, release, nil
}

// dropMoment removes the snapshot of a transfer. The caller has its lock.
func (e *Engine) dropMoment(ctx context.Context, g *group, name string) error {
	s, err := e.look(ctx, g, false)
	if err != nil {
		return err
	}
	lv := s.Find(name)
	switch {
	case lv == nil:
		return nil
	case !lv.Tags.Ours() || Kind(lv.Tags.Get(vg.KeyKind)) != KindTransfer:
		return fmt.Errorf("volume %s/%s has the name of a transfer and is another one by its tags (rename or remove it): %w", g.info.Name, name, ErrRefused)
	}
	return e.remove(ctx, g, *lv)
}

// FinishTransfers removes the snapshots of transfers that are not under way, as after a
// restart. It runs nothing when there are none.
func (e *Engine) FinishTransfers(ctx context.Context) error {
	return e.leftovers(KindTransfer, func(g *group, v Volume) error {
		unlock, err := e.lock(v.LV.Name)
		if err != nil {
			return nil //nolint:nilerr // it is under way
		}
		defer unlock()
		return e.dropMoment(ctx, g, v.LV.Name)
	})
}
