package attach

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// frontRig is a rig whose interfaces are named for XDP.
func frontRig(t *testing.T) *rig {
	netns.Require(t, netns.Root, "ip", "ethtool")
	r := newRig(t)
	r.config.XDP = []string{"uplink", "w1"}
	for _, d := range r.config.XDP {
		r.Run("ethtool", "-K", d, "rxvlan", "off")
	}
	return r
}

// program is the name of the XDP program at an interface, which runs in the driver.
func (r *rig) program(device string) (name string) {
	r.Do(func() {
		l, err := netlink.LinkByName(device)
		if err != nil || l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached {
			return
		}
		if l.Attrs().Xdp.AttachMode != 1 { // XDP_ATTACHED_DRV
			r.t.Errorf("%s: mode %d", device, l.Attrs().Xdp.AttachMode)
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(l.Attrs().Xdp.ProgId))
		if err != nil {
			r.t.Error(err)
			return
		}
		defer p.Close()
		info, _ := p.Info()
		name = info.Name
	})
	return name
}

func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not in a minute: %s", what)
		}
	}
}

func (r *rig) at(device string) bool { return strings.HasPrefix(r.program(device), "xdp_") }

// other attaches an XDP program of somebody else.
func (r *rig) other(device string) (l link.Link) {
	r.t.Helper()
	r.Do(func() {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "theirs", Type: ebpf.XDP, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		if err != nil {
			r.t.Fatal(err)
		}
		defer p.Close()
		i, err := netlink.LinkByName(device)
		if err == nil {
			l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: i.Attrs().Index})
		}
		if err != nil {
			r.t.Fatal(err)
		}
	})
	return l
}

