package translator

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestSection1_9_FirstUse(t *testing.T) {
	const anybody6, nobody6 = "2001:db8:a::7", "2001:db8:b::7"
	w := newTestWorker(t, withPools, func(c *Config, _ *string) { c.FirstUse = []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64")} })
	packet := func(src, dst string) []byte {
		return hdr6{src: src, dst: dst, proto: 17}.packet(udp(src, dst, 1000, 53, data(9)))
	}
	in := packet(anybody6, server6)
	p := packetOf(in)
	if v := w.Translate(p); v != FirstUse || !bytes.Equal(p.Bytes(), in) {
		t.Fatalf("verdict %v, and the packet is changed: %v", v, !bytes.Equal(p.Bytes(), in))
	}
	if v := w.TranslateRefused(p); v != UntranslatableSource|Replied {
		t.Errorf("refused: verdict %v", v)
	}
	wantPacket(t, p, error6To(anybody6, 1, 5, in))
	wantVerdict(t, w, packet(work6, server6), Forward4)
	wantVerdict(t, w, packet(nobody6, server6), UntranslatableSource|Replied)
	wantVerdict(t, w, packet(anybody6, "2001:db8:77::1"), UntranslatableSource|Replied) // to nowhere
	wantVerdict(t, w, hdr6{src: anybody6, dst: server6, proto: 17, hop: 1}.packet(udp(anybody6, server6, 1000, 53, data(9))), UntranslatableSource|Replied)
	quoted := hdr6{src: server6, dst: work6, proto: 17}.packet(udp(server6, work6, 53, 1000, data(9)))
	wantVerdict(t, w, hdr6{src: anybody6, dst: server6, proto: 58}.packet(icmp6(anybody6, server6, 1, 4, 0, quoted)), Forward4) // of a hop
}
