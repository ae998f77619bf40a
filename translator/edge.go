package translator

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/natless/natless/translator/mapping"
)

// At the edge of a fabric without IPv4, what workloads send as IPv4 goes on as IPv6, from
// an address of the host to one that a relay translates, and back. That is two
// translations in a row: 6→4 by the workloads' table, and 4→6 by another one, of a client
// (RFC 6877) that has the blocks lent to the host as its mappings. Nothing here knows a
// rule about ports, ICMP, fragments or checksums: the two halves do.

// Edge is the other half of a host's translation. The zero value is none.
type Edge struct {
	Prefix netip.Prefix      // RFC 6052, by which relays reach IPv4; not that of the workloads
	Blocks []mapping.Mapping // by which relays reach workloads: the host's address for each block
}

// Enabled says that there is an edge.
func (e Edge) Enabled() bool { return e.Prefix.IsValid() }

// hopAddresses are the dummy address of RFC 7600 and those of RFC 6333 5.7.
var hopAddresses = netip.MustParsePrefix("192.0.0.0/29")

// Hop4 is the IPv4 address of hops of the fabric that have none, in the middle of a
// translation alone: not one of ours, which would be spoofed there.
func (c Config) Hop4() netip.Addr { // rule 1.10.hop-in
	ours := ours4(c)
	a := netip.AddrFrom4([4]byte{192, 0, 0, 8})
	for ours.has(mapping.Addr4From(a)) && a != hopAddresses.Addr() {
		a = a.Prev()
	}
	return a
}

// fabric is the configuration of the half toward the fabric. Its IPv4 side is no link.
func (c Config) fabric() Config {
	f := c
	f.IPv4, f.Host4, f.Pools4 = c.Hop4(), netip.Addr{}, nil
	f.ICMPSource4, f.ICMPSource6 = netip.Prefix{}, netip.Prefix{}
	f.MTU4, f.MTU6 = maxMTU, c.MTU4+size6-size4
	f.LowestMTU6 = f.MTU6 // rule 1.10.size
	f.Client, f.Policy, f.Rules, f.FirstUse, f.Edge = true, nil, nil, nil, Edge{}
	return f
}

// checkEdge finds what is wrong with an edge, beside what its own half finds.
func (c Config) checkEdge(table *mapping.Table) error {
	var errs []error
	if c.Client {
		errs = append(errs, errors.New("edge: its workloads speak IPv6, a client's IPv4"))
	}
	if c.Rules != nil {
		errs = append(errs, errors.New("edge: rules of MAP-T are for a border relay, which has IPv4"))
	}
	if n := c.MTU4 + size6 - size4; n < minMTU6 || n > maxMTU {
		errs = append(errs, fmt.Errorf("edge: IPv4 MTU %d: the fabric's is 20 more, choose from %d to %d", c.MTU4, minMTU6-20, maxMTU-20))
	}
	if table.Prefix().IsValid() && table.Prefix().Overlaps(c.Edge.Prefix) {
		errs = append(errs, fmt.Errorf("edge: the fabric's prefix %v overlaps that of the workloads, %v", c.Edge.Prefix, table.Prefix()))
	}
	for _, b := range c.Edge.Blocks {
		switch {
		case b.IPv6.Contains(c.IPv6):
			errs = append(errs, fmt.Errorf("edge: block %v: has the translator's own address", b))
		case b.Inside:
			errs = append(errs, fmt.Errorf("edge: block %v: is no workload", b))
		}
	}
	return errors.Join(errs...)
}

// newFabric makes the half toward the fabric, or keeps the one before, with what it
// knows of fragments, where nothing of it is another.
func (s *snapshot) newFabric(old *snapshot) error {
	c := s.config
	if !c.Edge.Enabled() {
		return nil
	}
	if err := c.checkEdge(s.table); err != nil {
		return err
	}
	f := c.fabric()
	if old != nil && old.fabric != nil && reflect.DeepEqual(old.config.Edge, c.Edge) && reflect.DeepEqual(old.config.fabric(), f) {
		s.fabric = old.fabric
		return nil
	}
	table, err := mapping.New(c.Edge.Prefix, c.Edge.Blocks)
	if err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	t, err := New(f, table)
	if err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	half := t.snapshot.Load()
	half.half, half.hop = true, 0 // rule 1.10.one-decrement
	s.fabric = t
	return nil
}

// EdgeTable has the prefix of the fabric and the blocks' addresses there; nil where
// there is no edge.
func (t *Translator) EdgeTable() *mapping.Table {
	if f := t.snapshot.Load().fabric; f != nil {
		return f.Table()
	}
	return nil
}

// FromFabric reports whether a packet comes by the fabric for a block of this host:
// then it belongs to Descend, and what that makes of it to Translate.
func (w *Worker) FromFabric(p *Packet) bool {
	f := w.t.snapshot.Load().fabric
	return f != nil && p.End-p.Start >= size6 && p.Start >= 0 && p.Buf[p.Start]>>4 == 6 &&
		f.snapshot.Load().table.Lookup6(header6(p.Bytes()).dst()) != nil
}

// Descend makes a packet of the fabric the IPv4 that it stands for: Forward4, and then
// it is Translate's next, or else as Translate says.
func (w *Worker) Descend(p *Packet) Verdict {
	w.begin()
	if !p.roomy() || p.End-p.Start < size6 || w.s.fabric == nil {
		return Malformed
	}
	if w.s.ofHost(header6(p.Bytes()).src()) {
		return SpoofedSource // rule 1.10.spoofed
	}
	v := w.other().plainDescend(p) // rule 1.10.in
	w.descended = v == Forward4
	return v
}

// ofHost says that nobody on the fabric has an address: it is a workload's, a block's,
// the translator's own, or stands for IPv4 on this host alone.
func (s *snapshot) ofHost(a mapping.Addr6) bool {
	if _, within := s.table.Extract(a); within && s.prefix {
		return true
	}
	return s.ours6(a) || s.table.Lookup6(a) != nil || s.fabric.snapshot.Load().table.Lookup6(a) != nil
}

// Ascends says that what Translate or Pass4 made IPv4 of leaves as IPv6, by Ascend. What
// is for another workload of this host has become IPv6 there (rule 1.10.hairpin).
func (w *Worker) Ascends() bool { return w.s != nil && w.s.fabric != nil }

// Ascend makes the IPv4 packet that Translate or Pass4 has made of the last one a
// packet of the fabric: Forward6, in fragments if Fragments says so. Where it cannot, the
// packet may be an answer to a workload (Replied).
func (w *Worker) Ascend(p *Packet) Verdict {
	other := w.other()
	v := other.plainAscend(p) // rule 1.10.out
	if v.Replied() && !w.to6(p, answered).IsForward() {
		return v.Reason()
	}
	if w.cut = other.cut; w.cut.active {
		w.cut.most = other.s.config.LowestMTU6
	}
	if v == Forward6 && w.label != 0 {
		b := p.Bytes()
		b[1], b[2], b[3] = b[1]|byte(w.label>>16), byte(w.label>>8), byte(w.label) // rule 1.10.flow-label
	}
	return v
}

// other is the worker of the half toward the fabric, ready for a packet.
func (w *Worker) other() *Worker {
	if w.half == nil || w.half.t != w.s.fabric {
		w.half = &Worker{t: w.s.fabric, trial: w.trial}
	}
	w.half.now = w.now
	w.half.begin()
	return w.half
}
