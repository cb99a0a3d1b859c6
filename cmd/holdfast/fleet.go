package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// fleetFlags choose the clusters that a command looks at: the contexts of a kubeconfig.
type fleetFlags struct {
	kubeconfig string
	contexts   []string
	timeout    time.Duration
}

func (f *fleetFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with a context for each cluster (default: $KUBECONFIG, else ~/.kube/config)")
	fs.StringSliceVar(&f.contexts, "context", nil, "contexts to look at (default: all)")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long one cluster may take to answer")
}

// unreachable is a cluster that did not answer: shown, never left out.
type unreachable struct {
	Cluster string `json:"cluster"`
	Error   string `json:"error"`
}

// each calls read once for every cluster, all at the same time.
func (f *fleetFlags) each(ctx context.Context, read func(ctx context.Context, cluster string, c client.Client) error) ([]unreachable, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	if err := anyThere(rules.GetLoadingPrecedence()); err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w (give one with --kubeconfig)", err)
	}
	raw, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	names := f.contexts
	if len(names) == 0 {
		for name := range raw.Contexts {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the kubeconfig has no context; give one with --kubeconfig")
	}
	sort.Strings(names)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var lost []unreachable
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, f.timeout)
			defer cancel()
			cfg, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, nil, rules).ClientConfig()
			if err == nil {
				var c client.Client
				cfg = rest.CopyConfig(cfg)
				cfg.Timeout = f.timeout
				if c, err = client.New(cfg, client.Options{Scheme: scheme}); err == nil {
					err = read(ctx, name, c)
				}
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				lost = append(lost, unreachable{Cluster: name, Error: err.Error()})
			}
		})
	}
	wg.Wait()
	sort.Slice(lost, func(i, j int) bool { return lost[i].Cluster < lost[j].Cluster })
	return lost, nil
}

// anyThere says which files are not there when none of them is: loading takes that
// for a configuration without contexts.
func anyThere(files []string) error {
	var missing []string
	for _, file := range files {
		if file == "" { // as of KUBECONFIG=a::b
			continue
		}
		_, err := os.Stat(file)
		if !errors.Is(err, os.ErrNotExist) {
			return nil
		}
		missing = append(missing, err.Error())
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.New(strings.Join(missing, "; "))
}
