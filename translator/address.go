package translator

import (
	"encoding/binary"
	"math/bits"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/special"
)

func never4(a uint32) bool { return special.Never4(a) } // rule 1.1.never4

func never6(a mapping.Addr6) bool { return special.Never6(a.Hi, a.Lo) } // rule 1.1.never6

func nonGlobal(a uint32) bool { return !special.Global4(a) } // rule 1.1.non-global

// address4 is the IPv4 address of a, and the mapping that gave it, if one did:
// explicit mappings first, then the prefix. Its verdict is unmapped, NonGlobal,
// NeverTranslated or, where all is well, Forward4.
func (s *snapshot) address4(a mapping.Addr6, unmapped Verdict) (uint32, *mapping.Entry, Verdict) {
	if a == s.own6 {
		return s.own4, nil, Forward4 // also where it lies inside the prefix
	}
	if e := s.table.Lookup6(a); e != nil { // rule 1.2.order
		v4 := e.To4(a)
		if never4(v4) {
			return 0, nil, NeverTranslated
		}
		return v4, e, Forward4
	}
	if !s.prefix {
		return 0, nil, unmapped
	}
	if v4, _, covered, ok := s.rules.To4(a); ok { // rule 1.8.order
		return v4, nil, Forward4
	} else if covered {
		return 0, nil, unmapped
	}
	v4, ok := s.table.Extract(a)
	switch {
	case !ok:
		return 0, nil, unmapped
	case never4(v4):
		return 0, nil, NeverTranslated
	case s.global && nonGlobal(v4):
		return 0, nil, NonGlobal
	}
	return v4, nil, Forward4
}

// port is what decides between workloads that share an address.
type port struct {
	number uint16
	known  bool
}

// source6 is the IPv6 address of a, which packets come from: the prefix where
// there is one, since a mapping's address is no source of what comes to us, and
// after hairpin the answer would go past us (RFC 7757 4.2.2).
func (s *snapshot) source6(a uint32, p port) (mapping.Addr6, Verdict) {
	if never4(a) {
		return mapping.Addr6{}, NeverTranslated
	}
	if !s.prefix || s.client { // rule 1.4.source
		e := s.table.Lookup4(a)
		if e != nil && e.Shared() {
			if e = s.table.Port(e, a, p.number); !p.known { // rule 1.5.source-port
				e = nil
			}
			if e == nil && s.client { // in the prefix it would be somebody else's
				return mapping.Addr6{}, PortOutsideSet // rule 1.5.outside
			}
		}
		if e != nil {
			return e.To6(a), Forward6 // rule 1.5.source
		}
	}
	if s.half {
		return mapping.Addr6{}, UntranslatableSource // rules 1.10.source, 1.10.hop-out
	}
	if !s.prefix && a == s.own4 {
		return s.own6, Forward6
	}
	return s.embed(a, UntranslatableSource)
}

// embed puts a into the prefix, if there is one and a may stand in it.
func (s *snapshot) embed(a uint32, unmapped Verdict) (mapping.Addr6, Verdict) {
	switch {
	case !s.prefix:
		return mapping.Addr6{}, unmapped
	case s.global && nonGlobal(a):
		return mapping.Addr6{}, NonGlobal
	}
	return s.table.Embed(a), Forward6
}

// hop6 is the IPv6 address of a, which an ICMP error comes from. Even one that
// is never translated as anything else is, so that a path with an odd hop keeps
// its path MTU and its traceroute (RFC 7915 4.1). What cannot be named otherwise
// comes from our pool, or from us (RFC 6791).
func (s *snapshot) hop6(a uint32, p port) mapping.Addr6 {
	if !never4(a) {
		if a6, v := s.source6(a, p); v == Forward6 {
			return a6
		}
	} else if s.prefix && !s.global { // rule 1.1.error-source
		return s.table.Embed(a)
	}
	return s.pool6(a)
}

// embedDestination is embed for destinations. It refuses an address of ours that is
// not assigned: the packet would come straight back from the prefix.
func (s *snapshot) embedDestination(a uint32) (mapping.Addr6, Verdict) {
	if s.nobodys4(a) { // rule 1.1.ours-nobody4
		return mapping.Addr6{}, UntranslatableDestination
	}
	return s.embed(a, UntranslatableDestination)
}

