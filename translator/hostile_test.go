package translator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestForgedErrorsAgainstTCP: who may send an error about a connection can still
// be wrong about it, and TCP tells by the sequence number (RFC 5927 4.1). So what
// is quoted of its header comes out as it went in, but for the checksum, and an
// MTU is no less than the least of IPv6.
func TestForgedErrorsAgainstTCP(t *testing.T) {
	t.Parallel()
	w := newTestWorker(t)
	for _, quoted := range []int{8, 12, 16, 18, 20, 32} {
		for _, c := range []struct {
			name       string
			in         []byte
			verdict    Verdict
			upper, mtu int // where the quote's TCP header is, and the last 16 bits of the MTU
		}{
			{name: "4to6", in: hdr4{src: router4, dst: work4, proto: 1}.packet(icmp4(3, 4, 68,
				hdr4{src: work4, dst: server4, proto: 6}.packet(tcp(work4, server4, 1030, 443, data(12)))[:20+quoted])),
				verdict: Forward6, upper: 40 + 8 + 40, mtu: 46},
			{name: "6to4", in: hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 2, 0, 68,
				hdr6{src: server6, dst: work6, proto: 6}.packet(tcp(server6, work6, 443, 1030, data(12)))[:40+quoted])),
				verdict: Forward4, upper: 20 + 8 + 20, mtu: 26},
			{name: "hairpin", in: hdr6{src: work6, dst: in6(other4), proto: 58}.packet(icmp6(work6, in6(other4), 2, 0, 68,
				hdr6{src: in6(other4), dst: work6, proto: 6}.packet(tcp(in6(other4), work6, 443, 1030, data(12)))[:40+quoted])),
				verdict: Hairpin, upper: 40 + 8 + 40, mtu: 46},
		} {
			t.Run(fmt.Sprint(c.name, " ", quoted), func(t *testing.T) {
				p := packetOf(c.in)
				if v := w.Translate(p); v != c.verdict {
					t.Fatalf("verdict %v", v)
				}
				was, is := bytes.Clone(c.in[len(c.in)-quoted:]), bytes.Clone(p.Bytes()[c.upper:])
				for _, b := range [][]byte{was, is} {
					if len(b) >= 18 {
						b[16], b[17] = 0, 0
					}
				}
				if !bytes.Equal(was, is) {
					t.Errorf("quoted % x, was % x", is, was)
				}
				least := map[bool]uint16{true: minMTU6 - 20, false: minMTU6}[c.verdict == Forward4]
				if got := binary.BigEndian.Uint16(p.Bytes()[c.mtu:]); got != least {
					t.Errorf("an MTU of %d is believed", got)
				}
			})
		}
	}
}

// TestOptionsFlood: whatever a remote host writes where IPv4 has its options, it is
// dropped or left out, no IPv6 packet shows it, and what may be answered is
// answered as seldom as all else.
func TestOptionsFlood(t *testing.T) {
	t.Parallel()
	const n = 20_000
	r := rand.New(rand.NewPCG(791, 1812))
	plain := hdr4{src: server4, dst: work4, proto: 17}.packet(udp(server4, work4, 1, 2, data(30)))
	p := packetOf(plain)
	w := newTestWorker(t)
	w.Translate(p)
	want := bytes.Clone(p.Bytes())
	verdicts := map[Verdict]int{}
	kinds := []byte{0, 1, 7, 68, 82, 130, 131, 131, 131, 133, 134, 136, 137, 137, 148, 255}
	for i := range n {
		options := make([]byte, 4+4*r.IntN(10))
		for at := 0; at < len(options); { // mostly well formed, of real kinds
			options[at] = kinds[r.IntN(len(kinds))]
			if at+1 < len(options) {
				options[at+1] = byte(2 + r.IntN(len(options)-at))
			}
			if at+2 < len(options) {
				options[at+2] = byte(r.IntN(12))
			}
			at += 3 + r.IntN(8)
		}
		if i%4 == 0 {
			for j := range options {
				options[j] = byte(r.Uint32())
			}
		}
		in := hdr4{src: server4, dst: work4, proto: 17, options: options}.packet(plain[20:])
		p := packetOf(in)
		v := w.Translate(p)
		verdicts[v]++
		switch v {
		case Forward6:
			if !bytes.Equal(p.Bytes(), want) {
				t.Fatalf("options % x: % x", options, p.Bytes())
			}
		case Malformed, SourceRoute | Replied:
		default:
			t.Fatalf("options % x: verdict %v", options, v)
		}
	}
	for _, v := range []Verdict{Forward6, Malformed, SourceRoute | Replied} {
		if verdicts[v] < n/100 {
			t.Errorf("too few of a kind: %v", verdicts)
		}
	}
	f := newFlooding(t)
	route := hdr4{src: "192.0.2.200", dst: work4, proto: 17, options: []byte{131, 7, 4, 1, 2, 3, 4, 0}}.packet(plain[20:])
	f.about("ten seconds of source routes", f.send(route, 10_000, 1000), 1050)
	if answered := f.send(big4("192.0.3.1", work4), 25, 50); answered != 25 {
		t.Errorf("another host heard %d of 25 errors", answered)
	}
}

// BenchmarkOptions is what a packet costs whose options are as many as can be.
func BenchmarkOptions(b *testing.B) {
	for name, options := range map[string][]byte{"none": nil, "40 bytes of nothing": bytes.Repeat([]byte{1}, 40)} {
		b.Run(name, func(b *testing.B) {
			w := newTestWorker(b)
			in := hdr4{src: server4, dst: work4, proto: 17, options: options}.packet(udp(server4, work4, 1, 2, data(30)))
			p := packetOf(in)
			b.ReportAllocs()
			for b.Loop() {
				p.Start, p.End = Headroom, Headroom+len(in)
				copy(p.Bytes(), in)
				w.Translate(p)
			}
		})
	}
}
