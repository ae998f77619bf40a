package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// pair is the fast translator and the slow one under the same configuration. It
// has the buffers that one packet at a time needs.
type pair struct {
	world generate.World
	table *mapping.Table
	fast  *translator.Worker
	slow  *reference.Translator

	arena   []byte // the packet ends with it, but for Tailroom
	packet  translator.Packet
	pieces  []translator.Packet // that it is cut into
	out     []reference.Packet
	held    translator.Packet
	limited uint64 // errors that the budgets forbade, when last asked
	blank   reference.Hints
}

func newPair(t testing.TB, w generate.World) *pair {
	t.Helper()
	table, err := mapping.New(w.Prefix, w.Mappings)
	if err != nil {
		t.Fatalf("%s: %v", w.Name, err)
	}
	tr, err := translator.New(w.Config, table)
	if err != nil {
		t.Fatalf("%s: %v", w.Name, err)
	}
	p := &pair{world: w, table: table, fast: tr.NewWorker(), slow: reference.New(w.World),
		arena: make([]byte, translator.Headroom+1<<17+translator.Tailroom)}
	p.held.Buf = make([]byte, translator.Headroom+65535+translator.Tailroom)
	p.blank = reference.Hints{Partition: p.partition}
	p.setTime(1)
	return p
}

func (p *pair) setTime(now int64) {
	p.fast.SetTime(now)
	p.slow.SetTime(now)
}

// result is what the fast translator made of one packet.
type result struct {
	verdict translator.Verdict
	packets []reference.Packet
}

// buffer puts a packet into a buffer with exactly the room that the interface
// asks for: one byte more is a panic.
func buffer(in reference.Packet) *translator.Packet {
	n := translator.Headroom + len(in.Bytes) + translator.Tailroom
	buf := make([]byte, n)
	copy(buf[translator.Headroom:], in.Bytes)
	return &translator.Packet{Buf: buf, Start: translator.Headroom,
		End: translator.Headroom + len(in.Bytes), Offload: in.Offload}
}

func take(p *translator.Packet) reference.Packet {
	return reference.Packet{Bytes: bytes.Clone(p.Bytes()), Offload: p.Offload}
}

// translate asks the fast translator.
func (p *pair) translate(in reference.Packet) result {
	return p.run(in).clone()
}

func (r result) clone() result {
	r.packets = slices.Clone(r.packets)
	for i := range r.packets {
		r.packets[i].Bytes = bytes.Clone(r.packets[i].Bytes)
	}
	return r
}

// run is translate whose packets are good until the next call. The packet stands
// in what was left of those before, and again there is no byte more room than the
// interface asks for.
func (p *pair) run(in reference.Packet) result {
	n := translator.Headroom + len(in.Bytes) + translator.Tailroom
	buf := p.arena[len(p.arena)-n:]
	copy(buf[translator.Headroom:], in.Bytes)
	p.packet = translator.Packet{Buf: buf, Start: translator.Headroom, End: n - translator.Tailroom, Offload: in.Offload}
	if p.world.Edge.Enabled() {
		return p.edge(&p.packet)
	}
	if in.From.IsValid() {
		return p.collect(p.fast.Pass4(&p.packet, p.table.Get(in.From).Tag()), &p.packet)
	}
	return p.collect(p.fast.Translate(&p.packet), &p.packet)
}

func (p *pair) collect(v translator.Verdict, b *translator.Packet) result {
	p.out = p.out[:0]
	if v.IsForward() && p.fast.Fragments() {
		for i := 0; ; i++ {
			if i == len(p.pieces) {
				lowest := max(p.slow.LowestMTU6, p.slow.MTU4+20)
				p.pieces = append(p.pieces, translator.Packet{Buf: make([]byte, translator.Headroom+lowest+translator.Tailroom)})
			}
			piece := &p.pieces[i]
			if !p.fast.NextFragment(b, piece) {
				return result{v, p.out}
			}
			p.out = append(p.out, reference.Packet{Bytes: piece.Bytes(), Offload: piece.Offload})
		}
	}
	if v.IsForward() || v.Replied() || v == translator.Segment {
		p.out = append(p.out, reference.Packet{Bytes: b.Bytes(), Offload: b.Offload})
	}
	return result{v, p.out}
}

