package translator

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
)

// What translation may keep, it keeps: there and back again, a packet differs
// in hop limit alone, and where IPv4 has no place for it, in its flow label and
// identification.
func TestThereAndBack(t *testing.T) {
	out, back := newTestWorker(t), newTestWorker(t, func(c *Config, _ *string) { c.MTU6, c.LowestMTU6 = 9000, 9000 })
	r := rand.New(rand.NewPCG(3, 4))
	payload := func() []byte {
		b := make([]byte, r.IntN(1400))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	port := func() uint16 { return uint16(r.Uint32()) }
	t.Run("6to4to6", func(t *testing.T) {
		for range 3000 {
			class, hop := uint8(r.Uint32()), uint8(3+r.IntN(250))
			p6 := []struct {
				proto uint8
				l4    []byte
			}{{6, tcp(work6, server6, port(), port(), payload())}, {17, udp(work6, server6, port(), port(), payload())},
				{58, icmp6(work6, server6, 128+uint8(r.IntN(2)), 0, r.Uint32(), payload())}, {132, data(12 + r.IntN(100))}}[r.IntN(4)]
			in := hdr6{src: work6, dst: server6, proto: p6.proto, class: class, hop: hop}.packet(p6.l4)
			p := packetOf(in)
			if v := out.Translate(p); v != Forward4 {
				t.Fatal(v)
			}
			// The other end stands on the other side: swap the addresses by hand.
			want := bytes.Clone(in)
			copy(want[8:], addrBytes(server6))
			copy(want[24:], addrBytes(other6))
			want[7] -= 2
			b := p.Bytes()
			copy(b[12:], addrBytes(server4))
			copy(b[16:], addrBytes(other4))
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:20]))
			q := packetOf(b)
			if v := back.Translate(q); v != Forward6 {
				t.Fatal(v)
			}
			got := q.Bytes()
			// Both differ from the first packet by addresses alone: so do the checksums.
			if !bytes.Equal(got[:8], want[:8]) {
				t.Fatalf("%x\n%x", got[:8], want[:8])
			}
			if at := checksumOffset(p6.proto); at >= 0 {
				got[40+at], got[41+at], want[40+at], want[41+at] = 0, 0, 0, 0
			}
			if !bytes.Equal(got[40:], want[40:]) {
				t.Fatalf("%x\n%x", got, want)
			}
		}
	})
	t.Run("4to6to4", func(t *testing.T) {
		for range 3000 {
			h := hdr4{src: server4, dst: work4, tos: uint8(r.Uint32()), ttl: uint8(3 + r.IntN(250)), id: uint16(r.Uint32())}
			h.flags = []uint16{0, 0x4000, 0x2000, 0x2000 | 5, 99}[r.IntN(5)]
			var l4 []byte
			switch r.IntN(3) {
			case 0:
				h.proto, l4 = 6, tcp(server4, work4, port(), port(), payload())
			case 1:
				h.proto, l4 = 17, udp(server4, work4, port(), port(), payload())
			case 2:
				h.proto, l4 = 99, payload()
			}
			p := packetOf(h.packet(l4))
			if v := back.Translate(p); v != Forward6 {
				t.Fatal(v)
			}
			p = packetOf(p.Bytes())
			p.Bytes()[7]++ // one hop less, to come out at the same place
			if v := out.to4Only(p); v != Forward4 {
				t.Fatal(v)
			}
			got := p.Bytes()
			h.ttl--
			want := h.packet(l4)
			if h.flags&0x3fff == 0 { // DF and identification are made anew
				copy(got[4:8], want[4:8])
				got[10], got[11] = 0, 0
				binary.BigEndian.PutUint16(got[10:], ^slowSum(got[:20]))
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%x\n%x", got, want)
			}
		}
	})
}

// to4Only is Translate without what comes after: local delivery and hairpin.
func (w *Worker) to4Only(p *Packet) Verdict {
	w.s = w.t.snapshot.Load()
	var h parsed
	b := p.Bytes()
	if v := h.read6(b, false); v.IsDrop() {
		return v
	}
	h.walk6(b)
	e, v := w.addressesTo4(p, &h)
	if v.IsDrop() {
		return v
	}
	size, _ := upperSize(h.proto, b[h.upper:], h.fragment)
	return w.finishTo4(p, &h, e, size, 0)
}

// A superpacket translated and then cut up gives its segments, each translated.
func TestSuperpacketIsItsSegments(t *testing.T) {
	w := newTestWorker(t)
	const size, segments = 1000, 7
	d := data(size * segments)
	p := packetOf(hdr4{src: server4, dst: work4, proto: 17, flags: 0x4000}.packet(
		partial(server4, work4, 17, 6, udp(server4, work4, 1, 2, d))))
	p.Offload = Offload{Flags: FlagNeedsCsum, GSOType: GSOUDPL4, GSOSize: size, CsumStart: 20, CsumOffset: 6}
	if v := w.Translate(p); v != Forward6 {
		t.Fatal(v)
	}
	b := p.Bytes()
	for i := range segments {
		// What a device does: the headers before each part of the payload, lengths
		// set, the sum of the pseudo header corrected by the length and completed.
		part := b[int(p.HdrLen)+i*size:][:size]
		l4 := append(bytes.Clone(b[p.CsumStart:p.HdrLen]), part...)
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		s := uint32(binary.BigEndian.Uint16(l4[6:])) + uint32(^uint16(len(b)-40)) + uint32(len(l4))
		s = s>>16 + s&0xffff
		binary.BigEndian.PutUint16(l4[6:], uint16(s>>16+s))
		binary.BigEndian.PutUint16(l4[6:], ^slowSum(l4))
		got := append(bytes.Clone(b[:40]), l4...)
		binary.BigEndian.PutUint16(got[4:], uint16(len(l4)))

		single := hdr4{src: server4, dst: work4, proto: 17, flags: 0x4000}.packet(udp(server4, work4, 1, 2, d[i*size:][:size]))
		wantTranslated(t, w, single, Forward6, got)
	}
}

func TestNoAllocations(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.UDPZeroChecksum = CalculateZeroChecksum })
	p := heldBuffer()
	p2 := heldBuffer()
	for i, b := range seeds() {
		now := int64(0)
		if n := testing.AllocsPerRun(100, func() {
			now += 1e9
			w.SetTime(now)
			p.Start, p.End, p.Offload = Headroom, Headroom+copy(p.Buf[Headroom:], b), Offload{}
			w.Translate(p)
			for w.NextFragment(p, p2) {
			}
			w.NextHeld(p2)
		}); n != 0 {
			t.Errorf("seed %d: %v allocations", i, n)
		}
	}
}

// Workers of one translator, a table that changes under them, and no race.
func TestConcurrentWorkers(t *testing.T) {
	first := newTestWorker(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			w := first.t.NewWorker()
			for i := range int64(30) {
				w.SetTime(i)
				for _, b := range seeds() {
					w.Translate(packetOf(b))
				}
			}
		})
	}
	for range 50 {
		if err := first.t.Reload(first.t.Config(), first.t.Table()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
