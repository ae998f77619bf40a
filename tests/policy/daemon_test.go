//go:build linux

package policy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

const (
	server, server6 = "192.0.2.2", "2001:db8:64::c000:202"

	base = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 198.51.100.8/32, ports_per_workload: 16384, reserved_ports: 0-1023, cooldown: 0s}
`
)

// topology is a workload and an IPv4-only server around a host.
type topology struct {
	t               *testing.T
	w, host, server *netns.NS
	daemon          *daemon.Daemon
	path            string
}

func newTopology(t *testing.T, path, policies string) *topology {
	t.Helper()
	n := &topology{t: t, w: netns.New(t, "w"), host: netns.New(t, "host"), server: netns.New(t, "server"), path: path}
	netns.Veth(t, n.w, "eth0", n.host, "w")
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.w.IP("addr add 2001:db8:6::2/64 dev eth0")
	n.host.IP("addr add 2001:db8:6::1/64 dev w")
	n.w.IP("route add default via 2001:db8:6::1")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	n.daemon = daemon.New(t, n.host, n.config(policies))
	n.daemon.Start()
	return n
}

func (n *topology) config(policies string) string {
	return base + "fast_path: " + n.path + "\n" + policies
}

// put makes the workload one, with labels.
func (n *topology) put(labels map[string]string) {
	n.t.Helper()
	w, err := n.daemon.Client().Put(n.t.Context(), api.Key{ContainerID: "one", Interface: "eth0"},
		api.Request{Name: "ns/one", IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::2")}, Netns: n.w.Path, HostInterface: "w",
			ExtraPorts: []uint16{80, 81}, Labels: labels})
	if err != nil {
		n.t.Fatal(err)
	}
	n.w.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", w.Run().First, w.Run().Last))
	if n.path != "off" {
		load.Within(n.t, 30*time.Second, "fast path at the workload", func() bool { return len(n.status().FastPath.Interfaces) == 2 })
	}
}

func (n *topology) status() api.Status {
	n.t.Helper()
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// reload puts other policies into force; wrong is what is said of them where they cannot be.
func (n *topology) reload(policies, wrong string) {
	n.t.Helper()
	n.daemon.Write(n.config(policies))
	_, err := n.daemon.Client().Reload(n.t.Context())
	if (err != nil) != (wrong != "") || err != nil && !strings.Contains(err.Error(), wrong) {
		n.t.Fatalf("reload: %v, want %q", err, wrong)
	}
}

func (n *topology) natless(args ...string) string {
	n.t.Helper()
	out, err := exec.Command(filepath.Join(daemon.Build(n.t), "natless"), append(args, "--socket", n.daemon.Socket)...).CombinedOutput()
	if err != nil {
		n.t.Errorf("natless %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// serve echoes on TCP ports of a namespace.
func serve(t *testing.T, ns *netns.NS, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		var listener net.Listener
		var err error
		ns.Do(func() { listener, err = net.Listen("tcp", a) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(c, c); c.Close() }()
			}
		}()
	}
}

// reach exchanges some bytes with a TCP server, and says why it cannot.
func reach(ns *netns.NS, address string, patience time.Duration) (err error) {
	var c net.Conn
	ns.Do(func() { c, err = net.DialTimeout("tcp", address, patience) })
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("natless")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 7))
	return err
}

const long = 20 * time.Second

// wants holds what a workload and the server can reach against what they should.
func (n *topology) wants(what string, out map[string]error, in map[string]error) {
	n.t.Helper()
	for port, want := range out {
		if err := reach(n.w, net.JoinHostPort(server6, port), long); !errors.Is(err, want) || want == nil && err != nil {
			n.t.Errorf("%s: out to %s: %v, want %v", what, port, err, want)
		}
	}
	for port, want := range in {
		if err := reach(n.server, net.JoinHostPort("198.51.100.8", port), long); !errors.Is(err, want) || want == nil && err != nil {
			n.t.Errorf("%s: in to %s: %v, want %v", what, port, err, want)
		}
	}
}

const held = `
policies:
  - name: web
    tier: Admin
    priority: 1
    subject: {labels: {app: web}}
    egress:
      - {name: api, action: Accept, to: [{networks: [192.0.2.0/24]}], protocols: [{tcp: {destinationPort: {number: %s}}}]}
      - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0]}]}
    ingress:
      - {name: http, action: Accept, from: [{networks: [192.0.2.2/32]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
      - {name: rest, action: Deny, from: [{networks: [0.0.0.0/0]}]}
`

// TestDaemon: policies hold on both paths, change at a reload and with labels, and whoever
// is denied hears of it.
func TestDaemon(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "sysctl")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, path, fmt.Sprintf(held, "7001"))
			n.put(nil)
			serve(t, n.server, server+":7001", server+":7002")
			serve(t, n.w, "[2001:db8:6::2]:80", "[2001:db8:6::2]:81")
			everything := map[string]error{"7001": nil, "7002": nil}
			n.wants("without labels", everything, map[string]error{"80": nil, "81": nil})
			n.put(map[string]string{"app": "web"})
			one := map[string]error{"7001": nil, "7002": syscall.EACCES}
			served := map[string]error{"80": nil, "81": syscall.EHOSTUNREACH}
			n.wants("with labels", one, served)
			if path == "required" {
				kernel, daemon := n.translated()
				n.wants("with labels", map[string]error{"7001": nil}, map[string]error{"80": nil})
				if k, d := n.translated(); k < kernel+10 || d != daemon {
					t.Errorf("of what is plainly allowed the kernel translated %d packets and the daemon %d", k-kernel, d-daemon)
				}
			}
			n.reload(strings.Replace(fmt.Sprintf(held, "7002"), "action: Deny", "action: Refuse", 1), "natless.yaml:")
			n.wants("after a reload that was refused", one, served)
			n.reload(fmt.Sprintf(held, "7002"), "")
			n.wants("after a reload", map[string]error{"7001": syscall.EACCES, "7002": nil}, served)
			n.told()
			n.reload(strings.Replace(fmt.Sprintf(held, "7002"), "tier: Admin", "tier: Admin\n    audit: true", 1), "")
			n.wants("audited", everything, map[string]error{"80": nil, "81": nil})
			n.reload("", "")
			n.wants("without policies", everything, map[string]error{"80": nil, "81": nil})
			n.reload(strings.Replace(fmt.Sprintf(held, "7001"), "tier: Admin", "tier: Admin\n    answer: reset", 1), "")
			n.wants("with resets", map[string]error{"7001": nil, "7002": syscall.ECONNREFUSED}, map[string]error{"80": nil, "81": syscall.ECONNREFUSED})
			n.daemon.Stop()
			n.daemon.Start()
			if all, err := n.daemon.Client().Policies(t.Context(), api.PolicyQuestion{}); err != nil || all.Policies[0].Workloads != 1 {
				t.Errorf("after a restart labels are not kept: %+v, %v", all, err)
			}
			n.put(map[string]string{"app": "web"})
			n.wants("after a restart", map[string]error{"7001": nil, "7002": syscall.ECONNREFUSED}, nil)
		})
	}
}

// translated is how many packets the kernel has translated, and the daemon itself.
func (n *topology) translated() (kernel, daemon uint64) {
	s := n.status()
	for _, v := range []string{"forward4", "forward6"} {
		k := s.FastPath.Translated[v].Packets
		kernel, daemon = kernel+k, daemon+s.Verdicts[v]-k
	}
	return kernel, daemon
}

// told is what commands say.
func (n *topology) told() {
	n.t.Helper()
	for _, c := range []struct{ words, want string }{
		{"policy list", "web"},
		{"policy explain ns/one", "web egress api"},
		{"policy test ns/one out tcp 192.0.2.2 7001", "denied, by web egress rest"},
		{"policy test ns/one in tcp 192.0.2.2 80", "allowed, by web ingress http"},
		{"explain ipv6 src 2001:db8:6::2 dst 2001:db8:64::192.0.2.2 tcp sport 16384 dport 7001", "web egress rest"},
	} {
		if out := n.natless(strings.Fields(c.words)...); !strings.Contains(out, c.want) {
			n.t.Errorf("natless %s: %s", c.words, out)
		}
	}
	all, err := n.daemon.Client().Policies(n.t.Context(), api.PolicyQuestion{})
	if err != nil || len(all.Policies) != 1 || all.Policies[0].Workloads != 1 {
		n.t.Fatalf("%+v, %v", all, err)
	}
	for _, r := range all.Policies[0].Rules {
		if r.Action == "Deny" && r.Denied == 0 || r.Action != "Deny" && r.Denied > 0 {
			n.t.Errorf("%s has denied %d", r.Rule, r.Denied)
		}
	}
}
