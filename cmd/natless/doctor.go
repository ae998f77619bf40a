//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

const defaultConfig = "/etc/natless/natless.yaml"

// errUnwell is what remains to be said when the report has been printed.
var errUnwell = errors.New("something is wrong; see above for what to do")

func newDoctor(o *options) *cobra.Command {
	path, probe, networks := "", "", ""
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check the host and say what to fix",
		Long: `Check everything that natless needs on this host: configuration, API, kernel,
device, routes, addresses, neighbours, the way back from outside, sysctls, MTU,
firewall, anti-spoofing, fast path, resolver, pools, the plugin's configuration,
containers (also what has its IPv4 inside), registry, disk, clock, and other
translators. Each line is ok, warn or fail; the remedy is below it.

It changes nothing. It sends one ping to each of the translator's own addresses,
and, from this host's own address and one of each pool, one to the next hop toward
IPv4, whose answers must come back (--probe names another host to ask). These have
the identifier 0, which is no workload's: explicit mappings, and pools of whole
addresses that all have owners, are not probed. It asks the translator's resolver
for one name, each of its upstreams for the root's servers, and the uplink's link by
ARP whether another host has an address of natless. Run it as root, in the network
namespace of natlessd. When natlessd is not running it checks what it can.

Exit status: 0 when no check failed (a warning is not a failure), else 1.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			p := o.patient(c, path, time.Now())
			p.NetworkConfigs = networks
			if probe != "" {
				var err error
				if p.Probe, err = netip.ParseAddr(probe); err != nil || !p.Probe.Is4() {
					return cli.Misuse("--probe %s: is not an IPv4 address", probe)
				}
			}
			return examine(c, o.output, p)
		},
	}
	c.Flags().StringVar(&path, "config", "", "the daemon's configuration `file` (default the one that natlessd runs, else "+defaultConfig+")")
	c.Flags().StringVar(&networks, "conf-dir", defaultNetworks, "`directory` of the container engine's network configurations")
	c.Flags().StringVar(&probe, "probe", "", "ask this IPv4 `address`, and not the next hop, whether pools have a way back")
	c.RegisterFlagCompletionFunc("probe", nothing)
	return c
}

// patient is this host with its daemon, by the configuration in a file, or by the one
// that the daemon runs.
func (o *options) patient(c *cobra.Command, path string, now time.Time) doctor.Patient {
	client := o.client()
	p := doctor.Patient{ConfigPath: path, Client: client, Version: version.String(), Now: now}
	if path == "" {
		p.ConfigPath = defaultConfig
		if s, err := client.Status(c.Context()); err == nil {
			p.ConfigPath = s.Config
		}
	}
	p.Config, p.ConfigError = config.Load(p.ConfigPath)
	host := doctor.ThisHost{Device: config.Default().Device.Name}
	if p.Config != nil {
		host.Device = p.Config.Device.Name
		if !c.Flags().Changed("socket") {
			p.Client = api.NewClient(p.Config.API.Socket).Patience(patience)
		}
	}
	p.Host = host
	return p
}

func examine(c *cobra.Command, output string, p doctor.Patient) error {
	w := c.OutOrStdout()
	var show func(doctor.Finding)
	if output != "json" {
		show = func(f doctor.Finding) { printFinding(w, f) }
	}
	findings := doctor.Examine(c.Context(), p, show)
	if output == "json" {
		if err := table.JSON(w, findings); err != nil {
			return err
		}
	}
	if doctor.Worst(findings) == doctor.Fail {
		return errUnwell
	}
	return c.Context().Err()
}

// printFinding indents the remedy under what it mends.
func printFinding(w io.Writer, f doctor.Finding) {
	const indent = 21
	room := table.Width(w)
	if room > 0 {
		room = max(room-indent-2, table.LeastCell)
	}
	var lines []string
	for _, line := range strings.Split(f.Detail, "\n") {
		lines = append(lines, table.Wrap(room, room, line)...)
	}
	fmt.Fprintf(w, "%-4s  %-13s  %s\n", f.State, f.Check, strings.Join(lines, "\n"+strings.Repeat(" ", indent)))
	if f.Remedy != "" {
		fmt.Fprintf(w, "%*s→ %s\n", indent, "", strings.Join(table.Wrap(room, room, f.Remedy), "\n"+strings.Repeat(" ", indent+2)))
	}
}
