//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// examine runs natless doctor on the host and gives its exit status and what
// was not ok, as "STATE CHECK".
func (n *topology) examine() (status int, wrong []string, report string) {
	n.t.Helper()
	cmd := n.host.Command(filepath.Join(daemon.Build(n.t), "natless"), "doctor", "--config", n.daemon.Config, "-o", "json")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		n.t.Fatal(err)
	}
	var findings []struct{ Check, State string }
	if err := json.Unmarshal(out, &findings); err != nil {
		n.t.Fatalf("%v in\n%s", err, out)
	}
	for _, f := range findings {
		if f.State != "ok" && f.Check != "clock" { // which is the machine's
			wrong = append(wrong, f.State+" "+f.Check)
		}
	}
	return status, wrong, string(out)
}

// diagnosed examines until it finds what is wanted: the fast path hears of a
// firewall a moment later.
func (n *topology) diagnosed(ill string, status int, want ...string) {
	n.t.Helper()
	var gotStatus int
	var got []string
	var report string
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		gotStatus, got, report = n.examine()
		slices.Sort(got)
		if got = slices.Compact(got); gotStatus == status && slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			n.t.Errorf("%s: exit status %d, %q, want %d, %q\n%s", ill, gotStatus, got, status, want, report)
			return
		}
	}
}

// left is what doctor says besides where rules of the host concern packets of
// ours, which the fast path leaves to the daemon, and where it goes on without one.
func left(want ...string) []string {
	if daemon.FastPath() == "off" {
		return want
	}
	want = append(want, "warn fast path")
	slices.Sort(want)
	return want
}

// TestDoctor makes a real host ill in one way after the other.
func TestDoctor(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "nft")
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, poolsConfig+"uplink: uplink\n")
	n.diagnosed("before the first start", 1, "fail api", "warn device")
	n.daemon.Start()
	n.diagnosed("healthy", 0)

	w := n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})
	n.diagnosed("healthy with a workload", 0)
	n.w1.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
	n.diagnosed("a container with ports of its own choice", 0, "warn containers")
	n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})

	n.host.IP("route add " + w.Address.String() + " dev uplink table 99")
	n.host.IP("rule add pref 5 lookup 99")
	n.host.IP("route add 2001:db8:64::c000:200/120 dev w1")
	n.diagnosed("other routes before ours", 1, "fail routes")
	n.host.IP("rule del pref 5")
	n.host.IP("route del 2001:db8:64::c000:200/120 dev w1")

	n.host.Run("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
	n.diagnosed("a firewall that drops by default", 1, left("fail way back", "warn firewall")...)
	n.host.Run("nft", "add rule ip filter FORWARD iifname natless0 accept; add rule ip filter FORWARD oifname natless0 accept")
	n.diagnosed("the same with its remedy", 0)
	n.host.Run("nft", "add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }; add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 masquerade")
	n.diagnosed("a container engine's own masquerading", 0, left()...)
	n.host.Run("nft", "add rule ip nat POSTROUTING oifname uplink masquerade")
	n.diagnosed("masquerading of all", 0, left("warn firewall")...)
	n.host.Run("nft", "delete table ip nat; delete table ip filter")

	n.host.IP("link set w1 mtu 1400")
	n.host.IP("link set uplink mtu 1400")
	n.diagnosed("narrow links", 1, "fail mtu", "warn mtu")
	n.host.IP("link set w1 mtu 1500")
	n.host.IP("link set uplink mtu 1500")

	n.host.Run("nft", "add table ip lost; add chain ip lost in { type filter hook prerouting priority -500; }; add rule ip lost in iifname natless0 icmp type echo-reply drop")
	n.diagnosed("answers that are dropped", 1, left("fail answers")...)
	n.host.Run("nft", "delete table ip lost")
	n.diagnosed("healthy again", 0)

	n.daemon.Kill()
	within(t, 3*time.Second, "the device goes with its daemon", func() bool { return n.host.Command("ip", "link", "show", "natless0").Run() != nil })
	n.diagnosed("killed", 1, left("fail api", "warn device")...)
	text, _ := n.host.Command(filepath.Join(daemon.Build(t), "natless"), "doctor", "--config", n.daemon.Config).CombinedOutput()
	for _, want := range []string{"fail  api ", "natlessd has died", "→ journalctl -u natlessd", "something is wrong"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}
