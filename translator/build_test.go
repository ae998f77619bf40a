package translator

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// Packets for the tests are built here the slow and obvious way: nothing of the
// package under test is used.

func slowSum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i, c := range b {
			if i%2 == 0 {
				s += uint32(c) << 8
			} else {
				s += uint32(c)
			}
			s = s>>16 + s&0xffff
		}
	}
	return uint16(s)
}

// pseudo is the pseudo header of either family, by the addresses.
func pseudo(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, 0, byte(length>>8), byte(length), 0, 0, 0, proto)
}

// hdr4 is an IPv4 header; its zero fields get what is usual.
type hdr4 struct {
	src, dst  string
	tos, ttl  uint8
	id, flags uint16 // flags and offset
	proto     uint8
	options   []byte
	length    int // where it shall not be that of the packet
}

func (h hdr4) packet(l4 []byte) []byte {
	size := 20 + len(h.options)
	b := make([]byte, size, size+len(l4))
	b[0] = 0x40 | byte(size/4)
	b[1] = h.tos
	if h.length == 0 {
		h.length = size + len(l4)
	}
	if h.ttl == 0 {
		h.ttl = 64
	}
	binary.BigEndian.PutUint16(b[2:], uint16(h.length))
	binary.BigEndian.PutUint16(b[4:], h.id)
	binary.BigEndian.PutUint16(b[6:], h.flags)
	b[8], b[9] = h.ttl, h.proto
	copy(b[12:], netip.MustParseAddr(h.src).AsSlice())
	copy(b[16:], netip.MustParseAddr(h.dst).AsSlice())
	copy(b[20:], h.options)
	binary.BigEndian.PutUint16(b[10:], ^slowSum(b))
	return append(b, l4...)
}

// hdr6 is an IPv6 header with extension headers between it and the upper layer.
type hdr6 struct {
	src, dst   string
	class, hop uint8
	flow       uint32
	proto      uint8
	ext        []byte // whole extension headers
	next       uint8  // the first of them
	length     int    // payload length where it shall not be that of the packet
}

func (h hdr6) packet(l4 []byte) []byte {
	b := make([]byte, 40)
	binary.BigEndian.PutUint32(b, 6<<28|uint32(h.class)<<20|h.flow)
	if h.length == 0 {
		h.length = len(h.ext) + len(l4)
	}
	if h.hop == 0 {
		h.hop = 64
	}
	binary.BigEndian.PutUint16(b[4:], uint16(h.length))
	b[6], b[7] = h.proto, h.hop
	if h.ext != nil {
		b[6] = h.next
	}
	copy(b[8:], netip.MustParseAddr(h.src).AsSlice())
	copy(b[24:], netip.MustParseAddr(h.dst).AsSlice())
	return append(append(b, h.ext...), l4...)
}

// fragHdr is a fragment header; the offset counts bytes.
func fragHdr(next uint8, offset int, more bool, id uint32) []byte {
	b := make([]byte, 8)
	b[0] = next
	field := uint16(offset)
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(b[2:], field)
	binary.BigEndian.PutUint32(b[4:], id)
	return b
}

func summed(src, dst string, proto uint8, at int, l4 []byte) []byte {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	c := ^slowSum(pseudo(a, b, proto, len(l4)), l4)
	if c == 0 && proto == 17 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
	return l4
}

func tcp(src, dst string, sport, dport uint16, data []byte) []byte {
	b := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], 0x12345678)
	b[12], b[13] = 5<<4, 0x18
	binary.BigEndian.PutUint16(b[14:], 0xfaf0)
	return summed(src, dst, 6, 16, append(b, data...))
}

func udp(src, dst string, sport, dport uint16, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
	return summed(src, dst, 17, 6, append(b, data...))
}

// icmp4 and icmp6 are ICMP messages; rest is the second word.
func icmp4(typ, code uint8, rest uint32, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	b[0], b[1] = typ, code
	binary.BigEndian.PutUint32(b[4:], rest)
	b = append(b, data...)
	binary.BigEndian.PutUint16(b[2:], ^slowSum(b))
	return b
}

func icmp6(src, dst string, typ, code uint8, rest uint32, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	b[0], b[1] = typ, code
	binary.BigEndian.PutUint32(b[4:], rest)
	return summed(src, dst, 58, 2, append(b, data...))
}

// data is n bytes that are not all the same.
func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 3)
	}
	return b
}

