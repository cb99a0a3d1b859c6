package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/internal/build/cache"
	"holdfast.dev/internal/hostexec"
)

var (
	//go:embed build.sh
	buildScript []byte
	//go:embed unpack.sh
	unpackScript []byte
	//go:embed packages.txt
	packagesFile []byte
)

// busyboxBase is the one base that is no Debian system but a single package of it, unpacked.
const busyboxBase = "busybox"

// script is what builds a base.
func script(name string) []byte {
	if name == busyboxBase {
		return unpackScript
	}
	return buildScript
}

// buildTimeout is for a slow mirror; half a minute is usual.
const buildTimeout = 15 * time.Minute

// EnsureBase returns a base from the cache directory, and builds it first when it
// is not there; BaseArchive is in it. Progress goes to log. Several processes may
// call it at once. The base is in use until it is closed.
func EnsureBase(ctx context.Context, dir, name string, log io.Writer) (*cache.Entry, error) {
	install, remove, err := packages(packagesFile, name)
	if err != nil {
		return nil, fmt.Errorf("find base %s: %w", name, err)
	}
	e, err := cache.Ensure(ctx, dir, name, baseKey(name, install, remove), func(ctx context.Context, tmp string) error {
		return buildBase(ctx, tmp, script(name), install, remove, log)
	})
	if err != nil {
		return nil, fmt.Errorf("base of images: %w", err)
	}
	return e, nil
}

// BaseArchive is the file of a base that its layer is made of.
const BaseArchive = "base.tar"

func buildBase(ctx context.Context, tmp string, code []byte, install, remove []string, log io.Writer) error {
	if _, err := hostexec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("%w (apt-get install mmdebstrap)", err)
	}
	script := filepath.Join(tmp, "build.sh")
	if err := os.WriteFile(script, code, 0o644); err != nil {
		return err
	}
	_, err := hostexec.Run(ctx, buildTimeout, hostexec.Command{Path: "bash", Stdout: log, Stderr: log,
		Args: []string{script, strings.Join(install, ","), strings.Join(remove, ","), tmp}})
	return err
}

// packages are the packages to install and to remove of one section of a list.
func packages(list []byte, section string) (install, remove []string, err error) {
	var current string
	var found bool
	for line := range strings.Lines(string(list)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			current = strings.TrimSuffix(name, "]")
			found = found || current == section
			continue
		}
		if line == "" || current != section {
			continue
		}
		if name, ok := strings.CutPrefix(line, "-"); ok {
			remove = append(remove, name)
		} else {
			install = append(install, line)
		}
	}
	if !found {
		return nil, nil, fmt.Errorf("packages.txt has no section [%s]", section)
	}
	return install, remove, nil
}

// baseKey names what a base is made of.
func baseKey(name string, install, remove []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %s", install, remove, script(name))
	return hex.EncodeToString(h.Sum(nil))[:16]
}
