package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// ledger is a port that writes down where each packet went. A packet must come to
// it once.
type ledger struct {
	t       testing.TB
	out     map[*translator.Packet]bool // that the driver has
	sent    []translator.Verdict
	longest int
	local   int
	dropped int

	delivered int // of those sent: to a workload by name
}

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, out: map[*translator.Packet]bool{}}
}

func (l *ledger) Buffer() *translator.Packet {
	p := packetWith(nil)
	l.out[p] = true
	return p
}

func (l *ledger) take(p *translator.Packet) {
	l.t.Helper()
	if !l.out[p] {
		l.t.Error("a packet comes twice, or is nobody's")
	}
	delete(l.out, p)
}

func (l *ledger) Send(p *translator.Packet, v translator.Verdict) {
	l.take(p)
	l.sent = append(l.sent, v)
	l.longest = max(l.longest, p.End-p.Start)
	p.Buf = nil // it is ours: whoever still reads it fails
}

func (l *ledger) Deliver(p *translator.Packet, _ mapping.Tag, v translator.Verdict) {
	l.delivered++
	l.Send(p, v)
}

func (l *ledger) Local(p *translator.Packet)   { l.take(p); l.local++; p.Buf = nil }
func (l *ledger) Release(p *translator.Packet) { l.take(p); l.dropped++; p.Buf = nil }

// packetWith is short, since nothing here is long.
func packetWith(b []byte) *translator.Packet {
	p := &translator.Packet{Buf: make([]byte, translator.Headroom+4096+translator.Tailroom), Start: translator.Headroom}
	p.End = p.Start + copy(p.Buf[p.Start:], b)
	return p
}

func (l *ledger) packet(b []byte, o translator.Offload) *translator.Packet {
	p := packetWith(b)
	p.Offload = o
	l.out[p] = true
	return p
}

// judged is an observer that keeps what it was told.
type judged struct {
	Observer
	read     int
	verdicts []translator.Verdict
}

func (j *judged) Read(int, *translator.Packet) { j.read++ }
func (j *judged) Translated(_ int, _ *translator.Packet, v translator.Verdict, _ uint32) {
	j.verdicts = append(j.verdicts, v)
}

const prefix = "2001:db8:64::"

// driverWorld has a workload with an address of its own and one with some ports.
func driverWorld(t testing.TB) *translator.Translator {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix(prefix+"/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")},
		{IPv6: netip.MustParsePrefix("2001:db8:6::3/128"), IPv4: netip.MustParsePrefix("198.51.100.3/32"),
			Ports: ports.MustParse("1024-2047")},
	})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{
		IPv4: netip.MustParseAddr("198.51.100.1"), IPv6: netip.MustParseAddr("2001:db8:1::1")}, table)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// udp is a datagram with n bytes of payload, from port 1024 to port 1024. flags
// are those of IPv4, and offset counts bytes.
func udp(src, dst string, n int, ttl, flags uint8, offset uint16) []byte {
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	size := header.IPv6MinimumSize
	if from.Is4() {
		size = header.IPv4MinimumSize
	}
	b := make([]byte, size+8+n)
	binary.BigEndian.PutUint16(b[size:], 1024)
	binary.BigEndian.PutUint16(b[size+2:], 1024)
	binary.BigEndian.PutUint16(b[size+4:], uint16(8+n))
	binary.BigEndian.PutUint16(b[size+6:], 1) // some sum: what is wrong stays wrong
	if from.Is4() {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: ttl, Protocol: 17, Flags: flags, FragmentOffset: offset, ID: 7,
			SrcAddr: tcpip.AddrFrom4(from.As4()), DstAddr: tcpip.AddrFrom4(to.As4())})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(8 + n), TransportProtocol: 17, HopLimit: ttl,
			SrcAddr: tcpip.AddrFrom16(from.As16()), DstAddr: tcpip.AddrFrom16(to.As16())})
	}
	return b
}

