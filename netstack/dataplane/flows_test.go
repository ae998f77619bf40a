package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// seen is what one sees of a flow.
type seen struct {
	local, remote string
	slot          uint32
	proto         uint8
	sum           [2][2]uint64 // packets and bytes, sent and received
	flags         [2]uint32
}

func drained(t *flows.Table) (all []seen) {
	t.Drain(func(k *flows.Key, s *flows.Sum) {
		all = append(all, seen{k.LocalAddr().String(), k.RemoteAddr().String(), k.Slot, k.Proto,
			[2][2]uint64{{s.Packets[0], s.Bytes[0]}, {s.Packets[1], s.Bytes[1]}}, s.Flags})
	}, func(uint32, flows.Lost) {})
	return all
}

// tcp makes a datagram of udp one of TCP, with the header's flags.
func tcp(b []byte, flags uint8) []byte {
	at := header.IPv6MinimumSize
	if b[0]>>4 == 4 {
		at = header.IPv4MinimumSize
		b[9] = 6
		ip := header.IPv4(b)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		b[6] = 6
	}
	b[at+12], b[at+13] = 5<<4, flags
	return b
}

func echo(b []byte, typ uint8, id uint16) []byte {
	at := header.IPv6MinimumSize
	if b[0]>>4 == 4 {
		at = header.IPv4MinimumSize
		b[9] = 1
		ip := header.IPv4(b)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		b[6] = 58
	}
	b[at], b[at+1] = typ, 0
	binary.BigEndian.PutUint16(b[at+4:], id)
	return b
}

