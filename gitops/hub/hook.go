package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/atomicfile"
)

const hookMark = "# Written by holdfast-hub"

// newCache is the render cache, which hub and hook share: what a push was
// verified with is not rendered again.
func newCache(o Options) render.Cache { return fileCache{dir: filepath.Join(o.DataDir, "units")} }

// InstallHook writes the repository's pre-receive hook, which calls self. A
// hook that somebody else wrote is left alone and is an error.
func InstallHook(o Options, self string) error {
	path := filepath.Join(o.Repo, "hooks", "pre-receive")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install hook: %w", err)
	}
	if err == nil && !strings.Contains(string(old), hookMark) {
		return fmt.Errorf("install hook: %s is somebody else's; call %q from it and start the hub with --install-hook=false", path, self+" pre-receive")
	}
	dataDir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return err
	}
	repo, err := filepath.Abs(o.Repo)
	if err != nil {
		return err
	}
	var signers string
	if o.Signers != "" {
		if signers, err = filepath.Abs(o.Signers); err != nil {
			return err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\n%s: refuses pushes that the fleet could not run.\nexec %s pre-receive --repo=%s --data-dir=%s --branch=%s --allowed-signers=%s\n",
		hookMark, quote(self), quote(repo), quote(dataDir), quote(o.Branch), quote(signers))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("install hook: %w", err)
	}
	if err := atomicfile.Write(path, []byte(script), 0o755); err != nil {
		return fmt.Errorf("install hook: %w", err)
	}
	return nil
}

// quote makes one shell word of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
