package translator

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// insiders are workloads with IPv4 inside, and others: work4 is one with an address
// of its own, A one that shares an address with B and with C, which has IPv6 alone.
const sharedC6 = "2001:db8:8::c"

func insideWorker(t testing.TB, change ...func(*Config)) *Worker {
	t.Helper()
	c := testConfig()
	for _, f := range change {
		f(&c)
	}
	mappings := testMappings()
	for i := range mappings {
		mappings[i].Inside = mappings[i].IPv6.Bits() == 128
	}
	c6 := mappings[3]
	c6.IPv6, c6.Ports, c6.Inside = netip.MustParsePrefix(sharedC6+"/128"), ports.MustParse("4000-4095"), false
	table, err := mapping.New(netip.MustParsePrefix(testPrefix), append(mappings, c6))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	return tr.NewWorker()
}

func tagOf(w *Worker, a string) mapping.Tag {
	return w.t.Table().Lookup6(mapping.Addr6From(netip.MustParseAddr(a))).Tag()
}

// passes has a workload send a packet, and wants this to become of it, for this one
// to get if not "".
func passes(t testing.TB, w *Worker, from string, in []byte, verdict Verdict, to string, want []byte) {
	t.Helper()
	p := packetOf(in)
	if v := w.Pass4(p, tagOf(w, from)); v != verdict {
		t.Fatalf("verdict %v, want %v", v, verdict)
	}
	wantFor(t, w, to)
	if want != nil {
		wantPacket(t, p, want)
	}
}

func wantFor(t testing.TB, w *Worker, to string) {
	t.Helper()
	tag := mapping.Tag(0)
	if to != "" {
		tag = tagOf(w, to)
	}
	if w.Inside() != tag {
		t.Errorf("it is for %v, want %v", w.t.Table().Tagged(w.Inside()), to)
	}
}

// arrives has a packet come from outside.
func arrives(t testing.TB, w *Worker, in []byte, verdict Verdict, to string, want []byte) {
	t.Helper()
	p := packetOf(in)
	if v := w.Translate(p); v != verdict {
		t.Fatalf("verdict %v, want %v", v, verdict)
	}
	wantFor(t, w, to)
	if want != nil {
		wantPacket(t, p, want)
	}
}

// share is id in A's share of the identifications, 1024 to 2047.
func share(id uint16) uint16 { return 1024 | id&1023 }

func TestSection1_6_Pass(t *testing.T) {
	w := insideWorker(t)
	h := hdr4{src: shared4, dst: server4, proto: 17, tos: 0xb9, id: 0x4321, options: []byte{1, 1, 1, 0}}
	for _, flags := range []uint16{0, flagDF} { // whole packets too, also those that nobody may cut up
		h.flags = flags
		in, out := h, h
		out.id = share(h.id)
		l4 := udp(shared4, server4, 1030, 53, data(20))
		l4[6], l4[7] = 0, 0 // without a checksum
		passes(t, w, sharedA6, in.packet(l4), Pass4, "", out.packet(l4))
	}
	h.src = work4 // an address of its own: nothing changes, whatever it is
	for _, proto := range []uint8{17, 47, 50, 51, 58} {
		h.proto = proto
		b := h.packet(udp(work4, server4, 1, 2, data(20)))
		passes(t, w, work6, b, Pass4, "", b)
	}
	h.src = shared4
	h.proto = 17
	p := packetOf(h.packet(udp(shared4, server4, 1030, 53, nil)))
	if v := w.Pass4(p, tagOf(w, sharedC6)); v != UntranslatableSource {
		t.Errorf("%v for a workload that has IPv6 alone", v)
	}
	for _, dst := range []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"} {
		passes(t, w, sharedA6, hdr4{src: shared4, dst: dst, proto: 17}.packet(udp(shared4, dst, 1030, 53, nil)), NeverTranslated, "", nil)
	}
	passes(t, w, sharedA6, hdr4{src: shared4, dst: "10.9.8.7", proto: 17, id: 1024}.packet(udp(shared4, "10.9.8.7", 1030, 53, nil)), Pass4, "", nil)
}

