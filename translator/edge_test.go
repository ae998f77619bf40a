package translator

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// The edge of the tests' world: the host's address for each block, and a hop between
// host and relay.
const (
	fabricPrefix = "2001:db8:f64::/96"
	fabric6      = "2001:db8:f64::192.0.2.33"
	blockWork6   = "2001:db8:e::2"
	blockShared6 = "2001:db8:e::9"
	fabricHop6   = "2001:db8:f::1"
)

func edged(c *Config, _ *string) {
	block := func(v6, v4 string) mapping.Mapping {
		return mapping.Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4)}
	}
	c.MTU4 = 1480
	c.Edge = Edge{Prefix: netip.MustParsePrefix(fabricPrefix), Blocks: []mapping.Mapping{
		block(blockWork6+"/128", work4+"/32"), block(blockShared6+"/128", shared4+"/32"),
		block("2001:db8:e:1::/120", "198.18.0.0/24")}}
}

// edge does with a packet what a loop does, and gives the last verdict but Forward6.
func edge(w *Worker, p *Packet) Verdict {
	if w.FromFabric(p) {
		if v := w.Descend(p); v != Forward4 {
			return v
		}
	}
	v := w.Translate(p)
	if v.Leaves() && p.Bytes()[0]>>4 == 4 {
		if up := w.Ascend(p); up != Forward6 {
			return up
		}
	}
	return v
}

func wantEdge(t *testing.T, w *Worker, in []byte, verdict Verdict, want []byte) {
	t.Helper()
	p := packetOf(in)
	if got := edge(w, p); got != verdict {
		t.Fatalf("verdict %v, want %v", got, verdict)
	}
	if want != nil {
		wantPacket(t, p, want)
	}
}

func TestEdge(t *testing.T) {
	w := newTestWorker(t, edged)
	wantEdge(t, w, hdr6{src: sharedA6, dst: server6, hop: 64, proto: 6, flow: 0xabcde, class: 0x28}.packet(tcp(sharedA6, server6, 1030, 80, data(30))),
		Forward4, hdr6{src: blockShared6, dst: fabric6, hop: 63, proto: 6, flow: 0xabcde, class: 0x28}.packet(tcp(blockShared6, fabric6, 1030, 80, data(30))))
	for port, workload := range map[uint16]string{1030: sharedA6, 2050: sharedB6} {
		wantEdge(t, w, hdr6{src: fabric6, dst: blockShared6, hop: 64, proto: 17, flow: 0x123}.packet(udp(fabric6, blockShared6, 53, port, data(9))),
			Forward6, hdr6{src: server6, dst: workload, hop: 63, proto: 17}.packet(udp(server6, workload, 53, port, data(9))))
	}
	wantEdge(t, w, hdr6{src: fabric6, dst: blockWork6, hop: 64, proto: 58}.packet(icmp6(fabric6, blockWork6, 128, 0, 7<<16|1, data(20))),
		Forward6, hdr6{src: server6, dst: work6, hop: 63, proto: 58}.packet(icmp6(server6, work6, 128, 0, 7<<16|1, data(20))))
	wantEdge(t, w, hdr6{src: sharedA6, dst: server6, proto: 17}.packet(udp(sharedA6, server6, 99, 53, nil)), PortOutsideSet|Replied, nil)
	wantEdge(t, w, hdr6{src: fabric6, dst: blockShared6, hop: 1, proto: 17}.packet(udp(fabric6, blockShared6, 53, 1030, nil)), HopLimitExceeded|Replied, nil)
}

// What a port that nobody owns is answered with leaves as IPv6 too.
func TestEdgeAnswers(t *testing.T) {
	w := newTestWorker(t, edged)
	in := hdr6{src: fabric6, dst: blockShared6, hop: 64, proto: 17}.packet(udp(fabric6, blockShared6, 53, 9, data(9)))
	quoted := hdr6{src: fabric6, dst: blockShared6, hop: 64, proto: 17}.packet(udp(fabric6, blockShared6, 53, 9, data(9)))
	wantEdge(t, w, in, PortUnassigned|Replied,
		hdr6{src: own6, dst: fabric6, hop: 64, proto: 58}.packet(icmp6(own6, fabric6, 1, 4, 0, quoted)))
}

