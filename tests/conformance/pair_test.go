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

// pair is the fast translator and the slow one under the same configuration.
type pair struct {
	world generate.World
	table *mapping.Table
	fast  *translator.Worker
	slow  *reference.Translator
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
	p := &pair{world: w, table: table, fast: tr.NewWorker(), slow: reference.New(w.World)}
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
	b := buffer(in)
	v := p.fast.Translate(b)
	return p.collect(v, b)
}

func (p *pair) collect(v translator.Verdict, b *translator.Packet) result {
	r := result{verdict: v}
	if v.IsForward() && p.fast.Fragments() {
		lowest := p.slow.LowestMTU6
		for {
			dst := &translator.Packet{Buf: make([]byte, translator.Headroom+lowest+translator.Tailroom)}
			if !p.fast.NextFragment(b, dst) {
				return r
			}
			r.packets = append(r.packets, take(dst))
		}
	}
	if v.IsForward() || v.Replied() || v == translator.Segment {
		r.packets = []reference.Packet{take(b)}
	}
	return r
}

// hints tells the reference what the fast translator chose where it may choose.
func (p *pair) hints(r result) reference.Hints {
	h := reference.Hints{Partition: p.partition}
	if len(r.packets) == 0 {
		return h
	}
	b := r.packets[0].Bytes
	if last := r.packets[len(r.packets)-1].Bytes; len(last) >= 8 {
		h.Trailer = last[len(last)-8:]
	}
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

func (p *pair) partition(m mapping.Mapping) (base, mask uint16) {
	a := m.IPv6.Addr().As16()
	e := p.table.Lookup6(mapping.Addr6{Hi: binary.BigEndian.Uint64(a[:8]), Lo: binary.BigEndian.Uint64(a[8:])})
	return e.IdentificationRange()
}

// check translates a packet both ways and says where they differ. What the
// tracker held back for it is checked along with it.
func (p *pair) check(in reference.Packet) (result, error) {
	r := p.translate(in)
	if err := p.compare(in, r); err != nil {
		return r, err
	}
	if !r.verdict.IsForward() {
		return r, nil
	}
	return r, p.checkHeld(p.slow.Held(in))
}

// checkHeld takes back what was held for a first fragment, in any order.
func (p *pair) checkHeld(held []reference.Packet) error {
	for {
		dst := &translator.Packet{Buf: make([]byte, translator.Headroom+65535+translator.Tailroom)}
		v, more := p.fast.NextHeld(dst)
		switch {
		case !more && len(held) == 0:
			return nil
		case !more:
			return &difference{"not given back", "a held fragment was not given back\n" + describe(held[0])}
		case len(held) == 0:
			return &difference{"given back", fmt.Sprintf("a fragment that nobody waits for: %v", v)}
		}
		r := p.collect(v, dst)
		var err error
		for i := range held {
			if err = p.compare(held[i], r); err == nil {
				held = slices.Delete(held, i, i+1)
				break
			}
		}
		if err != nil {
			return err
		}
	}
}

func (p *pair) compare(in reference.Packet, r result) error {
	right := p.slow.Translate(in, p.hints(r))
	for _, o := range right {
		if sameOutcome(o, r) {
			return nil
		}
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
