package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What the host itself uses of the pool's ports (a connection from before, a
// server, somebody's program that binds one) is left to it, as long as it does:
// no rule leads those ports to the device. That is for ports that no workload
// has. One that is assigned is the workload's whoever has bound it: no process
// of the host can take what comes to it.
//
// A port that leads to the device stays there whoever binds it, so sockets are
// looked at only where rules are missing: at a start, when the pool changes, and
// while something is left out.

const (
	// inUsePeriod is how often is looked whether what was left out is free.
	inUsePeriod = 5 * time.Second
	// maxHoles bounds what is left out, since each hole is another five policy
	// rules for every packet: more are joined with the ports between them.
	maxHoles = 64
)

// hostSocket is one of the host's that gets what is sent to a port.
type hostSocket struct {
	port uint16
	text string // "tcp 192.0.2.10:40000 to 198.51.100.7:443 established"
}

// InUse is what the host uses of the pool's ports: they lead to no workload and
// are not to be given to one.
type InUse struct {
	Addr    netip.Addr
	Ports   []PortRange
	Sockets []string // whose they are
}

func (u InUse) String() string {
	list, more := u.Sockets, ""
	if len(list) > 20 {
		list, more = list[:20], fmt.Sprintf(" and %d more", len(u.Sockets)-20)
	}
	return fmt.Sprintf("the host itself uses ports of the pool on %v, which are left out until they are free: %s%s",
		u.Addr, strings.Join(list, ", "), more)
}

// leaveOut finds what the host uses of the pool, tells who assigns ports, and
// gives what is left for workloads.
func (r *reconciler) leaveOut(have state) (HostPool, InUse, error) {
	h := r.desired.HostPool
	used := InUse{Addr: h.Addr}
	if !h.Addr.IsValid() {
		return h, used, nil
	}
	open := diverted(have, h.Addr)
	pool := new(portSet)
	pool.set(h.Ports, true)
	for i := range pool {
		open[i] = pool[i] && !open[i]
	}
	if open.empty() {
		return h, used, nil
	}
	sockets, err := r.kernel.sockets(h)
	if err != nil {
		return h, used, err
	}
	holes := new(portSet)
	for _, s := range sockets {
		holes[s.port] = holes[s.port] || open[s.port]
	}
	// They are told before it is asked what is assigned: what is given away in
	// between is seen here or there.
	before := new(portSet)
	before.set(r.inUse.Ports, r.inUse.Addr == h.Addr)
	for i := range before {
		before[i] = before[i] || holes[i]
	}
	r.config.InUse(InUse{Addr: h.Addr, Ports: before.runs(true)})
	for i := range holes {
		holes[i] = holes[i] && !r.config.Assigned(h.Addr, uint16(i))
	}
	holes.join(maxHoles, func(port uint16) bool { return !pool[port] || r.config.Assigned(h.Addr, port) })
	for _, s := range sockets {
		if holes[s.port] {
			used.Sockets = append(used.Sockets, s.text)
		}
	}
	used.Ports = holes.runs(true)
	pool.set(used.Ports, false)
	h.Ports = pool.runs(true)
	return h, used, nil
}

// noteInUse tells what is left out now that the rules are so.
func (r *reconciler) noteInUse(u InUse) {
	if len(u.Ports) > 0 && !slices.Equal(u.Sockets, r.inUse.Sockets) {
		r.config.Log.Warn(u.String())
	}
	if len(u.Ports) == 0 && len(r.inUse.Ports) > 0 {
		r.config.Log.Info("the host uses no port of the pool any more", "address", r.inUse.Addr)
	}
	r.inUse = u
	r.config.InUse(u)
	// Those in between that were joined have not been told before.
	r.again = u.anyPort(func(port uint16) bool { return r.config.Assigned(u.Addr, port) })
}

func (u InUse) anyPort(is func(uint16) bool) bool {
	return slices.ContainsFunc(u.Ports, func(p PortRange) bool {
		for i := int(p.First); i <= int(p.Last); i++ {
			if is(uint16(i)) {
				return true
			}
		}
		return false
	})
}

// diverted are the ports of an address that rules lead to the device.
func diverted(have state, a netip.Addr) *portSet {
	all := new(portSet)
	for i := range all {
		all[i] = true
	}
	for _, proto := range portProtocols {
		p := new(portSet)
		for o := range have {
			if r, ok := o.(rule); ok && r.to == a && r.proto == proto && r.table == HostPoolTable && r.priority == divertPriority {
				p.set([]PortRange{r.ports}, true)
			}
		}
		for i := range all {
			all[i] = all[i] && p[i]
		}
	}
	for o := range have { // what no rule can name is copied
		if t, ok := o.(nftTable); ok && strings.Contains(t.text, copyLastPort) {
			all[lastPort] = true
		}
	}
	return all
}

func (p *portSet) empty() bool {
	return !slices.Contains(p[:], true)
}

// join fills the smallest gaps between runs until there are at most most, but
// none with a port that may not become a member.
func (p *portSet) join(most int, never func(uint16) bool) {
	runs := p.runs(true)
	var gaps []PortRange
	for i := 1; i < len(runs); i++ {
		gaps = append(gaps, PortRange{runs[i-1].Last + 1, runs[i].First - 1})
	}
	slices.SortStableFunc(gaps, func(a, b PortRange) int { return cmp.Compare(a.Last-a.First, b.Last-b.First) })
	left := len(runs)
	for _, g := range gaps {
		if left <= most {
			return
		}
		keep := false
		for i := int(g.First); i <= int(g.Last) && !keep; i++ {
			keep = never(uint16(i))
		}
		if !keep {
			p.set([]PortRange{g}, true)
			left--
		}
	}
}
