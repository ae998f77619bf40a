package translator

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// upper is an upper layer with a checksum at some place.
func upper(src, dst string, proto uint8, at, size int, d []byte) []byte {
	b := append([]byte{0x10, 0x01, 0x10, 0x02}, make([]byte, size-4)...)
	b = append(b, d...)
	if proto == 6 {
		b[12] = 5 << 4
	}
	if proto == 17 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	}
	if at == 0 {
		return b
	}
	return summed(src, dst, proto, at, b)
}

func TestSection4_Checksums(t *testing.T) {
	for _, c := range []struct {
		name     string
		proto    uint8
		at, size int
	}{
		{"tcp", 6, 16, 20}, {"udp", 17, 6, 8}, {"udp-lite", 136, 6, 8}, {"dccp", 33, 6, 16},
		{"sctp", 132, 0, 12}, {"gre", 47, 0, 8}, {"esp", 50, 0, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			for n := range 40 {
				l4, l6 := upper(work4, server4, c.proto, c.at, c.size, data(n)), upper(work6, server6, c.proto, c.at, c.size, data(n))
				p := packetOf(hdr6{src: work6, dst: server6, proto: c.proto}.packet(l6))
				if v := w.Translate(p); v != Forward4 || !bytes.Equal(p.Bytes()[20:], l4) {
					t.Fatalf("6to4: %v\n%x, want\n%x", v, p.Bytes()[20:], l4)
				}
				l4, l6 = upper(server4, work4, c.proto, c.at, c.size, data(n)), upper(server6, work6, c.proto, c.at, c.size, data(n))
				wantTranslated(t, w, hdr4{src: server4, dst: work4, proto: c.proto}.packet(l4), Forward6,
					hdr6{src: server6, dst: work6, proto: c.proto, hop: 63}.packet(l6))
			}
		})
	}
}

// A wrong checksum is as wrong afterwards: the sums differ by as much.
func TestSection4_WrongStaysWrong(t *testing.T) {
	w := newTestWorker(t)
	for _, c := range []struct {
		name  string
		proto uint8
		at    int
	}{{"tcp", 6, 16}, {"udp", 17, 6}, {"icmp", 58, 2}} {
		t.Run(c.name, func(t *testing.T) {
			good6 := map[uint8][]byte{6: tcp(work6, server6, 1, 2, data(9)), 17: udp(work6, server6, 1, 2, data(9)),
				58: icmp6(work6, server6, 128, 0, 9, data(9))}[c.proto]
			bad := bytes.Clone(good6)
			binary.BigEndian.PutUint16(bad[c.at:], binary.BigEndian.Uint16(bad[c.at:])+5)
			p, q := packetOf(hdr6{src: work6, dst: server6, proto: c.proto}.packet(good6)), packetOf(hdr6{src: work6, dst: server6, proto: c.proto}.packet(bad))
			if v, v2 := w.Translate(p), w.Translate(q); v != Forward4 || v2 != Forward4 {
				t.Fatal(v, v2)
			}
			a, b := binary.BigEndian.Uint16(p.Bytes()[20+c.at:]), binary.BigEndian.Uint16(q.Bytes()[20+c.at:])
			if (uint32(b)+0xffff-uint32(a))%0xffff != 5 {
				t.Errorf("checksums %#04x and %#04x", a, b)
			}
		})
	}
}

func TestSection4_HeaderChecksum(t *testing.T) {
	w := newTestWorker(t)
	in := udp4(server4, work4)
	for i := range 20 {
		bad := bytes.Clone(in)
		bad[i] ^= 0x10
		p := packetOf(bad)
		if v := w.Translate(p); v != BadChecksum && v != Malformed {
			t.Errorf("byte %d: %v", i, v)
		}
	}
	in[8]--
	wantVerdict(t, w, in, BadChecksum)
}

