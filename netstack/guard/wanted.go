package guard

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// The sets. Keys are bytes as in the kernel: interfaces by index, in its own
// byte order; of a range the first address and the last.
const (
	attachedSet = "attached" // interfaces where nobody but workloads sends IPv6 to the translator
	sourcesSet  = "sources"  // addresses of workloads there
	rangesSet   = "ranges"   // and prefixes
	watchedSet  = "watched"  // ports of bridges with a workload's port
	portsSet    = "ports"    // workloads' ports
	atSet       = "at"       // which addresses a port's workload has
	theirsSet   = "theirs"   // all these addresses
	ownSet      = "own"      // which addresses of the host's no workload's port may have
)

// mostSources bounds the addresses that the kernel is told.
const mostSources = 1 << 17

type keys map[string]bool

// desired is what the sets should hold, and what decides it.
type desired struct {
	sets    map[string]keys
	behind  map[int]bool // interfaces that lead to workloads behind a router
	direct  map[int]int  // workloads on the link of an interface, whose port is not known
	bridges map[int]bool // with a workload's port
	many    bool
	new     map[string]keys // what was added to the sets since the kernel was told
}

func newDesired() *desired {
	d := &desired{sets: map[string]keys{}, behind: map[int]bool{}, direct: map[int]int{}, bridges: map[int]bool{}, new: map[string]keys{}}
	for _, name := range []string{attachedSet, sourcesSet, rangesSet, watchedSet, portsSet, atSet, theirsSet, ownSet} {
		d.sets[name] = keys{}
	}
	return d
}

func (d *desired) add(set string, parts ...[]byte) {
	key := string(slices.Concat(parts...))
	if d.sets[set][key] {
		return
	}
	d.sets[set][key] = true
	if d.new[set] == nil {
		d.new[set] = keys{}
	}
	d.new[set][key] = true
}

func index(i int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(i)) }

// spot is where a workload is: the interface that its packets come in by, and
// its port where that is a bridge; 0 is not known.
type spot struct {
	iface, port int
	direct      bool // on the link, not behind a router
}

func (h *host) find(w Workload) (s spot) {
	if i := h.byName[w.Interface]; w.Interface != "" && i != 0 {
		s = spot{iface: i, direct: true}
		if master := h.links[i].master; h.links[master].bridge {
			s.iface, s.port = master, i
		}
		return s
	}
	to := h.hops.To(w.IPv6)
	s = spot{iface: to.Interface, direct: to.Interface != 0 && !to.Gateway}
	if master := h.links[s.iface].master; h.links[master].bridge {
		s.iface = master
	}
	return s
}

// outside reports whether IPv4 comes in by an interface in the ordinary way.
func (h *host) outside(c Config, ifindex int) bool {
	l := h.links[ifindex]
	if l.name == c.Device || l.name == "lo" || h.defaults[ifindex] || slices.Contains(c.Routed, l.name) {
		return true
	}
	up := h.byName[c.Uplink]
	return c.Uplink != "" && up != 0 && (ifindex == up || ifindex == h.links[up].master)
}

// wanted is what a host with these workloads asks for.
func (h *host) wanted(c Config, table *mapping.Table, named func(netip.Addr) (Workload, bool)) *desired {
	d := newDesired()
	for e := range table.Entries() {
		m := e.Mapping()
		w, ok := named(m.IPv6.Addr())
		if !ok {
			w.Mapping = m
		}
		h.place(c, w, d)
		if len(d.sets[sourcesSet]) > mostSources {
			d.tooMany() // with a million there would be much to forget at the end
		}
	}
	h.inner(c, table, d)
	d.sets[rangesSet] = joined(d.sets[rangesSet])
	if len(d.sets[sourcesSet])+len(d.sets[rangesSet]) > mostSources {
		d.tooMany()
	}
	return d
}

// tooMany has no sources policed: the kernel cannot be told of all.
func (d *desired) tooMany() {
	d.many = true
	for _, set := range []string{attachedSet, sourcesSet, rangesSet} {
		d.sets[set] = keys{}
		delete(d.new, set)
	}
}

