//go:build linux

package route

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// TestProbe: an address that another host on the link has is found, whether that
// has it or answers for it; one of ours is not, nor one that nobody has.
func TestProbe(t *testing.T) {
	l := newLab(t)
	d := example()
	d.Mapped4 = prefixes("192.0.2.48/29")
	l.start(d)
	l.net.IP("addr add 192.0.2.50/24 dev eth0")
	l.net.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.neigh.eth0.proxy_delay=0")
	l.net.IP("neigh add proxy 192.0.2.51 dev eth0")
	l.net.IP("tuntap add other mode tun")
	l.net.IP("link set other up")
	l.net.IP("route add 192.0.2.51/32 dev other")
	var addrs []netip.Addr
	for a := netip.MustParseAddr("192.0.2.48"); a.Less(netip.MustParseAddr("192.0.2.56")); a = a.Next() {
		addrs = append(addrs, a)
	}
	var found map[netip.Addr]string
	var err, missing, noARP error
	l.host.Do(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // which is not waited for
		defer cancel()
		found, err = Probe(ctx, "eth0", addrs)
		_, missing = Probe(ctx, "eth9", addrs)
		_, noARP = Probe(ctx, "natless0", addrs)
	})
	l.must("probe", err)
	mac := macOf(l.net)
	if len(found) != 2 || found[addrs[2]] != mac || found[addrs[3]] != mac {
		t.Errorf("found %v, want .50 and .51 at %s", found, mac)
	}
	if missing == nil || !errors.Is(noARP, ErrNoARP) {
		t.Errorf("without such an interface %v; on one without ARP %v", missing, noARP)
	}
}
