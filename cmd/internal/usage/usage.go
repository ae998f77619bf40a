// Package usage is what the daemon can be told on its command line, apart from
// the daemon, so that its manual page is made of the same text as its --help.
// What a flag does may not enter.
package usage

import (
	"flag"
	"fmt"
)

// Daemon is what natlessd's flags say.
type Daemon struct {
	Config  string
	Check   bool
	Version bool
}

// DaemonText is what natlessd's --help says above its flags. The first
// sentence is the name line of the manual page.
const DaemonText = `natlessd translates between IPv6-only workloads and IPv4, without state.

  natlessd --config FILE            run until SIGTERM or SIGINT
  natlessd --config FILE --check    say what is wrong with the configuration
  natlessd --version

SIGHUP reads the file again: it is swapped in whole, or refused and nothing
changes. Under systemd (Type=notify) it says when it is ready.

Exit status: 0 when it was asked to end, or --check found nothing wrong; 1 when
something failed; 2 when the command line or the configuration is wrong.

`

// Flags makes the flags that fill d.
func (d *Daemon) Flags() *flag.FlagSet {
	flags := flag.NewFlagSet("natlessd", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), DaemonText); flags.PrintDefaults() }
	flags.StringVar(&d.Config, "config", "/etc/natless/natless.yaml", "the configuration `file`")
	flags.BoolVar(&d.Check, "check", false, "only check the configuration")
	flags.BoolVar(&d.Version, "version", false, "print the version")
	return flags
}