// joined makes one of ranges that overlap or touch, as the kernel's sets of
// intervals want it.
func joined(all keys) keys {
	out := keys{}
	var first, last string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		next, _ := netip.AddrFromSlice([]byte(last))
		if next = next.Next(); last != "" && string(next.AsSlice()) >= key[:16] {
			delete(out, first+last)
			last = max(last, key[16:])
		} else {
			first, last = key[:16], key[16:]
		}
		out[first+last] = true
	}
	return out
}

// inner finds the workloads of a mapping's prefix that have routes of their own.
func (h *host) inner(c Config, table *mapping.Table, d *desired) {
	for p, to := range h.hops.Best {
		if to.Interface == 0 || to.Gateway || h.links[to.Interface].name == c.Device {
			continue
		}
		if e := table.Lookup6(mapping.Addr6From(p.Addr())); e != nil && e.Mapping().IPv6.Bits() < p.Bits() {
			h.place(c, Workload{Mapping: mapping.Mapping{IPv6: p}}, d)
		}
	}
}

// place adds what one workload asks for.
func (h *host) place(c Config, w Workload, d *desired) {
	s := h.find(w)
	switch {
	case s.iface == 0:
		return
	case !s.direct:
		// Routers on the way send errors from addresses of their own.
		d.behind[s.iface] = true
		delete(d.sets[attachedSet], string(index(s.iface)))
		return
	}
	if !d.behind[s.iface] && !h.outside(c, s.iface) && !d.many {
		d.add(attachedSet, index(s.iface))
	}
	addrs := w.Addrs
	if w.IPv6.IsSingleIP() {
		addrs = append(slices.Clone(addrs), w.IPv6.Addr())
	} else if !d.many {
		d.add(rangesSet, w.IPv6.Addr().AsSlice(), lastOf(w.IPv6).AsSlice())
	}
	for _, a := range addrs {
		if !d.many {
			d.add(sourcesSet, a.AsSlice())
		}
	}
	if s.port == 0 {
		d.direct[s.iface]++
		return
	}
	h.placePort(s, addrs, d)
}

// placePort adds what is policed at a port of a bridge.
func (h *host) placePort(s spot, addrs []netip.Addr, d *desired) {
	port := index(s.port)
	d.add(portsSet, port)
	d.add(watchedSet, port)
	for _, a := range addrs {
		d.add(atSet, port, a.AsSlice())
		d.add(theirsSet, a.AsSlice())
	}
	for _, a := range h.addresses[s.iface] {
		d.add(ownSet, port, a.AsSlice())
	}
	if d.bridges[s.iface] {
		return
	}
	d.bridges[s.iface] = true
	for other, l := range h.links {
		if l.master == s.iface {
			d.add(watchedSet, index(other))
		}
	}
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As16()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom16(b)
}

// lacking says what cannot be policed.
func (m *Manager) lacking() (list []string) {
	if m.host == nil {
		return nil
	}
	d := m.want
	if d.many {
		list = append(list, fmt.Sprintf("more than %d workloads are on links of this host: errors and IPv4 from addresses there "+
			"that have no mapping are not dropped", mostSources))
	}
	for _, i := range slices.Sorted(maps.Keys(d.direct)) {
		n, name := d.direct[i], m.host.links[i].name
		switch {
		case m.host.links[i].bridge:
			list = append(list, fmt.Sprintf("%d workloads are at ports of bridge %s that nobody named (host_interface): who is on "+
				"it can use their addresses, if the bridge lets it", n, name))
		case n > 1:
			list = append(list, fmt.Sprintf("%d workloads share the link of %s, which is not a bridge of this host: who is on it can "+
				"use their addresses", n, name))
		}
		if d.behind[i] {
			list = append(list, fmt.Sprintf("there are workloads on the link of %s, and others behind a router there: ICMPv6 "+
				"errors of whoever is on that link are believed", name))
		}
	}
	if m.kernel != nil && m.kernel.noBridge != nil && len(d.sets[portsSet]) > 0 {
		list = append(list, fmt.Sprintf("%d workloads are at ports of bridges, where nftables cannot filter (%v): one can use the "+
			"address of another", len(d.sets[portsSet]), m.kernel.noBridge))
	}
	return list
}
