package main

import (
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
)

// hubFlags say where the hub is and who asks.
type hubFlags struct{ url, tokenFile string }

func (h *hubFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.url, "hub", envOr("HOLDFAST_HUB", "http://127.0.0.1:9812"), "base URL of the hub (environment: HOLDFAST_HUB)")
	cmd.Flags().StringVar(&h.tokenFile, "token-file", os.Getenv("HOLDFAST_TOKEN_FILE"), "file with the admin token (environment: HOLDFAST_TOKEN_FILE)")
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
	if h.tokenFile == "" {
		return errors.New("no token; make one with \"holdfast join --admin\" and give its file with --token-file")
	}
	token, err := os.ReadFile(h.tokenFile)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, strings.TrimSuffix(h.url, "/")+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Timeout: timeout}).Do(req)
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the hub: %s: %.200s", resp.Status, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("ask the hub: %w", err)
	}
	return nil
}
