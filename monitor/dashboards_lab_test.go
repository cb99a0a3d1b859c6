//go:build lab

package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/lab/monitoring"
	"holdfast.dev/internal/build/dashboards"
	"holdfast.dev/monitor/smart"
)

// fullDrives are a disk of each protocol that tells all it can.
func fullDrives(d *drives) {
	n := func(v uint64) *uint64 { return &v }
	small := func(v uint8) *uint8 { return &v }
	celsius, failures, failing := 31, 1, false
	base := smart.Report{Failing: &failing, Celsius: &celsius, PowerOnHours: n(10), PowerCycles: n(3), PercentUsed: small(7)}
	with := func(p smart.Protocol, edit func(r *smart.Report)) *smart.Report {
		r := base
		r.Protocol = p
		edit(&r)
		return &r
	}
	d.says("nvme0n1", with(smart.NVMe, func(r *smart.Report) {
		r.NVMe = &smart.NVMeHealth{CriticalWarning: smart.TemperatureOutside, AvailableSpare: 100, SpareThreshold: 10, SelfTestFailures: &failures}
	}))
	d.says("sda", with(smart.ATA, func(r *smart.Report) {
		r.ATA = &smart.ATAHealth{Errors: n(1), SelfTestFailures: &failures, Attributes: []smart.Attribute{{ID: 9, Name: "power-on hours", Value: 100, Threshold: small(10), Count: 10}}}
	}))
	scan := 1
	counters := &smart.ErrorCounters{Corrected: n(1), Uncorrected: n(1), BytesProcessed: n(1)}
	d.says("sdb", with(smart.SCSI, func(r *smart.Report) {
		r.SCSI = &smart.SCSIHealth{Read: counters, Write: counters, Verify: counters, ScanErrors: &scan, SelfTestFailures: &failures}
	}))
}

// mayBeEmpty are the queries that find nothing when all is well.
var mayBeEmpty = []string{`count(up{`, `sum(holdfast_disk_monitor_condition{`}

// Each query of each panel finds something in a real Prometheus that scrapes a
// monitor with a disk of each kind.
func TestDashboardsFindWhatTheyShow(t *testing.T) {
	h, api, d := newHost(t), newMemory(), newDrives()
	h.plugDisk("nvme0n1", "a")
	h.plugDisk("sda", "b")
	h.plugDisk("sdb", "c")
	h.plug("loop1", "d")
	h.prepare("missing")
	fullDrives(d)
	m, _ := watchWith(t, h, api, healthOptions(h), d.as)
	api.await(t, "missing", is("loop-missing", "Missing Missing*1"))
	h.ioError("loop1")
	h.ioError("sdz") // nobody's
	api.await(t, "failed", is("loop-d", "Failed BlockIO*1"))
	within(t, func() bool { return len(m.published.Load().readings) == 3 })

	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = strings.TrimPrefix(srv.URL, "http://") }})
	defer proxy.Close()
	p, err := monitoring.Start(t.Context(), monitoring.Options{Dir: t.TempDir(), ProxyURL: proxy.URL, ScrapeInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if err := p.SetTargets([]monitoring.Target{{Job: "disk-monitor", Address: "n1.lab.invalid:9808", Labels: map[string]string{"cluster": "c", "node": "n1"}}}); err != nil {
		t.Fatal(err)
	}
	queries := 0
	for _, board := range dashboards.Disks() {
		for _, panel := range board.Panels {
			for _, q := range panel.Queries {
				expr := q.Expr
				for _, v := range board.Variables {
					expr = strings.ReplaceAll(expr, "$"+v, ".*")
				}
				if strings.Contains(expr, "$") {
					t.Errorf("%s, %s: %s has an unknown variable", board.UID, panel.Title, q.Expr)
				}
				queries++
				if err := found(t.Context(), p, expr); err != nil {
					t.Errorf("%s, %s: %v", board.UID, panel.Title, err)
				}
			}
		}
	}
	if queries < 40 {
		t.Errorf("only %d queries", queries)
	}
}

// found waits until a query has a result, which takes a rate two scrapes.
func found(ctx context.Context, p *monitoring.Pair, expr string) error {
	for deadline := time.Now().Add(15 * time.Second); ; {
		v, err := p.Query(ctx, expr)
		if err == nil && len(v) == 0 {
			err = errors.New("finds nothing")
		}
		for _, prefix := range mayBeEmpty {
			if v != nil && strings.HasPrefix(expr, prefix) {
				err = nil
			}
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", expr, err)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}
