package route

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	reservedPorts = "net/ipv4/ip_local_reserved_ports"
	portRange     = "net/ipv4/ip_local_port_range"
	rpFilterAll   = "net/ipv4/conf/all/rp_filter"
)

// portSet is a set of ports, as the kernel's ip_local_reserved_ports.
type portSet [1 << 16]bool

func parsePorts(s string) (*portSet, error) {
	p := new(portSet)
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("ports %q: bad range %q", s, part)
		}
		p.set([]PortRange{{uint16(first), uint16(last)}}, true)
	}
	return p, nil
}

func (p *portSet) set(ranges []PortRange, member bool) {
	for _, r := range ranges {
		for i := int(r.First); i <= int(r.Last); i++ {
			p[i] = member
		}
	}
}

// runs gives the ranges of ports that are members, or are not.
func (p *portSet) runs(member bool) (out []PortRange) {
	for i := 0; i < len(p); i++ {
		if p[i] != member {
			continue
		}
		first := i
		for i+1 < len(p) && p[i+1] == member {
			i++
		}
		out = append(out, PortRange{uint16(first), uint16(i)})
	}
	return out
}

// String is in the kernel's form.
func (p *portSet) String() string {
	var out []string
	for _, r := range p.runs(true) {
		if r.First == r.Last {
			out = append(out, strconv.Itoa(int(r.First)))
		} else {
			out = append(out, r.String())
		}
	}
	return strings.Join(out, ",")
}

func (p *portSet) count(r PortRange, member bool) (n int) {
	for i := int(r.First); i <= int(r.Last); i++ {
		if p[i] == member {
			n++
		}
	}
	return n
}

// reservePorts keeps the host's automatic choice of ports off the pool's:
// those ports are added to the reserved ones, and when that leaves the host
// less than a quarter of its range to choose from, the range moves to where
// there is room.
func (p *sysctlPlan) reservePorts(pool []PortRange) {
	present := p.read(reservedPorts)
	if i := p.journal.index(reservedPorts); i >= 0 {
		e := &p.journal.Sysctls[i]
		if !e.ours(present) {
			e.Was = othersPorts(present, e.Was, e.Set) // somebody changed it since
		}
		present = e.Was
	}
	ports, err := parsePorts(present)
	if err != nil {
		ports = new(portSet)
	}
	ports.set(pool, true)
	p.need(reservedPorts, ports.String())

	text := p.read(portRange)
	if i := p.journal.index(portRange); i >= 0 {
		text = p.journal.Sysctls[i].Was
	}
	var local PortRange
	if _, err := fmt.Sscan(text, &local.First, &local.Last); err != nil || local.First > local.Last {
		return
	}
	if 4*ports.count(local, false) >= int(local.Last)-int(local.First)+1 {
		if p.journal.has(portRange) {
			p.need(portRange, fmt.Sprintf("%d\t%d", local.First, local.Last))
		}
		return
	}
	if r := widest(ports); r.Last > r.First {
		p.need(portRange, fmt.Sprintf("%d\t%d", r.First, r.Last))
	}
}

// othersPorts is what is reserved now without what only we reserved.
func othersPorts(now, was, set string) string {
	ports, err1 := parsePorts(now)
	before, err2 := parsePorts(was)
	ours, err3 := parsePorts(set)
	if err1 != nil || err2 != nil || err3 != nil {
		return was
	}
	for i := range ports {
		ports[i] = ports[i] && (before[i] || !ours[i])
	}
	return ports.String()
}

// widest gives the widest range of unreserved ports above the well-known ones,
// and, where there is a choice, above those where services like to listen.
func widest(reserved *portSet) (best PortRange) {
	for _, from := range []int{10000, 1024} {
		r := *reserved
		r.set([]PortRange{{0, uint16(from - 1)}}, true)
		for _, run := range r.runs(false) {
			if run.Last-run.First > best.Last-best.First {
				best = run
			}
		}
		if best.Last-best.First >= 4096 {
			return best
		}
	}
	return best
}
