package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/gitops/protocol"
)

// maxReply is the largest reply of the hub that is read, in bytes: a whole bundle
// (maxBundle) as a tar stream, or in JSON, which makes it a third larger.
const maxReply = 64 << 20

// errTooLarge is a reply that would be as large at the next try.
var errTooLarge = fmt.Errorf("the hub answers with more than %d bytes, which is all that an agent reads; give the cluster fewer or smaller objects", maxReply)

// hubClient speaks to the hub as one cluster.
type hubClient struct {
	base     string
	identity *identity
}

func newHubClient(o Options, c client.Client, log *slog.Logger) *hubClient {
	hub := strings.TrimSuffix(o.Hub, "/")
	namespace, name, _ := strings.Cut(o.Identity, "/") // as Validate found it
	return &hubClient{
		base: hub + "/v1/clusters/" + url.PathEscape(o.Cluster),
		identity: &identity{base: hub, cluster: url.PathEscape(o.Cluster), rootsFile: o.HubCAFile, token: o.TokenFile,
			secret: types.NamespacedName{Namespace: namespace, Name: name}, client: c, log: log},
	}
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
	c, err := h.identity.use(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		h.identity.refused()
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("hub answered %s: %.200s", resp.Status, strings.TrimSpace(string(data)))
	}
	if len(data) > maxReply {
		return nil, errTooLarge
	}
	return data, nil
}
