package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// The fleet's store knows hosts, and hosts know workloads: nothing is written there for a
// container. So whois asks the host's natlessd, whose registry has the history, too. It does
// so as the operator who asks, by what leads him to the host anyway (ssh): no program listens
// for that on any host, and nobody holds a credential for it.

func newWhois(o *options) *cobra.Command {
	var q question
	var at, by string
	var hosts []string
	c := &cobra.Command{
		Use:   "whois ADDRESS[:PORT]",
		Short: "Say which workload of which host has, or had, an address and port",
		Long: `Say which host has an IPv4 address, or its address in an IPv6-only fabric, by which loan, and
which workload of that host has, or had, it. The store knows the loans that go on; the rest is
asked of natlessd on the host (natless whois), by --ask, as you are: the host that has the
address now, or with --at, or where that one has never given it to anybody, all hosts, or those
that --host names, since each has its own history.
Exit status: 0 when some host knows of somebody, or with --ask "" some host has it; else 1.`,
		Example: `  natless-fleet whois 198.51.100.7:4321 --etcd https://etcd1:2379
  natless-fleet whois 2001:db8:0:7::c633:6407
  natless-fleet whois 198.51.100.7:4321 --at 2026-01-02T15:04:05Z
  natless-fleet whois 198.51.100.7:4321 --at 'yesterday 23:10' --host web1 --host web2
  natless-fleet whois 198.51.100.7:4321 --ask 'ssh -o BatchMode=yes root@{host}.example.net natless whois {address}'
  natless-fleet whois 198.51.100.7 --ask ""`,
		Args: cli.Arguments(1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) (err error) {
			if q.asked, q.port, err = cli.ParseTarget(args[0]); err != nil {
				return err
			}
			when, err := cli.ParseTime(at, time.Now())
			if err != nil {
				return err
			}
			if !when.IsZero() {
				q.at = when.UTC().Format(time.RFC3339Nano)
			}
			q.by, q.json, q.tell = strings.Fields(by), o.output == "json", c.ErrOrStderr()
			return o.whois(c.Context(), c.OutOrStdout(), q, hosts)
		},
	}
	c.Flags().StringVar(&at, "at", "", "at this `time`: 15:04, 'yesterday 15:04', 2006-01-02T15:04:05Z, or how long ago, such as 10m or 2d")
	c.Flags().StringVar(&by, "ask", "ssh -o BatchMode=yes -o ConnectTimeout=10 {host} natless whois {address}", "`command` that asks natlessd on a host; \"\": none is asked")
	c.Flags().DurationVar(&q.patience, "patience", 20*time.Second, "how `long` a host may take to answer")
	c.Flags().StringArrayVar(&hosts, "host", nil, "ask this `host`, and no other but those named so")
	c.RegisterFlagCompletionFunc("host", o.complete(fleet.Hosts, -1))
	return c
}

// found is what is known of an address.
type found struct {
	place
	Answers []answer `json:"answers,omitempty"`
}

func (o *options) whois(from context.Context, out io.Writer, q question, only []string) error {
	ctx, s, done, err := o.ask(from)
	if err != nil {
		return err
	}
	defer done()
	f := found{}
	if f.place, err = locate(ctx, s, q.asked); err != nil {
		return o.advise(err)
	}
	if !q.json {
		if err := table.Sentence(out, f.Text); err != nil {
			return err
		}
	}
	if len(q.by) == 0 {
		if f.Host == "" {
			err = fmt.Errorf("no host has %v", q.asked)
		}
		return first(o.shown(out, q, f), err)
	}
	holder := f.Host
	if f.Block != nil {
		holder = f.Block.Spec.Host // that has had it, where the loan has ended
	}
	turns, err := names(ctx, s, holder, only, q.at != "")
	if err != nil {
		return o.advise(err)
	}
	if f.Address.IsValid() { // who is asked knows what is IPv4
		q.asked = f.Address
	}
	var wrong error
	f.Answers, wrong = q.ask(from, turns)
	return first(o.shown(out, q, f), wrong)
}

