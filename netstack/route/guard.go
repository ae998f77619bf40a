package route

import (
	"net/netip"
	"slices"
)

// What drops packets is in force before anything that lets them flow, and as
// long: it comes before sysctls, link and routes, whatever becomes of these, and
// covers what is still routed until that is not any more.

// guard puts the table against spoofed sources in force, and its addresses.
func (r *reconciler) guard(o *observed) error {
	r.kernel.prepare(r.desired, o)
	w, _ := want(r.config, r.desired, o.facts)
	for _, c := range diff(guards(o.have), guards(widened(o.have, w))) {
		if c.remove {
			continue // with the routes
		}
		if err := r.apply(c); err != nil {
			return err
		}
		for h := range o.have {
			if sameGuard(h, c.object) {
				delete(o.have, h)
			}
		}
		o.have.add(c.object)
	}
	return nil
}

// guards are the objects of the table against spoofed sources.
func guards(s state) state {
	out := state{}
	for o := range s {
		switch g := o.(type) {
		case nftTable:
			if g.family == spoofFamily {
				out.add(o)
			}
		case nftContent:
			out.add(o)
		}
	}
	return out
}

// sameGuard reports whether both are one thing, perhaps in another state.
func sameGuard(a, b object) bool {
	switch a := a.(type) {
	case nftTable:
		b, ok := b.(nftTable)
		return ok && a.family == b.family
	case nftContent:
		b, ok := b.(nftContent)
		return ok && a.family == b.family && a.set == b.set
	}
	return false
}

// widened is what is wanted, with the addresses that are still routed to the
// device guarded, too.
func widened(have, want state) state {
	var stale4, stale6 []netip.Prefix
	for o := range have {
		if r, ok := o.(route); !ok || r.table != 0 || want[o] {
			continue
		} else if r.dst.Addr().Is4() {
			stale4 = append(stale4, r.dst)
		} else {
			stale6 = append(stale6, r.dst)
		}
	}
	if stale4 == nil && stale6 == nil {
		return want
	}
	out := state{}
	for o := range want {
		if c, ok := o.(nftContent); ok {
			stale := stale4
			if c.set == ours6Set {
				stale = stale6
			}
			c.text = rangesText(joined(c, stale))
			o = c
		}
		out.add(o)
	}
	return out
}

// joined is a set's ranges and some prefixes.
func joined(c nftContent, more []netip.Prefix) (out []addrRange) {
	all, err := c.parse()
	if err != nil {
		return nil // a text of ours that is none
	}
	for _, p := range outermost(more) {
		all = append(all, addrRange{p.Addr(), lastOf(p)})
	}
	slices.SortFunc(all, func(a, b addrRange) int { return a.first.Compare(b.first) })
	for _, r := range all {
		n := len(out)
		if n == 0 || out[n-1].last.Next().IsValid() && out[n-1].last.Next().Less(r.first) {
			out = append(out, r)
		} else if out[n-1].last.Less(r.last) {
			out[n-1].last = r.last
		}
	}
	return out
}
