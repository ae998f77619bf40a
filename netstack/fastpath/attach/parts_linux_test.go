package attach

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/tests/netns"
)

// partsCase is what a host has, besides a default route of each family by a gateway, and how
// destinations are parted then: those with a + are led alike, those with a * by several ways.
type partsCase struct{ name, do, undo, four, six string }

var partsCases = []partsCase{
	{"nothing more", "true", "true", own4, own6},
	{"a route by another gateway", "ip route add 192.0.2.0/24 via 10.0.0.3", "ip route del 192.0.2.0/24", own4 + " +192.0.2.0/24", own6},
	{"a host of its own", "ip route add 192.0.2.7 dev wan; ip route add blackhole 192.0.2.0/24; ip route add 192.0.2.8 dev wan",
		"ip route del 192.0.2.7; ip route del 192.0.2.8; ip route del blackhole 192.0.2.0/24", own4 + " -192.0.2.0/24", own6},
	{"IPv6 hosts", "ip route add 2001:db8:7::/64 via 2001:db8::3; ip route add 2001:db8:7::9/128 dev wan; ip route add blackhole 2001:db8:8::/48",
		"ip route del 2001:db8:7::/64; ip route del 2001:db8:7::9; ip route del blackhole 2001:db8:8::/48", own4, own6 + " +2001:db8:7::/64 -2001:db8:7::9/128 -2001:db8:8::/48"},
	{"several ways", "ip route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.0.0.3; ip route add 192.0.2.64/26 via 10.0.0.3",
		"ip route del 192.0.2.0/24; ip route del 192.0.2.64/26", own4 + " *192.0.2.0/24 *192.0.2.64/26", own6},
	{"several ways of IPv6", "ip route add 2001:db8:7::/64 nexthop via 2001:db8::2 nexthop via 2001:db8::3", "ip route del 2001:db8:7::/64",
		own4, own6 + " *2001:db8:7::/64"},
	{"several ways to all", "ip route replace default nexthop via 10.0.0.2 nexthop via 10.0.0.3", "ip route replace default via 10.0.0.2", strings.Replace(own4, "+", "*", 1), own6},
	{"a next hop that is an object", "ip nexthop add id 9 via 10.0.0.3 dev wan; ip route add 192.0.2.0/24 nhid 9", "ip nexthop del id 9",
		own4 + " +192.0.2.0/24", own6},
	{"several that are", "ip nexthop add id 8 via 10.0.0.2 dev wan; ip nexthop add id 9 via 10.0.0.3 dev wan; ip nexthop add id 10 group 8/9; ip route add 192.0.2.0/24 nhid 10",
		"ip nexthop flush", own4 + " *192.0.2.0/24", own6},
	{"several that are not told of", "sysctl -qw net.ipv4.nexthop_compat_mode=0; ip nexthop add id 8 via 10.0.0.2 dev wan; ip nexthop add id 10 group 8; ip route add 192.0.2.0/24 nhid 10",
		"ip nexthop flush; sysctl -qw net.ipv4.nexthop_compat_mode=1", own4 + " -192.0.2.0/24", own6},
	{"by TOS", "ip route add 192.0.2.0/24 tos 0x10 via 10.0.0.3", "ip route del 192.0.2.0/24 tos 0x10", own4 + " -192.0.2.0/24", own6},
	{"by the source", "ip -6 route add 2001:db8:7::/64 from 2001:db8:9::/64 via 2001:db8::3", "ip -6 route del 2001:db8:7::/64 from 2001:db8:9::/64 via 2001:db8::3",
		own4, own6 + " -2001:db8:7::/64"},
	{"a rule by the source", "ip rule add from 192.0.2.0/24 lookup main", "ip rule del from 192.0.2.0/24 lookup main", "", own6},
	{"a rule by the destination", "ip rule add to 192.0.2.0/24 lookup main", "ip rule del to 192.0.2.0/24 lookup main", own4 + " -192.0.2.0/24", own6},
	{"a rule by ports", "ip rule add to 192.0.2.0/24 ipproto tcp dport 80 lookup main", "ip rule del to 192.0.2.0/24 ipproto tcp dport 80 lookup main",
		own4 + " -192.0.2.0/24", own6},
	{"a rule of what is not so", "ip rule add not to 192.0.2.0/24 lookup main", "ip rule del not to 192.0.2.0/24 lookup main", "", own6},
	{"a rule of IPv6 by a mark", "ip -6 rule add fwmark 1 lookup main", "ip -6 rule del fwmark 1 lookup main", own4, ""},
	{"main before local", "ip rule add pref 100 lookup main; ip rule del pref 32766", "ip rule del pref 100 lookup main; ip rule add pref 32766 lookup main", own4, own6},
	{"path MTUs hold for all", "sysctl -qw net.ipv4.ip_forward_use_pmtu=1", "sysctl -qw net.ipv4.ip_forward_use_pmtu=0", "", own6},
	{"a path MTU that the host has learnt", "ping -q -c 2 -i 0.1 -W 1 -M do -s 1400 203.0.113.9 || true", "ip route del default via 10.0.0.2; ip route add default via 10.0.0.2", own4 + " -203.0.113.9/32", own6},
	{"and forgotten", "true", "true", own4, own6},
	{"another table", "ip route add 192.0.2.0/24 via 10.0.0.3 table 99; ip route add 192.0.2.0/25 dev wan table 99", "ip route flush table 99",
		own4 + " +192.0.2.0/24 -192.0.2.0/25", own6},
}

// What the host of the cases has of its own: addresses and networks.
const (
	own4 = "+0.0.0.0/0 -10.0.0.0/24 -127.0.0.0/8"
	own6 = "+::/0 -2001:db8::/64 -::1/128 -ff00::/8"
)

// partsRig is a host with a gateway for all, behind which 203.0.113.0/24 has a path MTU of 1300.
func partsRig(t *testing.T) *netns.NS {
	netns.Require(t, netns.Root, "ip", "sysctl", "ping")
	host, gateway := netns.New(t, "parts"), netns.New(t, "gateway")
	for _, ns := range []*netns.NS{host, gateway} {
		ns.Run("sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
		ns.IP("link set lo up")
	}
	netns.Veth(t, host, "wan", gateway, "eth0")
	host.IP("addr add 10.0.0.1/24 dev wan")
	host.IP("addr add 2001:db8::1/64 dev wan nodad")
	host.IP("route add default via 10.0.0.2")
	host.IP("route add default via 2001:db8::2")
	gateway.IP("addr add 10.0.0.2/24 dev eth0")
	gateway.IP("tuntap add narrow mode tun")
	gateway.IP("link set narrow up mtu 1300")
	gateway.IP("route add 203.0.113.0/24 dev narrow")
	return host
}

func TestParts(t *testing.T) {
	t.Parallel()
	ns := partsRig(t)
	for _, c := range partsCases {
		ns.Run("bash", "-ec", c.do)
		var got fastpath.Parts
		ns.Do(func() {
			conn, err := mdl.Dial(unix.NETLINK_ROUTE, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			got = partsOf(conn)
		})
		var have []string
		for p, led := range got {
			have = append(have, fmt.Sprintf("%c%v", "-+*"[led], p))
		}
		want := strings.Fields(c.four + " " + c.six)
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, have, want)
		}
		ns.Run("bash", "-ec", c.undo)
	}
}
