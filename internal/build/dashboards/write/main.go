// Command write writes the dashboards into the directory that it is given;
// "make generate" runs it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"holdfast.dev/internal/build/dashboards"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give the directory to write to")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	for _, d := range dashboards.Disks() {
		data, err := d.JSON()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], d.UID+".json"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