// shown writes what hosts have answered.
func (o *options) shown(out io.Writer, q question, f found) error {
	if q.json {
		return table.JSON(out, f)
	}
	for _, a := range f.Answers {
		if _, err := fmt.Fprintf(out, "host %s:\n%s", a.Host, a.text); err != nil {
			return err
		}
	}
	return nil
}

// question is what is asked of hosts.
type question struct {
	asked    netip.Addr
	port     int    // -1: none
	at       string // RFC 3339; "": now
	by       []string
	patience time.Duration
	json     bool
	tell     io.Writer // people who wait
}

// address is what is asked for, in words.
func (q question) address() string {
	if q.port < 0 {
		return q.asked.String()
	}
	return netip.AddrPortFrom(q.asked, uint16(q.port)).String()
}

// safeHost is what goes through another shell unharmed, and is no flag.
var safeHost = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]*$`)

// names are the hosts in the order in which they are asked: first who has the address, by
// itself, unless it is about the past.
func names(ctx context.Context, s fleet.Store, holder string, only []string, past bool) (turns [][]string, err error) {
	if only != nil {
		_, err := named[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, only)
		return [][]string{only}, err
	}
	hosts, err := all[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts)
	if err != nil {
		return nil, err
	}
	return order(hosts, holder, past), nil
}

func order(hosts []fleet.Host, holder string, past bool) (turns [][]string) {
	var others []string
	for _, h := range hosts {
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

// answer is what a host knows.
type answer struct {
	Host  string          `json:"host"`
	Owner json.RawMessage `json:"owner"` // as natless whois -o json gives it
	text  string
}

// ask gives what hosts answer that know of somebody, the first turn of them that does.
func (q question) ask(ctx context.Context, turns [][]string) (found []answer, err error) {
	var mute []string
	for _, names := range turns {
		if len(names) > atOnce {
			fmt.Fprintf(q.tell, "asking %d hosts, %d at a time; --host names some\n", len(names), atOnce)
		}
		answers, errs := make([]string, len(names)), make([]error, len(names))
		var all sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		for i, name := range names {
			slots <- struct{}{}
			all.Go(func() {
				answers[i], errs[i] = q.one(ctx, name)
				<-slots
			})
		}
		all.Wait()
		for i, name := range names {
			switch {
			case errs[i] == nil:
				found = append(found, answer{Host: name, text: answers[i]})
			case !errors.Is(errs[i], errNobody):
				mute = append(mute, fmt.Sprintf("%s (%v)", name, errs[i]))
			}
		}
		if found != nil {
			break
		}
	}
	if q.json {
		for i := range found {
			if found[i].Owner = json.RawMessage(found[i].text); !json.Valid(found[i].Owner) {
				return nil, fmt.Errorf("host %s does not answer in JSON: --ask is to run natless whois", found[i].Host)
			}
		}
	}
	slices.Sort(mute)
	switch {
	case found != nil:
		if len(mute) > 0 && q.at != "" { // one of them may know more
			fmt.Fprintf(q.tell, "did not answer: %s\n", words.Some(mute, 10))
		}
		return found, nil
	case len(mute) > 0:
		return nil, fmt.Errorf("no host knows of anybody, and some did not answer: %s", words.Some(mute, 10))
	}
	return nil, fmt.Errorf("no host knows of anybody who has %s, or had it", q.address())
}

// errNobody is a host's answer that it knows of nobody.
var errNobody = errors.New("nobody")

func (q question) one(ctx context.Context, host string) (string, error) {
	if !safeHost.MatchString(host) {
		return "", errors.New("its name is none that a command may be given")
	}
	var args []string
	for _, word := range q.by {
		args = append(args, strings.NewReplacer("{host}", host, "{address}", q.address()).Replace(word))
	}
	if q.at != "" {
		args = append(args, "--at", q.at)
	}
	if q.json {
		args = append(args, "-o", "json")
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
