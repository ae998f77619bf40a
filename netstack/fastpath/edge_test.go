//go:build linux

package fastpath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// edgeWorlds are those of an edge, and one where workloads and blocks have addresses in the
// fabric's prefix.
func edgeWorlds() []generate.World {
	worlds := generate.EdgeWorlds()
	odd := generate.EdgeWorlds()[0]
	odd.Name = "edge-overlapping"
	odd.Config.Edge.Prefix = netip.MustParsePrefix("2001:db8::/32")
	return append(worlds, odd)
}

// blockOf is the block that a packet of an edge's fabric is for; nil: it is none.
func (j *judge) blockOf(in reference.Packet) *mapping.Entry {
	if t := j.slow.EdgeTable(); t != nil && len(in.Bytes) >= 40 && in.Bytes[0]>>4 == 6 {
		return t.Lookup6(address(in.Bytes[24:]))
	}
	return nil
}

// translate does with a packet what the daemon's loop does.
func (j *judge) translate(p *translator.Packet) translator.Verdict {
	if j.worker.FromFabric(p) {
		if v := j.worker.Descend(p); v != translator.Forward4 {
			return v
		}
	}
	v := j.worker.Translate(p)
	if !j.worker.Ascends() || v != translator.Forward4 || j.worker.Fragments() {
		return v
	}
	return j.worker.Ascend(p)
}

// plainAtEdge is plain for IPv6 where there is an edge.
func (j *judge) plainAtEdge(in reference.Packet, out *translator.Packet, segments int) bool {
	b, fabric := in.Bytes, j.slow.EdgeTable()
	payload := int(b[4])<<8 | int(b[5])
	if !plainSuper(in, b[6], 40, payload, segments) || out.End-out.Start != 40+payload {
		return false
	}
	block := j.blockOf(in)
	if block == nil {
		v4, _ := j.table.Extract(address(b[24:]))
		return j.plainTo4(b) && v4 != mapping.Addr4From(j.slow.Config().Hop4())
	}
	v4, ok := fabric.Extract(address(b[8:]))
	if !ok || j.table.Lookup4(v4) != nil || !plainUpper6(b) {
		return false
	}
	end := 40 + payload
	return b[6] != 58 || b[40] != 129 || payload < 16 || b[end-8] != 0x6e || b[end-7] != 0x6c // a trailer
}

// fabricPacket is a packet of the fabric for the first workload of an edge world, or what that
// sends, with a payload.
func fabricPacket(w generate.World, size int) []byte {
	b := udp6(size)
	copy(b[8:], reference.Embed(w.Edge.Prefix, netip.MustParseAddr("192.0.2.2")).AsSlice())
	copy(b[24:], netip.MustParseAddr("2001:db8:e::2").AsSlice())
	return b
}

// edgeWays, with the programs attached, takes the ways of an edge that generated packets do not: what the host leads
// elsewhere, what is nobody's, and the translator's own address in between.
func edgeWays(t *testing.T, r *rig, f *FastPath) {
	w := generate.EdgeWorlds()[0]
	p := newPair(t, r, w, f)
	up, work := newRunner(f.Uplink.FD(), r.up, r.upMAC), newRunner(f.Workload.FD(), r.work, r.workMAC)
	nobodys, hop, echo, odd := fabricPacket(w, 20), udp6(20), fabricPacket(w, 20), fabricPacket(w, 20)
	nobodys[39] = 99
	copy(hop[24:], netip.MustParseAddr("64:ff9b::192.0.0.8").AsSlice())
	echo[6], echo[40] = 58, 128
	binary.BigEndian.PutUint16(echo[42:], onesSum(echo[8:40], []byte{0, 0, 0, 28, 0, 0, 0, 58}))
	copy(odd[8:], netip.MustParseAddr("fe80::9").AsSlice())
	for _, c := range []struct {
		name string
		run  *runner
		in   []byte
		host Host
		want bool
	}{
		{"to the fabric", work, udp6(20), Host{}, true},
		{"from the fabric", up, fabricPacket(w, 20), Host{}, true},
		{"by an uplink", work, udp6(20), Host{Uplinks: [maxUplinks]int{r.work}}, true},
		{"by no uplink", work, udp6(20), Host{Uplinks: [maxUplinks]int{r.up}}, false},
		{"for somebody else", up, nobodys, Host{}, false},
		{"from a link", up, odd, Host{}, false},
		{"to the hop", work, hop, Host{}, false},
		{"an echo request with a checksum that may be partial", up, echo, Host{}, false},
	} {
		if err := f.SetHost(c.host); err != nil {
			t.Fatal(err)
		}
		r.Do(func() {
			a, _, err := c.run.run(reference.Packet{Bytes: c.in}, 0)
			if got := a == actRedirect; err != nil || got != c.want {
				t.Errorf("%s: translated is %v (%v)", c.name, got, err)
			}
		})
	}
	if err := f.SetHost(Host{}); err != nil {
		t.Fatal(err)
	}
	d := &taps{judge: p.judge(), buf: make([]byte, 1<<17)}
	super := tcpSuper(true, 65530) // would not fit into IPv4
	copy(super.Bytes[8:40], fabricPacket(w, 0)[8:40])
	if err := write(r.uplink, frame(r.upMAC, super)); err != nil {
		t.Fatal(err)
	}
	d.drain(r.workload)
}

