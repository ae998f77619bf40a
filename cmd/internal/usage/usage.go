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
	Host     bool
	Handover bool
	Cleanup  bool
	Version  bool
}

// DaemonText is what natlessd's --help says above its flags. The first
// sentence is the name line of the manual page.
const DaemonText = `natlessd translates between IPv6-only workloads and IPv4, without state.

  natlessd --config FILE            run until SIGTERM or SIGINT
  natlessd --config FILE --check    check the configuration and say what is wrong
  natlessd --config FILE --check --host  and whether it fits this host
  natlessd --config FILE --cleanup  remove what a daemon left in the kernel
  natlessd --version

On SIGHUP natlessd reads the file again. Either all of it takes effect, or it is
refused and nothing changes. Under systemd (Type=notify) natlessd reports when it
is ready.

When natlessd ends it removes its device and routes, and restores sysctls. With
--handover it leaves them to the next natlessd, and leaves the device's queues to
the service manager's file descriptor store, so that a restart or an upgrade loses
no packet that the queues can hold. --cleanup removes all of that for good.

Exit status: 0 when it was asked to end, or --check found nothing wrong; 1 when
something failed; 2 when the command line is wrong; 78 when a restart would not
help, because the configuration is wrong or the registry is not sound.

`

// Flags makes the flags that fill d.
func (d *Daemon) Flags() *flag.FlagSet {
	flags := flag.NewFlagSet("natlessd", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), DaemonText); flags.PrintDefaults() }
	flags.StringVar(&d.Config, "config", "/etc/natless/natless.yaml", "the configuration `file`")
	flags.BoolVar(&d.Check, "check", false, "only check the configuration")
	flags.BoolVar(&d.Host, "host", false, "with --check: hold interfaces, addresses, ports and registry against this host, too")
	flags.BoolVar(&d.Handover, "handover", false, "leave everything to the next daemon when this one ends")
	flags.BoolVar(&d.Cleanup, "cleanup", false, "remove what a daemon left that was killed, or that ran with --handover")
	flags.BoolVar(&d.Version, "version", false, "print the version")
	return flags
}