func TestEdgeErrors(t *testing.T) {
	w := newTestWorker(t, edged)
	sent := hdr6{src: blockShared6, dst: fabric6, hop: 60, proto: 17}.packet(udp(blockShared6, fabric6, 1030, 53, data(40)))
	as := hdr6{src: sharedA6, dst: server6, hop: 60, proto: 17}.packet(udp(sharedA6, server6, 1030, 53, data(40)))
	for hop, by := range map[string]string{ // of the fabric, and behind the relay
		fabricHop6: "2001:db8:64::192.0.0.8", "2001:db8:f64::192.0.2.1": router6,
	} {
		wantEdge(t, w, hdr6{src: hop, dst: blockShared6, proto: 58}.packet(icmp6(hop, blockShared6, 2, 0, 1400, sent)),
			Forward6, hdr6{src: by, dst: sharedA6, hop: 63, proto: 58}.packet(icmp6(by, sharedA6, 2, 0, 1400, as)))
	}
	got := hdr6{src: server6, dst: work6, hop: 60, proto: 17}.packet(udp(server6, work6, 53, 1030, data(40)))
	back := hdr6{src: fabric6, dst: blockWork6, hop: 60, proto: 17}.packet(udp(fabric6, blockWork6, 53, 1030, data(40)))
	for hop, by := range map[string]string{inside6: own6, work6: blockWork6} {
		wantEdge(t, w, hdr6{src: hop, dst: server6, proto: 58}.packet(icmp6(hop, server6, 1, 4, 0, got)),
			Forward4, hdr6{src: by, dst: fabric6, hop: 63, proto: 58}.packet(icmp6(by, fabric6, 1, 4, 0, back)))
	}
	clash := newTestWorker(t, edged, func(c *Config, _ *string) { c.IPv4 = netip.MustParseAddr("192.0.0.8") })
	wantEdge(t, clash, hdr6{src: fabricHop6, dst: blockShared6, proto: 58}.packet(icmp6(fabricHop6, blockShared6, 2, 0, 1400, sent)),
		Forward6, hdr6{src: "2001:db8:64::192.0.0.7", dst: sharedA6, hop: 63, proto: 58}.packet(icmp6("2001:db8:64::192.0.0.7", sharedA6, 2, 0, 1400, as)))
}

// TestEdgeSizes: in a fabric with the least MTU the workloads hear of it, and what is in
// fragments is cut for it.
func TestEdgeSizes(t *testing.T) {
	w := newTestWorker(t, edged, func(c *Config, _ *string) { c.MTU4, c.LowestMTU6 = 1260, 1500 })
	in := hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 9, 53, data(1233)))
	wantEdge(t, w, in, TooBig|Replied,
		hdr6{src: own6, dst: work6, hop: 64, proto: 58}.packet(icmp6(own6, work6, 2, 0, 1280, in[:1232])))
	fits := hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 9, 53, data(1232)))
	wantEdge(t, w, fits, Forward4, hdr6{src: blockWork6, dst: fabric6, hop: 63, proto: 17}.packet(udp(blockWork6, fabric6, 9, 53, data(1232))))

	l4, out := udp(work6, server6, 9, 53, data(1440)), udp(blockWork6, fabric6, 9, 53, data(1440))
	p := packetOf(hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 0x70001), flow: 7}.packet(l4[:1400]))
	if v := edge(w, p); v != Forward4 || !w.Fragments() {
		t.Fatalf("%v, in fragments: %v", v, w.Fragments())
	}
	piece := &Packet{Buf: make([]byte, Headroom+1280+Tailroom)}
	for _, at := range []int{0, 1232} {
		if !w.NextFragment(p, piece) {
			t.Fatalf("no fragment at %d", at)
		}
		wantPacket(t, piece, hdr6{src: blockWork6, dst: fabric6, hop: 63, next: 44, ext: fragHdr(17, at, true, 1), flow: 7}.packet(out[at:min(at+1232, 1400)]))
	}
	if w.NextFragment(p, piece) {
		t.Error("a third fragment")
	}
}