// packetOf puts a packet into a buffer with the room that Translate asks for.
func packetOf(b []byte) *Packet {
	buf := make([]byte, Headroom+len(b)+Tailroom)
	copy(buf[Headroom:], b)
	return &Packet{Buf: buf, Start: Headroom, End: Headroom + len(b)}
}

// The addresses of the tests' world.
const (
	own4     = "192.88.99.1"
	own6     = "2001:db8::1"
	server4  = "192.0.2.33" // an IPv4 host,
	server6  = "2001:db8:64::192.0.2.33"
	router4  = "192.0.2.1"
	router6  = "2001:db8:64::192.0.2.1"
	work4    = "198.51.100.2" // a workload with an address of its own,
	work6    = "2001:db8:6::2"
	other4   = "203.0.113.5" // another, out of a mapped subnet,
	other6   = "2001:db8:7::5"
	shared4  = "198.51.100.9" // and two that share an address
	sharedA6 = "2001:db8:8::a"
	sharedB6 = "2001:db8:8::b"
	inside6  = "2001:db8:dead::1" // an IPv6 hop that has no IPv4 address
)

const testPrefix = "2001:db8:64::/96"

func testMappings() []mapping.Mapping {
	m := func(v6, v4 string, set ...ports.Range) mapping.Mapping {
		return mapping.Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4), Ports: ports.Of(set...)}
	}
	return []mapping.Mapping{
		m(work6+"/128", work4+"/32"),
		m("2001:db8:7::/120", "203.0.113.0/24"),
		m(sharedA6+"/128", shared4+"/32", ports.Range{First: 1024, Last: 2047}),
		m(sharedB6+"/128", shared4+"/32", ports.Range{First: 2048, Last: 3071}),
	}
}

func testConfig() Config {
	return Config{
		IPv4: netip.MustParseAddr(own4), IPv6: netip.MustParseAddr(own6),
		ErrorRate: 1e6, ErrorBurst: 1e6,
	}
}

// newTestWorker makes a worker of the tests' world, whose configuration and
// prefix change may have changed.
func newTestWorker(t testing.TB, change ...func(c *Config, prefix *string)) *Worker {
	t.Helper()
	c, prefix := testConfig(), testPrefix
	for _, f := range change {
		f(&c, &prefix)
	}
	var p netip.Prefix
	if prefix != "" {
		p = netip.MustParsePrefix(prefix)
	}
	table, err := mapping.New(p, testMappings())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	return tr.NewWorker()
}

func wantPacket(t testing.TB, p *Packet, want []byte) {
	t.Helper()
	if got := p.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("packet:\n%s\nwant:\n%s", hex.Dump(got), hex.Dump(want))
	}
}

// wantTranslated translates in and compares verdict and bytes.
func wantTranslated(t testing.TB, w *Worker, in []byte, verdict Verdict, want []byte) {
	t.Helper()
	p := packetOf(in)
	if got := w.Translate(p); got != verdict {
		t.Fatalf("verdict %v, want %v", got, verdict)
	}
	wantSlots(t, w, in, p.Bytes(), verdict)
	wantPacket(t, p, want)
}

// wantVerdict translates in and compares the verdict alone.
func wantVerdict(t testing.TB, w *Worker, in []byte, verdict Verdict) {
	t.Helper()
	p := packetOf(in)
	if got := w.Translate(p); got != verdict {
		t.Errorf("verdict %v, want %v; packet:\n%s", got, verdict, hex.Dump(p.Bytes()))
	}
	wantSlots(t, w, in, p.Bytes(), verdict)
}

// wantSlots holds the workloads that a packet was between, as w says them,
// against its IPv6 addresses before and after.
func wantSlots(t testing.TB, w *Worker, in, out []byte, v Verdict) {
	t.Helper()
	if !v.IsForward() {
		return
	}
	slot := func(b []byte, at int) uint32 {
		if b[0]>>4 != 6 {
			return 0
		}
		a, _ := netip.AddrFromSlice(b[at : at+16])
		return slotOf(w.t.Table().Lookup6(mapping.Addr6From(a)))
	}
	source, destination := w.Slots()
	if want := slot(in, 8); source != want {
		t.Errorf("%v: source slot %d, want %d", v, source, want)
	}
	if want := slot(out, 24); destination != want {
		t.Errorf("%v: destination slot %d, want %d", v, destination, want)
	}
}
