package cleaner

import (
	"fmt"
	"os"
	"testing"

	"holdfast.dev/e2e/cluster"
)

func TestMain(m *testing.M) {
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cluster.Main(m))
}