// TestSection1_6_Source: who sends from an address that is not its own hears of it at
// once, by name; so does a workload whose address was another until a moment ago.
func TestSection1_6_Source(t *testing.T) {
	w := insideWorker(t)
	id := uint16(0)
	for _, from := range []string{sharedA6, work6} {
		for _, src := range []string{server4, "10.1.2.3", own4} {
			in := hdr4{src: src, dst: server4, proto: 6}.packet(tcp(src, server4, 1030, 80, nil))
			id++
			passes(t, w, from, in, SpoofedSource|Replied, from, error4(3, 13, 0, in, id))
		}
	}
	silent := func(h hdr4, l4 []byte) {
		t.Helper()
		passes(t, w, sharedA6, h.packet(l4), SpoofedSource, "", nil)
	}
	later := hdr4{src: server4, dst: work4, proto: 17, flags: 185}
	silent(later, data(20))
	silent(hdr4{src: server4, dst: work4, proto: 1}, icmp4(3, 3, 0, hdr4{src: work4, dst: server4, proto: 17}.packet(udp(work4, server4, 1, 2, nil))))
	for _, src := range []string{"127.0.0.1", "0.0.0.0", "169.254.3.4", "224.0.0.1", "255.255.255.255"} {
		silent(hdr4{src: src, dst: server4, proto: 17}, udp(src, server4, 1030, 53, nil))
	}
	for _, dst := range []string{"224.0.0.1", "255.255.255.255", "0.0.0.0"} {
		silent(hdr4{src: server4, dst: dst, proto: 17}, udp(server4, dst, 1030, 53, nil))
	}
}

// TestSection1_6_SourceBudget: whatever addresses a workload sends from, it is told no
// more often than that of its own budget, and another is told all the same.
func TestSection1_6_SourceBudget(t *testing.T) {
	w := insideWorker(t, func(c *Config) { c.ErrorRate, c.ErrorBurst = 100, 50 })
	w.SetTime(7e18)
	from := func(a string, i int) Verdict {
		src := netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}).String()
		return w.Pass4(packetOf(hdr4{src: src, dst: server4, proto: 17}.packet(udp(src, server4, 1030, 53, nil))), tagOf(w, a))
	}
	told := 0
	for i := range 1000 {
		if from(sharedA6, i).Replied() {
			told++
		}
	}
	if told < 31 || told > 81 { // what an answer costs is drawn, from nought to twice its share
		t.Errorf("%d of 1000 packets were answered, want about 50", told)
	}
	if v := from(sharedB6, 5); !v.Replied() {
		t.Errorf("%v for another workload", v)
	}
	if v4, _ := w.ErrorsLimited(); v4[OtherError][WorkloadBudget] != uint64(1000-told) {
		t.Errorf("limited: %+v", v4)
	}
}

// TestFormerly: what has waited for a process that has other tables bears the tag that
// its sender had; a tag of the table's goes before one of those, and one of a workload
// that has gone is nobody's.
func TestFormerly(t *testing.T) {
	w := insideWorker(t)
	packet := hdr4{src: shared4, dst: server4, proto: 17, id: 1024}.packet(udp(shared4, server4, 1030, 53, nil))
	address := func(a string) mapping.Addr6 { return mapping.Addr6From(netip.MustParseAddr(a)) }
	const old, gone = mapping.Tag(0x12_3456_789a), mapping.Tag(0x12_3456_789b)
	w.t.Formerly(map[mapping.Tag]mapping.Addr6{old: address(sharedA6), gone: address("2001:db8:99::1"), tagOf(w, sharedA6): address(sharedB6)})
	for tag, want := range map[mapping.Tag]Verdict{old: Pass4, tagOf(w, sharedA6): Pass4, gone: UntranslatableSource, old + 2: UntranslatableSource} {
		if v := w.Pass4(packetOf(packet), tag); v != want {
			t.Errorf("tag %x: %v, want %v", uint64(tag), v, want)
		}
	}
}