func TestEdgeWays(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), loaded(t)
	r.attach(t, f)
	edgeWays(t, r, f)
}

// TestEdgeConfigure: blocks come, go and move, the fabric has another prefix, the edge ends
// and begins: the maps hold what they would were they written anew.
func TestEdgeConfigure(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	f := loaded(t)
	now := tables(t, "64:ff9b::/96", generate.EdgeWorlds()[0].Mappings...)
	if err := f.Replace(now); err != nil {
		t.Fatal(err)
	}
	small, ports := generate.EdgeWorlds()[1].Config.Edge, generate.EdgeWorlds()[2].Config.Edge
	moved, elsewhere := small, small
	moved.Blocks = []mapping.Mapping{{IPv4: small.Blocks[0].IPv4, IPv6: netip.MustParsePrefix("2001:db8:e:9::/64")}}
	elsewhere.Prefix = netip.MustParsePrefix("2001:db8:6::/48") // has workloads
	for i, e := range []translator.Edge{small, ports, small, moved, elsewhere, {}, ports, moved} {
		c := now.Config
		c.Edge = e
		if err := f.Configure(c); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		now.Config = c
		if err := f.held(t).same(f.wanted(t, &now)); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// TestEdgeLimits: what comes by the fabric is held to the limits of whom it is for, by the
// port that tells.
func TestEdgeLimits(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), loaded(t)
	w := generate.EdgeWorlds()[0]
	newPair(t, r, w, f)
	none := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 1<<40), 1) // packets
	key := append(binary.NativeEndian.AppendUint32(nil, 38), 198, 51, 100, 7, 4, 0, 0, 0)     // ports 1024 to 2047
	index := make([]byte, 4)
	if err := errors.Join(f.maps.Limits.Put(uint32(0), append(none, make([]byte, 48)...)), f.maps.Receivers.Put(key, index),
		f.maps.Capping.Put(uint32(0), uint32(1))); err != nil {
		t.Fatal(err)
	}
	to := func(proto, at byte, port uint16, head ...byte) []byte {
		b := fabricPacket(w, 60)
		copy(b[24:], netip.MustParseAddr("2001:db8:e::7").AsSlice())
		b[6] = proto
		copy(b[40:], head)
		binary.BigEndian.PutUint16(b[at:], port)
		return b
	}
	for _, c := range []struct {
		name    string
		packet  func(port uint16) []byte
		limited bool // by ports
	}{
		{"UDP", func(p uint16) []byte { return to(17, 42, p) }, true},
		{"TCP", func(p uint16) []byte { return to(6, 42, p) }, true},
		{"an echo request", func(p uint16) []byte { return to(58, 44, p, 128) }, true},
		{"an error about UDP", func(p uint16) []byte { return to(58, 88, p, 1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 17) }, true},
		{"an error about an echo reply", func(p uint16) []byte { return to(58, 92, p, 1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 58) }, true},
		{"a first fragment", func(p uint16) []byte { return to(44, 50, p, 17, 0, 0, 1) }, true},
		{"another fragment", func(p uint16) []byte { return to(44, 50, p, 17, 0, 0, 9) }, false},
	} {
		r.Do(func() {
			run := newRunner(f.Uplink.FD(), r.up, r.upMAC)
			for port, want := range map[uint16]bool{1024: c.limited, 2047: c.limited, 2048: false, 1023: false} {
				a, _, err := run.run(reference.Packet{Bytes: c.packet(port)}, 0)
				if err != nil || (a == actShot) != want {
					t.Errorf("%s to port %d: action %d, %v", c.name, port, int32(a), err)
				}
			}
		})
	}
}