// A packet is itemised as IPv4 saw it, with each of its workloads.
func TestDriverFlows(t *testing.T) {
	const workload, sharer, host = "2001:db8:6::2", "2001:db8:6::3", prefix + "192.0.2.9"
	tso := translator.Offload{GSOType: translator.GSOTCPv4, GSOSize: 1000}
	fragment := udp("192.0.2.9", "198.51.100.3", 1472, 64, header.IPv4FlagMoreFragments, 0)
	for name, c := range map[string]struct {
		packets [][]byte
		offload translator.Offload
		want    []seen
	}{
		"both ways": {packets: [][]byte{udp(workload, host, 9, 64, 0, 0), udp("192.0.2.9", "198.51.100.2", 19, 64, 0, 0)},
			want: []seen{{"198.51.100.2:1024", "192.0.2.9:1024", 1, 17, [2][2]uint64{{1, 37}, {1, 47}}, [2]uint32{}}}},
		"tcp": {packets: [][]byte{tcp(udp(workload, host, 30, 64, 0, 0), 2), tcp(udp("192.0.2.9", "198.51.100.2", 12, 64, 0, 0), 0x12), tcp(udp(workload, host, 30, 64, 0, 0), 1)},
			want: []seen{{"198.51.100.2:1024", "192.0.2.9:1024", 1, 6, [2][2]uint64{{2, 116}, {1, 40}}, [2]uint32{3, 0x12}}}},
		"echo": {packets: [][]byte{echo(udp(workload, host, 9, 64, 0, 0), 128, 77), echo(udp("192.0.2.9", "198.51.100.2", 9, 64, 0, 0), 0, 77)},
			want: []seen{{"198.51.100.2:77", "192.0.2.9:2048", 1, 1, [2][2]uint64{{1, 37}, {1, 37}}, [2]uint32{}}}},
		"superpacket": {packets: [][]byte{tcp(udp("192.0.2.9", "198.51.100.2", 3512, 64, header.IPv4FlagDontFragment, 0), 16)}, offload: tso,
			want: []seen{{"198.51.100.2:1024", "192.0.2.9:1024", 1, 6, [2][2]uint64{{}, {4, 3500 + 4*40}}, [2]uint32{0, 16}}}},
		"hairpin": {packets: [][]byte{udp(workload, prefix+"198.51.100.3", 9, 64, 0, 0)},
			want: []seen{{"198.51.100.2:1024", "198.51.100.3:1024", 1, 17, [2][2]uint64{{1, 37}, {}}, [2]uint32{}},
				{"198.51.100.3:1024", "198.51.100.2:1024", 2, 17, [2][2]uint64{{}, {1, 37}}, [2]uint32{}}}},
		"held": {packets: [][]byte{udp("192.0.2.9", "198.51.100.3", 1472, 64, 0, 1480), fragment},
			want: []seen{{"198.51.100.3:1024", "192.0.2.9:1024", 2, 17, [2][2]uint64{{}, {1, 1500}}, [2]uint32{}},
				{"198.51.100.3:0", "192.0.2.9:0", 2, 17, [2][2]uint64{{}, {1, 1500}}, [2]uint32{}}}},
		"cut": {packets: [][]byte{udp("192.0.2.9", "198.51.100.2", 1400, 64, 0, 0)},
			want: []seen{{"198.51.100.2:1024", "192.0.2.9:1024", 1, 17, [2][2]uint64{{}, {1, 1428}}, [2]uint32{}}}},
		"dropped": {packets: [][]byte{udp(workload, host, 9, 1, 0, 0), udp(sharer, prefix+"10.0.0.1", 9, 0, 0, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			d := NewDriver(driverWorld(t).NewWorker(), l, nil)
			d.flows.Table = flows.NewTable(10, 1)
			d.Now()
			for _, b := range c.packets {
				d.Move(l.packet(b, c.offload))
			}
			got := drained(d.flows.Table)
			if len(got) != len(c.want) {
				t.Fatalf("%+v, want %+v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("%+v, want %+v", got[i], c.want[i])
				}
			}
		})
	}
}

// Whatever the packets, the flows of a workload have as many as were counted for it
// in all, and each is at its workload's address.
func TestFlowsAgainstTraffic(t *testing.T) {
	t.Parallel()
	for _, world := range append(generate.AllWorlds(), generate.EdgeWorlds()...) {
		t.Run(world.Name, func(t *testing.T) {
			t.Parallel()
			table, err := mapping.New(world.Prefix, world.Mappings)
			if err != nil {
				t.Fatal(err)
			}
			tr, err := translator.New(world.Config, table)
			if err != nil {
				t.Fatal(err)
			}
			of := map[uint32]netip.Prefix{}
			for e := range table.Entries() {
				of[e.Slot()] = e.Mapping().IPv4
			}
			l := newLedger(t)
			d := NewDriver(tr.NewWorker(), l, nil)
			d.traffic, d.flows.Table = new(traffic), flows.NewTable(4000, 1)
			moveSome(d, l, world, 4000)
			sums := map[uint32][2]uint64{}
			d.flows.Drain(func(k *flows.Key, s *flows.Sum) {
				if k.Verdict != flows.Forwarded {
					return // what policies denied is no workload's traffic
				}
				n := sums[k.Slot]
				sums[k.Slot] = [2]uint64{n[0] + s.Packets[0], n[1] + s.Packets[1]}
				if !of[k.Slot].Contains(k.LocalAddr().Addr()) {
					t.Errorf("slot %d is %v, not %v", k.Slot, of[k.Slot], k.LocalAddr())
				}
			}, func(uint32, flows.Lost) { t.Error("lost") })
			if len(sums) < 3 {
				t.Fatalf("%d workloads have flows", len(sums))
			}
			for slot, n := range sums {
				c := &d.traffic.chunk(slot)[slot%chunkSlots]
				if want := [2]uint64{c.sent.packets.Load(), c.received.packets.Load()}; n != want {
					t.Errorf("slot %d: %v packets in flows, %v counted", slot, n, want)
				}
			}
		})
	}
}

// moveSome moves so many packets of a world, of both families, by d. It leaves out
// superpackets, which count as one packet in some places, and in others as those that
// they stand for.
func moveSome(d *Driver, l *ledger, world generate.World, count int) {
	g := generate.New(world, 7)
	for n := range count {
		p := g.Next4()
		if n%2 == 0 {
			p = g.Next6()
		}
		if p.Offload.GSOType != translator.GSONone || len(p.Bytes) > 4000 {
			continue
		}
		d.Now()
		d.Move(l.packet(p.Bytes, p.Offload))
	}
}

// BenchmarkDriverFlows is what a driver takes for a small packet, with flows itemised
// and without, of one flow and of 100,000.
func BenchmarkDriverFlows(b *testing.B) {
	for _, count := range []int{1, 100_000} {
		for _, with := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/%v", count, with), func(b *testing.B) {
				tr := driverWorld(b)
				d := NewDriver(tr.NewWorker(), discard{}, nil)
				d.counters, d.traffic = new(counters), new(traffic)
				if with {
					d.flows.Table = flows.NewTable(131_072, 1)
				}
				in := udp("2001:db8:6::2", prefix+"192.0.2.9", 18, 64, 0, 0)
				p := packetWith(in)
				d.Now()
				for i := 0; b.Loop(); i++ {
					p.Start, p.Offload = translator.Headroom, translator.Offload{}
					p.End = p.Start + copy(p.Buf[p.Start:], in)
					flow := i * 7919 % count
					binary.BigEndian.PutUint16(p.Buf[p.Start+42:], uint16(flow))
					p.Buf[p.Start+39] = byte(1 + flow>>16)
					d.Move(p)
				}
			})
		}
	}
}

type discard struct{}

func (discard) Buffer() *translator.Packet                                  { return packetWith(nil) }
func (discard) Send(*translator.Packet, translator.Verdict)                 {}
func (discard) Local(*translator.Packet)                                    {}
func (discard) Deliver(*translator.Packet, mapping.Tag, translator.Verdict) {}
func (discard) Release(*translator.Packet)                                  {}