func TestSection1_6_Ports(t *testing.T) {
	w := insideWorker(t)
	send := func(proto uint8, l4 []byte) []byte {
		return hdr4{src: shared4, dst: server4, proto: proto, id: 1024}.packet(l4)
	}
	for _, port := range []uint16{1024, 2047} {
		passes(t, w, sharedA6, send(6, tcp(shared4, server4, port, 80, nil)), Pass4, "", nil)
	}
	slot := w.t.Table().Tagged(tagOf(w, sharedA6)).Slot()
	for n, port := range []uint16{1023, 2048, 4000} { // the others' among them
		in := send(6, tcp(shared4, server4, port, 80, nil))
		passes(t, w, sharedA6, in, PortOutsideSet|Replied, sharedA6, error4(3, 13, 0, in, uint16(n+1)))
		if got := w.t.Violations(slot); got != uint64(n+1) {
			t.Errorf("%d violations of A, want %d", got, n+1)
		}
	}
	passes(t, w, sharedA6, send(47, data(20)), ProtocolNotShareable, "", nil)
	passes(t, w, sharedA6, send(58, data(20)), ProtocolNotShareable, "", nil)
	passes(t, w, sharedA6, send(1, icmp4(13, 0, 1030<<16, data(12))), ICMPUntranslatable, "", nil)
	// A later fragment shows no port: its identification keeps it apart, with DF as well.
	for _, flags := range []uint16{1, flagMF | 8190 - 6, flagDF | 1} {
		in := hdr4{src: shared4, dst: server4, proto: 17, id: 0xf00f, flags: flags}
		out := in
		out.id = share(in.id)
		passes(t, w, sharedA6, in.packet(data(1)), Pass4, "", out.packet(data(1)))
	}
}

func TestSection1_6_Refused(t *testing.T) {
	w := insideWorker(t, func(c *Config) { c.Pools4 = []netip.Prefix{netip.MustParsePrefix("192.88.99.0/24")} })
	id := uint16(0)
	refused := func(h hdr4, l4 []byte, v Verdict, typ, code uint8, rest uint32) {
		t.Helper()
		in := h.packet(l4)
		id++
		passes(t, w, sharedA6, in, v|Replied, sharedA6, error4(typ, code, rest, in, id))
	}
	small := udp(shared4, server4, 1030, 53, nil)
	refused(hdr4{src: shared4, dst: server4, proto: 17, ttl: 1}, small, HopLimitExceeded, 11, 0, 0)
	refused(hdr4{src: shared4, dst: server4, proto: 17, options: []byte{131, 7, 4, 1, 2, 3, 4, 0}}, small, SourceRoute, 3, 5, 0)
	refused(hdr4{src: shared4, dst: server4, proto: 17, flags: flagDF}, udp(shared4, server4, 1030, 53, data(1473)), TooBig, 3, 4, 1500)
	refused(hdr4{src: shared4, dst: "192.88.99.2", proto: 17}, udp(shared4, "192.88.99.2", 1030, 53, nil), UntranslatableDestination, 3, 1, 0)
	long := udp(shared4, server4, 1030, 53, data(1473))
	passes(t, w, sharedA6, hdr4{src: shared4, dst: server4, proto: 17}.packet(long), Pass4, "", nil) // the host cuts it up
}

