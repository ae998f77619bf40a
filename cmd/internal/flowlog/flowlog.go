//go:build linux

// Package flowlog is where flow records go: a file of JSON lines, and those who look.
// What collects flows waits for none of them: each has a queue of its own, of a fixed
// length, and counts what finds no room there. How a collector is spoken to is
// package ipfix's; what a flow is, netstack/flows's.
package flowlog

import (
	"strconv"
	"strings"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/flows"
)

// Of says what a record is. Its owner is an assignment, or nil.
func Of(r *flows.Record) api.Flow {
	local, remote := r.LocalAddr(), r.RemoteAddr()
	f := api.Flow{
		Start: r.Start.UTC(), End: r.End.UTC(), Reason: r.Reason.String(), Verdict: r.Verdict.String(), Policy: r.Rule, Proto: proto(r.Proto),
		Local: local.Addr(), Remote: remote.Addr(), Initiator: "local",
		Sent: count(r, flows.Sent), Received: count(r, flows.Received),
	}
	if r.Began == flows.Received {
		f.Initiator = "remote"
	}
	if r.Sample > 1 {
		f.Sample = r.Sample
	}
	if r.Proto == 1 {
		typ, code, id := r.ICMP()
		f.ICMPType, f.ICMPCode, f.ICMPID = &typ, &code, id
	} else {
		f.LocalPort, f.RemotePort = local.Port(), remote.Port()
	}
	if a, ok := r.Owner.(*registry.Assignment); ok && a != nil {
		f.Serial, f.Workload, f.Container, f.Interface, f.Network = a.Serial, a.Request.Name,
			a.Key.ContainerID, a.Key.Interface, a.Request.Network
	}
	return f
}

func count(r *flows.Record, d flows.Direction) api.FlowCount {
	c := api.FlowCount{Packets: r.Packets[d], Bytes: r.Bytes[d]}
	if r.Proto == 6 {
		c.TCPFlags = flags(uint8(r.Flags[d]))
	}
	return c
}

func proto(n uint8) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(n))
}

// flags writes TCP flags as tcpdump does: a dot is an acknowledgement.
func flags(f uint8) string {
	var b strings.Builder
	for i, name := range "FSRP.UEW" {
		if f>>i&1 != 0 {
			b.WriteRune(name)
		}
	}
	return b.String()
}

// Wants says whether a flow is one that a filter wants.
func Wants(f *api.FlowFilter, r *flows.Record) bool {
	if f.Remote.IsValid() && !f.Remote.Contains(r.RemoteAddr().Addr()) {
		return false
	}
	if f.Port != 0 && (r.Proto == 1 || int(r.LocalPort) != f.Port && int(r.RemotePort) != f.Port) {
		return false
	}
	if f.Proto != "" && f.Proto != proto(r.Proto) || f.Verdict != "" && f.Verdict != r.Verdict.String() {
		return false
	}
	if f.Workload == "" {
		return true
	}
	a, ok := r.Owner.(*registry.Assignment)
	return ok && a != nil && (a.Request.Name == f.Workload || a.Key.String() == f.Workload ||
		strconv.FormatUint(a.Serial, 10) == f.Workload || strings.HasPrefix(a.Key.ContainerID, f.Workload) && len(f.Workload) >= 4)
}
