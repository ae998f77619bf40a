//go:build linux

package fastpath

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// TestFirewalls: with the rules of programs that many hosts have, a path MTU is
// learnt and a traceroute is whole, set up before natless and after it.
func TestFirewalls(t *testing.T) {
	for _, c := range []struct {
		name   string
		needs  []string
		start  func(*topology)
		state  string // of the fast path
		before bool   // natless, in a short run; else both orders
	}{
		{"firewalld", []string{"firewalld", "dbus-daemon"}, (*topology).firewalld, api.FastPathOff, false},
		{"ufw", []string{"ufw"}, (*topology).ufw, api.FastPathOff, true},
		{"kube-proxy", nil, func(n *topology) {
			n.restore("kube-proxy-iptables.rules")
			n.host.Run("ip6tables-nft", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
		}, api.FastPathOff, false},
		{"docker", nil, func(n *topology) { // its rules let natless0 through, as doctor advises
			n.host.IP("link add docker0 type bridge")
			n.host.IP("addr add 172.17.0.1/16 dev docker0")
			n.host.IP("link set docker0 up")
			n.restore("docker-accepted.rules")
		}, api.FastPathOn, true},
	} {
		for order, before := range map[string]bool{"after": false, "before": true} {
			if before != c.before && *hosts == fewHosts {
				continue
			}
			t.Run(c.name+"/"+order, func(t *testing.T) {
				netns.Require(t, append(c.needs, "iptables-nft-restore", "ip6tables-nft")...)
				n := newTopology(t, baseConfig)
				n.beyond()
				if before {
					c.start(n)
				}
				n.daemon.Start()
				if !before {
					n.attached("uplink w1 w2")
					if err := n.ping(n.w1, 2); err != nil {
						t.Error(err)
					}
					c.start(n)
				}
				within(t, 5*time.Second, "the fast path is "+c.state, func() bool { return n.fastPath().State == c.state })
				if o := n.fastPath(); o.State == api.FastPathOff && !strings.Contains(o.Detail, "left to the daemon, because packets would bypass ") {
					t.Errorf("%+v", o)
				} else {
					t.Log(o.Detail)
				}
				for _, wrong := range n.whole() {
					t.Error(wrong)
				}
			})
		}
	}
}

// restore loads rules of iptables from those that the survey is tested with.
func (n *topology) restore(file string) {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../netstack/fastpath/survey/testdata", file))
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := n.host.Command("iptables-nft-restore")
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("iptables-nft-restore: %v\n%s", err, out)
	}
}

// firewalld starts the real one, with a bus of its own, and trusts what is ours.
func (n *topology) firewalld() {
	dir := n.t.TempDir()
	bus := "unix:path=" + filepath.Join(dir, "bus")
	conf := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(conf, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>`+bus+`</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/></policy></busconfig>`), 0o600); err != nil {
		n.t.Fatal(err)
	}
	environment := append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus)
	for _, args := range [][]string{{"dbus-daemon", "--config-file=" + conf, "--nofork"}, {"firewalld", "--nofork", "--nopid"}} {
		cmd := n.host.Command(args[0], args[1:]...)
		cmd.Env = environment
		if err := netns.Start(cmd); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if args[0] == "dbus-daemon" {
			within(n.t, 5*time.Second, "a bus", func() bool { _, err := os.Stat(filepath.Join(dir, "bus")); return err == nil })
		}
	}
	control := func(args ...string) *exec.Cmd {
		cmd := n.host.Command("firewall-cmd", args...)
		cmd.Env = environment
		return cmd
	}
	within(n.t, 20*time.Second, "firewalld runs", func() bool { return control("--state").Run() == nil })
	if out, err := control("--zone=trusted", "--add-interface=w1", "--add-interface=w2", "--add-interface=natless0").CombinedOutput(); err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
}

// ufw switches the real one on, with a configuration of its own, and lets through
// what workloads begin.
func (n *topology) ufw() {
	n.host.Run("unshare", "--mount", "bash", "-ec", `dir=$(mktemp -d)
mount -t tmpfs none $dir && cp -a /etc/ufw /etc/default $dir/
mount --bind $dir/ufw /etc/ufw && mount --bind $dir/default /etc/default
ufw --force enable
ufw route allow in on w1
ufw route allow in on natless0 out on uplink`)
}
