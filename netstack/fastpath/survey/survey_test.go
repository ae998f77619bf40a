//go:build linux

package survey

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// ours is what the tests are about: workloads behind w1 and w2, eth0 to the world.
var ours = Ours{Device: "natless0", Uplinks: []string{"eth0"}, Workloads: []string{"w1", "w2"},
	Prefix: netip.MustParsePrefix("64:ff9b::/96"), GlobalOnly: true,
	Mapped4: prefixes{netip.MustParsePrefix("198.51.100.2/32"), netip.MustParsePrefix("198.51.100.3/32")},
	Mapped6: prefixes{netip.MustParsePrefix("2001:db8:6::/64"), netip.MustParsePrefix("2001:db8:7::/64")}}

func host(t *testing.T) *netns.NS {
	netns.Require(t, netns.Root, "ip", "nft", "tc")
	ns := netns.New(t, "host")
	for _, l := range []string{"eth0", "w1", "w2"} {
		ns.IP("link add dev " + l + " type veth peer name " + l + "-far")
		ns.IP("link set " + l + " up")
	}
	ns.IP("tuntap add natless0 mode tun")
	ns.IP("link set natless0 up")
	return ns
}

// look is what would be bypassed: of the host, then by interface.
func look(t *testing.T, ns *netns.NS) (string, map[string]string) {
	t.Helper()
	return lookFor(t, ns, ours)
}

func lookFor(t *testing.T, ns *netns.NS, ours Ours) (string, map[string]string) {
	t.Helper()
	var p Passed
	at := map[string]string{}
	var err error
	ns.Do(func() {
		var handle *netlink.Handle
		if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return
		}
		defer handle.Close()
		var s *Survey
		if s, err = New(handle); err != nil {
			return
		}
		defer s.Close()
		p, err = s.Look(ours)
		for i, what := range p.Interfaces {
			if l, err := handle.LinkByIndex(i); err == nil {
				at[l.Attrs().Name] = what
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Host, at
}

func load(t *testing.T, ns *netns.NS, text string) {
	t.Helper()
	cmd := ns.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.NewReplacer("} }", "}\n}\n", "} chain", "}\nchain").Replace(text)) // as this nft wants it
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, text)
	}
}

const forward = "table inet f { chain forward { type filter hook forward priority filter; "

