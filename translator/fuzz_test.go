package translator

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
)

// fuzzWorlds are the worlds that fuzzed packets go through, each twice: once
// the way it is, and once by the general way alone.
func fuzzWorlds(t testing.TB) (worlds [][2]*Worker) {
	changes := []func(c *Config, prefix *string){
		withPools,
		func(c *Config, prefix *string) {
			*prefix = "64:ff9b::/96"
			c.UDPZeroChecksum, c.LowestMTU6 = CalculateZeroChecksum, 1400
		},
		func(c *Config, prefix *string) {
			*prefix = ""
			c.UDPZeroChecksum, c.ZeroTrafficClass = ForwardZeroChecksum, true
			c.ICMPSource4 = netip.MustParsePrefix("203.0.113.8/30")
			c.ICMPSource6 = netip.MustParsePrefix("2001:db8:f::/56")
		},
		func(c *Config, prefix *string) { // the workloads' shared address is the translator's own
			*prefix = "2001:db8:100::/40"
			c.IPv4, c.MTU4 = netip.MustParseAddr(shared4), 576
		},
		withRules(),
		withRules(manyRules()...),
	}
	for _, f := range changes {
		worlds = append(worlds, [2]*Worker{newTestWorker(t, f), newTestWorker(t, f)})
	}
	return worlds
}

// general is Translate without its short cuts.
func general(w *Worker, p *Packet) Verdict {
	w.begin()
	if p.Buf[p.Start]>>4 == 6 {
		return w.to4(p)
	}
	return w.to6(p, arrived)
}

// repair makes lengths and checksums fit, as far as bits of how ask for it, so
// that fuzzing gets past the door.
func repair(b []byte, how uint8) {
	if len(b) < 20 {
		return
	}
	switch b[0] >> 4 {
	case 4:
		ihl := int(b[0]&15) * 4
		if how&1 != 0 {
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		}
		if how&2 != 0 && ihl >= 20 && ihl <= len(b) {
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:ihl]))
			if how&4 != 0 && b[9] == 1 && len(b) >= ihl+8 {
				b[ihl+2], b[ihl+3] = 0, 0
				binary.BigEndian.PutUint16(b[ihl+2:], ^slowSum(b[ihl:]))
			}
		}
	case 6:
		if how&1 != 0 && len(b) >= 40 {
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		}
		if how&4 != 0 && b[6] == 58 && len(b) >= 48 {
			b[42], b[43] = 0, 0
			src, _ := netip.AddrFromSlice(b[8:24])
			dst, _ := netip.AddrFromSlice(b[24:40])
			binary.BigEndian.PutUint16(b[42:], ^slowSum(pseudo(src, dst, 58, len(b)-40), b[40:]))
		}
	}
}

// FuzzTranslate: whatever the bytes, nothing panics, what comes out is well
// formed and in its buffer, and the plain way gives what the general one does.
func FuzzTranslate(f *testing.F) {
	worlds := fuzzWorlds(f)
	for _, b := range seeds() {
		for world := range uint8(len(worlds)) {
			f.Add(b, world, uint8(7), uint8(0), uint8(0), uint16(0), uint16(0), uint16(0))
		}
	}
	f.Add(hdr6{src: work6, dst: server6, proto: 6}.packet(tcp(work6, server6, 1, 2, data(4000))),
		uint8(0), uint8(7), uint8(FlagNeedsCsum), uint8(GSOTCPv6), uint16(1000), uint16(40), uint16(16))
	f.Add(hdr4{src: server4, dst: work4, proto: 17}.packet(udp(server4, work4, 1, 2, data(4000))),
		uint8(0), uint8(7), uint8(FlagNeedsCsum), uint8(GSOUDPL4), uint16(1000), uint16(20), uint16(6))
	now := int64(0)
	f.Fuzz(func(t *testing.T, b []byte, world, how, flags, gso uint8, gsoSize, start, offset uint16) {
		if len(b) == 0 || len(b) > 65575 {
			return
		}
		repair(b, how)
		offload := Offload{Flags: flags, GSOType: gso, HdrLen: start, GSOSize: gsoSize, CsumStart: start, CsumOffset: offset}
		pair := worlds[int(world)%len(worlds)]
		fast, slow := packetOf(b), packetOf(b)
		fast.Offload, slow.Offload = offload, offload
		now += 1e6
		pair[0].SetTime(now)
		pair[1].SetTime(now)
		v := pair[0].Translate(fast)
		other := general(pair[1], slow)
		if v != other {
			t.Fatalf("plain %v, general %v", v, other)
		}
		if !v.IsDrop() || v.Replied() {
			if !bytes.Equal(fast.Bytes(), slow.Bytes()) || fast.Offload != slow.Offload {
				t.Fatalf("%v: plain\n%s%+v\ngeneral\n%s%+v", v,
					hex.Dump(fast.Bytes()), fast.Offload, hex.Dump(slow.Bytes()), slow.Offload)
			}
		}
		checkOutput(t, pair[0], fast, v, b)
		dst := &Packet{Buf: make([]byte, Headroom+65535+Tailroom)}
		for {
			v, ok := pair[0].NextHeld(dst)
			if !ok {
				break
			}
			checkOutput(t, pair[0], dst, v, nil)
		}
		for ok := true; ok; _, ok = pair[1].NextHeld(dst) {
		}
	})
}

