// Command natless-fleet lends blocks of IPv4 addresses to the hosts of a fleet: one
// controller lends, and an agent beside each natlessd borrows, or tells a relay who has what. It is a module of its own,
// so that natlessd links none of what it needs to speak with etcd or an API server.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/config/api"
)

// version is set at build time by -ldflags.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	if err := newRoot(&o).ExecuteContext(ctx); err != nil {
		table.Sentences(os.Stderr, "natless-fleet: "+err.Error())
		stop()
		os.Exit(o.begun.Status(err))
	}
}

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "natless-fleet",
		Short: "Blocks of IPv4 addresses, lent to the hosts of a fleet",
		Long: `Blocks of IPv4 addresses, lent to the hosts of a fleet: who has which, and what operators say.

Where the fleet's store is, flags say; without them the variable NATLESS_FLEET, or the file
/etc/natless/fleet.env that this host's units read, with the files of /etc/natless/fleet.

Exit status: 0 when all is well; 1 when something failed; 2 when the command line is wrong.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.output != "text" && o.output != "json" {
				return cli.Misuse("--output %s: is neither text nor json", o.output)
			}
			if o.patience <= 0 {
				return cli.Misuse("--timeout %v: nothing answers within that", o.patience)
			}
			return nil
		},
	}
	o.flags(root.PersistentFlags())
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "text", "`format`: text for people or json for programs")
	root.PersistentFlags().DurationVar(&o.patience, "timeout", timeout, "how `long` the store may take to answer people")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]cobra.Completion{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cli.Group(root)
	for title, commands := range map[string][]*cobra.Command{
		"Look:":    {newStatus(o), newPools(o), newHosts(o), newBlocks(o), newRelays(o), newHeadroom(o), newWhois(o), newEvents(o)},
		"Operate:": {newPool(o), newHost(o), newDrain(o), newFence(o), newRevoke(o), newFollow(o), newDelete(o)},
		"Run:":     {newController(o), newAgent(o), newRelay(o)},
	} {
		for _, c := range commands {
			c.GroupID = title
			root.AddCommand(c)
		}
	}
	for _, title := range []string{"Look:", "Operate:", "Run:"} {
		root.AddGroup(&cobra.Group{ID: title, Title: title})
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Misuse("%w (%s --help lists the flags)", err, c.CommandPath())
	})
	root.SetHelpCommand(cli.Help(root))
	o.begun.Note(root)
	return root
}

// logger writes what a task says.
func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func newController(o *options) *cobra.Command {
	var name string
	var lead, patience time.Duration
	c := &cobra.Command{
		Use:   "controller",
		Short: "Lend blocks to hosts",
		Long: `Lend blocks to hosts that want them, and free those that were given back. Any number may
run: one of them works, and another takes over when it is gone. Nothing depends on there
being one: where two work at once, or none, no address is lent twice.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.open()
			if err != nil {
				return err
			}
			log := logger(c.ErrOrStderr())
			identity := fmt.Sprintf("%s-%d", name, os.Getpid())
			task := fleet.ControllerTask{Controller: fleet.Controller{Store: s, Log: log, Now: time.Now, Patience: patience}, Resync: time.Minute,
				Elector: fleet.Elector{Name: identity, Store: s, Duration: lead, Now: time.Now}}
			log.Info("the controller runs", "version", version, "identity", identity)
			return task.Run(c.Context())
		},
	}
	c.Flags().StringVar(&name, "name", hostName(), "`name` among controllers; the process's number is added")
	c.Flags().DurationVar(&lead, "lead", 15*time.Second, "for how `long` a leader that says nothing is waited for")
	c.Flags().DurationVar(&patience, "relay-patience", 3*time.Minute, "for how `long` new blocks wait for a relay that says nothing: twice relay.stale_after or more")
	return c
}

