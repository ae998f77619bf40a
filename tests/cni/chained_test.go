//go:build linux

package cni

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	hostIPv6   = "2001:db8:1::1"
	serverIPv6 = "2001:db8:1::2"
)

// chains writes networks, each a list of plugins with natless-cni somewhere among
// them ("natless"), and returns their folder.
func chains(t testing.TB, socket string, networks map[string][]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, plugins := range networks {
		list := strings.ReplaceAll(strings.Join(plugins, ", "), `"natless"`, fmt.Sprintf(`{"type": "natless-cni", "socket": %q}`, socket))
		list = fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [%s]}`, name, list)
		if err := os.WriteFile(filepath.Join(dir, name+".conflist"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// firstPlugins are the reference plugins that can stand first, for subnet i.
func firstPlugins(t testing.TB, kind string, i int) string {
	return fmt.Sprintf(`{"type": %q, "bridge": "cni%d", "isGateway": true, "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "2001:db8:6:%d::/64"}]], "routes": [{"dst": "::/0"}]}}`,
		kind, i, t.TempDir(), i)
}

// dualStack gives the host and its server IPv6 on the uplink, too.
func (n *node) dualStack() {
	n.IP("addr add " + hostIPv6 + "/64 dev uplink")
	n.server.IP("addr add " + serverIPv6 + "/64 dev eth0")
	n.server.IP("-6 route add default via " + hostIPv6)
}

// serve answers on a port of the container with its name.
func (p *pod) serve(t testing.TB, port int) {
	t.Helper()
	l := listen(t, p.NS, fmt.Sprintf("[::]:%d", port))
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, p.Name) })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// hears reports whether what answers at an address is the container.
func (p *pod) hears(from *netns.NS, address string, options ...string) error {
	out, err := from.Command("curl", append([]string{"-sS", "--max-time", "10", "http://" + address + "/"}, options...)...).CombinedOutput()
	if err != nil || string(out) != p.Name {
		return fmt.Errorf("curl to %s: %w: %q, want %q", address, err, out, p.Name)
	}
	return nil
}

// rate is what one TCP connection carries, in Mbit/s.
func rate(from, to *netns.NS, address string, port int, during time.Duration) (float64, error) {
	var (
		l   net.Listener
		c   net.Conn
		err error
	)
	to.Do(func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		return 0, err
	}
	defer l.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(during))
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	from.Do(func() {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(address, fmt.Sprint(l.Addr().(*net.TCPAddr).Port)), 5*time.Second)
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buffer := make([]byte, 64<<10)
	for end := time.Now().Add(during); time.Now().Before(end); {
		c.SetWriteDeadline(end)
		if _, err := c.Write(buffer); err != nil {
			break
		}
	}
	return float64(<-received) * 8 / during.Seconds() / 1e6, nil
}

