package registry

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/ports"
)

// Share is what somebody has of an address; no ports: all of it.
type Share struct {
	Address netip.Addr
	Ports   ports.Set
}

// outside is what is assigned outside of the pools, where each address is in the
// one that in says.
func (s *state) outside(in func(netip.Addr) *pool) (out []Share) {
	for _, a := range s.addresses {
		if len(a.owners) == 0 {
			continue
		}
		if share, some := a.outside(in(a.addr)); some {
			out = append(out, share)
		}
	}
	slices.SortFunc(out, func(a, b Share) int { return a.Address.Compare(b.Address) })
	return out
}

func (a *address) outside(p *pool) (s Share, some bool) {
	s.Address = a.addr
	if p != nil && !p.Uplink {
		return s, false
	}
	var left ports.Builder
	for o := range look(a.owners) {
		runs, out := a.outsideOf(p, o)
		if out && o.Ports.IsZero() {
			return s, true
		}
		for _, r := range runs {
			left.Add(r)
		}
	}
	s.Ports = left.Set()
	return s, !s.Ports.IsZero()
}

// outsideOf is what one assignment has of the address that its pool has not, and
// whether that is anything: no runs are all of the address.
func (a *address) outsideOf(p *pool, o *Assignment) (runs []ports.Range, out bool) {
	if p != nil && !p.Uplink {
		return nil, false
	}
	if o.Ports.IsZero() {
		return nil, true
	}
	for r := range o.Ports.Runs() {
		if p == nil || p.never.OverlapsRange(r) {
			runs = append(runs, r)
		}
	}
	return runs, runs != nil
}

// SetInUse says which ports of an address the host itself uses, besides those
// that are assigned: none of them is given away before it is free. It waits for
// nothing, so that it may be called while the registry changes.
func (r *Registry) SetInUse(s Share) {
	r.inUse.Store(&inUse{Share: s, ports: s.Ports.Bitmap()})
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
	ports ports.Bitmap
}

// inUse is the ports of the address that the host itself uses; nil if it uses none.
func (a *address) inUse() *ports.Bitmap {
	if a.pool == nil || a.pool.inUse == nil {
		return nil
	}
	if u := a.pool.inUse.Load(); u != nil && u.Address == a.addr && !u.Ports.IsZero() {
		return &u.ports
	}
	return nil
}

// Overlaps says whether the set has a port of the share.
func (s Share) Overlaps(a netip.Addr, set ports.Set) bool {
	if a != s.Address || s.Ports.IsZero() {
		return false
	}
	return set.IsZero() || s.Ports.Overlaps(set)
}
