package conformance

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// TestRoundTrip translates packets there and back: what translation may keep,
// is there again. It may not keep: options, extension headers, the flow label,
// the high bits of a fragment's identification, the identification and DF of
// what is not a fragment, and two hops of the TTL. Who shares an address has a share of
// the identifications of fragments.
func TestRoundTrip(t *testing.T) {
	w := generate.Worlds()[0]
	w.UDPZeroChecksum = translator.ForwardZeroChecksum
	trips := map[string]int{}
	mapped := newPair(t, w)
	g := generate.New(w, 4242)
	// What workloads have sent comes back in a client alone, where they speak IPv4.
	w.Client = true
	client := newPair(t, w)
	w.Client = false
	// What comes 4→6 to a mapped address would go back as a hairpin: that way
	// is for addresses under the prefix.
	w.Mappings = nil
	unmapped := newPair(t, w)
	for range 20_000 {
		for _, in := range []reference.Packet{g.Next4(), g.Next6()} {
			p, back := mapped, client
			if len(in.Bytes) > 0 && in.Bytes[0]>>4 == 4 {
				p, back = unmapped, unmapped
			}
			one := p.translate(in)
			if len(one.packets) != 1 || !one.verdict.IsForward() || one.verdict == translator.Hairpin {
				continue
			}
			two := back.translate(one.packets[0])
			if len(two.packets) != 1 || !two.verdict.IsForward() || two.verdict == translator.Hairpin {
				continue // a limit: hop count, size, or an address that means another way back
			}
			a, b := keep(in), keep(two.packets[0])
			if a == nil || !sameWays(in, two.packets[0]) {
				continue
			}
			if in.Bytes[0]>>4 == 6 && len(b) == len(a)+8 && b[1] == 58 {
				continue // a folded identifier comes back with a reply alone
			}
			if !bytes.Equal(a, b) {
				p.share(in, a)
			}
			if !bytes.Equal(a, b) {
				t.Fatalf("in   %s\nthere %s\nback %s\nkept %x\nwant %x", describe(in), describe(one.packets[0]), describe(two.packets[0]), b, a)
			}
			trips[one.verdict.String()]++
		}
	}
	t.Log(trips)
	if trips["forward4"] < 3000 || trips["forward6"] < 3000 {
		t.Errorf("round trips: %v", trips)
	}
}

// share puts the identification of a fragment, of which a is kept, into the share
// that its sender has of them.
func (p *pair) share(in reference.Packet, a []byte) {
	if in.Bytes[0]>>4 == 4 || len(a) < 5 {
		return
	}
	if e := p.table.Lookup6(mapping.Addr6From(netip.AddrFrom16([16]byte(in.Bytes[8:24])))); e != nil && e.Shared() {
		base, mask := e.IdentificationRange()
		put(a[1:], base|uint16(get(a[1:]))&mask)
	}
}

// sameWays says that both addresses came back: an IPv6 suffix that a mapping
// ignores, or an embedded address with a mapping, does not.
func sameWays(a, b reference.Packet) bool {
	if a.Bytes[0]>>4 == 4 {
		return bytes.Equal(a.Bytes[12:20], b.Bytes[12:20])
	}
	return bytes.Equal(a.Bytes[8:40], b.Bytes[8:40])
}

// keep is of a packet what translation keeps: class, fields of fragmentation,
// protocol, payload. An ICMP error is rebuilt: of it, type and quote suffice.
func keep(p reference.Packet) []byte {
	b := p.Bytes
	out := []byte{byte(get(b) >> 4 & 0xff)}
	protocol, upper := b[6], b
	if b[0]>>4 == 4 {
		out[0] = b[1]
		protocol, upper = b[9], b[int(b[0]&0xf)*4:get(b[2:])]
		if protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60 {
			return nil // in IPv6 it is an extension header, and goes on the way back
		}
		if at := get(b[6:]) & 0x3fff; at != 0 {
			out = append(out, b[4], b[5], byte(at>>8), byte(at))
		}
	} else {
		upper = b[40 : 40+get(b[4:])]
		for protocol == 0 || protocol == 60 || protocol == 43 {
			protocol, upper = upper[0], upper[8+8*int(upper[1]):]
		}
		if protocol == 44 {
			if at := get(upper[2:]); at&^6 != 0 {
				out = append(out, upper[6], upper[7], byte(at&1<<5|at>>11), byte(at>>3))
			}
			protocol, upper = upper[0], upper[8:]
		}
	}
	if (protocol == 1 || protocol == 58) && len(upper) > 0 && isError(protocol, upper[0]) {
		return nil // rebuilt, and not every code comes back
	}
	out = append(append(out, protocol), upper...)
	if o := p.Offload; o.Flags != 0 {
		// Of a partial sum, 0 and 0xffff are the same (RFC 1624 3).
		if field := out[len(out)-len(upper)+int(o.CsumOffset):]; get(field) == 0xffff {
			put(field, 0)
		}
		out = append(out, o.Flags, o.GSOType, byte(o.GSOSize>>8), byte(o.GSOSize), byte(o.CsumOffset))
	}
	return out
}

func isError(protocol, typ byte) bool {
	if protocol == 58 {
		return typ < 128
	}
	return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
}