// TestChained: the reference plugins tuning, firewall, portmap and bandwidth in one
// list with natless-cni, before it and after it, behind ptp and bridge: each does
// what it is for, all find things as they made them at CHECK, and when a container
// goes under traffic nobody else is cut off.
func TestChained(t *testing.T) {
	netns.Require(t, "iptables-nft", "ip6tables-nft")
	n, bin := newNode(t), tools(t)
	n.dualStack()
	d := daemon.Start(t, n.NS, sharedPool)
	networks := []string{"bridge-last", "ptp-second"}
	conf := chains(t, d.Socket, map[string][]string{
		networks[0]: append(append([]string{firstPlugins(t, "bridge", 0)}, meta(0, "iptables", `"!", "-d", "2001:db8:64::/96"`)...), `"natless"`),
		networks[1]: append([]string{firstPlugins(t, "ptp", 1), `"natless"`}, meta(1, "nftables", `"ip6", "daddr", "!=", "2001:db8:64::/96"`)...),
	})
	pods := make([]*pod, len(networks))
	for i, name := range networks {
		p := &pod{NS: netns.New(t, name), node: n, conf: conf, cniPath: bin}
		p.ports = fmt.Sprintf(`{"portMappings": [{"hostPort": %d, "containerPort": 80, "protocol": "tcp"}]}`, 8080+i)
		if _, err := p.attach("add", name, "eth0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.attach("del", name, "eth0") })
		p.serve(t, 80)
		pods[i] = p
	}
	parallel(t, 2*len(pods), 2*len(pods), func(i int) error { return limited(t, n, d, pods[i/2], i%2 == 0) })
	for i, p := range pods {
		if err := p.hears(n.server, fmt.Sprintf("[%s]:%d", hostIPv6, 8080+i)); err != nil {
			t.Errorf("host port: %v", err)
		}
		if _, err := p.attach("check", networks[i], "eth0"); err != nil {
			t.Error(err)
		}
	}
	parallel(t, 2, 2, func(i int) error {
		if i == 0 {
			_, err := pods[0].attach("del", networks[0], "eth0")
			return err
		}
		return n.fetch(pods[1].NS)
	})
	if err := pods[0].hears(n.server, fmt.Sprintf("[%s]:8080", hostIPv6)); err == nil {
		t.Error("its host port still answers")
	}
	if err := pods[1].hears(n.server, fmt.Sprintf("[%s]:8081", hostIPv6)); err != nil {
		t.Errorf("host port of the one that stays: %v", err)
	}
	if _, err := pods[1].attach("check", networks[1], "eth0"); err != nil {
		t.Error(err)
	}
	if _, err := pods[0].workload(d.Client()); err == nil {
		t.Error("the one that is gone has its share still")
	}
}

// meta are the reference plugins for the network i that change what others made.
func meta(i int, backend, conditions string) []string {
	return []string{
		fmt.Sprintf(`{"type": "tuning", "mac": "02:00:00:00:00:0%d", "mtu": 1400, "sysctl": {"net.ipv4.tcp_fin_timeout": "30"}}`, i),
		`{"type": "firewall", "backend": "iptables"}`,
		fmt.Sprintf(`{"type": "portmap", "backend": %q, "capabilities": {"portMappings": true}, "conditionsV6": [%s]}`, backend, conditions),
		`{"type": "bandwidth", "ingressRate": 20000000, "ingressBurst": 400000, "egressRate": 20000000, "egressBurst": 400000}`,
	}
}

// limited reports whether the container has the bandwidth of the plugin's limit. Set
// up behind natless-cni, it holds as soon as natlessd has seen it.
func limited(t *testing.T, n *node, d *daemon.Daemon, p *pod, egress bool) error {
	from, to, address, port := p.NS, n.server, server6, 0
	if !egress {
		w, err := p.workload(d.Client())
		if err != nil {
			return err
		}
		from, to, address, port = n.server, p.NS, w.Address.String(), int(w.Run().Last)
	}
	got, err := rate(from, to, address, port, 500*time.Millisecond)
	for try := 0; err == nil && got > 35 && try < 3; try++ {
		got, err = rate(from, to, address, port, 500*time.Millisecond)
	}
	if err != nil || got > 35 || got < 0.2 {
		return fmt.Errorf("%s, egress %v: %.1f Mbit/s through a limit of 20: %w", p.Name, egress, got, err)
	}
	t.Logf("%s, egress %v: %.1f Mbit/s through a limit of 20", p.Name, egress, got)
	return nil
}

// fetch asks the server for the first bytes of its file.
func (n *node) fetch(ns *netns.NS, options ...string) error {
	args := append([]string{"-sS", "--max-time", "60", "--range", "0-99", "-o", "/dev/null", "http://[" + server6 + "]/?who=host"}, options...)
	if out, err := ns.Command("curl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("curl: %w: %s", err, out)
	}
	return nil
}

// TestTuning: what the plugin tuning does to the limits of ports is said by CHECK,
// in whatever order, and nothing else of it disturbs.
func TestTuning(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	sysctl := func(name, value string) string {
		return fmt.Sprintf(`{"type": "tuning", "sysctl": {"net.ipv4.%s": "%s"}}`, name, value)
	}
	ports := sysctl("ip_local_port_range", `20000\t30000`)
	networks := map[string][]string{}
	cases := []struct{ name, before, after, check string }{
		{"range before", ports, "", "ip_local_port_range is 20000"}, // says tuning
		{"range after", "", ports, `net.ipv4.ip_local_port_range is "20000\t30000" instead of`},
		{"reuse before", sysctl("tcp_tw_reuse", "0"), "", "tcp_tw_reuse is 0"}, // says tuning
		{"reuse after", "", sysctl("tcp_tw_reuse", "0"), ""},
		{"small", "", `{"type": "tuning", "mtu": 1280, "mac": "02:00:00:00:00:01"}`, ""},
	}
	for i, c := range cases {
		list := []string{firstPlugins(t, "ptp", i)}
		for _, p := range []string{c.before, `"natless"`, c.after} {
			if p != "" {
				list = append(list, p)
			}
		}
		networks[fmt.Sprint("n", i)] = list
	}
	conf := chains(t, d.Socket, networks)
	parallel(t, len(cases), 2, func(i int) error {
		c := cases[i]
		p, name := &pod{NS: netns.New(t, fmt.Sprint("tuned", i)), node: n, conf: conf, cniPath: bin}, fmt.Sprint("n", i)
		defer p.attach("del", name, "eth0")
		if _, err := p.attach("add", name, "eth0"); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		out, err := p.attach("check", name, "eth0")
		if (err == nil) != (c.check == "") || !strings.Contains(out, c.check) {
			return fmt.Errorf("%s: CHECK said %q, want %q", c.name, out, c.check)
		}
		patience := "60"
		if c.name == "range after" {
			patience = "3"
		}
		if err := n.fetch(p.NS, "--max-time", patience); (err == nil) != (c.name != "range after") {
			return fmt.Errorf("%s: %v", c.name, err)
		}
		return nil
	})
}

// TestFirewallPlugin: the plugin firewall lets through the containers' IPv6, and so
// half of the way of what is translated: on a host that drops by policy doctor says
// what the other half needs. Its isolation of bridges is about the interfaces that
// a packet passes, and what is sent by way of IPv4 passes natless0: the rule of the
// README holds for that.
func TestFirewallPlugin(t *testing.T) {
	daemon.OnePath(t, "where the host drops, the fast path leaves all to the daemon")
	netns.Require(t, "iptables-nft", "ip6tables-nft")
	n, bin := newNode(t), tools(t)
	iptables := func(args string) {
		for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
			n.Run(program, strings.Fields(args)...)
		}
	}
	iptables("-P FORWARD DROP")
	d := daemon.Start(t, n.NS, sharedPool)
	firewall := `{"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"}`
	conf := chains(t, d.Socket, map[string][]string{
		"before": {firstPlugins(t, "bridge", 0), firewall, `"natless"`},
		"after":  {firstPlugins(t, "bridge", 1), `"natless"`, firewall},
	})
	var pods []*pod
	var to4, to6 []string
	for _, name := range []string{"before", "after"} {
		p := &pod{NS: netns.New(t, name), node: n, conf: conf, cniPath: bin}
		if _, err := p.attach("add", name, "eth0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.attach("del", name, "eth0") })
		w, err := p.workload(d.Client())
		if err != nil {
			t.Fatal(err)
		}
		port := w.Run().Last
		p.serve(t, int(port))
		pods = append(pods, p)
		to4, to6 = append(to4, fmt.Sprintf("[2001:db8:64::%s]:%d", w.Address, port)), append(to6, fmt.Sprintf("[%s]:%d", w.Request.IPv6[0], port))
	}
	each := func(want bool, what string, try func(i int) error) {
		t.Helper()
		parallel(t, len(pods), len(pods), func(i int) error {
			if err := try(i); (err == nil) != want {
				return fmt.Errorf("%s: %v: %v", pods[i].Name, what, err)
			}
			return nil
		})
	}
	soon := []string{"--max-time", "1"}
	each(false, "passed a policy that drops", func(i int) error { return n.fetch(pods[i].NS, soon...) })
	out, _ := n.Command(filepath.Join(daemon.Build(t), "natless"), "doctor", "--socket", d.Socket, "--config", d.Config).CombinedOutput()
	for _, remedy := range []string{"→ iptables -I FORWARD -i natless0 -j ACCEPT; iptables -I FORWARD -o natless0 -j ACCEPT", "→ ip6tables -I FORWARD -i natless0"} {
		if !strings.Contains(string(out), remedy) {
			t.Errorf("doctor does not say %q:\n%s", remedy, out)
		}
	}
	iptables("-I FORWARD -i natless0 -j ACCEPT")
	iptables("-I FORWARD -o natless0 -j ACCEPT")
	each(true, "with doctor's remedy", func(i int) error { return n.fetch(pods[i].NS) })
	each(false, "to the other's IPv6", func(i int) error { return pods[i].hears(pods[1-i].NS, to6[i], soon...) })
	each(true, "to the other's IPv4", func(i int) error { return pods[i].hears(pods[1-i].NS, to4[i]) })
	n.Run("ip6tables-nft", "-I", "FORWARD", "-i", "natless0", "-s", "2001:db8:64::198.51.100.1", "-j", "DROP")
	each(false, "to the other's IPv4, with the README's rule", func(i int) error { return pods[i].hears(pods[1-i].NS, to4[i], soon...) })
	each(true, "to the server, with the README's rule", func(i int) error { return n.fetch(pods[i].NS) })
}