func TestEdgeSources(t *testing.T) {
	w := newTestWorker(t, edged)
	wantEdge(t, w, hdr6{src: other6, dst: server6, proto: 17}.packet(udp(other6, server6, 9, 53, nil)), UntranslatableSource|Replied, nil)
	for _, src := range []string{work6, sharedB6, blockWork6, blockShared6, own6, server6} {
		wantEdge(t, w, hdr6{src: src, dst: blockShared6, proto: 17}.packet(udp(src, blockShared6, 9, 1030, nil)), SpoofedSource, nil)
	}
	as := "2001:db8:f64::" + work4
	wantEdge(t, w, hdr6{src: as, dst: blockShared6, proto: 17}.packet(udp(as, blockShared6, 9, 1030, nil)), SpoofedSource, nil)
	wantEdge(t, w, hdr6{src: inside6, dst: blockShared6, proto: 17}.packet(udp(inside6, blockShared6, 9, 1030, nil)), UntranslatableSource|Replied, nil)
	global := newTestWorker(t, edged, func(c *Config, _ *string) { c.Edge.Prefix = netip.MustParsePrefix("64:ff9b::/96") })
	wantEdge(t, global, hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 9, 53, nil)), NonGlobal|Replied, nil)
}

// TestEdgeBetweenHosts: two workloads of one host speak without the fabric; one of another
// host is behind the relay. An address of a block that nobody has leads nowhere.
func TestEdgeBetweenHosts(t *testing.T) {
	w := newTestWorker(t, edged)
	near, far, nobody := "2001:db8:64::"+shared4, "2001:db8:64::"+"203.0.114.9", "2001:db8:64::"+"198.18.0.9"
	mine := "2001:db8:64::" + work4
	wantEdge(t, w, hdr6{src: work6, dst: near, proto: 17}.packet(udp(work6, near, 9, 1030, data(8))), Hairpin,
		hdr6{src: mine, dst: sharedA6, hop: 63, proto: 17}.packet(udp(mine, sharedA6, 9, 1030, data(8))))
	out := "2001:db8:f64::" + "203.0.114.9"
	wantEdge(t, w, hdr6{src: work6, dst: far, proto: 17}.packet(udp(work6, far, 9, 1030, data(8))), Forward4,
		hdr6{src: blockWork6, dst: out, hop: 63, proto: 17}.packet(udp(blockWork6, out, 9, 1030, data(8))))
	wantEdge(t, w, hdr6{src: work6, dst: nobody, proto: 17}.packet(udp(work6, nobody, 9, 1030, data(8))), UntranslatableDestination|Replied, nil)
	to := "2001:db8:e:1::9"
	wantEdge(t, w, hdr6{src: fabric6, dst: to, proto: 17}.packet(udp(fabric6, to, 9, 1030, data(8))), UntranslatableDestination|Replied, nil)
}

func TestEdgeRefused(t *testing.T) {
	for what, change := range map[string]func(c *Config){
		"client":           func(c *Config) { c.Client = true },
		"small MTU":        func(c *Config) { c.MTU4 = 1259 },
		"the same prefix":  func(c *Config) { c.Edge.Prefix = netip.MustParsePrefix(testPrefix) },
		"no prefix of RFC": func(c *Config) { c.Edge.Prefix = netip.MustParsePrefix("2001:db8:f64::/80") },
		"own address":      func(c *Config) { c.Edge.Blocks[0].IPv6 = netip.MustParsePrefix(own6 + "/128") },
		"a block twice":    func(c *Config) { c.Edge.Blocks[0] = c.Edge.Blocks[1] },
		"inside":           func(c *Config) { c.Edge.Blocks[0].Inside = true },
	} {
		c := testConfig()
		edged(&c, nil)
		change(&c)
		table, err := mapping.New(netip.MustParsePrefix(testPrefix), testMappings())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(c, table); err == nil {
			t.Errorf("%s: not refused", what)
		}
	}
}