// TestRules: rules that could do anything to packets of ours are found, and those
// that cannot are not.
func TestRules(t *testing.T) {
	ns := host(t)
	for _, c := range []struct{ rules, want string }{
		{"table inet f { chain input { type filter hook input priority filter; policy drop; ct state established accept; } }", ""},
		{"table inet f { chain output { type filter hook output priority filter; policy drop; } }", ""},
		{forward + "counter; ct state established accept; } }", ""},
		{forward + "policy drop; } }", "policy drop of chain inet f forward"},
		{forward + "policy drop; ct state established,related accept; } }", "policy drop"},
		{forward + `policy drop; iifname "natless0" accept; oifname "natless0" accept; } }`, ""},
		{forward + `policy drop; iif "natless0" accept; oif "natless0" accept; } }`, ""},
		{forward + `policy drop; iifname "natless*" accept; oifname { "natless0" } accept; } }`, ""},
		{forward + `policy drop; iifname "natless0" accept; } }`, "policy drop"},
		{forward + "ct state invalid drop; } }", "drop in chain inet f forward"},
		{forward + "ip saddr 198.51.100.0/24 drop; } }", "drop"},
		{forward + "ip saddr 203.0.113.0/24 ip daddr 203.0.113.0/24 drop; } }", ""},
		{forward + "ip daddr 203.0.113.7 reject; } }", ""}, // nothing that is not global is translated
		{forward + "ip daddr 8.8.8.8 reject; } }", "reject"},
		{forward + "ip6 daddr 2001:db8:9::/64 drop; } }", ""},
		{forward + "ip6 daddr 64:ff9b::c000:202 drop; } }", "drop"},
		{forward + "ip6 saddr fd00::/8 drop; } }", ""},
		{forward + "ip6 saddr & ffff::ffff == 2001::1 drop; } }", "drop"},
		{forward + `iifname "docker0" drop; } }`, ""},
		{forward + `iifname != "docker0" drop; } }`, "drop"},
		{forward + `iifname "w*" drop; } }`, "drop"},
		{forward + "meta l4proto sctp drop; } }", ""},
		{forward + "meta l4proto udp drop; } }", "drop"},
		{forward + "tcp flags syn tcp option maxseg size set rt mtu; } }", "set of exthdr"},
		{forward + "meta mark set 1; } }", "mark"},
		{forward + "meta mark & 0xf == 1 drop; } }", ""},
		{forward + "meta mark != 1 drop; } }", "drop"},
		{forward + "ct status dnat drop; } }", ""}, // nobody rewrites packets of ours, or that is found
		{forward + "ct status & (snat | dnat) != 0 drop; } }", ""},
		{forward + "ct status & (snat | dnat) == 0 drop; } }", "drop"},
		{forward + "ct status confirmed drop; } }", "drop"},
		{forward + "limit rate over 10/second drop; } }", "drop"},
		{forward + `log prefix "x"; } }`, "log"},
		{forward + "fib daddr type local drop; } }", ""},
		{forward + "jump x; policy drop; } chain x { accept; } }", ""},
		{forward + "jump x; policy drop; } chain x { tcp dport 22 accept; } }", "policy drop"},
		{forward + `goto x; drop; } chain x { iifname "docker0" drop; } }`, ""},
		{forward + `ip daddr vmap { 10.0.0.1 : drop, 10.0.0.2 : jump x }; } chain x { drop; } }`, ""},
		{forward + `ip daddr vmap { 10.0.0.1 : drop, 198.51.100.3 : jump x }; } chain x { counter; drop; } }`, "drop in chain inet f x"},
		{forward + `ip daddr . tcp dport vmap { 198.51.100.3 . 80 : drop }; } }`, "drop"},
		{"table ip f { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16 }; }\nchain c { type filter hook prerouting priority raw; ip saddr @s drop; } }", "drop in chain ip f c"},
		{forward + "ip saddr 8.8.8.8 ip daddr 198.51.100.2 drop; } }", "drop"},
		{"table ip n { chain c { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; } }", ""},
		{`table ip n { chain c { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; } }`, "masquerade in chain ip n c"},
		{"table ip n { chain c { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 80 dnat to 10.0.0.1; } }", ""},
		{"table inet f { flags dormant; chain forward { type filter hook forward priority filter; policy drop; } }", ""},
		{"table inet natless { chain forward { type filter hook forward priority filter; policy drop; } }", ""},
		{"table ip r { chain c { type filter hook prerouting priority raw; notrack; } }", ""},
		{"table ip f { set s { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }\nchain c { type filter hook prerouting priority raw; ip saddr @s drop; ip daddr @s drop; } }", ""}, // never translated
		{forward + "ip saddr 192.0.0.170 drop; ip saddr 224.0.0.0/3 drop; } }", ""},                                                                                                    // nor are these
		{forward + "ip saddr 192.0.0.9 drop; } }", "drop"},                                                                                                                             // which is global (RFC 7723)
		{"table ip f { set s { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }\nchain c { type filter hook forward priority 0; iifname natless0 ip saddr @s drop; oifname natless0 ip daddr @s drop; } }", ""},
		{"table ip f { set s { type ipv4_addr; elements = { 10.0.0.1, 198.51.100.2 }; }\nchain c { type filter hook forward priority 0; oifname natless0 ip daddr @s drop; } }", "drop"},
		{"table ip f { set s { type ipv4_addr; flags dynamic; }\nchain c { type filter hook forward priority 0; oifname natless0 ip daddr @s drop; }\nchain i { type filter hook input priority 0; add @s { ip saddr }; } }", "drop"},
		{"table netdev n { chain c { type filter hook egress device eth0 priority 0; drop; } }", "at the egress of eth0"},
		{"table netdev n { chain c { type filter hook ingress device natless0 priority 0; drop; } }", "at natless0"},
		{"table bridge b { chain c { type filter hook forward priority 0; drop; } }", ""},
	} {
		load(t, ns, "flush ruleset\n"+c.rules)
		got, at := look(t, ns)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || len(at) > 0 {
			t.Errorf("%s\ngot %q %v, want %q", c.rules, got, at, c.want)
		}
	}
}

// TestInterfaces: what stands at the ingress of one interface concerns that one.
// TestRulesEdge is TestRules at the edge of a fabric, where packets of ours are never IPv4.
func TestRulesEdge(t *testing.T) {
	ns := host(t)
	edge := ours
	edge.Relays, edge.Blocks = netip.MustParsePrefix("2001:db8:f64::/96"), []netip.Prefix{netip.MustParsePrefix("2001:db8:e::/126")}
	for _, c := range []struct{ rules, want string }{
		{forward + `policy drop; iifname "natless0" accept; oifname "natless0" accept; } }`, ""},
		{forward + "ip daddr 8.8.8.8 reject; } }", ""},
		{forward + "ip saddr 198.51.100.0/24 drop; } }", ""},
		{forward + "ip6 daddr 64:ff9b::c000:202 drop; } }", "drop"},
		{forward + "ip6 daddr 2001:db8:f64::808:808 drop; } }", "drop"},
		{forward + "ip6 saddr 2001:db8:f64::/96 drop; } }", "drop"},
		{forward + "ip6 saddr 2001:db8:e::2 drop; } }", "drop"},
		{forward + "ip6 daddr 2001:db8:e::2 drop; } }", "drop"},
		{forward + "ip6 daddr 2001:db8:e::4 drop; } }", ""},
		{forward + `oifname "eth0" ip6 daddr 2001:db8:f64::/96 drop; } }`, "drop"},
		{forward + `oifname "w1" ip6 daddr 2001:db8:f64::/96 drop; } }`, ""},
	} {
		load(t, ns, "flush ruleset; "+c.rules)
		if got, _ := lookFor(t, ns, edge); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.rules, got, c.want)
		}
	}
}