// TestSection1_6_Echo: a ping with an identifier that is not the workload's goes out
// with one that is, and its answer, or an error about it, gives it back.
func TestSection1_6_Echo(t *testing.T) {
	w := insideWorker(t)
	in := hdr4{src: shared4, dst: server4, proto: 1, id: 1024}.packet(icmp4(8, 0, 9<<16|7, data(33)))
	p := packetOf(in)
	if v := w.Pass4(p, tagOf(w, sharedA6)); v != Pass4 {
		t.Fatal(v)
	}
	out := bytes.Clone(p.Bytes())
	if folded := binary.BigEndian.Uint16(out[24:]); folded != 1024+9 || len(out) != len(in)+8 || slowSum(out[:20]) != 0xffff || slowSum(out[20:]) != 0xffff {
		t.Fatalf("sent as % x", out)
	}
	answer := func(l4 []byte) []byte { return hdr4{src: server4, dst: shared4, proto: 1, ttl: 60}.packet(l4) }
	back := func(l4 []byte) []byte { return hdr4{src: server4, dst: shared4, proto: 1, ttl: 59}.packet(l4) }
	arrives(t, w, answer(icmp4(0, 0, (1024+9)<<16|7, out[28:])), Deliver4, sharedA6, back(icmp4(0, 0, 9<<16|7, data(33))))

	other := bytes.Clone(out)
	other[len(other)-1] ^= 1 // not our trailer
	arrives(t, w, answer(icmp4(0, 0, (1024+9)<<16|7, other[28:])), Deliver4, sharedA6, back(icmp4(0, 0, (1024+9)<<16|7, other[28:])))

	quote := bytes.Clone(out)
	binary.BigEndian.PutUint16(quote[24:], 9)
	binary.BigEndian.PutUint16(quote[22:], 0)
	binary.BigEndian.PutUint16(quote[22:], ^slowSum(quote[20:]))
	arrives(t, w, answer(icmp4(11, 0, 0, out)), Deliver4, sharedA6, back(icmp4(11, 0, 0, quote)))

	own := hdr4{src: shared4, dst: server4, proto: 1, id: 1024}.packet(icmp4(8, 0, 2047<<16|7, data(33)))
	passes(t, w, sharedA6, own, Pass4, "", own)
	fragment := func(id uint32) []byte {
		return hdr4{src: shared4, dst: server4, proto: 1, id: 1024, flags: flagMF}.packet(icmp4(8, 0, id<<16, data(32)))
	}
	passes(t, w, sharedA6, fragment(9), ICMPFragment, "", nil)
	passes(t, w, sharedA6, fragment(1025), Pass4, "", fragment(1025))
}

// TestSection1_6_Errors: a workload speaks about packets to itself, and to its ports.
func TestSection1_6_Errors(t *testing.T) {
	w := insideWorker(t)
	about := func(dst string, port uint16) []byte {
		return hdr4{src: server4, dst: dst, proto: 17}.packet(udp(server4, dst, 53, port, data(8)))
	}
	send := func(typ, code uint8, rest uint32, quote []byte) []byte {
		return hdr4{src: shared4, dst: server4, proto: 1, id: 1024}.packet(icmp4(typ, code, rest, quote))
	}
	passes(t, w, sharedA6, send(3, 3, 0, about(shared4, 1024)), Pass4, "", send(3, 3, 0, about(shared4, 1024)))
	passes(t, w, sharedA6, send(3, 3, 0, about(shared4, 2048)), PortOutsideSet, "", nil)
	passes(t, w, sharedA6, send(3, 3, 0, about(work4, 1024)), SpoofedSource, "", nil)
	passes(t, w, sharedA6, send(5, 1, 0, about(shared4, 1024)), ICMPUntranslatable, "", nil)
	passes(t, w, sharedA6, send(4, 0, 0, about(shared4, 1024)), ICMPUntranslatable, "", nil)
	passes(t, w, sharedA6, send(3, 4, 68, about(shared4, 1024)), Pass4, "", send(3, 4, 1280, about(shared4, 1024)))
	passes(t, w, sharedA6, send(3, 4, 1400, about(shared4, 1024)), Pass4, "", send(3, 4, 1400, about(shared4, 1024)))
}

