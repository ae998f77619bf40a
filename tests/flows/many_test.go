//go:build linux

package flows

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// TestManyNewFlows: each packet is another flow, as fast as one sender can. All are in
// records, or told as lost, and none is lost to that. NATLESS_FLOWS_FOR is for how long.
func TestManyNewFlows(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	long := 300 * time.Millisecond
	if d, err := time.ParseDuration(os.Getenv("NATLESS_FLOWS_FOR")); err == nil {
		long = d
	}
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			n := newTopology(t, "flows: {json: {path: FILE, keep: 1000, max_size: 10000}, idle: 1s, max_flows: 1000000}\nfast_path: "+path+"\n")
			n.host.IP("route add 203.0.113.0/24 via 192.0.2.2")
			n.server.IP("route add blackhole 203.0.113.0/24")
			n.put()
			forwarded := func() uint64 { return n.status().Verdicts["forward4"] } // by daemon and kernel
			before := forwarded()
			var c *net.UDPConn
			var err error
			n.w.Do(func() { c, err = net.ListenUDP("udp6", nil) })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			to, sent := netip.MustParseAddr("2001:db8:64::203.0.113.0").As16(), 0
			for end := time.Now().Add(long); time.Now().Before(end); {
				for range 100 { // in bursts, at 100,000 a second
					to[15] = byte(1 + sent/60_000%250)
					c.WriteToUDPAddrPort([]byte("new"), netip.AddrPortFrom(netip.AddrFrom16(to), uint16(1000+sent%60_000)))
					sent++
				}
				time.Sleep(time.Until(end.Add(time.Duration(sent)*10*time.Microsecond - long)))
			}
			time.Sleep(100 * time.Millisecond)
			came := forwarded() - before
			n.natless("flows", "--number", "1")
			s := n.status().Flows
			n.daemon.Stop()
			files, _ := filepath.Glob(n.file + "*")
			var packets uint64
			for _, f := range records(t, files...) {
				packets += f.Sent.Packets
			}
			dropped := s.Receivers[0].Dropped
			t.Logf("%d sent in %v, %d translated, %d in records, %d not itemised, %d records dropped", sent, long, came, packets, s.Lost.Packets, dropped)
			if came < 1000 || packets+s.Lost.Packets+dropped != came {
				t.Errorf("%d packets were translated", came)
			}
		})
	}
}
