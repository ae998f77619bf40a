package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// The fleet's store knows hosts, and hosts know workloads: nothing is written there for a
// container. So whois asks the host's natlessd, whose registry has the history, too. It does
// so as the operator who asks, by what leads him to the host anyway (ssh): no program listens
// for that on any host, and nobody holds a credential for it.

func newWhois(o *options) *cobra.Command {
	var at, by string
	var patience time.Duration
	c := &cobra.Command{
		Use:   "whois ADDRESS[:PORT]",
		Short: "Say which workload of which host has, or had, an address and port",
		Long: `Say which host has an IPv4 address, by which loan, and which workload of that host has, or
had, it. The store knows the loans that go on; the rest is asked of natlessd on the host
(natless whois), by --ask, as you are: the host that has the address now, or with --at, or
where that one has never given it to anybody, all hosts, since each has its own history.
Exit status: 0 when some host knows of somebody; else 1.`,
		Example: `  natless-fleet whois 198.51.100.7:4321 --etcd https://etcd1:2379
  natless-fleet whois 198.51.100.7:4321 --at 2026-01-02T15:04:05Z
  natless-fleet whois 198.51.100.7:4321 --ask 'ssh -o BatchMode=yes root@{host}.example.net natless whois {address}'
  natless-fleet whois 198.51.100.7 --ask ""`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := question{address: args[0], at: at, by: strings.Fields(by), patience: patience}
			a, err := q.check()
			if err != nil {
				return err
			}
			w, err := o.read(c.Context())
			if err != nil {
				return err
			}
			holder, err := w.whois(c.OutOrStdout(), a)
			if err != nil || len(q.by) == 0 {
				return err
			}
			found, err := q.ask(c.Context(), w.names(holder, at != ""))
			fmt.Fprint(c.OutOrStdout(), found)
			return err
		},
	}
	c.Flags().StringVar(&at, "at", "", "at this `time` (RFC 3339), or so long ago, such as 10m")
	c.Flags().StringVar(&by, "ask", "ssh -o BatchMode=yes -o ConnectTimeout=10 {host} natless whois {address}", "`command` that asks natlessd on a host; \"\": none is asked")
	c.Flags().DurationVar(&patience, "patience", 20*time.Second, "how `long` a host may take to answer")
	return c
}

// question is what is asked of hosts.
type question struct {
	address, at string
	by          []string
	patience    time.Duration
}

var (
	// safeTime and safeHost are what goes through another shell unharmed, and is no flag.
	safeTime = regexp.MustCompile(`^[0-9][0-9A-Za-z:.+-]*$`)
	safeHost = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]*$`)
)

func (q question) check() (a netip.Addr, err error) {
	if a, err = netip.ParseAddr(q.address); err != nil {
		with, again := netip.ParseAddrPort(q.address)
		if again != nil {
			return a, fmt.Errorf("%q is neither an address nor an address with a port", q.address)
		}
		a = with.Addr()
	}
	if a.Zone() != "" {
		return a, fmt.Errorf("%q has a zone", q.address)
	}
	if q.at != "" && !safeTime.MatchString(q.at) {
		return a, fmt.Errorf("--at: %q is neither a time such as 2026-01-02T15:04:05Z nor so long ago as 10m", q.at)
	}
	return a, nil
}

// names are the hosts in the order in which they are asked: first who has the address, by
// itself, unless it is about the past.
func (w world) names(holder string, past bool) (turns [][]string) {
	var others []string
	for _, h := range w.Hosts {
		if h.Name != holder || past {
			others = append(others, h.Name)
		}
	}
	if holder != "" && !past {
		turns = append(turns, []string{holder})
	}
	return append(turns, others)
}

// atOnce is how many hosts are asked at the same time.
const atOnce = 16

// ask gives what hosts answer that know of somebody, the first turn of them that does.
func (q question) ask(ctx context.Context, turns [][]string) (found string, err error) {
	var mute []string
	for _, names := range turns {
		answers, errs := make([]string, len(names)), make([]error, len(names))
		var all sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		for i, name := range names {
			all.Go(func() {
				slots <- struct{}{}
				answers[i], errs[i] = q.one(ctx, name)
				<-slots
			})
		}
		all.Wait()
		for i, name := range names {
			switch {
			case errs[i] == nil:
				found += "host " + name + ":\n" + answers[i]
			case !errors.Is(errs[i], errNobody):
				mute = append(mute, fmt.Sprintf("%s (%v)", name, errs[i]))
			}
		}
		if found != "" {
			break
		}
	}
	slices.Sort(mute)
	switch {
	case found != "":
		return found, nil
	case len(mute) > 0:
		return "", fmt.Errorf("no host knows of anybody, and some did not answer: %s", strings.Join(mute, ", "))
	}
	return "", fmt.Errorf("no host knows of anybody who has %s, or had it", q.address)
}

// errNobody is a host's answer that it knows of nobody.
var errNobody = errors.New("nobody")

func (q question) one(ctx context.Context, host string) (string, error) {
	if !safeHost.MatchString(host) {
		return "", errors.New("its name is none that a command may be given")
	}
	var args []string
	for _, word := range q.by {
		args = append(args, strings.NewReplacer("{host}", host, "{address}", q.address).Replace(word))
	}
	if q.at != "" {
		args = append(args, "--at", q.at)
	}
	ctx, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	exit := (*exec.ExitError)(nil)
	switch {
	case err == nil:
		return string(out), nil
	case ctx.Err() != nil:
		return "", errors.New("it takes too long")
	case errors.As(err, &exit) && exit.ExitCode() == 1 && strings.Contains(said.String(), "nobody"):
		return "", errNobody
	}
	last := strings.TrimSpace(said.String())
	if lines := slices.Collect(strings.Lines(last)); len(lines) > 0 {
		return "", errors.New(strings.TrimSpace(lines[len(lines)-1]))
	}
	return "", err
}
