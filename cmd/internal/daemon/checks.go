//go:build linux

package daemon

import (
	"fmt"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// checks are what the status says of a daemon's parts.
func (d *Daemon) checks(c *config.Config) []api.Check {
	all := []api.Check{homeless(d.keeper.Registry), written(d.keeper.Registry), d.hostPorts(),
		d.othersNAT.look(d.host.State().Routes), d.spoofing(), d.held(c)}
	all = append(all, lentBlocks(d.reloader.blocks(c))...)
	all = append(all, d.relayCheck(c)...)
	all = append(all, mapCheck(d.mapRules().All(), d.host.FastPath.Manager != nil)...)
	all = append(all, d.firstUse.check()...)
	all = append(all, edgeCheck(d.host.State().Translator.Edge)...)
	all = append(all, d.inside(c)...)
	all = append(all, d.insisted(c)...)
	if s := d.shedding(); s != nil {
		all = append(all, overloaded(s))
	}
	if table := d.host.Policy(); table != nil {
		all = append(all, policed(table, d.keeper.Len() > 0))
	}
	if drains := d.keeper.Drains(); drains != nil {
		all = append(all, drained(drains, time.Now()))
	}
	if c.Uplink != "" {
		all = append(all, announcements(d.host.Routes))
	}
	if r := d.host.Local.DNS64(); r != nil {
		all = append(all, upstreams(r))
	}
	return all
}

// hostPorts says which of the ports that the host shares it uses itself.
func (d *Daemon) hostPorts() api.Check {
	if u := d.host.InUse(); u != nil && !u.Ports.IsZero() {
		return api.Check{Name: "host ports", State: "warn", Detail: u.String()}
	}
	return api.Check{Name: "host ports", State: "ok"}
}

// drained says what no new workload gets anything of, so that nobody forgets it.
func drained(drains []api.Drain, now time.Time) api.Check {
	var said []string
	for _, d := range drains {
		what, end := "this host", "natless undrain"
		if d.Pool != "" {
			what, end = "pool "+d.Pool, "natless undrain --pool "+d.Pool
			if d.Unknown {
				what += ", which is not configured any more,"
			}
		}
		said = append(said, fmt.Sprintf("%s takes no new workloads since %s (%v ago), %s left: %s ends it", what,
			d.Since.Local().Format("2006-01-02 15:04:05 MST"), now.Sub(d.Since).Truncate(time.Minute), words.Count(d.Left, "workload"), end))
	}
	return api.Check{Name: "drained", State: "warn", Detail: strings.Join(said, "; ")}
}
