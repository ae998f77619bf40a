package monitor

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// Packet is what a filter judges: a packet before and after. Before Done, Out
// and Verdict are not known yet.
type Packet struct {
	In, Out Head
	Verdict translator.Verdict
	Done    bool
	Table   *mapping.Table // knows which IPv4 addresses stand in IPv6 ones; nil: none
}

// Direction is where a packet was going.
type Direction uint8

// The directions. Across is IPv4 of workloads that have it inside.
const (
	To4 Direction = iota
	To6
	Across
	numDirections
)

// directions are the names for programs.
var directions = [numDirections]string{To4: "6to4", To6: "4to6", Across: "4to4"}

func (d Direction) String() string { return directions[d] }

// Direction says where the packet was going. Of a fragment that was held, only
// its way out is known.
func (p *Packet) Direction() Direction {
	switch {
	case p.In.Length > 0 && p.In.V6():
		return To4
	case p.Verdict == translator.Pass4 || p.Verdict == translator.Deliver4:
		return Across
	case p.In.Length > 0 && (p.Verdict.IsForward() || p.insider() == nil): // what an insider sends and is refused is no forward
		return To6
	case p.In.Length > 0:
		return Across
	case p.Verdict == translator.Forward4 || p.Verdict == translator.Hairpin:
		return To4
	case p.Verdict != translator.Forward6 && p.Out.V6():
		return To4
	}
	return To6
}

// insider is the mapping of the workload with IPv4 inside that the packet is from, by
// its source; nil: it is from none.
func (p *Packet) insider() *mapping.Entry {
	if p.Table == nil || !p.In.Valid || p.In.V6() {
		return nil
	}
	ported, port := p.In.Ports, p.In.SrcPort
	if p.In.Echo { // which comes with anybody's identifier, and leaves with one's own
		ported, port = p.Out.Echo && p.Out.Src == p.In.Src, p.Out.Ident
	}
	if e := owner4(p.Table, p.In.Src, ported, port); e != nil && e.Inside() {
		return e
	}
	return nil
}

// owner4 is the mapping that an IPv4 address belongs to, or its port where ports
// decide; nil: none, or it cannot be known.
func owner4(table *mapping.Table, addr netip.Addr, ported bool, port uint16) *mapping.Entry {
	a := mapping.Addr4From(addr)
	e := table.Lookup4(a)
	switch {
	case e == nil || !e.Shared():
		return e
	case !ported:
		return nil
	}
	return table.Port(e, a, port)
}

// Filter says which packets are wanted. The zero Filter wants all.
type Filter struct {
	text      string
	root      node
	workloads []*members
}

// String is the filter as it was written.
func (f *Filter) String() string { return f.text }

// Wants reports whether p is wanted. Before the packet is Done the answer is no
// only when nothing that is yet to come can make it yes.
func (f *Filter) Wants(p *Packet) bool { return f.root == nil || f.root.judge(p) != no }

// MayWant reports whether a packet with such a verdict may be wanted.
func (f *Filter) MayWant(v translator.Verdict) bool {
	return f.root == nil || possible(f.root, v) != no
}

// possible is what a node says of a packet of which only the verdict is known.
func possible(n node, v translator.Verdict) truth {
	switch n := n.(type) {
	case and:
		return min(possible(n.a, v), possible(n.b, v))
	case or:
		return max(possible(n.a, v), possible(n.b, v))
	case not:
		return yes - possible(n.a, v)
	case verdict:
		return truthOf(n(v))
	}
	return maybe
}

// Workloads are the names that the filter asks for.
func (f *Filter) Workloads() []string {
	var names []string
	for _, m := range f.workloads {
		names = append(names, m.name)
	}
	return names
}

// Workload is the addresses that a name stands for. No ports are all ports.
type Workload struct {
	IPv6  []netip.Addr
	IPv4  netip.Addr
	Ports ports.Set
}

// Resolve asks find anew what the filter's workloads are: they come and go. It
// gives the names that nobody has. Packets may be judged meanwhile.
func (f *Filter) Resolve(find func(name string) []Workload) (unknown []string) {
	for _, m := range f.workloads {
		found := find(m.name)
		if m.found.Store(&found); len(found) == 0 {
			unknown = append(unknown, m.name)
		}
	}
	return unknown
}