func TestSection1_6_Deliver(t *testing.T) {
	w := insideWorker(t)
	for _, c := range []struct {
		dst, to string
		port    uint16
	}{{work4, work6, 9}, {shared4, sharedA6, 1024}, {shared4, sharedB6, 2048}} {
		in := hdr4{src: "10.2.3.4", dst: c.dst, proto: 17, tos: 3, id: 77, ttl: 9, options: []byte{1, 1, 1, 0}}
		out := in
		out.ttl = 8
		l4 := udp(in.src, c.dst, 53, c.port, data(9))
		arrives(t, w, in.packet(l4), Deliver4, c.to, out.packet(l4))
	}
	arrives(t, w, hdr4{src: server4, dst: shared4, proto: 17}.packet(udp(server4, shared4, 53, 4000, nil)), Forward6, "", nil)
	arrives(t, w, hdr4{src: server4, dst: shared4, proto: 17}.packet(udp(server4, shared4, 53, 9, nil)), PortUnassigned|Replied, "", nil)
	expired := hdr4{src: server4, dst: work4, proto: 17, ttl: 1}.packet(udp(server4, work4, 53, 9, nil))
	arrives(t, w, expired, HopLimitExceeded|Replied, "", nil)
	arrives(t, w, hdr4{src: shared4, dst: work4, proto: 17}.packet(udp(shared4, work4, 1030, 9, nil)), SpoofedSource, "", nil)
	forged := hdr4{src: shared4, dst: server4, proto: 17}.packet(udp(shared4, server4, 1030, 53, nil))
	about := func(quote []byte) []byte {
		return hdr4{src: router4, dst: shared4, proto: 1}.packet(icmp4(3, 4, 1400, quote))
	}
	arrives(t, w, about(forged), Deliver4, sharedA6, nil)
	between := hdr4{src: shared4, dst: work4, proto: 17}.packet(udp(shared4, work4, 1030, 53, nil))
	arrives(t, w, about(between), SpoofedSource, "", nil) // no router has seen it
}

// TestSection1_6_Size: what is too big for the workload's link is told, or cut up.
func TestSection1_6_Size(t *testing.T) {
	w := insideWorker(t, func(c *Config) { c.MTU6 = 1400 })
	l4 := udp(server4, work4, 53, 9, data(1400))
	in := hdr4{src: server4, dst: work4, proto: 17, flags: flagDF}.packet(l4)
	arrives(t, w, in, TooBig|Replied, "", error4(3, 4, 1400, in, 1))
	p := packetOf(hdr4{src: server4, dst: work4, proto: 17, id: 5}.packet(l4))
	if v := w.Translate(p); v != Deliver4 || !w.Fragments() {
		t.Fatalf("%v, and fragments %v", v, w.Fragments())
	}
	wantFor(t, w, work6)
	piece, at := packetOf(make([]byte, 1280)), 0
	for w.NextFragment(p, piece) {
		b := piece.Bytes()
		n, flags := len(b)-20, uint16(at/8)
		if at+n < len(l4) {
			flags |= flagMF
		}
		wantPacket(t, piece, hdr4{src: server4, dst: work4, proto: 17, id: 5, ttl: 63, flags: flags}.packet(l4[at:at+n]))
		at += n
	}
	if at != len(l4) {
		t.Errorf("%d of %d bytes", at, len(l4))
	}
}

// TestSection1_6_Fragments: the first one tells whose a datagram is, of ICMP as well.
func TestSection1_6_Fragments(t *testing.T) {
	w := insideWorker(t)
	w.SetTime(1)
	for _, proto := range []uint8{17, 1} {
		l4 := udp(server4, shared4, 53, 1030, data(32))
		if proto == 1 {
			l4 = icmp4(0, 0, 1030<<16, data(32))
		}
		h := hdr4{src: server4, dst: shared4, proto: proto, id: 3}
		later := h
		later.flags = 2
		arrives(t, w, later.packet(l4[16:]), FragmentHeld, "", nil)
		h.flags = flagMF
		arrives(t, w, h.packet(l4[:16]), Deliver4, sharedA6, nil)
		if !w.Held() {
			t.Fatal("nothing waits")
		}
		held := packetOf(make([]byte, 65535))
		if v, ok := w.NextHeld(held); !ok || v != Deliver4 {
			t.Fatal(v, ok)
		}
		wantFor(t, w, sharedA6)
		later.ttl = 63
		wantPacket(t, held, later.packet(l4[16:]))
	}
}

