//go:build linux

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// outbox is a queue's writing half.
type outbox struct {
	tun.Queue
	written [][]byte
	lent    int // packets that have not come back
}

func (o *outbox) Buffer() *translator.Packet {
	o.lent++
	return packet(nil)
}

func (o *outbox) Write(packets []*translator.Packet) {
	for _, p := range packets {
		o.lent--
		if p.End > p.Start {
			o.written = append(o.written, bytes.Clone(p.Bytes()))
		}
	}
}

func (o *outbox) Counters() *tun.Counters { return new(tun.Counters) }

func packet(b []byte) *translator.Packet {
	p := &translator.Packet{Buf: make([]byte, 1<<16+translator.Headroom+translator.Tailroom), Start: translator.Headroom}
	p.End = p.Start + copy(p.Buf[p.Start:], b)
	return p
}

// fragment6 is a fragment of a UDP datagram from one workload to another's
// address inside the prefix. offset counts bytes.
func fragment6(offset int, more bool, payload []byte) []byte {
	b := make([]byte, 48, 48+len(payload))
	b[0], b[6], b[7] = 6<<4, 44, 64
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	src, dst := netip.MustParseAddr("2001:db8:6::2").As16(), netip.MustParseAddr("2001:db8:64::198.51.100.3").As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	b[40] = 17
	binary.BigEndian.PutUint16(b[42:], uint16(offset))
	if more {
		b[43] |= 1
	}
	binary.BigEndian.PutUint32(b[44:], 77)
	return append(b, payload...)
}

// A datagram in fragments from one workload to another that shares its address,
// the later fragment first: that one is held until the first has come, and none
// leaves longer than what fits everywhere.
func TestHairpinnedFragments(t *testing.T) {
	table, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), []mapping.Mapping{
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
	out := new(outbox)
	l := newLoop(New(Config{Translator: tr}), 0)
	l.queue = out
	l.begin()

	datagram := make([]byte, 2800)
	for i := range datagram {
		datagram[i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(datagram[2:], 1024)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	out.lent = 2
	l.batch([]*translator.Packet{packet(fragment6(1448, false, datagram[1448:]))})
	if len(out.written) != 0 {
		t.Errorf("a later fragment went out before its first: % x", out.written)
	}
	l.batch([]*translator.Packet{packet(fragment6(0, true, datagram[:1448]))})

	got, last := make([]byte, len(datagram)), 0
	for _, b := range out.written {
		if len(b) > 1280 || b[6] != 44 || b[7] != 63 {
			t.Errorf("%d bytes, next header %d, hop limit %d", len(b), b[6], b[7])
		}
		field := binary.BigEndian.Uint16(b[42:])
		if copy(got[field&^7:], b[48:]); field&1 == 0 {
			last++
		}
	}
	copy(got[6:8], datagram[6:8]) // the checksum goes with the addresses
	if len(out.written) != 4 || last != 1 || !bytes.Equal(got, datagram) {
		t.Errorf("%d packets, %d of them the last, and the datagram is whole: %t", len(out.written), last, bytes.Equal(got, datagram))
	}
	if out.lent != 0 {
		t.Errorf("%d packets have not come back", out.lent)
	}
	s := Snapshot{}
	l.counters.addTo(&s)
	if n := s.Verdicts[To4][translator.Hairpin].Packets; n != 2 || s.Fragments != 4 {
		t.Errorf("counted %d hairpins, %d fragments", n, s.Fragments)
	}
}
