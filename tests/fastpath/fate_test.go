//go:build linux

package fastpath

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// fewHosts is for every day; with more, make fates, other tests are longer, too.
const fewHosts = 6

var hosts = flag.Int("hosts", fewHosts, "random hosts that TestSameFate makes")

// setting is something that an operator sets up on a host, and how it is undone.
type setting struct{ do, undo string }

const nft = "nft add table %[1]s f; nft 'add chain %[1]s f c { type filter hook %[2]s; }'; nft add rule %[1]s f c %[3]s"

func rule(family, hook, text string) setting {
	return setting{fmt.Sprintf(nft, family, hook, text), "nft delete table " + family + " f"}
}

func route(text string) setting { return setting{"ip route add " + text, "ip route del " + text} }

func policy(text string) setting {
	return setting{"ip " + text, "ip " + strings.Replace(text, "rule add", "rule del", 1)}
}

// settings are of every kind that README.md of netstack/fastpath has a line for.
var settings = []setting{
	route("blackhole 2001:db8:64::c000:202/128"),
	route("2001:db8:64::c000:24d/128 via 2001:db8:f::2 dev other"),
	route("prohibit 2001:db8:64::c000:200/120"),
	route("198.51.100.3 via 172.20.0.2 dev other"),
	route("198.51.100.2 via 172.20.0.2 dev other"),
	route("blackhole 198.51.100.3"),
	route("192.0.2.77 via 172.20.0.2 dev other"),
	route("192.0.2.66 via 172.20.0.2 dev other"),
	{"ip addr add 198.51.100.3/32 dev lo", "ip addr del 198.51.100.3/32 dev lo"},
	{"ip addr add 2001:db8:64::c000:24d/128 dev lo", "ip addr del 2001:db8:64::c000:24d/128 dev lo"},
	policy("rule add iif uplink to 198.51.100.2 blackhole"),
	policy("rule add iif natless0 from 198.51.100.3 prohibit"),
	policy("rule add iif natless0 to 192.0.2.77 blackhole"),
	policy("-6 rule add iif w2 to 2001:db8:64::/96 blackhole"),
	policy("-6 rule add iif natless0 to 2001:db8:7::/64 prohibit"),
	policy("rule add ipproto udp dport 7777 iif uplink from 192.0.2.66 blackhole"),
	route("203.0.113.8 via 172.20.0.2 dev other"), // beside who has the same gateway
	route("203.0.113.8 dev other"),
	route("blackhole 203.0.113.8"),
	route("unreachable 203.0.113.0/29"),
	route("203.0.113.8 tos 0 via 172.20.0.2 dev other"),
	route("2001:db8:9::3/128 via 2001:db8:7::2"),
	route("blackhole 2001:db8:9::3/128"),
	policy("rule add from 198.51.100.3 to 203.0.113.8 prohibit"),
	policy("rule add from 198.51.100.5 lookup main"),
	policy("-6 rule add to 2001:db8:9::3 prohibit"),
	{"ip rule add pref 100 lookup 99; ip route add 203.0.113.8 via 172.20.0.2 dev other table 99", "ip rule del pref 100; ip route flush table 99"},
	{"ip route replace default via 172.20.0.2 dev other", "ip route replace default via 192.0.2.2"},
	{"sysctl -qw net.ipv4.conf.uplink.rp_filter=1", "sysctl -qw net.ipv4.conf.uplink.rp_filter=0"},
	{"sysctl -qw net.ipv4.conf.uplink.rp_filter=1; ip route add 192.0.2.66 via 172.20.0.2 dev other",
		"sysctl -qw net.ipv4.conf.uplink.rp_filter=0; ip route del 192.0.2.66 via 172.20.0.2 dev other"},
	{"tc qdisc add dev w1 ingress; tc filter add dev w1 parent ffff: protocol ipv6 u32 match u32 0 0 action mirred egress redirect dev down",
		"tc qdisc del dev w1 ingress"},
	{"tc qdisc add dev uplink ingress; tc filter add dev uplink parent ffff: protocol ip u32 match ip dst 198.51.100.2 action mirred egress redirect dev down",
		"tc qdisc del dev uplink ingress"},
	rule("inet", "forward priority 0", "ip saddr 198.51.100.3 drop"),
	rule("inet", "forward priority 0", "iifname w2 drop"),
	rule("inet", "forward priority 0", "iifname docker0 drop"),
	rule("ip", "prerouting priority -300", "ip saddr 192.0.2.66 drop"),
	rule("ip6", "postrouting priority 0", "ip6 daddr 2001:db8:6::2 drop"),
	rule("ip", "forward priority 0; policy drop", "ct state established accept"),
	rule("ip", "forward priority 0; policy drop", "iifname uplink accept"),
	rule("netdev", "ingress device w1 priority 0", "ip6 daddr 2001:db8:64::192.0.2.77 drop"),
	rule("netdev", "egress device uplink priority 0", "ip daddr 192.0.2.77 drop"),
}