// TestXDP: the program stands in front of traffic control at the interfaces that are named,
// stays for the next manager, which adopts it, and goes with the last.
func TestXDP(t *testing.T) {
	t.Parallel()
	r := frontRig(t)
	keep := r.config
	keep.Keep = true
	m, stop := r.run(keep)
	if s := m.Status(); !s.On || s.Detail != "" || !slices.Equal(s.XDP.At, []string{"uplink", "w1"}) || len(s.XDP.Notes) != 2 {
		t.Errorf("%+v", s)
	}
	if !r.at("uplink") || !r.at("w1") {
		t.Errorf("programs %q, %q", r.program("uplink"), r.program("w1"))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !r.at("uplink") || !r.at("w1") {
		t.Errorf("not kept: programs %q, %q", r.program("uplink"), r.program("w1"))
	}
	one := r.config
	one.XDP = []string{"uplink"}
	m, stop = r.run(one)
	if s := m.Status(); !s.Adopted || !slices.Equal(s.XDP.At, []string{"uplink"}) || r.at("w1") || !r.at("uplink") {
		t.Errorf("w1 is not named any more: %+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if r.program("uplink") != "" {
		t.Error("left")
	}
}

// TestXDPOff: who does not name interfaces has none, also after a daemon that did; and
// cleaning up takes it away.
func TestXDPOff(t *testing.T) {
	t.Parallel()
	r := frontRig(t)
	keep := r.config
	keep.Keep = true
	leave := func() {
		_, stop := r.run(keep)
		if err := stop(); err != nil || !r.at("uplink") {
			t.Fatal("not there", err)
		}
	}
	leave()
	none := r.config
	none.XDP = nil
	m, stop := r.run(none)
	if s := m.Status(); !s.Adopted || s.Detail != "" || r.program("uplink") != "" {
		t.Errorf("%+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	leave()
	r.Do(func() {
		if list, err := Left("natless0"); err != nil || !strings.Contains(strings.Join(list, "\n"), "xdp program xdp at interface w1") {
			t.Errorf("%q, %v", list, err)
		}
		if removed, err := Cleanup(r.config); err != nil || !strings.Contains(strings.Join(removed, "\n"), "xdp program xdp at interface uplink") {
			t.Errorf("%q, %v", removed, err)
		}
	})
	if r.program("uplink") != "" {
		t.Error("left")
	}
}

// TestXDPAssured: XDP need not ask about each packet while nobody else has a way in prefix
// and mappings, and the manager is there to see to it.
func TestXDPAssured(t *testing.T) {
	t.Parallel()
	r := frontRig(t)
	r.config.Keep = true
	m, stop := r.run(r.config)
	assured := m.path.Assured
	r.until("nobody has another way", assured)
	r.IP("route add blackhole 198.51.100.2")
	r.until("somebody has", func() bool { return !assured() })
	r.IP("route del blackhole 198.51.100.2")
	r.until("and no longer", assured)
	r.IP("rule add iif w1 prohibit")
	r.until("a rule", func() bool { return !assured() })
	r.IP("rule del iif w1 prohibit")
	r.until("no rule", assured)
	r.parted(m)
	x, err := ebpf.LoadPinnedMap(m.store.path("assurance"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.until("nobody is there", func() bool {
		var until uint64
		var now unix.Timespec
		return x.Lookup(uint32(0), &until) == nil && unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil && until < uint64(now.Nano())
	})
}

// parted: the programs are told how the host parts destinations, also by what the kernel tells
// nobody of.
func (r *rig) parted(m *Manager) {
	r.t.Helper()
	has := func(said bool) bool {
		in, err := ebpf.LoadPinnedMap(m.store.path("parts4"), nil)
		if err != nil {
			r.t.Fatal(err)
		}
		defer in.Close()
		var number uint32
		return (in.Lookup(append(binary.NativeEndian.AppendUint32(nil, 32), 203, 0, 113, 9), &number) == nil && number != 0) == said
	}
	r.IP("route add 203.0.113.0/24 via 192.0.2.2 dev uplink onlink")
	r.until("by a gateway", func() bool { return has(true) })
	for _, value := range []string{"1", "0"} {
		r.Run("sysctl", "-qw", "net.ipv4.ip_forward_use_pmtu="+value)
		r.Do(func() {
			if got := m.parted(); got != (value == "1") {
				r.t.Errorf("ip_forward_use_pmtu=%s: %v", value, got)
			}
		})
	}
	r.IP("route add 203.0.113.9 via 192.0.2.2 dev uplink onlink tos 0x10")
	r.until("by TOS", func() bool { return has(false) })
	r.IP("route del 203.0.113.0/24")
	r.IP("route del 203.0.113.9 tos 0x10")
}

// TestXDPRefused: where XDP cannot be, or packets would bypass something, it is said why,
// and traffic control translates.
func TestXDPRefused(t *testing.T) {
	t.Parallel()
	r := frontRig(t)
	r.IP("link add bridge type bridge")
	r.IP("link add bridged type veth peer name bridged-far")
	r.IP("link set bridged master bridge")
	r.config.XDP = []string{"uplink", "w1", "bridge", "bridged", "natless0", "nowhere"}
	theirs := r.other("w1")
	m, stop := r.run(r.config)
	defer stop()
	for name, why := range map[string]string{
		"w1": "another XDP program is there: theirs", "bridge": "it is no physical interface, but a bridge",
		"bridged": "it is a port of another interface", "natless0": "it is no Ethernet interface", "nowhere": "there is no such interface",
	} {
		if s := m.Status(); !s.On || !strings.HasPrefix(s.XDP.Notes[name], why) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if !r.at("uplink") {
		t.Error("not where it can be")
	}
	theirs.Close()
	r.until("theirs has gone", func() bool { return r.at("w1") })
	r.Run("ethtool", "-K", "uplink", "rxvlan", "on")
	r.until("VLAN tags are taken off", func() bool {
		return r.program("uplink") == "" && strings.Contains(m.Status().XDP.Notes["uplink"], "rxvlan off")
	})
	r.Run("ethtool", "-K", "uplink", "rxvlan", "off")
	r.until("they are not", func() bool { return r.at("uplink") })
	r.Run("tc", "qdisc", "add", "dev", "uplink", "clsact")
	r.Run("tc", "filter", "add", "dev", "uplink", "ingress", "protocol", "ip", "prio", "1", "u32", "match", "u32", "0", "0", "flowid", "1:1")
	r.until("a filter at ingress", func() bool { return r.program("uplink") == "" })
	r.Run("tc", "qdisc", "del", "dev", "uplink", "clsact")
	r.until("it has gone", func() bool { return r.at("uplink") })
}

// TestXDPHidden: what an earlier daemon left is found where its pins are not to be seen.
func TestXDPHidden(t *testing.T) {
	t.Parallel()
	r := frontRig(t)
	keep := r.config
	keep.Keep, keep.Root = true, bpffs(t)
	_, stop := r.run(keep)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	other := r.config
	other.Root = bpffs(t)
	m, stop := r.run(other)
	if s := m.Status(); !s.On || len(s.XDP.At) != 2 {
		t.Errorf("%+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if r.program("uplink") != "" {
		t.Errorf("left: %s", r.program("uplink"))
	}
}
