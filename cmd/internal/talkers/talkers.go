// Package talkers sums flows up: who talks most, to whom, and by which service. What
// a flow is, and how sums are shown, may not enter.
package talkers

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/natless/natless/config/api"
)

// ByRule sums up what policies denied, and would have.
const ByRule = "rule"

// By are what flows are summed up by.
var By = []string{"workload", "remote", "port", ByRule}

// Line is what flows come to that have something in common.
type Line struct {
	What     string        `json:"what"`
	Flows    int           `json:"flows"`
	Sent     api.FlowCount `json:"sent"`
	Received api.FlowCount `json:"received"`
}

// Top sums up by one of By, the most bytes first; of the lines, most at most, 0: all.
func Top(all []api.Flow, by string, most int) []*Line {
	lines, sums := []*Line(nil), map[string]*Line{}
	for i := range all {
		f := &all[i]
		what := common(f, by)
		if what == "" {
			continue
		}
		l := sums[what]
		if l == nil {
			l = &Line{What: what}
			sums[what] = l
			lines = append(lines, l)
		}
		l.Flows++
		l.Sent.Packets, l.Sent.Bytes = l.Sent.Packets+f.Sent.Packets, l.Sent.Bytes+f.Sent.Bytes
		l.Received.Packets, l.Received.Bytes = l.Received.Packets+f.Received.Packets, l.Received.Bytes+f.Received.Bytes
	}
	slices.SortStableFunc(lines, func(a, b *Line) int {
		return cmp.Compare(b.Sent.Bytes+b.Received.Bytes, a.Sent.Bytes+a.Received.Bytes)
	})
	if most > 0 && len(lines) > most {
		lines = lines[:most]
	}
	return lines
}

// common is what a flow is summed up under; "": it is not.
func common(f *api.Flow, by string) string {
	switch by {
	case ByRule:
		return f.Policy
	case "remote":
		return f.Remote.String()
	case "port":
		if f.Proto != "tcp" && f.Proto != "udp" {
			return f.Proto
		}
		return f.Proto + "/" + strconv.Itoa(int(served(f)))
	}
	return cmp.Or(f.Workload, f.Local.String())
}

// served is the port of who was called.
func served(f *api.Flow) uint16 {
	if f.Initiator == "remote" {
		return f.LocalPort
	}
	return f.RemotePort
}
