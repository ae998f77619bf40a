package conformance

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
)

// TestAnswers4 has the ICMPv4 errors of ours; answered4 judges their headers
// and what they quote.
func TestAnswers4(t *testing.T) {
	p := lab(t, func(w *generate.World) { w.MTU6 = 1400 })
	for size, mtu := range map[int]byte{1400: 1380 & 0xff, 1480: 1380 & 0xff} {
		b := udp4(t, peer4, workload4, size-28, func(ip *layers.IPv4) { ip.Flags = layers.IPv4DontFragment })
		answered4(t, p, b, translator.TooBig, 3, 4, [4]byte{0, 0, 1380 >> 8, mtu})
	}
	b := udp4(t, peer4, workload4, 1400, func(ip *layers.IPv4) {
		ip.Flags = layers.IPv4DontFragment | layers.IPv4MoreFragments
	})
	answered4(t, p, b, translator.TooBig, 3, 4, [4]byte{0, 0, 1372 >> 8, 1372 & 0xff})
	for _, ttl := range []uint8{0, 1} {
		b := udp4(t, peer4, workload4, 700, func(ip *layers.IPv4) { ip.TTL = ttl })
		answered4(t, p, b, translator.HopLimitExceeded, 11, 0, [4]byte{})
	}
	b = udp4(t, peer4, workload4, 7, nil)
	b[26], b[27] = 0, 0
	answered4(t, p, b, translator.UDPZeroChecksumRefused, 3, 13, [4]byte{})
}

// TestAnswers6 has the ICMPv6 ones.
func TestAnswers6(t *testing.T) {
	p := lab(t, func(w *generate.World) { w.MTU4 = 1400 })
	answered6(t, p, udp6(t, workload6, peer6, 1400, nil), translator.TooBig, 2, 0, [4]byte{0, 0, 1420 >> 8, 1420 & 0xff})
	for _, hops := range []uint8{0, 1} {
		b := udp6(t, workload6, peer6, 1300, func(ip *layers.IPv6) { ip.HopLimit = hops })
		answered6(t, p, b, translator.HopLimitExceeded, 3, 0, [4]byte{})
	}
	answered6(t, p, udp6(t, addr("2001:db9::1"), peer6, 9, nil), translator.UntranslatableSource, 1, 5, [4]byte{})
	answered6(t, p, udp6(t, workload6, addr("2001:db9::1"), 9, nil), translator.UntranslatableDestination, 1, 0, [4]byte{})
	answered6(t, p, udp6(t, share1, peer6, 9, nil), translator.PortOutsideSet, 1, 1, [4]byte{})
	routing := []byte{17, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0}
	b := serialize(t, ip6(workload6, peer6, 43), gopacket.Payload(routing))
	answered6(t, p, b, translator.RoutingHeader, 4, 0, [4]byte{0, 0, 0, 43})
	hidden := append([]byte{60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0}, data(8)...)
	b = serialize(t, ip6(workload6, peer6, 44), gopacket.Payload(hidden))
	put(b[60:], 8) // the UDP length
	answered6(t, p, b, translator.HeaderBehindFragment, 1, 1, [4]byte{})
	p = lab(t, func(w *generate.World) { w.MTU4 = 1255 })
	answered6(t, p, udp6(t, workload6, peer6, 1300, nil), translator.TooBig, 2, 0, [4]byte{0, 0, 1280 >> 8, 1280 & 0xff})
}
