package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/natless/natless/translator/ports"
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
	Ports   ports.Set
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
	open := h.Ports.Subtract(diverted(have, h.Addr))
	if open.IsZero() {
		return h, used, nil
	}
	sockets, err := r.kernel.sockets(h)
	if err != nil {
		return h, used, err
	}
	var bound ports.Builder
	for _, s := range sockets {
		if open.Contains(s.port) {
			bound.Add(ports.Single(s.port))
		}
	}
	// They are told before it is asked what is assigned: what is given away in
	// between is seen here or there.
	told := bound.Set()
	if r.inUse.Addr == h.Addr {
		told = told.Union(r.inUse.Ports)
	}
	r.config.InUse(InUse{Addr: h.Addr, Ports: told})
	for port := range bound.Set().Ports() {
		if r.config.Assigned(h.Addr, port) {
			bound.Remove(ports.Single(port))
		}
	}
	used.Ports = join(bound.Set(), maxHoles, func(gap ports.Range) bool {
		return h.Ports.ContainsRange(gap) && !r.anyAssigned(h.Addr, ports.Of(gap))
	})
	for _, s := range sockets {
		if used.Ports.Contains(s.port) {
			used.Sockets = append(used.Sockets, s.text)
		}
	}
	h.Ports = h.Ports.Subtract(used.Ports)
	return h, used, nil
}

// noteInUse tells what is left out now that the rules are so.
func (r *reconciler) noteInUse(u InUse) {
	if !u.Ports.IsZero() && !slices.Equal(u.Sockets, r.inUse.Sockets) {
		r.config.Log.Warn(u.String())
	}
	if u.Ports.IsZero() && !r.inUse.Ports.IsZero() {
		r.config.Log.Info("the host uses no port of the pool any more", "address", r.inUse.Addr)
	}
	r.inUse = u
	r.config.InUse(u)
	// Those in between that were joined have not been told before.
	r.again = r.anyAssigned(u.Addr, u.Ports)
}

// anyAssigned says whether a workload has one of the ports of an address.
func (r *reconciler) anyAssigned(a netip.Addr, set ports.Set) bool {
	for port := range set.Ports() {
		if r.config.Assigned(a, port) {
			return true
		}
	}
	return false
}

// diverted are the ports of an address that rules lead to the device.
func diverted(have state, a netip.Addr) ports.Set {
	all := ports.All()
	for _, proto := range portProtocols {
		var led ports.Builder
		for o := range have {
			if r, ok := o.(rule); ok && r.to == a && r.proto == proto && r.table == HostPoolTable && r.priority == divertPriority {
				led.Add(r.ports)
			}
		}
		all = all.Intersect(led.Set())
	}
	for o := range have { // what no rule can name is copied
		if t, ok := o.(nftTable); ok && strings.Contains(t.text, copyLastPort) {
			all = all.Union(ports.Of(ports.Single(lastPort)))
		}
	}
	return all
}

// join fills the smallest gaps between the runs of a set until there are at most
// most, but none that must stay.
func join(set ports.Set, most int, may func(gap ports.Range) bool) ports.Set {
	if set.Len() <= most {
		return set
	}
	gaps := make([]ports.Range, 0, set.Len()-1)
	for i := 1; i < set.Len(); i++ {
		gaps = append(gaps, ports.Range{First: set.Run(i-1).Last + 1, Last: set.Run(i).First - 1})
	}
	slices.SortStableFunc(gaps, func(a, b ports.Range) int { return cmp.Compare(a.Size(), b.Size()) })
	var joined ports.Builder
	joined.AddSet(set)
	for left := set.Len(); left > most && len(gaps) > 0; gaps = gaps[1:] {
		if may(gaps[0]) {
			joined.Add(gaps[0])
			left--
		}
	}
	return joined.Set()
}
