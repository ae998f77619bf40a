//go:build linux

package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// attach calls cnitool for one network and interface of a container.
func (p *pod) attach(command, network, ifname string) (string, error) {
	cmd := p.node.Command(p.cniPath+"/cnitool", command, network, p.Path)
	cmd.Env = append(os.Environ(), "NETCONFPATH="+p.conf, "CNI_PATH="+p.cniPath, "CNI_IFNAME="+ifname, "CAP_ARGS="+p.ports,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME="+p.Name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("cnitool %s %s %s: %w: %s", command, network, ifname, err, out)
	}
	return string(out), err
}

// doctor is what the doctor says of containers.
func (n *node) doctor(t *testing.T, d *daemon.Daemon) string {
	t.Helper()
	out, _ := n.Command(filepath.Join(daemon.Build(t), "natless"), "doctor", "--socket", d.Socket, "--config", d.Config).CombinedOutput()
	var lines []string
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "  containers ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// TestTwoRanges: containers with a ULA and a global address, by the reference
// plugins in both orders, are served by the one that their kernel sends from.
func TestTwoRanges(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin: containers' packets go both ways in TestContainersShareAnAddress")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	for i, ranges := range []string{
		`[{"subnet": "fd00:6::/64"}], [{"subnet": "2001:db8:6::/64"}]`,
		`[{"subnet": "2001:db8:7::/64"}], [{"subnet": "fd00:7::/64"}]`,
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			conf := networkConfig(t, "1.1.0",
				fmt.Sprintf(`{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [%s], "routes": [{"dst": "::/0"}]}}`, t.TempDir(), ranges),
				fmt.Sprintf(`{"type": "natless-cni", "socket": %q}`, d.Socket))
			p := n.pods(t, 1, conf, bin)[0]
			w, err := p.workload(d.Client())
			if err != nil {
				t.Fatal(err)
			}
			if len(w.Request.IPv6) != 2 || !netip.MustParsePrefix("2001:db8::/32").Contains(w.Request.IPv6[0]) {
				t.Errorf("mapped of %v is the first", w.Request.IPv6)
			}
			if err := n.download(p.NS, p.Name); err != nil {
				t.Error(err)
			}
			p.must(t, "check")
		})
	}
}

// TestSourceTaken: what comes to a container after ADD and makes its kernel send
// from elsewhere is said by CHECK and doctor.
func TestSourceTaken(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	p := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	if got := n.doctor(t, d); !strings.Contains(got, "ok    containers     1, each keeping to its ports and sending from the address that is mapped") {
		t.Errorf("doctor: %s", got)
	}
	p.IP("addr add 2001:db8:64:1::7/64 dev eth0") // a longer match than its own
	if _, err := p.cnitool("check"); err == nil || !strings.Contains(err.Error(), "2001:db8:64:1::7") {
		t.Errorf("CHECK: %v", err)
	}
	if got := n.doctor(t, d); !strings.Contains(got, "warn  containers     test/"+p.Name+" sends from 2001:db8:64:1::7") {
		t.Errorf("doctor: %s", got)
	}
}

// TestTwoNetworks: a container in two networks with natless-cni in both, by the
// reference plugins: both shares work, whichever comes and goes; where one range
// of ports cannot be right for both, the second ADD says so.
func TestTwoNetworks(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin: containers' packets go both ways in TestContainersShareAnAddress")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, baseConfig+`
pools:
  - {name: default, ipv4: 198.51.100.2/31, ports_per_workload: 1024, cooldown: 1s}
  - {name: single, ipv4: 198.51.100.4/32, ports: 40960-49151, ports_per_workload: 1024, cooldown: 1s}
`)
	conf := t.TempDir()
	network := func(name, subnet, route, more string) {
		t.Helper()
		list := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q,
			"ranges": [[{"subnet": %q}]], "routes": [{"dst": %q}]}}, {"type": "natless-cni", "socket": %q%s}]}`, name, t.TempDir(), subnet, route, d.Socket, more)
		if err := os.WriteFile(filepath.Join(conf, name+".conflist"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	network("one", "2001:db8:6::/64", "::/0", "")
	network("two", "2001:db8:7::/64", "2001:db8:99::/64", "")
	network("single", "2001:db8:8::/64", "2001:db8:99::/64", `, "pool": "single"`)
	p := &pod{NS: netns.New(t, "pod"), node: n, conf: conf, cniPath: bin}
	attach := func(command, network, ifname string) {
		t.Helper()
		if _, err := p.attach(command, network, ifname); err != nil {
			t.Fatal(err)
		}
	}
	served := func(when string, ifnames ...string) {
		t.Helper()
		list, err := d.Client().List(t.Context(), api.Filter{})
		if err != nil || len(list) != len(ifnames) {
			t.Fatalf("%s: %d workloads, %v", when, len(list), err)
		}
		for _, w := range list {
			out, err := p.Command("curl", "-sS", "--max-time", "20", "--interface", "host!"+w.Request.IPv6[0].String(), "-o", "/dev/null", "http://["+server6+"]/?who="+w.Interface).CombinedOutput()
			if err != nil {
				t.Errorf("%s: from %s: %v %s", when, w.Interface, err, out)
			}
		}
		for from, who := range n.web.observed() {
			owner, err := d.Client().Whois(t.Context(), from, time.Time{})
			if err == nil && owner.Interface != who && len(ifnames) == 2 {
				t.Errorf("%s: %s asked from %s, which is %s's", when, who, from, owner.Interface)
			}
		}
		for i, ifname := range ifnames {
			attach("check", []string{"one", "two"}[i], ifname)
		}
		if got := n.doctor(t, d); !strings.Contains(got, "ok    containers") {
			t.Errorf("%s: doctor: %s", when, got)
		}
	}
	// The way to the prefix is the first network's; what the second sends from its
	// own address leaves by its own interface.
	attach("add", "one", "eth0")
	served("one", "eth0")
	attach("add", "two", "net1")
	p.IP("-6 rule add from 2001:db8:7::/64 lookup 7")
	p.IP("-6 route add default via 2001:db8:7::1 dev net1 table 7")
	served("both", "eth0", "net1")
	if out, err := p.attach("add", "single", "net2"); err == nil || !strings.Contains(out, "their shares have none in common") {
		t.Errorf("a share with nothing in common: %v %s", err, out)
	}
	served("both, after the refusal", "eth0", "net1")
	attach("del", "two", "net1")
	served("the second gone", "eth0")
}
