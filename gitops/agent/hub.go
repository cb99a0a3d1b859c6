package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"holdfast.dev/gitops/protocol"
)

// maxBundle is the largest bundle that is read, in bytes.
const maxBundle = 64 << 20

// hubClient speaks to the hub as one cluster.
type hubClient struct {
	base      string
	tokenFile string
	client    *http.Client
}

func newHubClient(o Options) (*hubClient, error) {
	tr := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Minute, ResponseHeaderTimeout: protocol.MaxWait + 15*time.Second}
	if o.HubCAFile != "" {
		pem, err := os.ReadFile(o.HubCAFile)
		if err != nil {
			return nil, fmt.Errorf("read hub CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read hub CA: %s has no certificate", o.HubCAFile)
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	}
	return &hubClient{
		base:      strings.TrimSuffix(o.Hub, "/") + "/v1/clusters/" + url.PathEscape(o.Cluster),
		tokenFile: o.TokenFile,
		client:    &http.Client{Transport: tr},
	}, nil
}

// desired waits until the hub wants another revision than after, or MaxWait is over.
func (h *hubClient) desired(ctx context.Context, after string) (protocol.Desired, error) {
	var d protocol.Desired
	body, err := h.do(ctx, protocol.MaxWait+20*time.Second, http.MethodGet, "/desired?after="+url.QueryEscape(after), nil)
	if err != nil {
		return d, fmt.Errorf("ask hub for the desired revision: %w", err)
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, fmt.Errorf("ask hub for the desired revision: %w", err)
	}
	return d, nil
}

// bundle fetches the files of a revision.
func (h *hubClient) bundle(ctx context.Context, revision string) (map[string][]byte, error) {
	body, err := h.do(ctx, time.Minute, http.MethodGet, "/bundles/"+url.PathEscape(revision), nil)
	if err != nil {
		return nil, fmt.Errorf("fetch bundle %.12s: %w", revision, err)
	}
	files := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(body))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("fetch bundle %.12s: %w", revision, err)
		}
		if hdr.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("fetch bundle %.12s: %w", revision, err)
		}
		files[hdr.Name] = data
	}
}

// report tells the hub how the cluster is.
func (h *hubClient) report(ctx context.Context, r protocol.Report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := h.do(ctx, 10*time.Second, http.MethodPost, "/report", data); err != nil {
		return fmt.Errorf("report to hub: %w", err)
	}
	return nil
}

func (h *hubClient) do(ctx context.Context, timeout time.Duration, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(h.tokenFile) // read each time: it may be rotated
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("hub answered %s: %.200s", resp.Status, strings.TrimSpace(string(data)))
	}
	if len(data) > maxBundle {
		return nil, fmt.Errorf("hub answered with more than %d bytes", maxBundle)
	}
	return data, nil
}
