package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/atomicfile"
)

// hubFlags say where the hub is and who asks.
type hubFlags struct{ url, credential string }

func (h *hubFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.url, "hub", envOr("HOLDFAST_HUB", "https://127.0.0.1:9812"), "base URL of the hub (environment: HOLDFAST_HUB)")
	cmd.Flags().StringVar(&h.credential, "credential-file", os.Getenv("HOLDFAST_CREDENTIAL_FILE"), "file with your credential, which is renewed there (environment: HOLDFAST_CREDENTIAL_FILE)")
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func (h *hubFlags) status(cmd *cobra.Command) (protocol.Status, error) {
	var st protocol.Status
	return st, h.call(cmd, http.MethodGet, "/v1/status", nil, 15*time.Second, &st)
}

// call asks the hub for JSON.
func (h *hubFlags) call(cmd *cobra.Command, method, path string, body io.Reader, timeout time.Duration, into any) error {
	if h.credential == "" {
		return errors.New("no credential; make one with \"holdfast join --admin\" and give its file with --credential-file")
	}
	cred, err := trust.LoadCredential(h.credential)
	if err != nil {
		return err
	}
	if cred, err = h.renewed(cmd, cred); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: the credential in %s was not renewed: %v\n", h.credential, err)
	}
	cfg, err := cred.Config()
	if err != nil {
		return fmt.Errorf("read credential %s: %w", h.credential, err)
	}
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: cfg}}
	defer client.CloseIdleConnections()
	return h.ask(cmd, client, method, path, body, into)
}

// renewed renews a credential after two thirds of its life, in its file. It
// returns the one to use, also beside an error.
func (h *hubFlags) renewed(cmd *cobra.Command, cred *trust.Credential) (*trust.Credential, error) {
	leaf, err := cred.Leaf()
	if err != nil || time.Now().Before(trust.RenewalAt(leaf, leaf.NotBefore)) {
		return cred, err
	}
	cfg, err := cred.Config()
	if err != nil {
		return cred, err
	}
	key, err := trust.NewKey()
	if err != nil {
		return cred, err
	}
	csr, err := trust.Request(key)
	if err != nil {
		return cred, err
	}
	body, err := json.Marshal(protocol.CertificateRequest{Request: string(csr)})
	if err != nil {
		return cred, err
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg}}
	defer client.CloseIdleConnections()
	var got protocol.Certificate
	if err := h.ask(cmd, client, http.MethodPost, "/v1/renew", bytes.NewReader(body), &got); err != nil {
		return cred, err
	}
	next := &trust.Credential{Cert: []byte(got.Certificate), Key: key, Roots: []byte(got.Roots)}
	return next, atomicfile.Write(h.credential, next.Bytes(), 0o600)
}

func (h *hubFlags) ask(cmd *cobra.Command, client *http.Client, method, path string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(cmd.Context(), method, strings.TrimSuffix(h.url, "/")+path, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the hub: %s: %.300s", resp.Status, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	return nil
}
