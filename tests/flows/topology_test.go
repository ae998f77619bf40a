//go:build linux

// Package flows holds flow records against other counters on the same wire, against
// programs that others read such records with, and against a daemon that is killed,
// reloaded and short of room. What one package can prove alone may not enter here.
package flows

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

const (
	workload         = "2001:db8:6::2"
	server, serverv6 = "192.0.2.2", "2001:db8:64::c000:202"

	baseConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 198.51.100.8/32, ports_per_workload: 16384, reserved_ports: 0-1023, cooldown: 0s}
`
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

var within = load.Within

// topology is a workload and an IPv4-only server around a host.
type topology struct {
	t               testing.TB
	w, host, server *netns.NS
	daemon          *daemon.Daemon
	file            string // of records
}

// newTopology starts a daemon with flows as a configuration says; FILE in it is the
// file of records.
func newTopology(t testing.TB, config string) *topology {
	t.Helper()
	n := &topology{t: t, w: netns.New(t, "w"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, n.w, "eth0", n.host, "w")
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.w.IP("addr add 2001:db8:6::2/64 dev eth0")
	n.host.IP("addr add 2001:db8:6::1/64 dev w")
	n.w.IP("route add default via 2001:db8:6::1")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	for ns, names := range map[*netns.NS][]string{n.w: {"eth0"}, n.host: {"w", "uplink"}, n.server: {"eth0"}} {
		for _, name := range names { // what is captured is what is on a wire
			ns.Run("ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
		}
	}
	n.file = filepath.Join(t.TempDir(), "flows.json")
	n.daemon = daemon.New(t, n.host, baseConfig+strings.ReplaceAll(config, "FILE", n.file))
	n.daemon.Start()
	return n
}

// put makes the workload one.
func (n *topology) put() api.Workload {
	n.t.Helper()
	w, err := n.daemon.Client().Put(n.t.Context(), api.Key{ContainerID: "one", Interface: "eth0"},
		api.Request{Name: "ns/one", IPv6: []netip.Addr{netip.MustParseAddr(workload)}, Netns: n.w.Path, HostInterface: "w"})
	if err != nil {
		n.t.Fatal(err)
	}
	n.w.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", w.Run().First, w.Run().Last))
	if n.status().FastPath.State != api.FastPathOff {
		within(n.t, 10*time.Second, "fast path at the workload", func() bool { return len(n.status().FastPath.Interfaces) == 2 })
	}
	return w
}

// records are those in files.
func records(t testing.TB, paths ...string) (all []api.Flow) {
	t.Helper()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			var f api.Flow
			if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
				t.Fatalf("%s: %v in %q", path, err, lines.Text())
			}
			all = append(all, f)
		}
	}
	return all
}

// natless runs the command line against the daemon.
func (n *topology) natless(args ...string) string {
	n.t.Helper()
	out, err := exec.Command(filepath.Join(daemon.Build(n.t), "natless"), append(args, "--socket", n.daemon.Socket)...).CombinedOutput()
	if err != nil {
		n.t.Errorf("natless %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (n *topology) status() api.Status {
	n.t.Helper()
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}
