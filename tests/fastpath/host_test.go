//go:build linux

package fastpath

import (
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// TestAdoptsWhatChanged: the configuration is another when the next daemon
// comes. It takes the maps over and brings them to it: what stays loses nothing.
func TestAdoptsWhatChanged(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	f := n.traffic()
	n.daemon.Kill()
	n.daemon.Write(strings.Replace(required, "198.51.100.3}", "198.51.100.7}", 1))
	n.daemon.Start()
	n.attached("uplink w1 w2")
	if o := n.fastPath(); !o.Adopted {
		t.Errorf("not adopted: %+v", o)
	}
	if err := n.ping(n.w2, 2); err != nil {
		t.Error(err)
	}
	if err := n.server.Command("ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", "198.51.100.7").Run(); err != nil {
		t.Errorf("the new address does not answer: %v", err)
	}
	if err := n.server.Command("ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", workload2v4).Run(); err == nil {
		t.Error("the old address still answers")
	}
	f.finish(t, 100)
}

// TestSpoofed: a workload that sends with another's address is translated by
// nobody, neither in the kernel nor in the daemon.
func TestSpoofed(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	var server net.PacketConn
	var err error
	n.server.Do(func() { server, err = net.ListenPacket("udp4", server4Port) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	send := func(from *netns.NS, source string) {
		from.Do(func() {
			var c net.Conn
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 5000))}
			if c, err = d.Dial("udp6", "["+serverv6+"]:7777"); err == nil {
				_, err = c.Write([]byte(source))
				c.Close()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	received := func() string {
		buffer := make([]byte, 100)
		server.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		k, from, err := server.ReadFrom(buffer)
		if err != nil {
			return ""
		}
		return string(buffer[:k]) + " from " + from.String()
	}
	if err := n.ping(n.w2, 1); err != nil { // its gateway's address is resolved now
		t.Fatal(err)
	}
	n.w2.IP("addr add " + workload1 + "/128 dev eth0")
	send(n.w2, workload1)
	if got := received(); got != "" {
		t.Errorf("a spoofed datagram arrived: %s", got)
	}
	if o := n.fastPath(); o.Passed["wrong-interface"] == 0 {
		t.Errorf("nothing was spoofed: %+v", o)
	}
	n.w2.IP("addr del " + workload1 + "/128 dev eth0")
	send(n.w2, workload2)
	if got, want := received(), workload2+" from "+workload2v4+":5000"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

const server4Port = server + ":7777"

// TestInterfaceComesBack: a container's interface is deleted and made anew, and
// the uplink's, too.
func TestInterfaceComesBack(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	for range 3 {
		n.host.IP("link del w1")
		n.join(n.w1, "w1", "2001:db8:6::")
		took := within(t, 3*time.Second, "the kernel translates what comes in there", func() bool {
			before := n.kernel()
			return n.ping(n.w1, 1) == nil && n.kernel() == before+2
		})
		t.Logf("back after %v", took.Round(time.Millisecond))
	}
	n.host.IP("link del uplink")
	n.uplink()
	within(t, 3*time.Second, "the kernel translates what comes in there", func() bool {
		before := n.kernel()
		return n.ping(n.w1, 1) == nil && n.kernel() == before+2
	})
}

// TestRequiredWhereItCannotBe: the daemon says what is missing, and ends; with
// auto it goes on without.
func TestRequiredWhereItCannotBe(t *testing.T) {
	n := newTopology(t, required)
	// In a mount namespace of its own, where /sys cannot be written.
	hide := []string{"--mount", "bash", "-c", `umount /sys/fs/bpf; mount -t tmpfs -o ro none /sys/fs/bpf && exec setpriv --bounding-set -sys_admin "$@"`, "bash"}
	natlessd := filepath.Join(daemon.Build(t), "natlessd")
	out, err := n.host.Command("unshare", append(hide, natlessd, "--config", n.daemon.Config)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "fast_path: required, but no BPF file system at /sys/fs/bpf") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCleanup: after a kill, --cleanup takes away all that is there.
func TestCleanup(t *testing.T) {
	n := newTopology(t, required)
	before := n.host.Run("bash", "-c", "ip -o link; ip -4 route; ip -6 route; ip neigh show proxy; nft -t list ruleset")
	natlessd := filepath.Join(daemon.Build(t), "natlessd")
	n.daemon.Start()
	n.attached("uplink w1 w2")
	if out, err := n.host.Command(natlessd, "--config", n.daemon.Config, "--cleanup").CombinedOutput(); err == nil || n.left() == nil {
		t.Errorf("it cleans up behind a running daemon: %s", out)
	}
	n.daemon.Kill()
	out := n.host.Run("bash", "-c", `exec "$0" "$@" 2>&1`, natlessd, "--config", n.daemon.Config, "--cleanup")
	for _, what := range []string{"tcx program uplink at interface uplink", "tcx program workload at interface w1", "pins in " + n.pins()} {
		if !strings.Contains(out, what) {
			t.Errorf("it does not say %q:\n%s", what, out)
		}
	}
	if left := n.left(); left != nil {
		t.Errorf("left: %q", left)
	}
	if after := n.host.Run("bash", "-c", "ip -o link; ip -4 route; ip -6 route; ip neigh show proxy; nft -t list ruleset"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// TestFiguresDoNotTellTheWay: what went through the kernel is in the daemon's
// figures, once.
func TestFiguresDoNotTellTheWay(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	d := load.SendDatagrams(t, n.w1, n.server, serverv6)
	within(t, 5*time.Second, "some datagrams", func() bool { return n.kernel() > 100 })
	sent, _ := d.Finish()
	status, err := n.daemon.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := status.Verdicts["forward4"]; got < uint64(sent) || got > uint64(sent)+2 {
		t.Errorf("%d datagrams, and %d packets translated to IPv4", sent, got)
	}
}
