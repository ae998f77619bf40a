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
	Config   string
	Check    bool
	Handover bool
	Cleanup  bool
	Version  bool
}

// DaemonText is what natlessd's --help says above its flags. The first
// sentence is the name line of the manual page.
const DaemonText = `natlessd translates between IPv6-only workloads and IPv4, without state.

  natlessd --config FILE            run until SIGTERM or SIGINT
  natlessd --config FILE --check    say what is wrong with the configuration
  natlessd --config FILE --cleanup  remove what a daemon left in the kernel
  natlessd --version

SIGHUP reads the file again: it is swapped in whole, or refused and nothing
changes. Under systemd (Type=notify) it says when it is ready.

A daemon that ends takes its device, routes and sysctls away. With --handover it
leaves them to the next one, and the device's queues to the service manager's
file descriptor store, so that a restart or an upgrade loses no packet that the
queues can hold. What is to be gone for good is removed by --cleanup.

Exit status: 0 when it was asked to end, or --check found nothing wrong; 1 when
something failed; 2 when the command line is wrong; 78 when a new start would
change nothing, since the configuration is wrong or the registry is not sound.

`

// Flags makes the flags that fill d.
func (d *Daemon) Flags() *flag.FlagSet {
	flags := flag.NewFlagSet("natlessd", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), DaemonText); flags.PrintDefaults() }
	flags.StringVar(&d.Config, "config", "/etc/natless/natless.yaml", "the configuration `file`")
	flags.BoolVar(&d.Check, "check", false, "only check the configuration")
	flags.BoolVar(&d.Handover, "handover", false, "leave all to the next daemon at the end")
	flags.BoolVar(&d.Cleanup, "cleanup", false, "remove what a daemon left that was killed or started with --handover")
	flags.BoolVar(&d.Version, "version", false, "print the version")
	return flags
}