// TestEdgeReload: an edge comes and goes with a reload, and is kept, with what it knows of
// fragments, where it is not another.
func TestEdgeReload(t *testing.T) {
	w := newTestWorker(t)
	out := hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 9, 53, data(9)))
	reload := func(change func(c *Config, _ *string)) *Translator {
		t.Helper()
		c := testConfig()
		change(&c, nil)
		if err := w.t.Reload(c, w.t.Table()); err != nil {
			t.Fatal(err)
		}
		return w.t.snapshot.Load().fabric
	}
	first := reload(edged)
	wantEdge(t, w, out, Forward4, hdr6{src: blockWork6, dst: fabric6, hop: 63, proto: 17}.packet(udp(blockWork6, fabric6, 9, 53, data(9))))
	if reload(edged) != first {
		t.Error("another half for the same edge")
	}
	if err := w.t.Edit(func(table *mapping.Table) (*mapping.Table, error) { return table, nil }); err != nil || w.t.snapshot.Load().fabric != first {
		t.Errorf("another half after an edit: %v", err)
	}
	if reload(func(c *Config, s *string) { edged(c, s); c.MTU4 = 1400 }) == first {
		t.Error("the same half for another edge")
	}
	reload(func(*Config, *string) {})
	wantVerdict(t, w, out, Forward4)
	if w.Ascends() || w.FromFabric(packetOf(hdr6{src: fabric6, dst: blockWork6, proto: 17}.packet(nil))) {
		t.Error("an edge that is gone")
	}
}

