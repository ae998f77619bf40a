//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// TestOddHops: a router on the way whose address is link-local or reserved says
// that a packet is too big, or that its hop limit ran out, and is heard
// (RFC 7915 4.1), by either way through the host.
func TestOddHops(t *testing.T) {
	netns.Require(t, netns.Root, "ping")
	n := newTopology(t)
	for _, hop := range []struct{ v4, v6 string }{
		{"169.254.1.1", "2001:db8:64::a9fe:101"},
		{"240.0.0.1", "2001:db8:64::f000:1"},
	} {
		n.server.IP("addr add " + hop.v4 + "/32 dev lo")
		n.server.IP("route replace default via 192.0.2.1 src " + hop.v4)
		for what, ping := range map[string]string{
			"Packet too big: mtu=1420": fmt.Sprintf("-M do -s 1450 -c 1 -W 0.3 %s", farv6),
			"Time exceeded: Hop limit": fmt.Sprintf("-t %d -c 1 -W 0.3 %s", n.hopsToServer(), farv6),
		} {
			var out []byte
			within(t, 5*time.Second, hop.v4+": "+what, func() bool {
				n.w1.IP("-6 route flush cache")
				out, _ = n.w1.Command("ping", append([]string{"-6"}, strings.Fields(ping)...)...).CombinedOutput()
				return strings.Contains(string(out), "From "+hop.v6) && strings.Contains(string(out), what)
			})
		}
	}
}

// hopsToServer is the server's place on the way: the host is one hop with the
// fast path, and three without.
func (n *topology) hopsToServer() int {
	n.t.Helper()
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if s.FastPath.State == api.FastPathOn {
		return 2
	}
	return 4
}
