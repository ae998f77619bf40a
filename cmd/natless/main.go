// Command natless is the operator's command line. One file holds one
// subcommand, whose constructor main calls; what it does stands elsewhere.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config/api"
)

// options are the flags that every subcommand has.
type options struct {
	socket string
	output string // text or json
	begun  cli.Begun
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := &options{}
	if err := newRoot(o).ExecuteContext(ctx); err != nil {
		table.Sentences(os.Stderr, "natless: "+advise(o.socket, err).Error())
		stop()
		os.Exit(o.begun.Status(err))
	}
}

// patience is how long the answer to a question may take that is not slow by nature.
var patience = 15 * time.Second

// client is made anew for each question, since one process asks few.
func (o *options) client() *api.Client { return o.patientClient().Patience(patience) }

// patientClient is for what takes as long as it takes: reloads, backups, and packets.
func (o *options) patientClient() *api.Client { return api.NewClient(o.socket) }

// hidden are commands that only builds with a tag have.
var hidden []func() *cobra.Command

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "natless",
		Short: "Stateless IPv4 for IPv6-only workloads",
		Long: `Stateless IPv4 for IPv6-only workloads: what natlessd does, and to whom.

Exit status: 0 when all is well; 1 when something failed, or doctor found that
something is wrong; 2 when the command line is wrong.`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.output != "text" && o.output != "json" {
				return cli.Misuse("--output %s: is neither text nor json", o.output)
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&o.socket, "socket", api.DefaultSocket, "`path` of the daemon's socket")
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "text", "`format`: text for people or json for programs")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]cobra.Completion{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cli.Group(root)
	root.AddCommand(
		newStatus(o),
		newWorkloads(o),
		newTop(o),
		newWhois(o),
		newPools(o),
		newBlocks(o),
		newRelay(o),
		newFleet(),
		newDrain(o),
		newUndrain(o),
		newExplain(o),
		newPolicy(o),
		newMonitor(o),
		newCapture(o),
		newFlows(o),
		newReload(o),
		newRegistry(o),
		newDoctor(o),
		newBugtool(o),
		newCNI(o),
		newDemo(),
		newVersion(o),
	)
	for _, f := range hidden {
		root.AddCommand(f())
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Misuse("%w (%s --help lists the flags)", err, c.CommandPath())
	})
	root.SetHelpCommand(cli.Help(root))
	o.begun.Note(root)
	return root
}