func TestEdgeAllocatesNothing(t *testing.T) {
	w := newTestWorker(t, edged)
	packets := [][]byte{
		hdr6{src: sharedA6, dst: server6, proto: 6}.packet(tcp(sharedA6, server6, 1030, 80, data(30))),
		hdr6{src: fabric6, dst: blockShared6, proto: 17}.packet(udp(fabric6, blockShared6, 53, 1030, data(9))),
		hdr6{src: fabric6, dst: blockShared6, proto: 17}.packet(udp(fabric6, blockShared6, 53, 9, data(9))),
	}
	p := heldBuffer()
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range packets {
			p.Start, p.End, p.Offload = Headroom, Headroom+copy(p.Buf[Headroom:], b), Offload{}
			edge(w, p)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkEdge is both halves, beside what one of them takes on a host with IPv4.
func BenchmarkEdge(b *testing.B) {
	out := hdr6{src: sharedA6, dst: server6, proto: 6}.packet(tcp(sharedA6, server6, 1030, 80, data(1200)))
	in := hdr6{src: fabric6, dst: blockShared6, proto: 6}.packet(tcp(fabric6, blockShared6, 80, 1030, data(1200)))
	in4 := hdr4{src: server4, dst: shared4, proto: 6, flags: 0x4000}.packet(tcp(server4, shared4, 80, 1030, data(1200)))
	for name, c := range map[string]struct {
		packet []byte
		w      *Worker
		want   Verdict
	}{
		"out":            {out, newTestWorker(b, edged), Forward4},
		"in":             {in, newTestWorker(b, edged), Forward6},
		"out, one alone": {out, newTestWorker(b), Forward4},
		"in, one alone":  {in4, newTestWorker(b), Forward6},
	} {
		b.Run(name, func(b *testing.B) {
			p := heldBuffer()
			for b.Loop() {
				p.Start, p.End, p.Offload = Headroom, Headroom+copy(p.Buf[Headroom:Headroom+64], c.packet[:64])+len(c.packet)-64, Offload{}
				if v := benchmarked(c.w, p); v != c.want {
					b.Fatal(v)
				}
			}
		})
	}
}

func benchmarked(w *Worker, p *Packet) Verdict {
	if w.t.snapshot.Load().fabric == nil {
		return w.Translate(p)
	}
	return edge(w, p)
}

// TestEdgePlain: the short way of the half toward the fabric and the general one give the
// same, whatever is changed in a packet.
func TestEdgePlain(t *testing.T) {
	short, long := newTestWorker(t, edged), newTestWorker(t, edged)
	random := rand.New(rand.NewPCG(7915, 18))
	in := [][]byte{
		hdr6{src: fabric6, dst: blockShared6, proto: 6, class: 3}.packet(tcp(fabric6, blockShared6, 80, 1030, data(40))),
		hdr6{src: fabric6, dst: blockWork6, proto: 17}.packet(udp(fabric6, blockWork6, 80, 1030, data(1400))),
		hdr6{src: fabric6, dst: blockWork6, proto: 17}.packet(append(udp(fabric6, blockWork6, 80, 1030, data(10)), 1, 2, 3)),
		hdr6{src: fabric6, dst: blockWork6, proto: 17}.packet(udp(fabric6, blockWork6, 80, 1030, data(65515-8))),
		hdr6{src: fabric6, dst: blockWork6, proto: 17}.packet(udp(fabric6, blockWork6, 80, 1030, data(65516-8))),
	}
	out := [][]byte{
		hdr4{src: shared4, dst: server4, proto: 6, tos: 3, flags: 0x4000}.packet(tcp(shared4, server4, 1030, 80, data(40))),
		hdr4{src: work4, dst: server4, proto: 17}.packet(udp(work4, server4, 1030, 80, data(1400))),
		hdr4{src: work4, dst: server4, proto: 17, id: 7, flags: 0x2000}.packet(udp(work4, server4, 1030, 80, data(1400))),
		hdr4{src: other4, dst: server4, proto: 17}.packet(udp(other4, server4, 1030, 80, data(14))),
		hdr4{src: work4, dst: "198.18.0.7", proto: 17}.packet(udp(work4, "198.18.0.7", 1030, 80, data(14))),
	}
	plain := 0
	for n := range 20_000 {
		six := n%2 == 0
		from := out
		if six {
			from = in
		}
		b := bytes.Clone(from[n/2%len(from)])
		for range random.IntN(3) {
			b[1+random.IntN(min(len(b), 60)-1)] = byte(random.Uint32()) // its version has been looked at
		}
		b = b[:len(b)-random.IntN(2)*random.IntN(4)]
		var got [2]*Packet
		var v [2]Verdict
		for i, w := range []*Worker{short, long} {
			got[i] = packetOf(b)
			got[i].Flags = uint8(n / 7 % 2)
			if got[i].Flags != 0 {
				got[i].CsumStart, got[i].CsumOffset = 20, 6
				if six {
					got[i].CsumStart = 40
				}
			}
			w.begin()
			half := w.other()
			switch {
			case six && i == 0:
				v[i] = half.plainDescend(got[i])
			case six:
				v[i] = half.to4(got[i])
			case i == 0:
				v[i] = half.plainAscend(got[i])
			default:
				v[i] = half.to6(got[i], hairpinned)
			}
		}
		if v[0].IsForward() {
			plain++
		}
		// A header's checksum that is wrong is what the other half never makes.
		if !six && v[1] == BadChecksum || v[0] == v[1] && (!v[0].Leaves() || bytes.Equal(got[0].Bytes(), got[1].Bytes()) && got[0].CsumStart == got[1].CsumStart) {
			continue
		}
		t.Fatalf("% x, flags %d: %v and %v\n% x\n% x", b, got[0].Flags, v[0], v[1], got[0].Bytes(), got[1].Bytes())
	}
	if plain < 2000 {
		t.Errorf("%d packets passed", plain)
	}
}
