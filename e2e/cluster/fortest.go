package cluster

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// startTimeout is generous: other test binaries want the same processors.
const startTimeout = 3 * time.Minute

// TB is what this package needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// shared is the test binary's own cluster and program. Test functions have no
// other place in common than the package.
var shared struct {
	sync.Mutex
	cluster *Cluster
	err     error
	users   int
	kept    bool // by Main, until the end of the binary

	build  sync.Once
	binary string
	built  error
}

// ForTest is a cluster that the tests of a binary share: they must not take
// one another's names. With Main in TestMain it runs from the first use to the
// end of the binary, else to the end of the last test that uses it.
func ForTest(t TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = startForTest(Options{Name: "test"})
	}
	if shared.err != nil {
		t.Fatalf("%v", shared.err)
	}
	shared.users++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		shared.users--
		if shared.users == 0 && !shared.kept {
			if err := stopShared(); err != nil {
				t.Errorf("%v", err)
			}
		}
	})
	return shared.cluster
}

// Fresh is a cluster for this test alone.
func Fresh(t TB) *Cluster {
	t.Helper()
	return FreshWith(t, Options{Name: "test"})
}

// FreshWith is a cluster for this test alone, with options.
func FreshWith(t TB, o Options) *Cluster {
	t.Helper()
	c, err := startForTest(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Errorf("%v", err)
		}
	})
	return c
}

// Main runs the tests of a binary that share one cluster, and stops it at the
// end. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
func Main(m interface{ Run() int }) int {
	shared.Lock()
	shared.kept = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func stopShared() error {
	c := shared.cluster
	shared.cluster = nil
	if c == nil {
		return nil
	}
	return c.Stop(context.Background())
}

func startForTest(o Options) (*Cluster, error) {
	shared.build.Do(func() { shared.binary, shared.built = Build(context.Background()) })
	if shared.built != nil {
		return nil, shared.built
	}
	o.Binary = shared.binary
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return Start(ctx, o)
}