// fates is a host with all around it, and what it does with probes.
type fates struct {
	*topology
	other *netns.NS
	mu    sync.Mutex
	got   map[string]string // by probe: where it came out
	last  time.Time
}

func newFates(t *testing.T, config string) *fates {
	f := &fates{topology: newTopology(t, config), other: netns.New(t, "other")}
	netns.Veth(t, f.host, "other", f.other, "eth0")
	f.host.IP("addr add 172.20.0.1/24 dev other")
	f.host.IP("addr add 2001:db8:f::1/64 dev other")
	f.other.IP("addr add 172.20.0.2/24 dev eth0")
	f.other.IP("addr add 2001:db8:f::2/64 dev eth0")
	for _, a := range []string{"198.51.100.2/32", "198.51.100.3/32", "192.0.2.77/32", "2001:db8:64::c000:24d/128"} {
		f.other.IP("addr add " + a + " dev lo")
	}
	f.other.Run("sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=1") // it has addresses of those who send to it
	f.other.IP("route add default via 172.20.0.1")
	f.other.IP("-6 route add default via 2001:db8:f::1")
	f.behind()
	f.server.IP("addr add 192.0.2.66/24 dev eth0")
	f.server.IP("addr add 192.0.2.77/24 dev eth0")
	f.host.IP("link add down type ifb")
	f.host.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
	for name, ns := range map[string]*netns.NS{"w1": f.w1, "w2": f.w2, "host": f.host, "server": f.server, "other": f.other} {
		var c net.PacketConn
		var err error
		ns.Do(func() { c, err = net.ListenPacket("udp", "[::]:7777") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go f.receive(name, c)
	}
	f.daemon.Start()
	return f
}

// behind has hosts and workloads behind gateways, where ways are asked for once for all.
func (f *fates) behind() {
	f.host.IP("route add default via 192.0.2.2")
	f.host.IP("route add 2001:db8:9::/64 via 2001:db8:6::2")
	for ns, all := range map[*netns.NS][]string{
		f.server: {"203.0.113.7/32", "203.0.113.8/32"}, f.other: {"203.0.113.7/32", "203.0.113.8/32"},
		f.w1: {"2001:db8:9::2/128", "2001:db8:9::3/128"}, f.w2: {"2001:db8:9::3/128"},
	} {
		for _, a := range all {
			ns.IP("addr add " + a + " dev lo")
		}
	}
}

func (f *fates) receive(name string, c net.PacketConn) {
	b := make([]byte, 100)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		a := from.(*net.UDPAddr).AddrPort().Addr().Unmap()
		f.mu.Lock()
		f.got[string(b[:n])] += name + " from " + a.String() + ";"
		f.last = time.Now()
		f.mu.Unlock()
	}
}

// probes are datagrams: from where, with which source, where to.
var probes = []struct{ from, source, to string }{
	{"w1", workload1, "2001:db8:64::192.0.2.2"}, {"w1", workload1, "2001:db8:64::192.0.2.77"},
	{"w2", workload2, "2001:db8:64::192.0.2.2"}, {"w2", workload2, "2001:db8:64::192.0.2.77"},
	{"w1", workload1, "2001:db8:64::172.20.0.2"},
	{"server", "192.0.2.2", workload1v4}, {"server", "192.0.2.66", workload1v4},
	{"server", "192.0.2.2", workload2v4}, {"server", "192.0.2.66", workload2v4},
	{"w1", "2001:db8:9::2", "2001:db8:64::203.0.113.7"}, {"w1", "2001:db8:9::3", "2001:db8:64::203.0.113.8"},
	{"w2", workload2, "2001:db8:64::203.0.113.7"}, {"w2", workload2, "2001:db8:64::203.0.113.8"},
	{"server", "203.0.113.7", "198.51.100.4"}, {"server", "203.0.113.8", "198.51.100.5"}, {"server", "203.0.113.8", workload1v4},
}

// probe sends them all, and says where each came out.
func (f *fates) probe() map[string]string {
	f.mu.Lock()
	f.got, f.last = map[string]string{}, time.Now()
	f.mu.Unlock()
	for i, p := range probes {
		from := map[string]*netns.NS{"w1": f.w1, "w2": f.w2, "server": f.server}[p.from]
		from.Do(func() {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(p.source), 0))}
			if c, err := d.Dial("udp", net.JoinHostPort(p.to, "7777")); err == nil {
				c.Write([]byte(fmt.Sprintf("%d %s → %s", i, p.source, p.to)))
				c.Close()
			}
		})
	}
	for {
		time.Sleep(30 * time.Millisecond)
		f.mu.Lock()
		if time.Since(f.last) > 150*time.Millisecond {
			defer f.mu.Unlock()
			return f.got
		}
		f.mu.Unlock()
	}
}

