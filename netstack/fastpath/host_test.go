//go:build linux

package fastpath

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/reference"
)

// hostCase is a setting of the host, in words of ip or sysctl, and whether
// packets of the first world are translated nevertheless.
type hostCase struct {
	name, do, undo string
	six, four      bool // udp6, udp4
	host           func(*Host)
	aside          bool // udp6 leaves by an interface where no XDP is
	diverted       time.Duration
}

// hostCases are what an operator may set. Without the program, what is not
// translated here does not get to the device, or does not get out of it.
var hostCases = []hostCase{
	{name: "nothing", six: true, four: true},
	{name: "diverted", diverted: time.Hour},
	{name: "it was diverted", diverted: time.Nanosecond, six: true, four: true},
	{name: "blackhole in the prefix", do: "ip -6 route add blackhole 64:ff9b::c000:202/128", undo: "ip -6 route del blackhole 64:ff9b::c000:202/128", four: true},
	{name: "native host in the prefix", do: "ip -6 route add 64:ff9b::c000:202/128 via fe80::2 dev work", undo: "ip -6 route del 64:ff9b::c000:202/128", four: true},
	{name: "own address in the prefix", do: "ip addr add 64:ff9b::c000:202/128 dev work nodad", undo: "ip addr del 64:ff9b::c000:202/128 dev work", four: true},
	{name: "IPv6 rule by the interface", do: "ip -6 rule add iif work prohibit", undo: "ip -6 rule del iif work prohibit", four: true},
	{name: "IPv6 rule by another interface", do: "ip -6 rule add iif uplink prohibit", undo: "ip -6 rule del iif uplink prohibit", six: true, four: true},
	{name: "route inside a mapping", do: "ip route add 198.51.100.2 via 172.31.0.2", undo: "ip route del 198.51.100.2"},
	{name: "blackhole inside a mapping", do: "ip route add blackhole 198.51.100.2", undo: "ip route del blackhole 198.51.100.2"},
	{name: "own address inside a mapping", do: "ip addr add 198.51.100.2/32 dev uplink", undo: "ip addr del 198.51.100.2/32 dev uplink"},
	{name: "IPv4 rule by the interface", do: "ip rule add iif uplink to 198.51.100.2 prohibit", undo: "ip rule del iif uplink to 198.51.100.2 prohibit", six: false},
	{name: "IPv4 rule by the device", do: "ip rule add iif natless0 to 192.0.2.2 prohibit", undo: "ip rule del iif natless0 to 192.0.2.2 prohibit"},
	{name: "IPv4 rule by ports", do: "ip rule add iif uplink ipproto tcp prohibit", undo: "ip rule del iif uplink ipproto tcp prohibit", six: true, four: true},
	{name: "no forwarding at the interface", do: "sysctl -qw net.ipv4.conf.uplink.forwarding=0", undo: "sysctl -qw net.ipv4.conf.uplink.forwarding=1"},
	{name: "source is the host's own", do: "ip addr add 192.0.2.2/32 dev uplink", undo: "ip addr del 192.0.2.2/32 dev uplink"},
	{name: "source is elsewhere", do: "ip route add 192.0.2.2 dev bare", undo: "ip route del 192.0.2.2", six: true, four: true, aside: true},
	{name: "source is elsewhere, rp_filter=1", do: "ip route add 192.0.2.2 dev bare", undo: "ip route del 192.0.2.2", six: true, aside: true, host: func(h *Host) { h.Strict = true }},
	{name: "source is here, rp_filter=1", six: true, four: true, host: func(h *Host) { h.Strict = true }},
	{name: "the route to the device is narrow", do: "ip -6 route change 64:ff9b::/96 dev natless0 mtu lock 1280", undo: "ip -6 route change 64:ff9b::/96 dev natless0", four: true},
	{name: "by an uplink", six: true, four: true, host: func(h *Host) { h.Uplinks[1] = h.Via; h.Uplinks[0] = 1 }},
	{name: "by no uplink", host: func(h *Host) { h.Uplinks[0] = 1 }},
	{name: "the device lost IPv4's routes", do: "ip route flush dev natless0", undo: ownRoutes, six: true, four: true, host: func(h *Host) { h.Alone = true }},
	{name: "the device lost IPv4's routes, others are there", do: "ip route flush dev natless0", undo: ownRoutes},
	{name: "the device lost its routes", do: "ip route flush dev natless0; ip -6 route flush dev natless0", undo: "ip route add 198.51.100.0/24 dev natless0; ip -6 route add 64:ff9b::/96 dev natless0", six: true, four: true, host: func(h *Host) { h.Alone = true }},
	{name: "diverted, and the device is gone", six: true, four: true, diverted: time.Hour, host: func(h *Host) { h.Device, h.Alone = noSuchDevice, true }},
	{name: "the device is gone", six: true, four: true, host: func(h *Host) { h.Device, h.Alone = noSuchDevice, true }},
	{name: "the device is gone, others are there", host: func(h *Host) { h.Device = noSuchDevice }},
}