func TestInterfaces(t *testing.T) {
	ns := host(t)
	ns.Run("tc", "qdisc", "add", "dev", "w1", "root", "tbf", "rate", "10mbit", "burst", "10k", "latency", "10ms")
	ns.Run("tc", "qdisc", "add", "dev", "w1", "ingress")
	if got, at := look(t, ns); got != "" || len(at) > 0 {
		t.Errorf("without a filter, and with a queue at the egress: %q %v", got, at)
	}
	ns.IP("link add ifb1 type ifb")
	ns.IP("link set ifb1 up")
	ns.Run("tc", "filter", "add", "dev", "w1", "parent", "ffff:", "protocol", "all", "u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", "ifb1")
	load(t, ns, "table netdev n { chain c { type filter hook ingress device eth0 priority 0; ip daddr 198.51.100.2 drop; }\n"+
		"chain d { type filter hook ingress device w2 priority 0; ip6 daddr 2001:db8:9::/64 drop; } }")
	got, at := look(t, ns)
	if got != "" || len(at) != 2 || !strings.Contains(at["w1"], "filter u32") || !strings.Contains(at["eth0"], "drop in chain netdev n c") {
		t.Errorf("%q %v", got, at)
	}
	ns.Run("tc", "qdisc", "del", "dev", "w1", "ingress")
	load(t, ns, "flush ruleset")
	if got, at := look(t, ns); got != "" || len(at) > 0 {
		t.Errorf("taken away again: %q %v", got, at)
	}
	ns.Run("tc", "qdisc", "replace", "dev", "natless0", "root", "tbf", "rate", "10mbit", "burst", "10k", "latency", "10ms")
	if got, _ := look(t, ns); got != "queueing discipline tbf at natless0" {
		t.Errorf("%q", got)
	}
}

// TestLegacy: the older iptables has rules, or a policy, where packets of ours are.
func TestLegacy(t *testing.T) {
	netns.Require(t, "iptables-legacy", "ip6tables-legacy")
	ns := host(t)
	for _, c := range []struct{ do, want string }{
		{"iptables-legacy -S; ip6tables-legacy -S; iptables-legacy -t nat -S", ""},
		{"iptables-legacy -A INPUT -j DROP", ""},
		{"iptables-legacy -A FORWARD -j DROP", "iptables-legacy -t filter: chain FORWARD has rules"},
		{"iptables-legacy -F", ""},
		{"ip6tables-legacy -P FORWARD DROP", "ip6tables-legacy -t filter: the policy of chain FORWARD is not ACCEPT"},
		{"ip6tables-legacy -P FORWARD ACCEPT", ""},
		{"iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "iptables-legacy -t nat: chain POSTROUTING has rules"},
		{"iptables-legacy -t nat -F", ""},
	} {
		ns.Run("bash", "-c", c.do)
		if got, _ := look(t, ns); got != c.want {
			t.Errorf("%s: got %q, want %q", c.do, got, c.want)
		}
	}
}

// TestRuleSets: those of programs that many hosts have, each as testdata says.
func TestRuleSets(t *testing.T) {
	files, err := filepath.Glob("testdata/*.rules")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no rule sets")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			ns := host(t)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want := strings.TrimSpace(strings.TrimPrefix(first, "# want:"))
			program := []string{"nft", "-f", "-"}
			if strings.Contains(string(text), "\n*filter\n") || strings.Contains(string(text), "\n*nat\n") {
				program = []string{"iptables-nft-restore"}
				if strings.Contains(file, "6.rules") {
					program = []string{"ip6tables-nft-restore"}
				}
			}
			netns.Require(t, program[0])
			cmd := ns.Command(program[0], program[1:]...)
			cmd.Stdin = strings.NewReader(string(text))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", program, err, out)
			}
			got, at := look(t, ns)
			if (got == "") != (want == "") || !strings.Contains(got, want) || len(at) > 0 {
				t.Errorf("got %q %v, want %q", got, at, want)
			}
			t.Log(got)
		})
	}
}
