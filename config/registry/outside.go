package registry

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// Share is what somebody has of an address; no ports: all of it.
type Share struct {
	Address netip.Addr
	Ports   mapping.PortSet
}

// Outside gives what is assigned and the pools do not have any more: addresses
// of no pool, and ports of the host's own address that its pool has lost. Their
// workloads keep them until they give them back, so who makes the host's routes
// and rules of the pools has to make some of these, too.
func (r *Registry) Outside() []Share {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.outside()
}

func (s *state) outside() (out []Share) {
	for _, a := range s.addresses {
		if share, some := a.outside(); some {
			out = append(out, share)
		}
	}
	slices.SortFunc(out, func(a, b Share) int { return a.Address.Compare(b.Address) })
	return out
}

func (a *address) outside() (s Share, some bool) {
	s.Address = a.addr
	if a.pool != nil && !a.pool.Uplink || len(a.owners) == 0 {
		return s, false
	}
	for _, o := range a.owners {
		if len(o.Ports) == 0 {
			return Share{Address: a.addr}, true
		}
		for _, r := range o.Ports {
			if a.pool == nil || a.pool.never.any(r) {
				s.Ports = append(s.Ports, r)
			}
		}
	}
	s.Ports = union(s.Ports)
	return s, len(s.Ports) > 0
}

// union sorts ranges and joins those that touch.
func union(s mapping.PortSet) mapping.PortSet {
	slices.SortFunc(s, func(a, b mapping.PortRange) int { return int(a.First) - int(b.First) })
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// SetInUse says which ports of an address the host itself uses, besides those
// that are assigned: none of them is given away before it is free. It waits for
// nothing, so that it may be called while the registry changes.
func (r *Registry) SetInUse(s Share) {
	r.inUse.Store(&inUse{Share: s, ports: bitmapOf(s.Ports)})
}

// InUse is what SetInUse was told last.
func (r *Registry) InUse() Share {
	if u := r.inUse.Load(); u != nil {
		return u.Share
	}
	return Share{}
}

type inUse struct {
	Share
	ports bitmap
}

func bitmapOf(s mapping.PortSet) (b bitmap) {
	for _, r := range s {
		b.set(r)
	}
	return b
}

// inUse is what of the address the host uses; nil: nothing.
func (a *address) inUse() *bitmap {
	if a.pool == nil || a.pool.inUse == nil {
		return nil
	}
	if u := a.pool.inUse.Load(); u != nil && u.Address == a.addr && len(u.Ports) > 0 {
		return &u.ports
	}
	return nil
}

// Overlaps says whether the set has a port of the share.
func (s Share) Overlaps(a netip.Addr, set mapping.PortSet) bool {
	if a != s.Address || len(s.Ports) == 0 {
		return false
	}
	b := bitmapOf(s.Ports)
	return len(set) == 0 || slices.ContainsFunc(set, b.any)
}
