package reference

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/translator"
)

// half is the translator of an edge that is toward the fabric (1.10): a client with the
// blocks as its mappings.
func half(w World) *Translator {
	f := World{Config: w.Config, Prefix: w.Edge.Prefix, Mappings: w.Edge.Blocks}
	f.Host4, f.Pools4 = netip.Addr{}, nil
	f.ICMPSource4, f.ICMPSource6 = netip.Prefix{}, netip.Prefix{}
	f.Policy, f.Rules, f.FirstUse, f.Edge, f.Client = nil, nil, nil, translator.Edge{}, true
	f.MTU6 = w.MTU4 + 20
	f.MTU4, f.LowestMTU6 = 65535, f.MTU6
	whole := New(World{Config: translator.Config{IPv4: w.IPv4, Pools4: w.Pools4, ICMPSource4: w.ICMPSource4}})
	for _, a := range []string{"192.0.0.8", "192.0.0.7", "192.0.0.6"} {
		if f.IPv4 = netip.MustParseAddr(a); !whole.ours(f.IPv4) {
			break
		}
	}
	t := New(f)
	t.half = true
	return t
}

// hop is what a decrement of the hop limit is, 6→4.
func (c *call) hop() byte {
	if c.t.half {
		c.rule("1.10.one-decrement")
		return 0
	}
	return 1
}

// edge is Translate where there is an edge: through both halves.
func (t *Translator) edge(p Packet, h Hints) (out []Outcome) {
	t.fabric.Rules, t.fabric.now = t.Rules, t.now
	six := len(p.Bytes) >= 4 && p.Bytes[0]>>4 == 6
	label := [3]byte{}
	first := []Outcome{{Verdict: translator.Forward4, Packets: []Packet{p}}}
	switch {
	case six && len(p.Bytes) >= 40 && !p.From.IsValid() && t.fabric.covering6(netip.AddrFrom16([16]byte(p.Bytes[24:40]))) != nil:
		first = t.descend(p, h)
	case six:
		label = [3]byte{p.Bytes[1] & 15, p.Bytes[2], p.Bytes[3]}
	}
	for _, o := range first {
		if o.Verdict != translator.Forward4 {
			out = append(out, o)
			continue
		}
		for _, o := range cloned(t.translate(o.Packets[0], h, false)) {
			out = append(out, t.ascend(o, h, label)...)
		}
	}
	return out
}

// descend is what comes by the fabric (1.10.in).
func (t *Translator) descend(p Packet, h Hints) []Outcome {
	src := netip.AddrFrom16([16]byte(p.Bytes[8:24]))
	if t.ours(src) || t.covering6(src) != nil || t.fabric.covering6(src) != nil || t.Prefix.IsValid() && t.Prefix.Contains(src) {
		t.count("1.10.spoofed")
		return []Outcome{{Verdict: translator.SpoofedSource}}
	}
	t.count("1.10.in")
	return cloned(t.fabric.translate(p, h, false))
}

// ascend is what leaves by the fabric (1.10.out), or what does not.
func (t *Translator) ascend(o Outcome, h Hints, label [3]byte) (out []Outcome) {
	leaves := o.Verdict == translator.Forward4 || o.Verdict == translator.Pass4 || o.Verdict.Replied()
	if !leaves || len(o.Packets) == 0 || o.Packets[0].Bytes[0]>>4 == 6 {
		return []Outcome{o}
	}
	t.count("1.10.out")
	for _, f := range cloned(t.fabric.translate(o.Packets[0], h, true)) {
		if f.Verdict != translator.Forward6 && f.Verdict != translator.Hairpin {
			why := f.Verdict.Reason() // who is told of it is not said
			out = append(out, Outcome{Verdict: why}, Outcome{Verdict: why | translator.Replied})
			continue
		}
		if label != [3]byte{} {
			t.count("1.10.flow-label")
		}
		if len(f.Packets) > 1 {
			t.count("1.10.size")
		}
		for _, p := range f.Packets {
			p.Bytes[1] |= label[0]
			p.Bytes[2], p.Bytes[3] = label[1], label[2]
		}
		out = append(out, Outcome{Verdict: o.Verdict, Packets: f.Packets})
	}
	return out
}

// cloned are outcomes that the next packet leaves as they are.
func cloned(all []Outcome) []Outcome {
	all = slices.Clone(all)
	for i := range all {
		all[i].Packets = slices.Clone(all[i].Packets)
		for j := range all[i].Packets {
			p := &all[i].Packets[j]
			p.Bytes = slices.Clone(p.Bytes)
		}
	}
	return all
}

func (t *Translator) count(rule string) {
	if t.Rules != nil {
		t.Rules[rule]++
	}
}
