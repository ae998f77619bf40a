//go:build linux

package metrics

import (
	"encoding/json"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/miekg/dns"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	alerts    = "../../config/deploy/prometheus/alerts.yaml"
	dashboard = "../../config/deploy/grafana/natless.json"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// What ships passes promtool: the rules, when they fire and when not, and the
// configuration around them.
func TestPromtool(t *testing.T) {
	netns.Require(t, "promtool")
	for _, args := range []string{"check rules " + alerts, "test rules ../../config/deploy/prometheus/alerts_test.yaml", "check config ../../config/deploy/prometheus/prometheus.yaml"} {
		if out, err := exec.Command("promtool", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
}

const config = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools: [{name: default, ipv4: 198.51.100.8/32, ports_per_workload: 1024}]
dns64: {enabled: true, upstreams: ["127.0.0.1:5353"]}
metrics: {listen: "[::1]:9464"}
`

const (
	workload6 = "2001:db8:6::2"
	server6   = "2001:db8:64::192.0.2.2"
)

type topology struct {
	t                  *testing.T
	work, host, server *netns.NS
	daemon             *daemon.Daemon
	workload           api.Workload
}

// newTopology has one workload with a share of an address, and a server that
// sends every datagram back.
func newTopology(t *testing.T, config string) *topology {
	n := &topology{t: t, work: netns.New(t, "work"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, n.work, "eth0", n.host, "work")
	netns.Veth(t, n.server, "eth0", n.host, "server")
	n.host.IP("addr add 2001:db8:6::1/64 dev work")
	n.host.IP("addr add 192.0.2.1/24 dev server")
	n.work.IP("addr add " + workload6 + "/64 dev eth0")
	n.work.IP("route add default via 2001:db8:6::1")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	n.daemon = daemon.Start(t, n.host, config)
	var err error
	n.workload, err = n.daemon.Client().Put(t.Context(), api.Key{ContainerID: "c1", Interface: "eth0"},
		api.Request{Name: "ns/one", IPv6: []netip.Addr{netip.MustParseAddr(workload6)}, Netns: n.work.Path})
	if err != nil {
		t.Fatal(err)
	}
	echo := n.listen(n.server, "0.0.0.0:7")
	go func() {
		for b := make([]byte, 2000); ; {
			size, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			echo.WriteTo(b[:size], from)
		}
	}()
	upstream := &dns.Server{PacketConn: n.listen(n.host, "127.0.0.1:5353"), Handler: dns.HandlerFunc(answer)}
	go upstream.ActivateAndServe()
	t.Cleanup(func() { upstream.Shutdown() })
	return n
}

// answer knows one name, with an IPv4 address.
func answer(w dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		a, _ := dns.NewRR("v4.test. 300 IN A 192.0.2.2")
		r.Answer = append(r.Answer, a)
	}
	soa, _ := dns.NewRR("test. 300 IN SOA ns.test. h.test. 1 1 1 1 200")
	r.Ns = append(r.Ns, soa)
	w.WriteMsg(r)
}

func (n *topology) listen(ns *netns.NS, address string) (c net.PacketConn) {
	n.t.Helper()
	var err error
	ns.Do(func() { c, err = net.ListenPacket("udp", address) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// send has the workload send datagrams of 100 bytes from a port, one after the
// other, and gives how many came back.
func (n *topology) send(port uint16, count int) (back int) {
	n.t.Helper()
	c := n.listen(n.work, netip.AddrPortFrom(netip.MustParseAddr(workload6), port).String())
	defer c.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(server6), 7))
	b := make([]byte, 100)
	for range count {
		if _, err := c.WriteTo(b, to); err != nil {
			continue // it was told that it may not, by an ICMP error
		}
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if size, _, err := c.ReadFrom(b); err == nil && size == len(b) {
			back++
		}
	}
	return back
}

func (n *topology) lookup() {
	n.t.Helper()
	var err error
	n.work.Do(func() { _, err = dns.Exchange(new(dns.Msg).SetQuestion("v4.test.", dns.TypeAAAA), "[2001:db8::1]:53") })
	if err != nil {
		n.t.Error(err)
	}
}

// expressions reads those of the alerts, by name, and those of the dashboard,
// by panel, as they are for all hosts.
func expressions(t *testing.T) (ofAlerts, ofPanels map[string]string) {
	t.Helper()
	ofAlerts, ofPanels = map[string]string{}, map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	var board struct {
		Annotations struct{ List []struct{ Name, Expr string } }
		Panels      []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	read(t, alerts, func(b []byte) error { return yaml.Unmarshal(b, &rules) })
	read(t, dashboard, func(b []byte) error { return json.Unmarshal(b, &board) })
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			ofAlerts[r.Alert] = r.Expr
		}
	}
	fill := strings.NewReplacer("$__rate_interval", "20s", "$instance", ".*").Replace
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			ofPanels[p.Title+" "+q.RefID] = fill(q.Expr)
		}
	}
	for _, a := range board.Annotations.List {
		ofPanels[a.Name] = fill(a.Expr)
	}
	if len(ofAlerts) < 10 || len(ofPanels) < 20 {
		t.Fatalf("only %d alerts and %d panels", len(ofAlerts), len(ofPanels))
	}
	return ofAlerts, ofPanels
}

func read(t *testing.T, path string, unpack func([]byte) error) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = unpack(b)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestPrometheus: what Prometheus sees is what happened, and every expression
// that ships says something about it.
func TestPrometheus(t *testing.T) {
	netns.Require(t, netns.Root, "prometheus", "promtool")
	n := newTopology(t, config)
	p := startPrometheus(t, n.host, alerts)
	own := n.workload.Run().First
	const sent, foul = 300, 40
	p.becomes(`natless_workload_packets_total{workload="ns/one",direction="6→4"}`, 0)
	n.lookup()
	n.lookup()
	before := time.Now()
	if back := n.send(own, sent); back != sent {
		t.Fatalf("%d of %d datagrams came back", back, sent)
	}
	if back := n.send(own-1, foul); back != 0 {
		t.Fatalf("%d datagrams from another's port came back", back)
	}
	t.Logf("traffic took %v", time.Since(before))
	n.daemon.Signal(syscall.SIGHUP)
	p.becomes(`natless_config_reloads_total{result="success"}`, 1)
	n.figures(p, sent, foul)
	p.evaluate()
	n.refusedReload(p)
	n.daemon.Kill()
	p.becomes(`up{job="natless"}`, 0)
	ofAlerts, _ := expressions(t)
	if down, err := p.query(ofAlerts["NatlessDown"]); err != nil || len(down) != 1 {
		t.Errorf("the daemon was killed: %v %v", down, err)
	}
}

// figures holds counters against what was sent, also after the reload.
func (n *topology) figures(p *prometheus, sent, foul float64) {
	n.t.Helper()
	const size = 100 + 8 // of the UDP datagrams
	for expression, want := range map[string]float64{
		`sum without (way) (natless_translated_packets_total{direction="6→4",verdict="forward4"})`: sent,
		`sum without (way) (natless_translated_packets_total{direction="4→6",verdict="forward6"})`: sent,
		`sum without (way) (natless_translated_bytes_total{direction="6→4",verdict="forward4"})`:   sent * (size + 40),
		`sum without (way) (natless_translated_bytes_total{direction="4→6",verdict="forward6"})`:   sent * (size + 20),
		`natless_workload_packets_total{workload="ns/one",key="c1/eth0",direction="6→4"}`:          sent,
		`natless_workload_packets_total{workload="ns/one",key="c1/eth0",direction="4→6"}`:          sent,
		`natless_workload_bytes_total{workload="ns/one",direction="6→4"}`:                          sent * (size + 40),
		`natless_workload_bytes_total{workload="ns/one",direction="4→6"}`:                          sent * (size + 20),
		`sum(natless_workload_packets_total{workload="other"})`:                                    0,
		`natless_workload_violations_total{workload="ns/one"}`:                                     foul,
		// The kernel itself multicasts on the device.
		`sum(natless_dropped_packets_total{reason!="never-translated"})`:           foul,
		`natless_dropped_packets_total{direction="6→4",reason="port-outside-set"}`: foul,
		`natless_pool_workloads{pool="default"}`:                                   1,
		`natless_pool_ports_used{pool="default"}`:                                  1024,
		`natless_pool_headroom_workloads{pool="default"}`:                          62,
		`natless_pool_drained{pool="default"}`:                                     0, `natless_host_drained`: 0,
		`natless_workloads`: 1, `natless_mappings`: 1, `natless_ready`: 1, `natless_device_up`: 1,
		`natless_dns64_queries_total`: 2, `natless_dns64_synthesised_total`: 2,
		`natless_dns64_responses_total{rcode="NOERROR"}`: 2,
		`sum(natless_dns64_upstream_failures_total)`:     0,
		`natless_dns64_results_total{result="asked"}`:    1,
		`natless_dns64_results_total{result="local"}`:    1,
		`count(natless_build_info{goversion!=""})`:       1,
	} {
		p.becomes(expression, want)
	}
	w, err := n.daemon.Client().Get(n.t.Context(), n.workload.Key)
	if err != nil || float64(w.Violations) != foul {
		n.t.Errorf("the API has %d violations, want %v (%v)", w.Violations, foul, err)
	}
}

// mayBeEmpty are expressions about what a healthy daemon does not have.
var mayBeEmpty = []string{"device_write_errors_total", "changes(natless_config"}

// evaluate asks for everything that ships: no error anywhere, every panel has
// something to show, and no alert is up but for what was done.
func (p *prometheus) evaluate() {
	p.t.Helper()
	ofAlerts, ofPanels := expressions(p.t)
	for name, expression := range ofPanels {
		got, err := p.query(expression)
		allowed := false
		for _, part := range mayBeEmpty {
			allowed = allowed || strings.Contains(expression, part)
		}
		switch {
		case err != nil:
			p.t.Errorf("panel %s: %s: %v", name, expression, err)
		case len(got) == 0 && !allowed:
			p.t.Errorf("panel %s: %s: nothing", name, expression)
		}
		for _, s := range got {
			if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || s.Value < 0 {
				p.t.Errorf("panel %s: %s: %v", name, expression, s)
			}
		}
	}
	for name, expression := range ofAlerts {
		got, err := p.query(expression)
		if err != nil || len(got) > 0 && name != "NatlessViolations" {
			p.t.Errorf("alert %s: %v %v", name, got, err)
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("rules", &rules); err != nil || len(rules.Groups) != 1 || len(rules.Groups[0].Rules) != len(ofAlerts) {
		p.t.Fatalf("rules: %+v, %v", rules, err)
	}
	for _, r := range rules.Groups[0].Rules {
		if r.Health != "ok" {
			p.t.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError)
		}
	}
}

// refusedReload: a configuration that is refused is seen, and its alert is up.
func (n *topology) refusedReload(p *prometheus) {
	n.t.Helper()
	n.daemon.Write(config + "nonsense: 1\n")
	n.daemon.Signal(syscall.SIGHUP)
	p.becomes(`natless_config_reloads_total{result="refused"}`, 1)
	ofAlerts, _ := expressions(n.t)
	if got, err := p.query(ofAlerts["NatlessReloadFailed"]); err != nil || len(got) != 1 {
		n.t.Errorf("a reload was refused: %v %v", got, err)
	}
}