// Each verdict has its packet go where it says, and only there.
func TestDriver(t *testing.T) {
	const workload, sharer, host = "2001:db8:6::2", "2001:db8:6::3", prefix + "192.0.2.9"
	four, six, hairpin := translator.Forward4, translator.Forward6, translator.Hairpin
	uso := translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 1300}
	for name, c := range map[string]struct {
		packets  [][]byte
		offload  translator.Offload
		verdicts []translator.Verdict // as an observer hears them
		sent     []translator.Verdict
		local    int
		read     int // 0: as many as packets
	}{
		"6→4": {packets: [][]byte{udp(workload, host, 9, 64, 0, 0)}, verdicts: []translator.Verdict{four}, sent: []translator.Verdict{four}},
		"4→6": {packets: [][]byte{udp("192.0.2.9", "198.51.100.2", 9, 64, 0, 0)}, verdicts: []translator.Verdict{six}, sent: []translator.Verdict{six}},
		"fragmented": {packets: [][]byte{udp("192.0.2.9", "198.51.100.2", 1400, 64, 0, 0)},
			verdicts: []translator.Verdict{six}, sent: []translator.Verdict{six, six}},
		"hairpin": {packets: [][]byte{udp(workload, prefix+"198.51.100.3", 9, 64, 0, 0)},
			verdicts: []translator.Verdict{hairpin}, sent: []translator.Verdict{hairpin}},
		"answered": {packets: [][]byte{udp(workload, host, 9, 1, 0, 0)},
			verdicts: []translator.Verdict{translator.HopLimitExceeded | translator.Replied},
			sent:     []translator.Verdict{translator.HopLimitExceeded | translator.Replied}},
		"dropped":    {packets: [][]byte{udp(workload, "ff02::1", 9, 64, 0, 0)}, verdicts: []translator.Verdict{translator.NeverTranslated}},
		"local":      {packets: [][]byte{udp(workload, "2001:db8:1::1", 9, 64, 0, 0)}, verdicts: []translator.Verdict{translator.Local}, local: 1},
		"local by 4": {packets: [][]byte{udp(workload, prefix+"198.51.100.1", 9, 64, 0, 0)}, verdicts: []translator.Verdict{translator.Local}, local: 1},
		"segments": {packets: [][]byte{udp("192.0.2.9", "198.51.100.2", 2000, 64, 0, 0)}, offload: uso, read: 3,
			verdicts: []translator.Verdict{translator.Segment, six, six}, sent: []translator.Verdict{six, six, six}},
		"held": {packets: [][]byte{udp("192.0.2.9", "198.51.100.3", 1472, 64, 0, 1480), udp("192.0.2.9", "198.51.100.3", 1472, 64, header.IPv4FlagMoreFragments, 0)},
			verdicts: []translator.Verdict{translator.FragmentHeld, six, six}, sent: []translator.Verdict{six, six, six, six}},
		"hairpin to itself": {packets: [][]byte{udp(sharer, prefix+"198.51.100.3", 9, 64, 0, 0)}, verdicts: []translator.Verdict{hairpin}, sent: []translator.Verdict{hairpin}},
	} {
		t.Run(name, func(t *testing.T) {
			l, j := newLedger(t), new(judged)
			d := NewDriver(driverWorld(t).NewWorker(), l, j)
			d.counters = new(counters)
			d.Now()
			for _, b := range c.packets {
				d.Move(l.packet(b, c.offload))
			}
			d.Done()
			if !slices.Equal(j.verdicts, c.verdicts) || !slices.Equal(l.sent, c.sent) || l.local != c.local {
				t.Errorf("verdicts %v, sent %v, local %d; want %v, %v, %d", j.verdicts, l.sent, l.local, c.verdicts, c.sent, c.local)
			}
			if read := max(c.read, len(c.packets)); j.read != read {
				t.Errorf("%d packets were seen to come, want %d", j.read, read)
			}
			if len(l.out) != 0 {
				t.Errorf("%d packets came to nothing", len(l.out))
			}
			if l.longest > 1500 || c.sent != nil && c.sent[0] == six && len(c.sent) > 1 && l.longest > 1280 {
				t.Errorf("a packet of %d bytes left", l.longest)
			}
			var s Snapshot
			d.counters.addTo(&s)
			counted := 0
			for _, of := range s.Verdicts {
				for _, n := range of {
					counted += int(n.Packets)
				}
			}
			if counted != len(c.verdicts) {
				t.Errorf("%d packets counted, want %d", counted, len(c.verdicts))
			}
		})
	}
}

// Whatever the packets, each comes to its port once.
func TestDriverLosesNothing(t *testing.T) {
	l := newLedger(t)
	d := NewDriver(driverWorld(t).NewWorker(), l, nil)
	random := rand.New(rand.NewPCG(1, 2))
	base := [][]byte{
		udp("2001:db8:6::2", prefix+"192.0.2.9", 2000, 64, 0, 0), udp("192.0.2.9", "198.51.100.3", 2000, 64, 0, 0),
		udp("192.0.2.9", "198.51.100.3", 100, 64, header.IPv4FlagMoreFragments, 0), udp("192.0.2.9", "198.51.100.3", 100, 64, 0, 104),
	}
	for range 10_000 {
		b := slices.Clone(base[random.IntN(len(base))])
		for range random.IntN(3) {
			b[random.IntN(60)] = byte(random.Uint32())
		}
		generate.Repair(b)
		var o translator.Offload
		if random.IntN(2) == 0 {
			o = translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: uint16(random.IntN(1500))}
		}
		d.Now()
		d.Move(l.packet(b, o))
		if len(l.out) != 0 {
			t.Fatalf("%d packets came to nothing: % x, %+v", len(l.out), b[:60], o)
		}
	}
	if len(l.sent) == 0 || l.dropped == 0 || l.local == 0 {
		t.Errorf("%d sent, %d dropped, %d local: nothing was tried", len(l.sent), l.dropped, l.local)
	}
}
