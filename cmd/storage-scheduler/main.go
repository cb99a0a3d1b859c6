// Command storage-scheduler is kube-scheduler with the plugin of package
// scheduler compiled in. Its flags and its configuration file are
// kube-scheduler's.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of client-go
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	"k8s.io/kubernetes/cmd/kube-scheduler/app"

	"holdfast.dev/scheduler"
)

func main() { os.Exit(cli.Run(newCommand())) }

// newCommand is kube-scheduler's command with the plugin registered. A profile
// of its configuration file must enable it.
func newCommand() *cobra.Command {
	c := app.NewSchedulerCommand(app.WithPlugin(scheduler.Name, scheduler.NewFactory(legacyregistry.Registerer())))
	c.Use = "storage-scheduler"
	c.Long = `kube-scheduler with the plugin ` + scheduler.Name + ` of Holdfast, which gives claims their
volumes with an eye on disks. Enable it in place of VolumeBinding in a profile
of the file that --config names; scheduler/README.md has an example.`
	return c
}
