//go:build linux

package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator/mapping"
)

// shedding is who gives way, who does most first; nil: nobody.
func (d *Daemon) shedding() *api.Shedding {
	s := d.host.Shed.Status()
	if !s.Overloaded {
		return nil
	}
	out := &api.Shedding{Packets: s.Packets, Kernel: s.Kernel}
	for _, l := range s.Limited {
		direction := "sent"
		if l.Way == shed.Received {
			direction = "received"
		}
		out.Workloads = append(out.Workloads, api.Shed{Who: d.whose(l.Slot), Direction: direction, Packets: l.Dropped})
	}
	slices.SortFunc(out.Workloads, func(a, b api.Shed) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), words.Natural(a.Who, b.Who), strings.Compare(a.Direction, b.Direction))
	})
	return out
}

// givesWay says that a packet's workload gives way just now; "": it does not.
func (d *Daemon) givesWay(packet []byte, from mapping.Tag) string {
	l, ok := d.host.Shed.GivesWay(packet, from)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s gives way just now: %s dropped since it does, before anything was done with them", d.whose(l.Slot),
		words.Count(int(l.Dropped), "packet"))
}

// whose says for people who has a slot of the table.
func (d *Daemon) whose(slot uint32) string {
	if shed.Stranger(slot) {
		return "strangers"
	}
	if a, err := d.keeper.BySerial(d.accounts.Serial(slot)); err == nil {
		return cmp.Or(a.Request.Name, a.Key.String())
	}
	if e := d.host.Table().At(slot); e != nil {
		return strings.TrimSuffix(e.IPv6().String(), "/128")
	}
	return "who is gone"
}

// overloaded names those who give way.
func overloaded(s *api.Shedding) api.Check {
	const few = 3
	var who []string
	for _, w := range s.Workloads[:min(few, len(s.Workloads))] {
		way := "sends"
		if w.Direction == "received" {
			way = "is sent"
		}
		who = append(who, fmt.Sprintf("%s %s too much (%s dropped)", w.Who, way, words.Count(int(w.Packets), "packet")))
	}
	if more := len(s.Workloads) - few; more > 0 {
		who = append(who, fmt.Sprintf("and %d more", more))
	}
	detail := fmt.Sprintf("the host is overloaded: no workload may bring more than %.0f packets a second to natlessd", s.Packets)
	if len(who) > 0 {
		detail += ": " + strings.Join(who, ", ")
	}
	return api.Check{Name: "overload", State: "warn", Detail: detail}
}

// shedding is what Prometheus is told of who gives way.
func shedMetrics(s *shed.Shed) (m metrics.Shed) {
	m.Overloaded = s.Status().Overloaded
	n := s.Total()
	m.Packets[dataplane.To4], m.Packets[dataplane.To6] = n[shed.Sent], n[shed.Received]
	return m
}
