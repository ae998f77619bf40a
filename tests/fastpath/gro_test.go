//go:build linux

package fastpath

import (
	"testing"
	"time"

	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// Packets that came one by one, as from a wire, and were put together by the host: into
// superpackets, or into lists of packets (rx-gro-list), which keep each one's headers and
// which a translation has to leave as they are. Data arrives whole, both ways, on both
// paths, and with the fast path nothing goes by the daemon.
func TestGRO(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	for _, path := range []string{"required", "off"} {
		for _, list := range []string{"off", "on"} {
			t.Run("fast path "+path+" lists "+list, func(t *testing.T) {
				t.Parallel()
				testGRO(t, path, list)
			})
		}
	}
}

func testGRO(t *testing.T, path, list string) {
	n := newTopology(t, baseConfig+"fast_path: "+path+"\n")
	for _, ns := range []*netns.NS{n.w1, n.server} {
		ns.Run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
	}
	for _, device := range []string{"w1", "uplink"} {
		n.host.Run("ethtool", "-K", device, "gro", "on", "rx-gro-list", list, "rx-udp-gro-forwarding", list)
	}
	n.daemon.Start()
	if path == "required" {
		n.attached("uplink w1 w2")
	}
	before := n.kernel()
	out, back := load.StartStream(t, n.w1, n.server, serverv6), load.StartStream(t, n.server, n.w1, workload1v4)
	datagrams := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w1, workload1v4)}
	for _, s := range []*load.Stream{out, back} {
		s.Flows(20 * time.Second)
		s.Finish()
	}
	for _, d := range datagrams {
		if sent, lost := d.Finish(); lost > sent/10 { // a queue may be full beside the streams
			t.Errorf("of %d datagrams %d were lost", sent, lost)
		}
	}
	// 32 MB, of which most come in superpackets of at most 64 KiB.
	if done := n.kernel() - before; path == "required" && done < 500 || path == "off" && done != 0 {
		t.Errorf("the kernel translated %d packets", done)
	}
}
