//go:build linux

package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestOthersMasquerade: the reference bridge plugin masquerades IPv4 containers
// to the host's address, which workloads share: status says so, with either of
// its backends, and no more when it is gone or kept off the pool's ports; both
// kinds of containers are served meanwhile.
func TestOthersMasquerade(t *testing.T) {
	netns.Require(t, "iptables-nft", "nft")
	n, bin := newNode(t), tools(t)
	n.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	d := daemon.Start(t, n.NS, baseConfig+`
pools:
  - {name: host, ipv4: uplink, ports: 12288-28671, ports_per_workload: 1024, cooldown: 1s}
`)
	workload := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	says := func(when, want string) { t.Helper(); othersNAT(t, d, when, want) }
	says("nobody else", "ok")
	for _, backend := range []string{"iptables", "nftables"} {
		conf := t.TempDir()
		list := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "v4", "plugins": [{"type": "bridge", "bridge": "v4br", "isGateway": true, "ipMasq": true, "ipMasqBackend": %q,
			"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "172.17.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, backend, t.TempDir())
		if err := os.WriteFile(filepath.Join(conf, "v4.conflist"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		other := &pod{NS: netns.New(t, backend), node: n, conf: conf, cniPath: bin}
		if _, err := other.attach("add", "v4", "eth0"); err != nil {
			t.Fatal(err)
		}
		says(backend, "warn somebody else's rules may take ports that workloads own")
		out, err := other.Command("curl", "-sS", "--max-time", "20", "-o", "/dev/null", "http://"+serverIPv4+"/?who=host").CombinedOutput()
		if err != nil {
			t.Errorf("%s: the other engine's container: %v %s", backend, err, out)
		}
		if err := n.download(workload.NS, workload.Name); err != nil {
			t.Errorf("%s: %v", backend, err)
		}
		if _, err := other.attach("del", "v4", "eth0"); err != nil {
			t.Error(err)
		}
		says(backend+" gone", "ok")
	}
	n.Run("nft", "add table ip mine; add chain ip mine post { type nat hook postrouting priority 100; }; "+
		"add rule ip mine post ip saddr 172.18.0.0/16 oifname uplink masquerade")
	says("by hand", "chain ip mine post to uplink; give the rule ports outside of the pool (meta l4proto { tcp, udp } masquerade to :28672-65535)")
	n.Run("nft", "flush chain ip mine post; add rule ip mine post ip saddr 172.18.0.0/16 oifname uplink meta l4proto { tcp, udp } masquerade to :28672-65535")
	says("with the remedy", "ok")
	n.Run("nft", `flush chain ip mine post; add table ip kube-proxy; add chain ip kube-proxy mark-for-masquerade { mark set mark or 0x4000; }
		add chain ip kube-proxy masquerading { mark and 0x4000 == 0 return; masquerade fully-random; }
		add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }`)
	says("kube-proxy without a service of IPv4", "ok kube-proxy's usual rule (chain ip kube-proxy masquerading) is for packets that it has marked, and it marks none")
	n.Run("nft", "add chain ip kube-proxy service-A { ip daddr 10.0.0.1 jump mark-for-masquerade; }")
	says("with one", "warn somebody else's rules may take ports that workloads own, whose answers then go to the wrong one: chain ip kube-proxy masquerading; kube-proxy cannot be given ports")
	checkWhois(t, n, d.Client(), 1)
}

// othersNAT waits until status says so of others' rules.
func othersNAT(t *testing.T, d *daemon.Daemon, when, want string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		s, err := d.Client().Status(t.Context())
		if err != nil {
			return err
		}
		for _, c := range s.Checks {
			if c.Name == "others' nat" {
				if got := strings.TrimSpace(c.State + " " + c.Detail); got != want && (want == "ok" || !strings.Contains(got, want)) {
					return fmt.Errorf("%s: status says %q, want %q", when, got, want)
				}
				return nil
			}
		}
		return fmt.Errorf("%s: status says nothing", when)
	})
}

// TestPortsTaken: what becomes of a port that a workload owns and that somebody
// else's container connects from, masqueraded by the reference bridge, or is
// published at, by portmap: with the fast path the workload gets the packets, by
// way of natless0 the container. status and doctor name the rules; the workload
// is served either way, and the container from and at ports outside of the pool.
func TestPortsTaken(t *testing.T) {
	netns.Require(t, "iptables-nft", "nft")
	n, bin := newNode(t), tools(t)
	n.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	d := daemon.Start(t, n.NS, baseConfig+`
pools:
  - {name: host, ipv4: uplink, ports: 12288-28671, ports_per_workload: 1024, cooldown: 1s}
`)
	workload := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	w, err := workload.workload(d.Client())
	if err != nil {
		t.Fatal(err)
	}
	owned := int(w.Run().First)
	var others []*pod
	var says []string
	for i, backend := range []string{"iptables", "nftables"} {
		conf := chains(t, d.Socket, map[string][]string{backend: {
			fmt.Sprintf(`{"type": "bridge", "bridge": "v4br%[1]d", "isGateway": true, "ipMasq": true, "ipMasqBackend": %[2]q,
				"ipam": {"type": "host-local", "dataDir": %[3]q, "ranges": [[{"subnet": "172.17.%[1]d.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}`, i, backend, t.TempDir()),
			fmt.Sprintf(`{"type": "portmap", "backend": %q, "snat": false, "capabilities": {"portMappings": true}}`, backend),
		}})
		p := &pod{NS: netns.New(t, backend), node: n, conf: conf, cniPath: bin}
		p.ports = fmt.Sprintf(`{"portMappings": [{"hostPort": %d, "containerPort": 80, "protocol": "tcp"},
			{"hostPort": %d, "containerPort": 80, "protocol": "tcp"}, {"hostPort": %d, "containerPort": 80, "protocol": "tcp"}]}`, owned+i, 8080+i, 28000+i)
		if _, err := p.attach("add", backend, "eth0"); err != nil {
			t.Fatal(err)
		}
		p.serve(t, 80)
		others, says = append(others, p), append(says, fmt.Sprintf("publishes port %d", owned+i))
	}
	othersNAT(t, d, "both", says[0])
	out, _ := n.Command(filepath.Join(daemon.Build(t), "natless"), "doctor", "--socket", d.Socket, "--config", d.Config).CombinedOutput()
	if !strings.Contains(string(out), says[0]) || !strings.Contains(string(out), says[1]) {
		t.Errorf("doctor does not say %q:\n%s", says, out)
	}
	s, err := d.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	taken := s.FastPath.State == api.FastPathOn
	parallel(t, len(others), len(others), func(i int) error {
		p := others[i]
		from := func(port int) error {
			out, err := p.Command("curl", "-sS", "--max-time", "3", "-r", "0-99", "-o", "/dev/null", "--local-port", fmt.Sprint(port), "http://"+serverIPv4+"/?who=host").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w %s", err, out)
			}
			return nil
		}
		at := func(port int) error { return p.hears(n.server, fmt.Sprintf("%s:%d", hostIPv4, port)) }
		var errs []error
		for what, c := range map[string]struct {
			err   error
			works bool
		}{
			"at a port of the workload": {at(owned + i), !taken}, "at a port of nobody": {at(8080 + i), true},
			"from a port of the workload": {from(owned + 10 + i), !taken}, "from a port of nobody": {from(40000 + i), true},
		} {
			if (c.err == nil) != c.works {
				errs = append(errs, fmt.Errorf("%s: %s, fast path %s: %v", p.Name, what, s.FastPath.State, c.err))
			}
		}
		return errors.Join(errs...)
	})
	// Who asks for such a port is told, and not given it; a port beside it is had.
	for i, want := range []string{"chain ip nat CNI-DN-", "publishes port 28001", ""} {
		conf := networkConfig(t, "1.1.0", firstPlugins(t, "ptp", 1+i), fmt.Sprintf(`{"type": "natless-cni", "socket": %q, "extraPorts": [%d]}`, d.Socket, 28000+i))
		p := &pod{NS: netns.New(t, fmt.Sprint("wants", i)), node: n, conf: conf, cniPath: bin}
		out, err := p.cnitool("add")
		if refused := err != nil && strings.Contains(err.Error(), "extra_ports: somebody else publishes one of them on "+hostIPv4) && strings.Contains(err.Error(), want); refused != (want != "") {
			t.Errorf("port %d: %s %v", 28000+i, out, err)
		}
		p.cnitool("del")
	}
	if err := n.fetch(workload.NS, "--local-port", fmt.Sprintf("%d-%d", owned+20, owned+29)); err != nil {
		t.Error(err)
	}
	for i, backend := range []string{"iptables", "nftables"} {
		if _, err := others[i].attach("del", backend, "eth0"); err != nil {
			t.Error(err)
		}
	}
	othersNAT(t, d, "both gone", "ok")
}
