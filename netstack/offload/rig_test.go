//go:build linux

package offload

import (
	"net"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// rig is a namespace with a way to everywhere: IPv4 by one device, IPv6 by
// another, both to neighbours that are never asked.
type rig struct {
	*netns.NS
	up, work       int // the indexes of the uplink and the workload's interface
	upMAC, workMAC net.HardwareAddr
}

func newRig(t testing.TB) *rig {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "sysctl")
	r := &rig{NS: netns.New(t, "rig")}
	for _, device := range []string{"uplink", "work"} {
		r.IP("link add " + device + " type veth peer name " + device + "-far")
		r.IP("link set dev " + device + " up mtu 65535")
		r.IP("link set dev " + device + "-far up mtu 65535")
	}
	r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	r.IP("addr add 172.31.0.1/24 dev uplink")
	r.IP("neigh add 172.31.0.2 lladdr 02:00:00:00:00:02 dev uplink")
	r.IP("route add default via 172.31.0.2")
	r.IP("neigh add fe80::2 lladdr 02:00:00:00:00:03 dev work")
	r.IP("route add default via fe80::2 dev work")
	r.Do(func() {
		for device, at := range map[string]struct {
			index *int
			mac   *net.HardwareAddr
		}{"uplink": {&r.up, &r.upMAC}, "work": {&r.work, &r.workMAC}} {
			i, err := net.InterfaceByName(device)
			if err != nil {
				t.Error(err)
				return
			}
			*at.index, *at.mac = i.Index, i.HardwareAddr
		}
	})
	return r
}