func TestSection4_UDPZero(t *testing.T) {
	zero := func(b []byte) []byte { b[6], b[7] = 0, 0; return b }
	in := hdr4{src: server4, dst: work4, proto: 17}.packet(zero(udp(server4, work4, 1, 2, data(21))))
	h6 := hdr6{src: server6, dst: work6, proto: 17, hop: 63}
	mode := func(m UDPZeroChecksum) *Worker {
		return newTestWorker(t, func(c *Config, _ *string) { c.UDPZeroChecksum = m })
	}
	t.Run("reject", func(t *testing.T) {
		wantTranslated(t, mode(RejectZeroChecksum), in, UDPZeroChecksumRefused|Replied, error4(3, 13, 0, in, 1))
	})
	t.Run("drop", func(t *testing.T) { wantVerdict(t, mode(DropZeroChecksum), in, UDPZeroChecksumRefused) })
	t.Run("calculate", func(t *testing.T) {
		wantTranslated(t, mode(CalculateZeroChecksum), in, Forward6, h6.packet(udp(server6, work6, 1, 2, data(21))))
	})
	t.Run("forward", func(t *testing.T) {
		wantTranslated(t, mode(ForwardZeroChecksum), in, Forward6, h6.packet(zero(udp(server6, work6, 1, 2, data(21)))))
	})
	t.Run("calculate and fragment", func(t *testing.T) {
		w := mode(CalculateZeroChecksum)
		p := packetOf(hdr4{src: server4, dst: work4, proto: 17}.packet(zero(udp(server4, work4, 1, 2, data(2000)))))
		if v := w.Translate(p); v != Forward6 || !w.Fragments() {
			t.Fatal(v)
		}
		if !bytes.Equal(p.Bytes()[48:], udp(server6, work6, 1, 2, data(2000))) {
			t.Error("checksum not calculated over the whole")
		}
	})
	frag := hdr4{src: server4, dst: work4, proto: 17, flags: 0x2000, id: 3}.packet(zero(udp(server4, work4, 1, 2, data(24))))
	t.Run("fragment, reject", func(t *testing.T) {
		wantTranslated(t, mode(RejectZeroChecksum), frag, UDPZeroChecksumRefused|Replied, error4(3, 13, 0, frag, 1))
	})
	t.Run("fragment, drop", func(t *testing.T) { wantVerdict(t, mode(DropZeroChecksum), frag, UDPZeroChecksumRefused) })
	t.Run("fragment, calculate", func(t *testing.T) {
		wantVerdict(t, mode(CalculateZeroChecksum), frag, UDPZeroChecksumRefused|Replied)
	})
	t.Run("fragment, forward", func(t *testing.T) { wantVerdict(t, mode(ForwardZeroChecksum), frag, Forward6) })
	t.Run("6to4 stays without", func(t *testing.T) {
		wantTranslated(t, mode(RejectZeroChecksum), hdr6{src: work6, dst: server6, proto: 17}.packet(zero(udp(work6, server6, 1, 2, nil))),
			Forward4, hdr4{src: work4, dst: server4, proto: 17, ttl: 63, id: 1}.packet(zero(udp(work4, server4, 1, 2, nil))))
	})
}

// A sum that comes out as 0 is sent as 0xffff: data is searched for which the
// translated checksum is 0.
func TestSection4_ZeroSentAsOnes(t *testing.T) {
	w := newTestWorker(t)
	for _, proto := range []uint8{17, 136} {
		l4, l6 := upper(server4, work4, proto, 6, 8, make([]byte, 2)), upper(server6, work6, proto, 6, 8, make([]byte, 2))
		binary.BigEndian.PutUint16(l6[8:], binary.BigEndian.Uint16(l6[6:])) // now the sum is 0
		copy(l4[8:], l6[8:])
		l4, l6 = upper(server4, work4, proto, 6, 8, l4[8:]), upper(server6, work6, proto, 6, 8, l6[8:])
		binary.BigEndian.PutUint16(l6[6:], 0xffff)
		wantTranslated(t, w, hdr4{src: server4, dst: work4, proto: proto}.packet(l4), Forward6,
			hdr6{src: server6, dst: work6, proto: proto, hop: 63}.packet(l6))
	}
}

// The sums in use are those of the slow way, whatever the length and the bytes.
func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := make([]byte, r.IntN(70))
		for i := range b {
			b[i] = byte(r.Uint32()) | byte(r.IntN(2)*0xff)
		}
		if got, want := fold(sum(b)), slowSum(b); got != want {
			t.Fatalf("sum(%x) = %#x, want %#x", b, got, want)
		}
		if len(b) >= 20 {
			if got, want := fold(sum20(b)), slowSum(b[:20]); got != want {
				t.Fatalf("sum20(%x) = %#x, want %#x", b, got, want)
			}
		}
	}
}

// The test vectors of the SipHash paper, appendix A: key 00…0f, message 00…0e;
// and the first two of its reference implementation.
func TestSipHash(t *testing.T) {
	var key [16]byte
	message := make([]byte, 15)
	for i := range key {
		key[i] = byte(i)
	}
	for i := range message {
		message[i] = byte(i)
	}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		if got := siphash(&key, message[:n]); got != want {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}