// BenchmarkEdge is what a program takes for a small packet at the edge, and where the same
// becomes IPv4, or was.
func BenchmarkEdge(b *testing.B) {
	r := newRig(b)
	edge, plain := generate.EdgeWorlds()[0], generate.Worlds()[0]
	at, without := newPair(b, r, edge, loaded(b)).fast, newPair(b, r, plain, loaded(b)).fast
	for _, way := range []struct {
		name string
		run  *runner
		in   []byte
	}{
		{"to the fabric", newRunner(at.Workload.FD(), r.work, r.workMAC), udp6(20)},
		{"to IPv4", newRunner(without.Workload.FD(), r.work, r.workMAC), udp6(20)},
		{"from the fabric", newRunner(at.Uplink.FD(), r.up, r.upMAC), fabricPacket(edge, 20)},
		{"from IPv4", newRunner(without.Uplink.FD(), r.up, r.upMAC), udp4(20)},
	} {
		b.Run(way.name, func(b *testing.B) {
			var took []uint32
			r.Do(func() {
				for range b.N {
					if a, _, err := way.run.run(reference.Packet{Bytes: way.in}, 0); err != nil || a != actRedirect {
						b.Errorf("%d, %v", int32(a), err)
						return
					}
					took = append(took, way.run.attr.duration)
				}
			})
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[len(took)/2]), "ns/packet")
		})
	}
}

// TestEdgeShares: of an address that the host was lent in parts, each port has its own
// address on the fabric, both ways: of a block of one port, and at the borders of two halves.
// What is for another workload of the host comes to the daemon.
func TestEdgeShares(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	worlds := generate.EdgeWorlds()
	w := worlds[slices.IndexFunc(worlds, func(w generate.World) bool { return w.Name == "edge-shares" })]
	j := newPair(t, r, w, loaded(t)).judge()
	for _, c := range []struct {
		workload string
		port     uint16
		block    string // by which it is reached; "": by none
	}{
		{"2001:db8:5::2", 80, "2001:db8:e::7"},
		{"2001:db8:5::2", 81, ""}, // nobody's
		{"2001:db8:5::2", 2048, "2001:db8:e:7::"},
		{"2001:db8:5::2", 2049, ""}, // its own, and in no block
		{"2001:db8:5::2", 8080, "2001:db8:e::9"},
		{"2001:db8:5::1", 1024, "2001:db8:e::8"},
		{"2001:db8:5::1", 2047, "2001:db8:e::8"},
		{"2001:db8:5::3", 4096, "2001:db8:e::9"},
		{"2001:db8:5::3", 4099, "2001:db8:e::9"},
		{"2001:db8:5::3", 4100, ""},
		{"2001:db8:5:1::", 5999, "2001:db8:e::9"},
		{"2001:db8:5::6", 0, "2001:db8:e::a"},
		{"2001:db8:5::5", 80, "2001:db8:e::a"},
		{"2001:db8:5::4", 32767, "2001:db8:e::a"},
		{"2001:db8:5::4", 32768, "2001:db8:e::b"},
		{"2001:db8:5::4", 65535, "2001:db8:e::b"},
	} {
		sent := shareOut(w, c.workload, c.port, netip.MustParseAddr("192.0.2.2"), 53)
		j.want(t, sent, c.block != "", c.workload+" sends", 8, c.block)
		for _, m := range w.Edge.Blocks {
			if m.Ports.IsZero() {
				continue
			}
			got := fabricPacket(w, 20)
			copy(got[24:], m.IPv6.Addr().AsSlice())
			binary.BigEndian.PutUint16(got[42:], c.port)
			if e := j.owner(mapping.Addr4From(m.IPv4.Addr()), 17, got[40:]); e != nil && e.IPv6().Addr().String() == c.workload {
				j.want(t, got, true, "by "+m.IPv6.String(), 24, c.workload)
			}
		}
	}
	hairpin := shareOut(w, "2001:db8:5::1", 1500, netip.MustParseAddr("198.51.100.7"), 80)
	j.want(t, hairpin, false, "one workload to another of its address", 0, "")
}

// shareOut is a datagram of a workload to a host behind the prefix.
func shareOut(w generate.World, from string, port uint16, to netip.Addr, dst uint16) []byte {
	b := udp6(20)
	copy(b[8:], netip.MustParseAddr(from).AsSlice())
	copy(b[24:], reference.Embed(w.Prefix, to).AsSlice())
	binary.BigEndian.PutUint16(b[40:], port)
	binary.BigEndian.PutUint16(b[42:], dst)
	return b
}

// want wants the program to translate a packet, as the translator does, so that an address
// stands at a place; or to pass it on.
func (j *judge) want(t *testing.T, in []byte, translated bool, what string, at int, address string) {
	t.Helper()
	j.rig.Do(func() {
		o, err := j.check(reference.Packet{Bytes: in}, 0)
		port := binary.BigEndian.Uint16(in[40:])
		if err != nil || o.translated != translated {
			t.Errorf("%s, port %d: %+v, %v", what, port, o, err)
			return
		}
		if !translated {
			return
		}
		p := &translator.Packet{Buf: j.buffer, Start: translator.Headroom}
		p.End = p.Start + copy(j.buffer[p.Start:], in)
		j.translate(p)
		if got, want := netip.AddrFrom16([16]byte(p.Bytes()[at:at+16])), netip.MustParseAddr(address); got != want {
			t.Errorf("%s, port %d: address %v, want %v", what, port, got, want)
		}
	})
}