// edge is what the loop does with a packet where there is an edge.
func (p *pair) edge(b *translator.Packet) result {
	if p.fast.FromFabric(b) {
		if v := p.fast.Descend(b); v != translator.Forward4 {
			return p.collect(v, b)
		}
	}
	v := p.fast.Translate(b)
	if v.Leaves() && b.Bytes()[0]>>4 == 4 {
		if up := p.fast.Ascend(b); up != translator.Forward6 {
			return p.collect(up, b)
		}
		if v.Replied() {
			return result{v, append(p.out[:0], reference.Packet{Bytes: b.Bytes(), Offload: b.Offload})}
		}
	}
	return p.collect(v, b)
}

// hints tells the reference what the fast translator chose where it may choose.
func (p *pair) hints(r result) reference.Hints {
	h := p.blank
	if len(r.packets) == 0 {
		return h
	}
	b := r.packets[0].Bytes
	h.Trailer = lastBytes(r.packets)
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		h.Identification = binary.BigEndian.Uint16(b[4:])
		h.DontFragment = b[6]&0x40 != 0
		h.ErrorSource = netip.AddrFrom4([4]byte(b[12:16]))
		if len(b) >= 34 {
			h.QuotedIdentification = binary.BigEndian.Uint16(b[32:])
		}
	case len(b) >= 40:
		h.ErrorSource = netip.AddrFrom16([16]byte(b[8:24]))
		if r.verdict == translator.Hairpin && p.world.Prefix.Contains(h.ErrorSource) {
			h.ErrorSource = reference.Extract(p.world.Prefix, h.ErrorSource)
		}
	}
	return h
}

// lastBytes is what a trailer would be: the last 8 bytes of a packet, or of its
// fragments, the last of which may carry less.
func lastBytes(packets []reference.Packet) []byte {
	const trailer = 8
	last := packets[len(packets)-1].Bytes
	headers := 48 // IPv6's and the fragment's
	if last[0]>>4 == 4 {
		headers = int(last[0]&15) * 4
	}
	if have := len(last) - headers; len(packets) > 1 && have < trailer {
		before := packets[len(packets)-2].Bytes
		return slices.Concat(before[len(before)-trailer+have:], last[headers:])
	}
	return last[max(0, len(last)-trailer):]
}

func (p *pair) partition(m mapping.Mapping) (base, mask uint16) {
	a := m.IPv6.Addr().As16()
	a6 := mapping.Addr6{Hi: binary.BigEndian.Uint64(a[:8]), Lo: binary.BigEndian.Uint64(a[8:])}
	e := p.table.Lookup6(a6)
	if e == nil {
		_, ce, _, _ := p.world.Rules.To4(a6)
		return ce.IdentificationRange()
	}
	return e.IdentificationRange()
}

// check translates a packet both ways and says where they differ. What the
// tracker held back for it is checked along with it.
func (p *pair) check(in reference.Packet) (result, error) {
	r := p.run(in)
	if err := p.compare(in, p.slow.Translate(in, p.hints(r)), r); err != nil {
		return r, err
	}
	held := p.slow.Held()
	if !r.verdict.IsForward() {
		return r, nil
	}
	if len(held) > 0 {
		r = r.clone() // their buffers are needed
		return r, p.checkHeld(held)
	} else if v, more := p.fast.NextHeld(&p.held); more {
		return r, &difference{"given back", fmt.Sprintf("a fragment that nobody waits for: %v", v)}
	}
	return r, nil
}