// TestSameFate sets up the same at two hosts, one with the fast path and one
// without: packets come out at the same places, or at none.
func TestSameFate(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "tc", "nft", "sysctl")
	config := baseConfig + "  - {ipv6: \"2001:db8:9::2\", ipv4: 198.51.100.4}\n  - {ipv6: \"2001:db8:9::3\", ipv4: 198.51.100.5}\n"
	auto, off := newFates(t, config), newFates(t, config+"fast_path: off\n")
	auto.attached("uplink w1 w2")
	if base := auto.probe(); len(base) != len(probes) {
		auto.probe() // neighbours are known now
	}
	off.probe()
	random := rand.New(rand.NewPCG(13, uint64(*hosts)))
	deck := random.Perm(len(settings))
	for i := range *hosts {
		var chosen []setting
		n := 1 + len(settings) / *hosts
		if *hosts > len(settings) {
			n += random.IntN(4)
		}
		for range n {
			if len(deck) == 0 {
				deck = random.Perm(len(settings))
			}
			chosen, deck = append(chosen, settings[deck[0]]), deck[1:]
		}
		var what []string
		for _, s := range chosen {
			what = append(what, s.do)
			for _, n := range []*fates{auto, off} {
				_ = n.host.Command("bash", "-c", s.do).Run() // two of them may not go together
			}
		}
		var got, want map[string]string
		for end := time.Now().Add(20 * time.Second); ; { // a busy daemon sees it late
			var both sync.WaitGroup
			both.Go(func() { got = auto.probe() })
			both.Go(func() { want = off.probe() })
			both.Wait()
			if maps.Equal(got, want) || time.Now().After(end) {
				break
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("host %d:\n%s\nwith the fast path    %v\nwith fast_path: off     %v\n%+v", i, strings.Join(what, "\n"), got, want, auto.fastPath())
		}
		t.Logf("host %d: %d of %d probes came out, by %d settings", i, len(want), len(probes), len(chosen))
		for _, s := range chosen {
			for _, n := range []*fates{auto, off} {
				_ = n.host.Command("bash", "-c", s.undo).Run()
			}
		}
	}
	auto.attached("uplink w1 w2")
	before := auto.kernel()
	if got, want := auto.probe(), off.probe(); !maps.Equal(got, want) || len(got) != len(probes) {
		t.Errorf("with nothing set up: with the fast path %v, with fast_path: off %v", got, want)
	}
	if n := auto.kernel() - before; n < 6 {
		t.Errorf("the kernel translated %d packets: nothing was compared", n)
	}
}
