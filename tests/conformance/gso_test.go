package conformance

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// segments does to a superpacket what a device does (VIRTIO 1.2 5.1.6.2): each
// segment has the headers, lengths, sequence numbers, flags and a whole
// checksum of its own.
func segments(p reference.Packet) (out []reference.Packet) {
	b, at := p.Bytes, int(p.Offload.CsumStart)
	tcp := p.Offload.GSOType&^translator.GSOECN != translator.GSOUDPL4
	head := at + 8
	if tcp {
		head = at + int(b[at+12]>>4)*4
	}
	size := int(p.Offload.GSOSize)
	for from, n := head, 0; from < len(b); from, n = from+size, n+1 {
		to := min(from+size, len(b))
		s := append(append([]byte(nil), b[:head]...), b[from:to]...)
		if tcp {
			binary.BigEndian.PutUint32(s[at+4:], binary.BigEndian.Uint32(b[at+4:])+uint32(n*size))
			if to < len(b) {
				s[at+13] &^= 0x09 // FIN and PSH stand on the last segment
			}
			if n > 0 {
				s[at+13] &^= 0x80 // CWR on the first (RFC 3168 6.1.2)
			}
		} else {
			put(s[at+4:], uint16(len(s)-at))
		}
		finishSegment(s, at, at+int(p.Offload.CsumOffset), !tcp, n)
		out = append(out, reference.Packet{Bytes: s})
	}
	return out
}

// finishSegment sets IP length, identification and checksums. at is where the
// upper layer starts, field where its checksum stands.
func finishSegment(s []byte, at, field int, udp bool, n int) {
	var protocol byte
	var addresses []byte
	if s[0]>>4 == 4 {
		put(s[2:], uint16(len(s)))
		put(s[4:], uint16(get(s[4:])+n))
		put(s[10:], 0)
		put(s[10:], ^onesSum(s[:at]))
		protocol, addresses = s[9], s[12:20]
	} else {
		put(s[4:], uint16(len(s)-40))
		protocol, addresses = s[6], s[8:40]
		for next := 40; protocol == 0 || protocol == 43 || protocol == 60; next += 8 + 8*int(s[next+1]) {
			protocol = s[next]
		}
	}
	put(s[field:], 0)
	sum := ^onesSum(addresses, []byte{0, 0, byte((len(s) - at) >> 8), byte(len(s) - at), 0, 0, 0, protocol}, s[at:])
	if sum == 0 && udp {
		sum = 0xffff
	}
	put(s[field:], sum)
}

// TestSegmentsOfSuperpacket: a superpacket translated and then segmented equals
// its segments translated. What may differ: identification, which is counted
// per packet; and DF of the last segment, which is shorter than the others.
func TestSegmentsOfSuperpacket(t *testing.T) {
	seen := map[translator.Verdict]int{}
	for i, w := range generate.Worlds() {
		g := generate.New(w, uint64(900+i))
		p := newPair(t, w)
		for range 3000 {
			for _, in := range []reference.Packet{g.Next4(), g.Next6()} {
				if in.Offload.GSOType == translator.GSONone || partialWrong(in) {
					continue
				}
				r := p.translate(in)
				if !r.verdict.IsForward() {
					continue
				}
				seen[r.verdict]++
				p.sameSegments(t, in, r)
			}
		}
	}
	if seen[translator.Forward4] < 200 || seen[translator.Forward6] < 200 || seen[translator.Hairpin] < 20 {
		t.Errorf("superpackets: %v", seen)
	}
}

// partialWrong: the field does not hold the pseudo header's sum, so that the
// device would not make a right checksum of it.
func partialWrong(p reference.Packet) bool {
	return !checksumsRight(completed(p))
}

func (p *pair) sameSegments(t *testing.T, in reference.Packet, r result) {
	t.Helper()
	ours := segments(r.packets[0])
	theirs := segments(in)
	if len(ours) != len(theirs) {
		t.Fatalf("%d segments of %d\n%s", len(ours), len(theirs), describe(in))
	}
	for n := range theirs {
		s := p.translate(theirs[n])
		if s.verdict != r.verdict || len(s.packets) != 1 {
			t.Fatalf("segment %d: %v, the whole %v\n%s", n, s.verdict, r.verdict, describe(in))
		}
		a, b := alike(ours[n].Bytes, n == len(theirs)-1), alike(s.packets[0].Bytes, n == len(theirs)-1)
		if !bytes.Equal(a, b) {
			t.Fatalf("%s: segment %d\nours   %x\ntheirs %x\nof %s", p.world.Name, n, a, b, describe(in))
		}
	}
}

// alike blanks what may differ.
func alike(b []byte, last bool) []byte {
	b = bytes.Clone(b)
	if b[0]>>4 == 4 {
		put(b[4:], 0)
		put(b[10:], 0)
		if last {
			b[6] &^= 0x40
		}
	}
	return b
}