// ownRoutes are those of IPv4 to the device, once more.
var ownRoutes = "ip route add 198.51.100.0/24 dev natless0; ip route add " + prefixed()[0].Config.IPv4.String() + " dev natless0"

// tick is as long as programs may remember what the host said.
const tick = 20 * time.Millisecond

const noSuchDevice = 0x7fffffff

// hostWays runs the cases, with a device to which routes lead as route makes them.
func hostWays(t *testing.T, r *rig, f *FastPath) {
	r.IP("tuntap add bare mode tun")
	r.IP("tuntap add natless0 mode tun")
	for _, d := range []string{"bare", "natless0"} {
		r.IP("link set " + d + " up")
	}
	r.IP("route add 198.51.100.0/24 dev natless0")
	r.IP("route add " + prefixed()[0].Config.IPv4.String() + " dev natless0")
	r.IP("route add " + prefixed()[0].Config.IPv6.String() + " dev natless0")
	r.IP("route add 64:ff9b::/96 dev natless0")
	defer r.IP("link del natless0")
	defer r.IP("link del bare")
	device := 0
	r.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	p := newPair(t, r, prefixed()[0], f)
	j := p.judge()
	for _, c := range hostCases {
		h := Host{Device: device, Via: r.up}
		if c.host != nil {
			c.host(&h)
		}
		if err := errors.Join(f.SetHost(h), f.Divert(c.diverted)); err != nil {
			t.Fatal(err)
		}
		if c.do != "" {
			r.Run("bash", "-c", c.do)
			time.Sleep(tick)
		}
		r.Do(func() {
			for _, try := range []struct {
				run  *runner
				in   []byte
				want bool
			}{{j.workload, udp6(1300), c.six}, {j.uplink, udp4(1200), c.four}} {
				for mark := range uint32(2) {
					try.run.context.mark = mark
					a, _, err := try.run.run(reference.Packet{Bytes: try.in}, 0)
					if got := a == actRedirect; err != nil || got != (try.want && mark == 0) {
						t.Errorf("%s: IPv%d, mark %d: translated is %v (%v)", c.name, try.in[0]>>4, mark, got, err)
					}
				}
				try.run.context.mark = 0
			}
			if f.XDP != nil {
				front := j.front()
				for run, want := range map[*runner]bool{front.run6: c.six && !c.aside, front.run4: c.four} {
					in := udp6(1300)
					if run == front.run4 {
						in = udp4(1200)
					}
					a, _, err := run.run(reference.Packet{Bytes: in}, 0)
					if got := a == xdpRedirect; err != nil || got != want {
						t.Errorf("%s: IPv%d, XDP: translated is %v (%v)", c.name, in[0]>>4, got, err)
					}
				}
			}
		})
		if c.undo != "" {
			r.Run("bash", "-c", c.undo)
		}
	}
	if err := f.SetHost(Host{}); err != nil {
		t.Fatal(err)
	}
}

// TestHostWays: what the host would not lead to the device, or not out of it, is
// passed on.
func TestHostWays(t *testing.T) {
	r := newRig(t)
	hostWays(t, r, loaded(t))
	if left := r.Run("bash", "-c", "ip rule; ip -6 rule"); strings.Contains(left, "prohibit") {
		t.Errorf("left: %s", left)
	}
}
