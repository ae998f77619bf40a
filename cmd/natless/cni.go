package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/conflist"
	"github.com/natless/natless/config/api"
)

// defaultNetworks is where container engines look for network configurations.
const defaultNetworks = "/etc/cni/net.d"

// lookAgain is how often --watch looks: some network plugins write their
// configuration anew, and containers that start in between have no IPv4.
const lookAgain = 2 * time.Second

// ways are those by which a container can have its IPv4.
var ways = []string{api.IPv4Inside, api.IPv4Prefix, "none"}

type chaining struct {
	conf, bin, from string
	socket, pool    string
	daemon          *api.Client
	ipv4            string
	annotations     []string
	ports           int
	watch, wait     bool
}

func newCNI(o *options) *cobra.Command {
	c := cli.Group(&cobra.Command{Use: "cni", Short: "Chain natless-cni into the network of this host's containers"})
	var ch chaining
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the plugin and chain it behind the network's others",
		Long: `Copy natless-cni to the directory where the container engine looks for plugins,
and append it to the first network configuration (*.conflist, by name). That is
the one the engine uses. It must exist, and its plugins must give containers IPv6.

Doing it twice changes nothing. With --watch it waits for the configuration, and
appends the plugin again whenever another program rewrites the file, and installs
it again when one removes it, until you end it. It ends by itself where a directory
that a container has mounted is removed: only a new mount shows the one that is made
anew. With --wait it waits for natlessd on a host that has not had the plugin
before, so that a natlessd that does not start takes nobody's network away.

Each file is replaced whole or not at all, the configuration last.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("socket") {
				ch.socket = o.socket
			}
			ch.daemon = o.client()
			return ch.install(c.Context(), c.OutOrStdout())
		},
	}
	remove := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the plugin from the network",
		Args:  cli.Arguments(0, 0),
		RunE:  func(c *cobra.Command, _ []string) error { return ch.remove(c.OutOrStdout()) },
	}
	for _, sub := range []*cobra.Command{install, remove} {
		sub.Flags().StringVar(&ch.conf, "conf-dir", defaultNetworks, "`directory` of the network configurations")
		sub.Flags().StringVar(&ch.bin, "bin-dir", "/opt/cni/bin", "`directory` of the engine's plugins")
		c.AddCommand(sub)
	}
	f := install.Flags()
	f.StringVar(&ch.from, "plugin", "", "the `program` to install (default natless-cni beside this one, in /usr/lib/cni, /usr/libexec/cni or PATH)")
	f.StringVar(&ch.pool, "pool", "", "the `pool` from which the network's containers get their share")
	f.IntVar(&ch.ports, "ports", 0, "how many `ports` each container gets (default the pool's ports_per_workload)")
	install.RegisterFlagCompletionFunc("pool", o.completePool)
	install.RegisterFlagCompletionFunc("ports", nothing)
	f.StringVar(&ch.ipv4, "ipv4", "", "the `way` by which containers have their IPv4: inside, prefix, or none but for those that ask (default as the pool has it)")
	install.RegisterFlagCompletionFunc("ipv4", cobra.FixedCompletions(ways, cobra.ShellCompDirectiveNoFileComp))
	f.StringSliceVar(&ch.annotations, "annotations", nil, "the `name` of a pod's annotation that is heeded, of "+strings.Join(conflist.Annotations, ", ")+
		"; several with commas (default none)")
	install.RegisterFlagCompletionFunc("annotations", cobra.FixedCompletions(conflist.Annotations, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&ch.wait, "wait", false, "wait for natlessd to be ready before the first time on this host")
	f.BoolVar(&ch.watch, "watch", false, "keep running, and do it again whenever it is undone")
	return c
}

func (ch *chaining) install(ctx context.Context, w io.Writer) error {
	if ch.from == "" {
		var err error
		if ch.from, err = pluginProgram(); err != nil {
			return err
		}
	}
	for flag, dir := range map[string]string{"--conf-dir": ch.conf, "--bin-dir": ch.bin} {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return fmt.Errorf("%s %s: there is no such directory: is a container engine installed, and does it look elsewhere?", flag, dir)
		}
	}
	program := filepath.Join(ch.bin, conflist.Plugin)
	// The program is what tells the next start that this host has had the plugin before:
	// then containers wait for natlessd, which they do not without the plugin.
	if _, err := os.Stat(program); ch.wait && errors.Is(err, fs.ErrNotExist) {
		if err := ch.ready(ctx, w); err != nil {
			return err
		}
	}
	if err := conflist.Copy(ch.from, program); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	return ch.keep(ctx, w, program)
}

// keep chains the plugin: once, or whenever another program has undone it. So it is with
// the program: without it no container would start, nor give back what it has.
func (ch *chaining) keep(ctx context.Context, w io.Writer, program string) error {
	said := ""
	for waiting := false; ; {
		if err := ch.tidy(); err != nil {
			return err
		}
		if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
			if err := conflist.Copy(ch.from, program); err != nil {
				return fmt.Errorf("install the plugin again: %w", err)
			}
			fmt.Fprintf(w, "%s was gone, and is installed again\n", program)
		}
		path, changed, err := ch.chain()
		if before := conflist.Before(path); before != said && err == nil {
			if said = before; before != "" {
				fmt.Fprintf(w, "%s stands before %s and is no list: containerd and CRI-O take it, and containers have no IPv4: "+
					"remove it, or make a .conflist of it\n", before, path)
			}
		}
		switch {
		case ch.watch && errors.Is(err, conflist.ErrNone):
			if !waiting {
				fmt.Fprintf(w, "waiting for a *.conflist in %s\n", ch.conf)
			}
			waiting = true
		case ch.watch && errors.Is(err, conflist.ErrChanged): // look again
		case err != nil:
			return err
		case changed:
			fmt.Fprintf(w, "%s: %s is chained\n", path, conflist.Plugin)
			waiting = false
		case !ch.watch:
			fmt.Fprintf(w, "%s: %s was there already\n", path, conflist.Plugin)
		}
		if !ch.watch || !sleep(ctx, lookAgain) {
			return nil
		}
	}
}

// tidy removes what one of us left that was killed, and says where there is no use in
// going on.
func (ch *chaining) tidy() error {
	for _, dir := range []string{ch.conf, ch.bin} {
		if conflist.Gone(dir) {
			return fmt.Errorf("%s: somebody has removed this directory, and one of that name that is made anew is not seen here: "+
				"start this again (Kubernetes does)", dir)
		}
		conflist.Sweep(dir)
	}
	return nil
}

// ready waits until natlessd is.
func (ch *chaining) ready(ctx context.Context, w io.Writer) error {
	for said := false; ; said = true {
		attempt, cancel := context.WithTimeout(ctx, lookAgain)
		err := ch.daemon.Health(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if !said {
			fmt.Fprintf(w, "waiting for natlessd: %v\n", err)
		}
		if !sleep(ctx, lookAgain/4) {
			return ctx.Err()
		}
	}
}

// sleep is false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// packaged is where the packages put the plugin: Debian's, and the others.
var packaged = []string{"/usr/lib/cni", "/usr/libexec/cni"}

// pluginProgram finds the program to install: beside this one, as it is built and in the
// container image; where the package has it; or in PATH.
func pluginProgram() (string, error) {
	var looked []string
	if self, err := os.Executable(); err == nil {
		looked = append(looked, filepath.Dir(self))
		if real, err := filepath.EvalSymlinks(self); err == nil && filepath.Dir(real) != looked[0] {
			looked = append(looked, filepath.Dir(real))
		}
	}
	looked = append(looked, packaged...)
	for _, dir := range looked {
		path := filepath.Join(dir, conflist.Plugin)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	if path, err := exec.LookPath(conflist.Plugin); err == nil {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("%s is not there: looked in %s and in PATH; name it with --plugin", conflist.Plugin, strings.Join(looked, ", "))
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
	if ch.ipv4 != "" {
		if !slices.Contains(ways, ch.ipv4) {
			return "", false, cli.Misuse("--ipv4 %s: is none of %s", ch.ipv4, strings.Join(ways, ", "))
		}
		keys["ipv4"] = ch.ipv4
	}
	if ch.ports > 0 {
		keys["ports"] = ch.ports
	}
	for _, name := range ch.annotations {
		if !slices.Contains(conflist.Annotations, name) {
			return "", false, cli.Misuse("--annotations %s: is none of %s", name, strings.Join(conflist.Annotations, ", "))
		}
		keys["annotations"] = ch.annotations
	}
	changed, err = conflist.Add(path, keys)
	return path, changed, err
}

// remove leaves the program: containers that are there need it when they end. It takes
// the plugin out of every list that has it: which of them engines take may have changed
// since.
func (ch *chaining) remove(w io.Writer) error {
	if _, err := os.ReadDir(ch.conf); err != nil {
		return fmt.Errorf("network configurations: %w", err)
	}
	conflist.Sweep(ch.conf)
	var errs []error
	for _, chained := range conflist.In(ch.conf) {
		if changed, err := conflist.Remove(chained.Path); err != nil {
			errs = append(errs, err)
		} else if changed {
			fmt.Fprintf(w, "%s: %s is taken out; %s stays for the containers that are there\n", chained.Path, conflist.Plugin,
				filepath.Join(ch.bin, conflist.Plugin))
		}
	}
	return errors.Join(errs...)
}
