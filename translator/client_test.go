package translator

import "testing"

// TestClient: for workloads that speak IPv4 over an IPv6-only link, what the
// prefix stands for lies on the IPv6 side, and nothing hairpins (RFC 6877).
func TestClient(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.Client = true })
	out4 := hdr4{src: work4, dst: server4, ttl: 64, proto: 6, flags: 0x4000}.packet(tcp(work4, server4, 1000, 80, []byte("x")))
	out6 := hdr6{src: work6, dst: server6, hop: 63, proto: 6}.packet(tcp(work6, server6, 1000, 80, []byte("x")))
	wantTranslated(t, w, out4, Forward6, out6)
	in6 := hdr6{src: server6, dst: work6, hop: 64, proto: 6}.packet(tcp(server6, work6, 80, 1000, []byte("y")))
	wantVerdict(t, w, in6, Forward4)
	wantVerdict(t, newTestWorker(t), in6, Hairpin) // as against the translator in the network
}
