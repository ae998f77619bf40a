//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// The rule of RFC 7597, appendix A, with fewer CEs an address: 4 bits of PSID, so that a
// run has 64 ports.
const (
	mapConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8:ff::1"}
metrics: {listen: "[::1]:9464"}
map:
  rules:
    - {ipv6: "2001:db8:1000::/44", ipv4: 203.0.114.0/24, ea_bits: 12}
`
	ceShared  = "203.0.114.18"
	ceNext    = "203.0.114.19"
	ce3, ce11 = "2001:db8:1001:2300:0:cb00:7212:3", "2001:db8:1001:3b00:0:cb00:7213:b" // PSID 3, and PSID 11 of the next address
	ceLAN     = "192.168.1.2"                                                          // a host behind CE 3
)

// customer makes w1 the CE with PSID 3, of programs that know nothing of natless: nftables
// keeps to the CE's ports (RFC 7597 5.1, counted by hand: 1024 + 3*64 to + 63, and so on
// each 1024), and tayga translates (RFC 7599 6). Behind it is a host with IPv4 alone.
func (n *topology) customer(t *testing.T) (lan *netns.NS) {
	t.Helper()
	lan = netns.New(t, "lan")
	netns.Veth(t, lan, "eth0", n.w1, "lan")
	lan.IP("addr add 192.168.1.2/24 dev eth0")
	lan.IP("route add default via 192.168.1.1")
	n.w1.IP("addr add 192.168.1.1/24 dev lan")
	n.w1.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0")
	conf := filepath.Join(t.TempDir(), "tayga.conf")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(
		"tun-device map0\nipv4-addr 192.168.255.1\nipv6-addr 2001:db8:1001:2300::fffe\nprefix 2001:db8:64::/96\nmap %s %s\n", ceShared, ce3)), 0o600); err != nil {
		t.Fatal(err)
	}
	n.w1.Run("tayga", "-c", conf, "--mktun")
	n.w1.IP("link set map0 up")
	n.w1.IP("route add default dev map0")
	n.w1.IP("-6 route add " + ce3 + "/128 dev map0")
	rules := "table ip ce { chain post { type nat hook postrouting priority 100;\nmeta mark set numgen inc mod 4\n"
	for block := 1; block <= 4; block++ {
		first := block*1024 + 3*64
		rules += fmt.Sprintf("oifname map0 meta l4proto { tcp, udp, icmp } meta mark %d snat to %s:%d-%d\n", block-1, ceShared, first, first+63)
	}
	load := n.w1.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(rules + "}\n}\n")
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	tayga := n.w1.Command("tayga", "-c", conf, "--nodetach")
	if err := netns.Start(tayga); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tayga.Process.Kill(); tayga.Wait() })
	return lan
}

// borderRelay is the topology with a border relay as host; w1 and w2 are where CEs are.
func borderRelay(t *testing.T) *topology {
	t.Helper()
	n := newNamespaces(t)
	n.host.IP("route add 2001:db8:1001:2300::/56 via 2001:db8:6::2")
	n.host.IP("route add 2001:db8:1001:3b00::/56 via 2001:db8:8::2")
	n.gate.IP("route add 2001:db8:1001:3b00::/56 via 2001:db8:7::2")
	n.daemon = daemon.Start(t, n.host, mapConfig)
	return n
}

// TestMapT: a border relay translates for CEs by a rule: one made of nftables and tayga,
// and one that is a host with the address and keeps to its ports.
func TestMapT(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl", "nft", "tayga", "ping")
	n := borderRelay(t)
	lan := n.customer(t)
	n.w2.IP("addr add " + ce11 + "/128 dev lo")
	port := serveHTTP(t, n.server)
	within(t, 20*time.Second, "tayga to translate", func() bool {
		return lan.Command("curl", "-s", "-o", "/dev/null", "--max-time", "2", "http://"+server+":"+port+"/1").Run() == nil
	})
	for range 8 { // all of its runs
		if peer := curl(t, lan, server, port, 100_000); peer != ceShared {
			t.Errorf("the server saw %s, want %s", peer, ceShared)
		}
	}
	lan.Run("ping", "-c", "2", "-i", "0.2", "-W", "10", server)
	n.ownPorts(t, port)
	n.hairpins(t, lan)
	n.large(t, lan)
	n.seenRules(t)
	n.byFastPath(t, lan, port)
	n.otherRules(t, lan, port)
}

// byFastPath: with it, packets of CEs do not come to the daemon, both ways, and the rule
// counts them as before.
func (n *topology) byFastPath(t *testing.T, lan *netns.NS, port string) {
	t.Helper()
	if daemon.FastPath() == "off" {
		return
	}
	counted := func() (kernel, rule uint64) {
		s, err := n.daemon.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.FastPath.Translated {
			kernel += c.Packets
		}
		return kernel, s.MAP[0].To4 + s.MAP[0].To6
	}
	kernel, rule := counted()
	curl(t, lan, server, port, 1_000_000)
	k, r := counted()
	if k-kernel < 20 || r-rule < k-kernel { // superpackets count as one
		t.Errorf("the fast path has translated %d packets, and the rule counted %d", k-kernel, r-rule)
	}
	if s, _ := n.daemon.Client().Status(t.Context()); s.FastPath.Translated["forward4"].Packets == 0 || s.FastPath.Translated["forward6"].Packets == 0 {
		t.Errorf("by the fast path: %+v", s.FastPath)
	}
}

// otherRules: a reload that leaves a rule as it is has it count on; one that takes it away
// leaves CEs without IPv4, until it comes again.
func (n *topology) otherRules(t *testing.T, lan *netns.NS, port string) {
	t.Helper()
	rules := func() []api.MapRule {
		s, err := n.daemon.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.MAP
	}
	reload := func(config string) {
		t.Helper()
		n.daemon.Write(config)
		if _, err := n.daemon.Client().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	reaches := func(patience string) bool {
		return lan.Command("curl", "-s", "-o", "/dev/null", "--max-time", patience, "http://"+server+":"+port+"/1").Run() == nil
	}
	before := rules()[0]
	reload(mapConfig + "icmp_errors: {rate: 99}\n")
	if after := rules()[0]; after.To4 < before.To4 || after.Outside != before.Outside {
		t.Errorf("after a reload: %+v, before %+v", after, before)
	}
	rule := mapConfig[strings.Index(mapConfig, "map:"):]
	reload(strings.Replace(mapConfig, rule, "", 1))
	if len(rules()) != 0 || reaches("1") {
		t.Error("without its rule, a CE reaches IPv4")
	}
	reload(mapConfig)
	if !reaches("20") || rules()[0].To4 == 0 {
		t.Errorf("with its rule again, a CE does not reach IPv4: %+v", rules())
	}
}

// ownPorts: a CE reaches the server from its own ports alone, and from its own address.
func (n *topology) ownPorts(t *testing.T, port string) {
	t.Helper()
	get := func(from, ports string) (string, error) {
		out, err := n.w2.Command("curl", "-sS", "-o", "/dev/null", "--max-time", "10", "--interface", from, "--local-port", ports,
			"http://["+serverv6+"]:"+port+"/1000").CombinedOutput()
		return string(out), err
	}
	if out, err := get(ce11, "1728-1760"); err != nil { // 1024 + 11*64
		t.Errorf("from its own ports: %v: %s", err, out)
	}
	if out, err := get(ce11, "1216-1279"); err == nil {
		t.Errorf("from ports of another CE: %s", out)
	}
	const other = "2001:db8:1001:3b00:0:cb00:7213:3" // with the PSID of CE 3, in the prefix of CE 11
	n.w2.IP("addr add " + other + "/128 dev lo")
	if out, err := get(other, "1216-1279"); err == nil {
		t.Errorf("by the identifier of another CE: %s", out)
	}
}

// hairpins: a CE reaches another.
func (n *topology) hairpins(t *testing.T, lan *netns.NS) {
	t.Helper()
	var l net.Listener
	var err error
	n.w2.Do(func() { l, err = net.Listen("tcp6", "["+ce11+"]:1790") })
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(pattern)}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	if peer := curl(t, lan, ceNext, "1790", 100_000); peer != "2001:db8:64::cb00:7212" {
		t.Errorf("a CE saw %s", peer)
	}
}

// large: datagrams in fragments go both ways.
func (n *topology) large(t *testing.T, lan *netns.NS) {
	t.Helper()
	var here, there *net.UDPConn
	var err, errThere error
	n.server.Do(func() { there, errThere = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(server)}) })
	if errThere != nil {
		t.Fatal(errThere)
	}
	defer there.Close()
	go func() {
		b := make([]byte, 65535)
		for {
			size, from, err := there.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			there.WriteToUDPAddrPort(b[:size], from)
		}
	}()
	lan.Do(func() {
		if here, err = net.DialUDP("udp4", nil, there.LocalAddr().(*net.UDPAddr)); err == nil {
			raw, _ := here.SyscallConn()
			raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
			})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	within(t, 20*time.Second, "a datagram in fragments to come back", func() bool {
		b := make([]byte, 65535)
		here.SetDeadline(time.Now().Add(2 * time.Second))
		here.Write(b[:4000])
		size, err := here.Read(b)
		return err == nil && size == 4000
	})
}

// seenRules: what people are told of a rule.
func (n *topology) seenRules(t *testing.T) {
	t.Helper()
	s, err := n.daemon.Client().Status(t.Context())
	if err != nil || len(s.MAP) != 1 {
		t.Fatalf("status: %+v, %v", s.MAP, err)
	}
	if r := s.MAP[0]; r.CEs != 4096 || r.To4 == 0 || r.To6 == 0 || r.Spoofed == 0 || r.Outside == 0 {
		t.Errorf("the rule: %+v", r)
	}
	if s.Mappings != 0 {
		t.Errorf("%d mappings: a CE is none", s.Mappings)
	}
	for _, c := range []struct{ want, args string }{
		{ce3, "whois " + ceShared + ":1216"},
		{"PSID 11", "whois " + ce11},
		{"a CE of MAP-T, PSID 3", "whois " + ceShared},
		{ce3, "whois 2001:db8:1001:2342::7"}, // another address of its prefix
		{"2001:db8:1001:2342::7 is in its prefix", "whois 2001:db8:1001:2342::7"},
		{"MAP-T RULE", "status"},
		{"map-t", "doctor"},
		{"a CE with ports 1216-1279", "explain ipv6 src " + ce3 + " dst " + serverv6 + " udp sport 1216 dport 53"},
		{"verdict  forward6", "explain ipv4 src " + server + " dst " + ceShared + " udp sport 53 dport 1216"},
	} {
		out, _ := exec.Command(filepath.Join(daemon.Build(t), "natless"), append(strings.Fields(c.args), "--socket", n.daemon.Socket)...).CombinedOutput()
		if !strings.Contains(string(out), c.want) {
			t.Errorf("natless %s: no %q in\n%s", c.args, c.want, out)
		}
		if asked, ok := strings.CutPrefix(c.args, "whois "); ok {
			if page := n.daemon.Whois(asked); !strings.Contains(page, c.want) {
				t.Errorf("the page, of %s: no %q in\n%s", asked, c.want, page)
			}
		}
	}
	out, err := exec.Command(filepath.Join(daemon.Build(t), "natless"), "whois", ceShared+":200", "--socket", n.daemon.Socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "nobody has") || !strings.Contains(string(out), "whose port 200 belongs to nobody, by the rule") {
		t.Errorf("a port that no CE has: %v\n%s", err, out)
	}
}
