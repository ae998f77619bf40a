package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/conflist"
)

// lookAgain is how often --watch looks: some network plugins write their
// configuration anew, and containers that start in between have no IPv4.
const lookAgain = 2 * time.Second

type chaining struct {
	conf, bin, from string
	socket, pool    string
	ports           int
	watch           bool
}

func newCNI(o *options) *cobra.Command {
	c := &cobra.Command{Use: "cni", Short: "Chain natless-cni into the network of this host's containers"}
	var ch chaining
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the plugin and chain it behind the network's others",
		Long: `Copy natless-cni to the directory where the container engine looks for plugins,
and append it to the first network configuration (*.conflist, by name). That is
the one the engine uses. It must exist, and its plugins must give containers IPv6.

Doing it twice changes nothing. With --watch it waits for the configuration, and
appends the plugin again whenever another program rewrites the file, until you
end it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("socket") {
				ch.socket = o.socket
			}
			return ch.install(c.Context(), c.OutOrStdout())
		},
	}
	remove := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the plugin from the network",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return ch.remove(c.OutOrStdout()) },
	}
	for _, sub := range []*cobra.Command{install, remove} {
		sub.Flags().StringVar(&ch.conf, "conf-dir", "/etc/cni/net.d", "`directory` of the network configurations")
		sub.Flags().StringVar(&ch.bin, "bin-dir", "/opt/cni/bin", "`directory` of the engine's plugins")
		c.AddCommand(sub)
	}
	f := install.Flags()
	f.StringVar(&ch.from, "plugin", "", "the `program` to install (default natless-cni beside this one)")
	f.StringVar(&ch.pool, "pool", "", "the `pool` from which the network's containers get their share")
	f.IntVar(&ch.ports, "ports", 0, "how many `ports` each container gets (default the pool's ports_per_workload)")
	f.BoolVar(&ch.watch, "watch", false, "keep running, and do it again whenever it is undone")
	return c
}

func (ch *chaining) install(ctx context.Context, w io.Writer) error {
	if ch.from == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		ch.from = filepath.Join(filepath.Dir(self), conflist.Plugin)
	}
	if err := conflist.Copy(ch.from, filepath.Join(ch.bin, conflist.Plugin)); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	for waiting := false; ; {
		path, changed, err := ch.chain()
		switch {
		case ch.watch && errors.Is(err, conflist.ErrNone):
			if !waiting {
				fmt.Fprintf(w, "waiting for a *.conflist in %s\n", ch.conf)
			}
			waiting = true
		case err != nil:
			return err
		case changed:
			fmt.Fprintf(w, "%s: %s is chained\n", path, conflist.Plugin)
			waiting = false
		case !ch.watch:
			fmt.Fprintf(w, "%s: %s was there already\n", path, conflist.Plugin)
		}
		if !ch.watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAgain):
		}
	}
}

func (ch *chaining) chain() (path string, changed bool, err error) {
	if path, err = conflist.Find(ch.conf); err != nil {
		return "", false, err
	}
	keys := map[string]any{}
	if ch.socket != "" {
		keys["socket"] = ch.socket
	}
	if ch.pool != "" {
		keys["pool"] = ch.pool
	}
	if ch.ports > 0 {
		keys["ports"] = ch.ports
	}
	changed, err = conflist.Add(path, keys)
	return path, changed, err
}

// remove leaves the program: containers that are there need it when they end.
func (ch *chaining) remove(w io.Writer) error {
	path, err := conflist.Find(ch.conf)
	if errors.Is(err, conflist.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	changed, err := conflist.Remove(path)
	if err == nil && changed {
		fmt.Fprintf(w, "%s: %s is taken out; %s stays for the containers that are there\n", path, conflist.Plugin,
			filepath.Join(ch.bin, conflist.Plugin))
	}
	return err
}
