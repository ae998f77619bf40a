package dns64

import (
	"net/netip"
	"time"
)

// refusals bounds how many strangers a second are told that they may not ask;
// the others get nothing.
const refusals = 50

// client says who asks: a workload by its mapping, so that all its addresses
// are one; this host by the address; who is let in by the configuration by the
// /64 that it is in. Nobody else is answered.
func (s *Server) client(from netip.Addr) (who netip.Addr, allowed bool) {
	from = from.Unmap().WithZone("")
	if s.options.Workload == nil {
		return from, true
	}
	if w, is := s.options.Workload(from); is {
		return w, true
	}
	if s.options.Host != nil && s.options.Host(from) {
		return from, true
	}
	for _, p := range s.settings.Load().clients {
		if p.Contains(from) {
			return network(from), true
		}
	}
	return netip.Addr{}, false // all strangers are one
}

// network is what counts as one client where nothing more is known: whoever has
// one address of an IPv6 link can have them all.
func network(a netip.Addr) netip.Addr {
	if p, err := a.Prefix(64); err == nil && a.Is6() {
		return p.Addr()
	}
	return a
}

// stranger counts somebody who may not ask and says whether to tell so.
func (s *Server) stranger(from netip.Addr) (tell bool) {
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

// limited counts a query of a client that has its share of what is under way,
// and says so now and then: that is either a program gone wild, or a resolver
// for many.
func (s *Server) limited(client netip.Addr) {
	s.count(Limited)
	if s.complain.AllowN(s.options.Now(), 1) {
		s.options.Log.Warn("dns64: a client asks more than is answered at a time; what it asks beyond that fails", "client", client)
	}
}

// complaints is how often limited speaks.
const complaints = time.Minute