func newAgent(o *options) *cobra.Command {
	m := member{what: "host"}
	var idle, look time.Duration
	c := &cobra.Command{
		Use:   "agent",
		Short: "Borrow blocks for this host's natlessd",
		Long: `Tell natlessd on this host which blocks it has (pools with from: fleet), and the fleet what
it holds and wants. natlessd keeps what it has, and works, for as long as nobody tells it
anything: this program may be restarted and upgraded at any time.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			id, s, err := m.open(o)
			if err != nil {
				return err
			}
			log := logger(c.ErrOrStderr())
			task := fleet.AgentTask{Resync: look, Agent: fleet.Agent{Name: m.name, Machine: id, Replaces: m.replaces, Store: s, Natlessd: api.NewClient(m.socket).Patience(time.Minute),
				Idle: idle, Now: time.Now, Log: log}}
			log.Info("the agent runs", "version", version, "host", m.name, "socket", m.socket)
			return task.Run(c.Context())
		},
	}
	m.flags(c)
	c.Flags().DurationVar(&idle, "idle", 10*time.Minute, "for how `long` a block is empty before it is given back")
	c.Flags().DurationVar(&look, "look", 2*time.Second, "how `often` natlessd is asked what it wants")
	return c
}

func newRelay(o *options) *cobra.Command {
	m := member{what: "relay"}
	var beat, reread time.Duration
	c := &cobra.Command{
		Use:   "relay",
		Short: "Tell the natlessd of a relay which block leads to which host",
		Long: `Tell natlessd on this relay (relay.ipv4 in its configuration) which block leads to which
host, and the fleet by which view of it the relay goes. natlessd translates for as long as
nobody tells it anything; it says that its view is stale then, and drains.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			id, s, err := m.open(o)
			if err != nil {
				return err
			}
			log := logger(c.ErrOrStderr())
			task := fleet.RelayTask{Beat: beat, Reread: reread, RelayAgent: fleet.RelayAgent{Name: m.name, Machine: id, Replaces: m.replaces, Store: s,
				Natlessd: api.NewClient(m.socket).Patience(time.Minute), Now: time.Now, Log: log}}
			log.Info("the relay's agent runs", "version", version, "relay", m.name, "socket", m.socket)
			return task.Run(c.Context())
		},
	}
	m.flags(c)
	c.Flags().DurationVar(&beat, "beat", 10*time.Second, "how `often` the relay says that it lives; no less often than a quarter of relay.stale_after")
	c.Flags().DurationVar(&reread, "reread", 10*time.Minute, "for how `long` it goes by what a watch tells alone")
	return c
}

// member is a host or a relay of the fleet, which what says, with a natlessd of its own.
type member struct {
	what, name, socket, machine string
	replaces                    bool
}

func (m *member) flags(c *cobra.Command) {
	c.Flags().StringVar(&m.name, "name", hostName(), "`name` of this "+m.what+" in the fleet; no other has it, ever")
	c.Flags().StringVar(&m.socket, "socket", api.DefaultSocket, "`path` of natlessd's socket")
	c.Flags().StringVar(&m.machine, "machine-id", "/etc/machine-id", "`file` that tells this machine from all others, by a hash; \"\": nothing does")
	c.Flags().BoolVar(&m.replaces, "replaces", false, "the machine that had the name is gone for good")
}

// open says what tells this machine from others, and connects to the store.
func (m *member) open(o *options) (id string, s fleet.Store, err error) {
	if m.name == "" {
		return "", nil, fmt.Errorf("--name: what is this %s called in the fleet?", m.what)
	}
	if id, err = machineID(m.machine); err != nil {
		return "", nil, err
	}
	s, err = o.open()
	return id, s, err
}

// machineID is a number for this machine, of which the file cannot be told (machine-id(5)).
func machineID(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--machine-id: %w", err)
	}
	sum := sha256.Sum256(append([]byte("natless-fleet "), bytes.TrimSpace(b)...))
	return hex.EncodeToString(sum[:8]), nil
}
