// Command natless is the operator's command line. One file holds one
// subcommand, whose constructor main calls; what it does stands elsewhere.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

// version is set at build time by -ldflags.
var version = "development"

// options are the flags that every subcommand has.
type options struct {
	socket string
	output string // text or json
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := &options{}
	if err := newRoot(o).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "natless:", advise(o.socket, err))
		stop()
		os.Exit(1)
	}
}

// client is made anew for each question, since one process asks few.
func (o *options) client() *api.Client { return api.NewClient(o.socket) }

// hidden are commands that only builds with a tag have.
var hidden []func() *cobra.Command

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:           "natless",
		Short:         "Stateless IPv4 for IPv6-only workloads",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.output != "text" && o.output != "json" {
				return fmt.Errorf("--output %s: is neither text nor json", o.output)
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&o.socket, "socket", api.DefaultSocket, "`path` of the daemon's socket")
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "text", "text for people or json for programs")
	root.AddCommand(
		newStatus(o),
		newWorkloads(o),
		newWhois(o),
		newPools(o),
		newExplain(o),
		newMonitor(o),
		newCapture(o),
		newReload(o),
		newRegistry(o),
		newDoctor(o),
		newCNI(o),
		newDemo(),
	)
	for _, f := range hidden {
		root.AddCommand(f())
	}
	return root
}
