//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// rig is a namespace with a way to everywhere: IPv4 by its uplink, IPv6 by the
// interface of the workloads, both to neighbours that are never asked. Its
// devices are taps: what is written to one comes in by it.
type rig struct {
	*netns.NS
	up, work         int
	upMAC, workMAC   net.HardwareAddr
	uplink, workload int   // the taps
	insides          []int // interfaces of workloads with IPv4 inside
}

func newRig(t testing.TB) *rig {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "sysctl")
	r := &rig{NS: netns.New(t, "rig")}
	r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.addr_gen_mode=1",
		"net.ipv6.conf.default.accept_ra=0")
	var err error
	r.Do(func() {
		if r.uplink, r.upMAC, r.up, err = tap("uplink"); err == nil {
			r.workload, r.workMAC, r.work, err = tap("work")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(r.uplink); unix.Close(r.workload) })
	for _, device := range []string{"uplink", "work"} {
		r.IP("link set dev " + device + " up mtu 65521")
	}
	r.IP("addr add 172.31.0.1/24 dev uplink")
	r.IP("neigh add 172.31.0.2 lladdr 02:00:00:00:00:02 dev uplink")
	r.IP("route add default via 172.31.0.2")
	r.IP("neigh add fe80::2 lladdr 02:00:00:00:00:03 dev work")
	r.IP("route add default via fe80::2 dev work")
	for i := range 16 {
		r.IP(fmt.Sprintf("tuntap add inside%d mode tap", i))
		r.IP(fmt.Sprintf("link set inside%d up", i))
		r.Do(func() {
			device, err := net.InterfaceByName(fmt.Sprintf("inside%d", i))
			if err == nil {
				r.insides = append(r.insides, device.Index)
			}
		})
	}
	return r
}

// tap makes a tap device with virtio-net headers and all offloads.
func tap(name string) (fd int, mac net.HardwareAddr, index int, err error) {
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		const most = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, most|unix.TUN_F_USO4|unix.TUN_F_USO6)
		if errors.Is(err, unix.EINVAL) { // before Linux 6.2
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, most)
		}
	}
	var device *net.Interface
	if err == nil {
		device, err = net.InterfaceByName(name)
	}
	if err != nil {
		unix.Close(fd)
		return 0, nil, 0, fmt.Errorf("tap %s: %w", name, err)
	}
	return fd, device.HardwareAddr, device.Index, nil
}
