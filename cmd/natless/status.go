package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

var errStarting = errors.New("natlessd is starting; its log says what it waits for")

func newStatus(o *options) *cobra.Command {
	ready := false
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the daemon",
		Long: `Show the state of the daemon: version, fast path, packets by verdict, and checks.

Exit status: 0 when the daemon answered. With --ready, for a readiness probe, 0
only when the daemon is also ready.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.client().Status(c.Context())
			if err != nil {
				return err
			}
			if ready && !s.Ready {
				return errStarting
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s, time.Now())
		},
	}
	c.Flags().BoolVar(&ready, "ready", false, "fail unless the daemon is ready")
	return c
}

func printStatus(w io.Writer, s api.Status, now time.Time) error {
	state, prefix, own := "starting", "", ""
	if s.Ready {
		state = "ready"
	}
	if s.Prefix.IsValid() {
		prefix = s.Prefix.String()
	}
	if s.IPv4.IsValid() && s.IPv6.IsValid() {
		own = s.IPv4.String() + ", " + s.IPv6.String()
	}
	reload := ""
	switch {
	case s.Reload.Error != "":
		reload = moment(s.Reload.At) + ", refused: " + s.Reload.Error
	case !s.Reload.At.IsZero():
		reload = moment(s.Reload.At)
	}
	device := fmt.Sprintf("%s, MTU %d, %s", s.Device.Name, s.Device.MTU, words.Count(s.Device.Queues, "queue"))
	if len(s.Device.Offload) > 0 {
		device += ", offload " + strings.Join(s.Device.Offload, " ")
	}
	if err := table.Facts(w, "natlessd", fmt.Sprintf("%s, version %s, process %d, up %s", state, s.Version, s.PID, age(now, s.Started)),
		"config", s.Config, "last reload", reload, "prefix", prefix, "own addresses", own, "device", device,
		"table", fmt.Sprintf("%s, %d of them workloads", words.Count(s.Mappings, "mapping"), s.Workloads)); err != nil {
		return err
	}
	if err := printFastPath(w, s.FastPath); err != nil {
		return err
	}
	if err := printFlowStatus(w, s.Flows); err != nil {
		return err
	}
	if err := printVerdicts(w, s.Verdicts); err != nil {
		return err
	}
	if err := printFirstUse(w, s.FirstUse); err != nil {
		return err
	}
	if err := printMap(w, s.MAP); err != nil {
		return err
	}
	if err := printLimits(w, s.Limits); err != nil {
		return err
	}
	return printChecks(w, s.Checks)
}

// printVerdicts leaves out what never happened.
func printVerdicts(w io.Writer, verdicts map[string]uint64) error {
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(verdicts)) {
		if verdicts[name] > 0 {
			rows = append(rows, []string{name, fmt.Sprint(verdicts[name])})
		}
	}
	fmt.Fprintln(w)
	return table.Write(w, "no packet has come yet", table.Plain("VERDICT", "PACKETS"), rows)
}

// printFirstUse says who got something without having been announced.
func printFirstUse(w io.Writer, pools []api.FirstUse) error {
	if len(pools) == 0 {
		return nil
	}
	var rows [][]string
	for _, p := range pools {
		var sources []string
		for _, s := range p.Sources {
			sources = append(sources, s.String())
		}
		if sources == nil {
			sources = []string{"none any more"}
		}
		rows = append(rows, []string{p.Pool, strings.Join(sources, ", "), fmt.Sprint(p.Workloads)})
	}
	fmt.Fprintln(w)
	return table.Write(w, "", table.Plain("FIRST USE OF", "SOURCES", "WORKLOADS"), rows)
}

// printMap says what came of the rules of MAP-T.
func printMap(w io.Writer, rules []api.MapRule) error {
	if len(rules) == 0 {
		return nil
	}
	var rows [][]string
	for _, r := range rules {
		rows = append(rows, []string{r.IPv6.String(), r.IPv4.String(), fmt.Sprint(r.CEs), fmt.Sprint(r.To4), fmt.Sprint(r.To6),
			fmt.Sprint(r.Spoofed), fmt.Sprint(r.Outside)})
	}
	fmt.Fprintln(w)
	return table.Write(w, "", table.Plain("MAP-T RULE", "IPV4", "CES", "FROM CES", "TO CES", "SPOOFED", "OTHER PORTS"), rows)
}

// printLimits says which budgets were used up.
func printLimits(w io.Writer, limits []api.Limit) error {
	if len(limits) == 0 {
		return nil
	}
	var rows [][]string
	for _, l := range limits {
		rows = append(rows, []string{l.What, l.Budget, fmt.Sprint(l.Refused)})
	}
	fmt.Fprintln(w)
	return table.Write(w, "", table.Plain("LIMIT", "BUDGET", "REFUSED"), rows)
}

func printChecks(w io.Writer, checks []api.Check) error {
	if len(checks) == 0 {
		return nil
	}
	var rows [][]string
	for _, c := range checks {
		rows = append(rows, []string{c.Name, c.State, c.Detail})
	}
	fmt.Fprintln(w)
	return table.Write(w, "", table.Plain("CHECK", "STATE", "DETAIL"), rows)
}