// TestSection1_6_Between: workloads with IPv4 inside, with IPv6 alone, the host and
// the translator itself reach each other, and one hop is counted.
func TestSection1_6_Between(t *testing.T) {
	host := func(c *Config) { c.Host4 = netip.MustParseAddr(shared4) }
	w := insideWorker(t, host)
	send := func(dst string, port uint16) hdr4 {
		return hdr4{src: shared4, dst: dst, proto: 17, id: 1024, ttl: 9}
	}
	passTo := func(dst string, port uint16, v Verdict, to string, out func(h hdr4, l4 []byte) []byte) {
		t.Helper()
		l4 := udp(shared4, dst, 1030, port, data(3))
		passes(t, w, sharedA6, send(dst, port).packet(l4), v, to, out(send(dst, port), l4))
	}
	less := func(h hdr4, l4 []byte) []byte { h.ttl--; return h.packet(l4) }
	same := func(h hdr4, l4 []byte) []byte { return h.packet(l4) }
	passTo(work4, 9, Deliver4, work6, less)
	passTo(shared4, 2050, Deliver4, sharedB6, less)
	passTo(shared4, 80, Pass4, "", same) // the host's
	passTo(own4, 53, Local, "", same)
	in6 := "2001:db8:64::198.51.100.9"
	passTo(shared4, 4000, Hairpin, "", func(_ hdr4, _ []byte) []byte {
		return hdr6{src: in6, dst: sharedC6, proto: 17, hop: 8}.packet(udp(in6, sharedC6, 1030, 4000, data(3)))
	})
	arrives(t, w, hdr6{src: sharedC6, dst: in6, proto: 17, hop: 9}.packet(udp(sharedC6, in6, 4000, 1030, data(3))), Deliver4, sharedA6, nil)

	// To its own address: the host answers pings, and an error of ours finds its way.
	ping := hdr4{src: shared4, dst: shared4, proto: 1, id: 1024}.packet(icmp4(8, 0, 1030<<16, data(3)))
	passes(t, w, sharedA6, ping, Pass4, "", ping)
	w = insideWorker(t)
	refused := hdr4{src: shared4, dst: shared4, proto: 17, id: 1024}.packet(udp(shared4, shared4, 1030, 9, data(3)))
	passes(t, w, sharedA6, refused, PortUnassigned|Replied, sharedA6, nil)
}

// TestSection1_6_Closed: who has IPv4 inside has no prefix.
func TestSection1_6_Closed(t *testing.T) {
	w := insideWorker(t)
	in := hdr6{src: sharedA6, dst: server6, proto: 17}.packet(udp(sharedA6, server6, 1030, 53, nil))
	wantTranslated(t, w, in, PrefixClosed|Replied, error6(1, 1, 0, in))
	quote := hdr6{src: server6, dst: sharedA6, proto: 17}.packet(udp(server6, sharedA6, 53, 1030, nil))
	wantVerdict(t, w, hdr6{src: sharedA6, dst: server6, proto: 58}.packet(icmp6(sharedA6, server6, 1, 4, 0, quote)), PrefixClosed)
}

// TestTagsOfOthers: a tag of a mapping that has gone is nobody's, also when another
// has its slot.
func TestTagsOfOthers(t *testing.T) {
	w := insideWorker(t)
	tag := tagOf(w, sharedA6)
	table := w.t.Table()
	for _, m := range slices.Collect(table.All()) {
		if m.IPv6.Addr() != netip.MustParseAddr(sharedA6) {
			continue
		}
		next, err := table.Remove(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.t.Reload(testConfig(), next); err != nil {
			t.Fatal(err)
		}
	}
	p := packetOf(hdr4{src: shared4, dst: server4, proto: 17}.packet(udp(shared4, server4, 1030, 53, nil)))
	for _, tag := range []mapping.Tag{tag, 0, 1<<40 - 1, tag ^ 1<<24} {
		if v := w.Pass4(p, tag); v != UntranslatableSource {
			t.Errorf("%x: %v", uint64(tag), v)
		}
	}
}