// truth has a third value, for what is not known before the packet is Done.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

type node interface{ judge(*Packet) truth }

type (
	and struct{ a, b node }
	or  struct{ a, b node }
	not struct{ a node }
	// either is true when the packet on one of the two sides is so.
	either struct{ test }
	// verdict is about what became of the packet.
	verdict   func(translator.Verdict) bool
	direction Direction
)

func (n and) judge(p *Packet) truth {
	if a := n.a.judge(p); a != no {
		return min(a, n.b.judge(p))
	}
	return no
}

func (n or) judge(p *Packet) truth {
	if a := n.a.judge(p); a != yes {
		return max(a, n.b.judge(p))
	}
	return yes
}

func (n not) judge(p *Packet) truth { return yes - n.a.judge(p) }

func (n either) judge(p *Packet) truth {
	switch {
	case p.In.Valid && n.matches(p, &p.In):
		return yes
	case !p.Done:
		return maybe
	}
	return truthOf(p.Out.Valid && n.matches(p, &p.Out))
}

func (n verdict) judge(p *Packet) truth {
	if !p.Done {
		return maybe
	}
	return truthOf(n(p.Verdict))
}

func (n direction) judge(p *Packet) truth {
	if !p.Done && (p.In.Length == 0 || !p.In.V6() && Direction(n) != To4) {
		return maybe
	}
	return truthOf(p.Direction() == Direction(n))
}

// test is about the packet on one side.
type test interface {
	matches(p *Packet, h *Head) bool
}

// end says which end of a packet is meant.
type end uint8

const (
	anyEnd end = iota
	source
	destination
)

func (e end) of(src, dst bool) bool { return e != destination && src || e != source && dst }

type (
	network struct {
		end
		prefix netip.Prefix
	}
	number struct {
		end
		ports.Range
	}
	protocol struct{ v4, v6 uint8 }
	length   struct{ least, most int }
	fragment struct{}
)

func (t network) matches(p *Packet, h *Head) bool {
	return t.of(t.covers(p, h.Src), t.covers(p, h.Dst))
}

// covers also says yes to an IPv6 address that stands for an IPv4 one that is
// meant: of a packet that was dropped there is nothing else to see.
func (t network) covers(p *Packet, a netip.Addr) bool {
	if t.prefix.Contains(a) {
		return true
	}
	if !t.prefix.Addr().Is4() || !a.Is6() || p.Table == nil {
		return false
	}
	v4, ok := p.Table.Extract(mapping.Addr6From(a))
	return ok && t.prefix.Contains(mapping.Addr4(v4))
}

func (t number) matches(_ *Packet, h *Head) bool {
	return h.Ports && t.of(t.Contains(h.SrcPort), t.Contains(h.DstPort))
}

func (t protocol) matches(_ *Packet, h *Head) bool {
	if h.V6() {
		return h.Proto == t.v6
	}
	return h.Proto == t.v4
}

func (t length) matches(_ *Packet, h *Head) bool { return t.least <= h.Length && h.Length <= t.most }

func (fragment) matches(_ *Packet, h *Head) bool { return h.Fragment }

// members is a name and the workloads that have it, as of the last Resolve.
type members struct {
	name  string
	found atomic.Pointer[[]Workload]
}

// matches goes by identifiers of echo where ports would be: where a packet comes, by that
// of who gets it, and where it leaves, by that of who sent it. Within, they are anybody's.
func (m *members) matches(p *Packet, h *Head) bool {
	found := m.found.Load()
	if found == nil {
		return false
	}
	for i := range *found {
		w := &(*found)[i]
		in := h == &p.In
		if w.has(h, h.Src, h.SrcPort, !in) || w.has(h, h.Dst, h.DstPort, in) {
			return true
		}
	}
	return false
}

func (w *Workload) has(h *Head, a netip.Addr, port uint16, echo bool) bool {
	if a.Is6() {
		return slices.Contains(w.IPv6, a)
	}
	return a == w.IPv4 && (w.Ports.IsZero() || h.Ports && w.Ports.Contains(port) || echo && h.Echo && w.Ports.Contains(h.Ident))
}