// destination4 is the IPv4 address of a, which packets go to, and the mapping
// that gave it, if one did.
func (s *snapshot) destination4(a mapping.Addr6) (uint32, *mapping.Entry, Verdict) {
	if s.ours6(a) {
		return 0, nil, UntranslatableDestination // own6 has been Local
	}
	v4, e, v := s.address4(a, UntranslatableDestination)
	if v == Forward4 && v4 != s.own4 && s.nobodys4(v4) && !s.has4(v4) { // rule 1.1.ours-nobody6
		return 0, nil, UntranslatableDestination
	}
	return v4, e, v
}

// destination6 is the IPv6 address of a, which packets go to: explicit mappings
// first, then the prefix, in which hosts may have their own addresses
// (IPv4-translatable ones, RFC 6052 1.3).
// It gives the mapping as well, if one did it.
func (s *snapshot) destination6(a uint32, p port) (mapping.Addr6, *mapping.Entry, Verdict) {
	if never4(a) {
		return mapping.Addr6{}, nil, NeverTranslated
	}
	e := s.table.Lookup4(a)
	if e == nil {
		if shared, ok := s.rules.At(a); ok {
			to, v := s.ce6(a, p, shared)
			return to, nil, v
		}
		embedded, v := s.embedDestination(a)
		return embedded, nil, v
	}
	if e.Shared() {
		if !p.known {
			return mapping.Addr6{}, nil, FragmentUnknown
		}
		if e = s.table.Port(e, a, p.number); e == nil {
			return mapping.Addr6{}, nil, PortUnassigned
		}
	}
	to := e.To6(a)
	if s.ours6(to) { // rule 1.1.ours-once
		return mapping.Addr6{}, nil, UntranslatableDestination
	}
	return to, e, Forward6
}

// ce6 is the IPv6 address of the CE that a rule gives an IPv4 address to, or a port of it.
func (s *snapshot) ce6(a uint32, p port, shared bool) (mapping.Addr6, Verdict) {
	if shared && !p.known {
		return mapping.Addr6{}, FragmentUnknown
	}
	to, _, ok := s.rules.To6(a, p.number)
	switch {
	case !ok:
		return mapping.Addr6{}, PortUnassigned
	case s.ours6(to):
		return mapping.Addr6{}, UntranslatableDestination
	}
	return to, Forward6
}

// has4 says that workloads have an IPv4 address: by a mapping or by a rule.
func (s *snapshot) has4(a uint32) bool {
	if s.table.Lookup4(a) != nil {
		return true
	}
	_, ok := s.rules.At(a)
	return ok
}

// shared4 says that ports decide which workload has an IPv4 address.
func (s *snapshot) shared4(a uint32) bool {
	if e := s.table.Lookup4(a); e != nil {
		return e.Shared()
	}
	shared, _ := s.rules.At(a)
	return shared
}

// slotOf is the slot of a mapping, or 0 for none.
func slotOf(e *mapping.Entry) uint32 {
	if e == nil {
		return 0
	}
	return e.Slot()
}

// pool4 is the source of an ICMPv4 error from a hop that has no IPv4 address
// (RFC 6791): always the same one for the same hop.
func (s *snapshot) pool4(hop mapping.Addr6) uint32 {
	pool := s.config.ICMPSource4
	if !pool.IsValid() {
		return s.own4 // rule 6.source4-own
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], hop.Hi)
	binary.BigEndian.PutUint64(b[8:], hop.Lo)
	mask := uint32(1)<<(32-pool.Bits()) - 1
	return mapping.Addr4From(pool.Addr()) | uint32(siphash(&s.config.Key, b[:]))&mask // rule 6.source4-pool
}

// pool6 is the other way of pool4.
func (s *snapshot) pool6(hop uint32) mapping.Addr6 {
	pool := s.config.ICMPSource6
	if !pool.IsValid() {
		return s.own6 // rule 6.source6-own
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], hop)
	hash := siphash(&s.config.Key, b[:])
	a := mapping.Addr6From(pool.Addr())
	if n := pool.Bits(); n < 64 {
		a.Hi |= bits.ReverseBytes64(hash) & (1<<(64-n) - 1)
	}
	a.Lo |= hash & (1<<min(64, 128-pool.Bits()) - 1) // rule 6.source6-pool
	return a
}
