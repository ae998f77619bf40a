package route

import (
	"fmt"

	"github.com/natless/natless/translator/ports"
)

const (
	reservedPorts = "net/ipv4/ip_local_reserved_ports"
	portRange     = "net/ipv4/ip_local_port_range"
	rpFilterAll   = "net/ipv4/conf/all/rp_filter"
)

// reservePorts keeps the host's automatic choice of ports off the pool's:
// those ports are added to the reserved ones, and when that leaves the host
// less than a quarter of its range to choose from, the range moves to where
// there is room.
func (p *sysctlPlan) reservePorts(pool ports.Set) {
	present := p.read(reservedPorts)
	if i := p.journal.index(reservedPorts); i >= 0 {
		e := &p.journal.Sysctls[i]
		if !e.ours(present) {
			e.Was = othersPorts(present, e.Was, e.Set) // somebody changed it since
		}
		present = e.Was
	}
	reserved, err := ports.Parse(present)
	if err != nil {
		reserved = ports.Set{}
	}
	reserved = reserved.Union(pool)
	p.need(reservedPorts, reserved.String())

	text := p.read(portRange)
	if i := p.journal.index(portRange); i >= 0 {
		text = p.journal.Sysctls[i].Was
	}
	var local ports.Range
	if _, err := fmt.Sscan(text, &local.First, &local.Last); err != nil || local.First > local.Last {
		return
	}
	if 4*ports.Of(local).Subtract(reserved).Size() >= local.Size() {
		if p.journal.has(portRange) {
			p.need(portRange, fmt.Sprintf("%d\t%d", local.First, local.Last))
		}
		return
	}
	if r := widest(reserved); r.Last > r.First {
		p.need(portRange, fmt.Sprintf("%d\t%d", r.First, r.Last))
	}
}

// othersPorts is what is reserved now without what only we reserved.
func othersPorts(now, was, set string) string {
	present, err1 := ports.Parse(now)
	before, err2 := ports.Parse(was)
	ours, err3 := ports.Parse(set)
	if err1 != nil || err2 != nil || err3 != nil {
		return was
	}
	return present.Subtract(ours.Subtract(before)).String()
}

// widest gives the widest range of unreserved ports above the well-known ones,
// and, where there is a choice, above those where services like to listen.
func widest(reserved ports.Set) (best ports.Range) {
	for _, from := range []uint16{10000, 1024} {
		free := ports.Of(ports.Range{First: from, Last: ports.Count - 1}).Subtract(reserved)
		if longest := free.Longest(); !free.IsZero() && (best == ports.Range{} || longest.Size() > best.Size()) {
			best = longest
		}
		if best.Size() > 4096 {
			return best
		}
	}
	return best
}