// checkHeld takes back what was held for a first fragment, in any order.
func (p *pair) checkHeld(held []reference.Held) error {
	for {
		v, more := p.fast.NextHeld(&p.held)
		switch {
		case !more && len(held) == 0:
			return nil
		case !more:
			return &difference{"not given back", "a held fragment was not given back\n" + describe(held[0].Packet)}
		case len(held) == 0:
			return &difference{"given back", fmt.Sprintf("a fragment that nobody waits for: %v", v)}
		}
		r := p.collect(v, &p.held)
		i := slices.IndexFunc(held, func(h reference.Held) bool { return among(p.slow.TranslateHeld(h, p.hints(r)), r) })
		if i < 0 {
			return p.compare(held[0].Packet, p.slow.TranslateHeld(held[0], p.hints(r)), r)
		}
		held = slices.Delete(held, i, i+1)
	}
}

func (p *pair) compare(in reference.Packet, right []reference.Outcome, r result) error {
	if among(right, r) {
		return nil
	}
	if p.forbidden(right, r) {
		return nil
	}
	kind := r.verdict.String()
	text := fmt.Sprintf("world %s\nin   %s\nfast %v\n", p.world.Name, describe(in), r.verdict)
	for _, b := range r.packets {
		text += "     " + describe(b) + "\n"
	}
	for _, o := range right {
		kind += " " + o.Verdict.String()
		text += fmt.Sprintf("slow %v\n", o.Verdict)
		for _, b := range o.Packets {
			text += "     " + describe(b) + "\n"
		}
	}
	return &difference{kind, text}
}

// forbidden says that the only thing wrong is that an error of ours was not sent,
// and that a budget forbade it.
func (p *pair) forbidden(right []reference.Outcome, r result) bool {
	limited := uint64(0)
	v4, v6 := p.fast.ErrorsLimited()
	v4.Add(v6)
	for _, kind := range v4 {
		for _, n := range kind {
			limited += n
		}
	}
	more := limited > p.limited
	p.limited = limited
	return more && p.world.ErrorRate < generate.Plenty && slices.ContainsFunc(right, func(o reference.Outcome) bool {
		return o.Verdict.Replied() && o.Verdict.Reason() == r.verdict
	})
}

// difference is an error; differences of one kind have the same verdicts.
type difference struct{ kind, text string }

func (d *difference) Error() string { return d.text }

func describe(p reference.Packet) string {
	b, more := p.Bytes, ""
	if len(b) > 700 {
		b, more = b[:700], "…"
	}
	return fmt.Sprintf("%d bytes %+v\n     %s%s", len(p.Bytes), p.Offload, hex.EncodeToString(b), more)
}

// among says that a result is one of the right ones.
func among(right []reference.Outcome, r result) bool {
	return slices.ContainsFunc(right, func(o reference.Outcome) bool { return sameOutcome(o, r) })
}

func sameOutcome(o reference.Outcome, r result) bool {
	if o.Verdict != r.verdict {
		return false
	}
	if o.Packets == nil {
		return true
	}
	if len(o.Packets) != len(r.packets) {
		return false
	}
	for i := range o.Packets {
		if !bytes.Equal(o.Packets[i].Bytes, r.packets[i].Bytes) || !sameOffload(o.Packets[i].Offload, r.packets[i].Offload) {
			return false
		}
	}
	return true
}

// sameOffload compares the fields of a virtio-net header that mean something.
func sameOffload(a, b translator.Offload) bool {
	if a.GSOType != b.GSOType || a.Flags&translator.FlagNeedsCsum != b.Flags&translator.FlagNeedsCsum {
		return false
	}
	if a.Flags&translator.FlagNeedsCsum != 0 && (a.CsumStart != b.CsumStart || a.CsumOffset != b.CsumOffset) {
		return false
	}
	return a.GSOType == translator.GSONone || a.GSOSize == b.GSOSize && a.HdrLen == b.HdrLen
}
