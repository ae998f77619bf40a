package translator

import "testing"

// The plain case: what every other test stands on.
func TestPlain(t *testing.T) {
	w := newTestWorker(t)
	d := data(100)
	out6 := hdr6{src: work6, dst: server6, proto: 6, hop: 64, class: 0xb8, flow: 0x12345}
	in4 := hdr4{src: server4, dst: work4, proto: 6, ttl: 64, tos: 0xb8, flags: 0x4000}
	t.Run("6to4 tcp", func(t *testing.T) {
		p := packetOf(out6.packet(tcp(work6, server6, 4321, 80, d)))
		if v := w.Translate(p); v != Forward4 {
			t.Fatal(v)
		}
		want := hdr4{src: work4, dst: server4, proto: 6, ttl: 63, tos: 0xb8, id: 1}
		wantPacket(t, p, want.packet(tcp(work4, server4, 4321, 80, d)))
	})
	t.Run("4to6 tcp", func(t *testing.T) {
		want := hdr6{src: server6, dst: work6, proto: 6, hop: 63, class: 0xb8}
		wantTranslated(t, w, in4.packet(tcp(server4, work4, 80, 4321, d)), Forward6,
			want.packet(tcp(server6, work6, 80, 4321, d)))
	})
	t.Run("echo", func(t *testing.T) {
		in := hdr6{src: work6, dst: server6, proto: 58}
		p := packetOf(in.packet(icmp6(work6, server6, 128, 0, 0x10002, d)))
		if v := w.Translate(p); v != Forward4 {
			t.Fatal(v)
		}
		want := hdr4{src: work4, dst: server4, proto: 1, ttl: 63, id: 2}
		wantPacket(t, p, want.packet(icmp4(8, 0, 0x10002, d)))
		back := hdr4{src: server4, dst: work4, proto: 1}
		wantTranslated(t, w, back.packet(icmp4(0, 0, 0x10002, d)), Forward6,
			hdr6{src: server6, dst: work6, proto: 58, hop: 63}.packet(icmp6(server6, work6, 129, 0, 0x10002, d)))
	})
	t.Run("hairpin", func(t *testing.T) {
		in := hdr6{src: work6, dst: "2001:db8:64::203.0.113.5", proto: 17}
		wantTranslated(t, w, in.packet(udp(work6, in.dst, 7, 9, d)), Hairpin,
			hdr6{src: "2001:db8:64::198.51.100.2", dst: other6, proto: 17, hop: 63}.packet(
				udp("2001:db8:64::198.51.100.2", other6, 7, 9, d)))
	})
}
