//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

const defaultConfig = "/etc/natless/natless.yaml"

// errUnwell is what remains to be said when the report has been printed.
var errUnwell = errors.New("something is wrong; see above for what to do")

func newDoctor(o *options) *cobra.Command {
	path := ""
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check the host and say what to fix",
		Long: `Check everything that natless needs on this host: configuration, API, kernel,
device, routes, addresses, neighbours, sysctls, MTU, firewall, anti-spoofing, fast
path, resolver, pools, containers, registry, disk, clock, and other translators.
Each line is ok, warn or fail; the remedy is below it.

It changes nothing. It sends one ping to each of the translator's own addresses,
asks the translator's resolver for one name, and asks the uplink's link by ARP
whether another host has an address of natless. Run it as root, in the network
namespace of natlessd. When natlessd is not running it checks what it can.

Exit status: 0 when no check failed (a warning is not a failure), else 1.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client := o.client()
			p := doctor.Patient{ConfigPath: path, Client: client, Version: version, Now: time.Now()}
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
					p.Client = api.NewClient(p.Config.API.Socket)
				}
			}
			p.Host = host
			return examine(c, o.output, p)
		},
	}
	c.Flags().StringVar(&path, "config", "", "the daemon's configuration `file` (default the one that natlessd runs, else "+defaultConfig+")")
	return c
}

func examine(c *cobra.Command, output string, p doctor.Patient) error {
	w := c.OutOrStdout()
	var show func(doctor.Finding)
	if output != "json" {
		show = func(f doctor.Finding) { printFinding(w, f) }
	}
	findings := doctor.Examine(c.Context(), p, show)
	if output == "json" {
		if err := printJSON(w, findings); err != nil {
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
	fmt.Fprintf(w, "%-4s  %-13s  %s\n", f.State, f.Check, strings.ReplaceAll(f.Detail, "\n", "\n"+strings.Repeat(" ", 21)))
	if f.Remedy != "" {
		fmt.Fprintf(w, "      %-13s  → %s\n", "", f.Remedy)
	}
}