// checkOutput holds a packet against what every packet must be.
func checkOutput(t *testing.T, w *Worker, p *Packet, v Verdict, in []byte) {
	t.Helper()
	if p.Start < Headroom/2 || p.End > len(p.Buf) || p.Start > p.End {
		t.Fatalf("%v: packet %d:%d out of %d", v, p.Start, p.End, len(p.Buf))
	}
	switch {
	case v == Local, v == Segment, v.IsDrop() && !v.Replied():
		return
	}
	checkForm(t, v, p.Bytes())
	if c := w.t.Config(); v.IsForward() && in != nil && routed(w, c, p.Bytes()) && !unknown(w, c, in) {
		t.Fatalf("%v leads here again\n%s", v, hex.Dump(p.Bytes()))
	}
	if v.Replied() {
		if len(p.Bytes()) > maxError6 || p.Offload != (Offload{}) {
			t.Fatalf("%v: %d bytes, %+v", v, len(p.Bytes()), p.Offload)
		}
		if in != nil && p.Buf[p.Start]>>4 != in[0]>>4 {
			t.Fatalf("%v: in IPv%d", v, p.Buf[p.Start]>>4)
		}
	}
	if p.Flags&FlagNeedsCsum != 0 && int(p.CsumStart)+int(p.CsumOffset)+2 > len(p.Bytes()) {
		t.Fatalf("%v: checksum at %d+%d of %d bytes", v, p.CsumStart, p.CsumOffset, len(p.Bytes()))
	}
	if p.HdrLen != 0 && int(p.HdrLen) > len(p.Bytes()) {
		t.Fatalf("%v: header of %d in %d bytes", v, p.HdrLen, len(p.Bytes()))
	}
	if w.Fragments() {
		checkFragments(t, w, p, v)
	}
}

func checkForm(t *testing.T, v Verdict, b []byte) {
	t.Helper()
	switch {
	case len(b) >= 20 && b[0] == 0x45:
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || slowSum(b[:20]) != 0xffff {
			t.Fatalf("%v: bad IPv4 header\n%s", v, hex.Dump(b))
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		if int(binary.BigEndian.Uint16(b[4:])) != len(b)-40 {
			t.Fatalf("%v: bad IPv6 header\n%s", v, hex.Dump(b))
		}
	default:
		t.Fatalf("%v: no IP packet\n%s", v, hex.Dump(b))
	}
}

// checkFragments puts the fragments of p together again.
func checkFragments(t *testing.T, w *Worker, p *Packet, v Verdict) {
	t.Helper()
	lowest := w.t.Config().LowestMTU6
	dst := &Packet{Buf: make([]byte, Headroom+lowest+Tailroom)}
	var whole []byte
	for w.NextFragment(p, dst) {
		b := dst.Bytes()
		checkForm(t, v, b)
		if len(b) > lowest {
			t.Fatalf("%v: fragment of %d bytes", v, len(b))
		}
		offset := int(binary.BigEndian.Uint16(b[42:])&^7) - int(binary.BigEndian.Uint16(p.Bytes()[42:])&^7)
		if offset != len(whole) {
			t.Fatalf("%v: fragment at %d, want %d", v, offset, len(whole))
		}
		whole = append(whole, b[48:]...)
	}
	if !bytes.Equal(whole, p.Bytes()[48:]) {
		t.Fatalf("%v: fragments do not make the packet again", v)
	}
}
