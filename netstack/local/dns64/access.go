package dns64

import (
	"net/netip"
	"time"
)

// refusals bounds how many strangers a second are told that they may not ask;
// the others get nothing.
const refusals = 50

// client is who asks, and what it counts as.
type client struct {
	netip.Addr
	class class
}

type class int

const (
	workload class = iota
	host           // this one
	guest          // let in by the configuration
	stranger       // not let in; all of them are one client
)

// client says who asks: a workload by its mapping, so that all its addresses
// are one; this host by the address; a guest by its /64, since whoever has one
// address of an IPv6 link can have them all.
func (s *Server) client(from netip.Addr) client {
	from = from.Unmap().WithZone("")
	if s.options.Workload == nil {
		return client{from, workload}
	}
	if w, is := s.options.Workload(from); is {
		return client{w, workload}
	}
	if s.options.Host != nil && s.options.Host(from) {
		return client{from, host}
	}
	for _, p := range s.settings.Load().clients {
		if p.Contains(from) {
			p, _ := from.Prefix(64) // IPv6, as p is
			return client{p.Addr(), guest}
		}
	}
	return client{class: stranger}
}

// turnAway counts somebody who may not ask, and reports whether to answer that.
func (s *Server) turnAway(from netip.Addr) (tell bool) {
	s.count(Prohibited)
	s.lastStranger.Store(&from)
	if tell = s.refuse.AllowN(s.options.Now(), 1); tell {
		s.options.Log.Debug("dns64: refused", "client", from)
	}
	return tell
}

// Stranger is the address that was refused last, if any was.
func (s *Server) Stranger() (from netip.Addr, any bool) {
	if p := s.lastStranger.Load(); p != nil {
		return *p, true
	}
	return netip.Addr{}, false
}

// complaints is how often limited speaks.
const complaints = time.Minute

// limited counts a query of a client that has its share of what is under way,
// and says so now and then: that is either a program gone wild, or a resolver
// for many.
func (s *Server) limited(who client) {
	s.count(Limited)
	if s.complain.AllowN(s.options.Now(), 1) {
		s.options.Log.Warn("dns64: a client asks more than is answered at a time; what it asks beyond that fails", "client", who.Addr)
	}
}
