package attach

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"github.com/safchain/ethtool"

	"github.com/natless/natless/netstack/fastpath"
)

// XDP stands in front of traffic control at the interfaces that an operator names, if what
// stands there anyhow would see the packets too, and the devices can do it. All that it
// passes on finds the programs at traffic control as it does elsewhere.

// What a device can do (NETDEV_XDP_ACT_*, Linux 6.3).
const (
	xdpBasic     = 1 << 0
	xdpRedirects = 1 << 1
	xdpSends     = 1 << 2
	xdpSendsLong = 1 << 6
)

// The netdev family of generic netlink (include/uapi/linux/netdev.h).
const (
	netdevGet         = 1
	netdevIfindex     = 1
	netdevXDPFeatures = 3
)

// ability is what is known of an interface that is named for XDP.
type ability struct {
	can    uint64
	behind string // what would not see its packets any more
	why    string // it cannot be
}

// abilities are those of all interfaces that are named.
func (m *Manager) abilities(s scene) map[int]ability {
	if len(m.config.XDP) == 0 {
		return nil
	}
	all := map[int]ability{}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return all
	}
	defer tool.Close()
	for i, name := range s.fronts {
		all[i] = m.ability(tool, i, name)
	}
	return all
}

func (m *Manager) ability(tool *ethtool.Ethtool, ifindex int, name string) (a ability) {
	var err error
	if a.can, err = deviceFeatures(ifindex); err != nil {
		a.why = "the kernel does not say what its driver can do (Linux 6.3): " + err.Error()
		return a
	}
	features, err := tool.Features(name)
	switch {
	case a.can&xdpBasic == 0 || a.can&xdpRedirects == 0:
		a.why = "its driver does not run XDP programs by itself (native XDP)"
	case err == nil && features["rx-vlan-hw-parse"]:
		a.why = "its driver takes VLAN tags off before XDP sees a frame: ethtool -K " + name + " rxvlan off"
	}
	list, err := m.kernel.at(ifindex)
	if err != nil {
		a.behind = err.Error()
	}
	for _, s := range list {
		if s.owner != ours && a.behind == "" {
			a.behind = m.kernel.nameOf(s.program)
		}
	}
	return a
}

// deviceFeatures asks the kernel what the driver of an interface does with XDP.
func deviceFeatures(ifindex int) (features uint64, err error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	family, err := conn.GetFamily("netdev")
	if err != nil {
		return 0, err
	}
	ask := netlink.NewAttributeEncoder()
	ask.Uint32(netdevIfindex, uint32(ifindex))
	data, err := ask.Encode()
	if err != nil {
		return 0, err
	}
	answers, err := conn.Execute(genetlink.Message{Header: genetlink.Header{Command: netdevGet, Version: 1}, Data: data}, family.ID, netlink.Request)
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		attributes, err := netlink.NewAttributeDecoder(answer.Data)
		if err != nil {
			return 0, err
		}
		for attributes.Next() {
			if attributes.Type() == netdevXDPFeatures {
				return attributes.Uint64(), attributes.Err()
			}
		}
	}
	return 0, errors.New("no answer")
}

// fronts are the interfaces that are named for XDP, by index; the caller holds mu.
func (m *Manager) namedFronts() map[int]string {
	all := map[int]string{}
	for _, name := range m.config.XDP {
		if i := m.host.byName[name]; i != 0 {
			all[i] = name
		}
	}
	return all
}

// unfit says why an interface of that kind is never one for XDP.
func (l linkInfo) unfit() string {
	switch {
	case !l.ethernet:
		return "it is no Ethernet interface"
	case l.kind != "device" && l.kind != "veth":
		return "it is no physical interface, but a " + l.kind
	case l.master != 0:
		return "it is a port of another interface"
	}
	return ""
}

// placeFronts adds XDP to where programs are to be, and notes where it cannot; the caller
// holds mu.
func (m *Manager) placeFronts(want map[place]bool, abilities map[int]ability) {
	m.fronts, m.able = map[string]string{}, abilities
	for _, name := range m.config.XDP {
		i := m.host.byName[name]
		a, looked := abilities[i]
		why := m.host.links[i].unfit()
		switch {
		case i == 0:
			why = "there is no such interface"
		case why != "":
		case m.path.XDP == nil || m.path.XDP.Err != nil:
			why = fmt.Sprintf("the kernel does not take the program: %v", m.path.XDP.Err)
		case !looked:
			why = "nobody has looked at it yet"
		case a.why != "":
			why = a.why
		case a.behind != "" && !m.config.Required:
			why = "packets would bypass " + a.behind + " at its ingress"
		case !want[place{i, uplink}] && !want[place{i, workload}]:
			why = "nothing is translated there"
		}
		if why != "" {
			m.fronts[name] = why
			continue
		}
		want[place{i, xdp}] = true
	}
}

// attachFronts puts XDP where it is wanted and tells it of its interfaces; the caller holds
// mu. What does not work leaves an interface to traffic control.
func (m *Manager) attachFronts(want map[place]bool) error {
	if m.path.XDP == nil || m.path.XDP.Err != nil {
		return nil
	}
	for p := range want {
		if p.role != xdp || m.attached[p] && m.hook.alive(p) {
			continue
		}
		name := m.host.links[p.ifindex].name
		if err := m.hook.attach(p, m.path.XDP.Program); err != nil {
			delete(m.attached, p)
			m.fronts[name] = err.Error()
			continue
		}
		m.attached[p] = true
	}
	return m.path.XDP.SetLinks(m.links(want))
}

// links are the interfaces where XDP is, and what comes in there and leaves. What a device
// can do may depend on whether a program is there.
func (m *Manager) links(want map[place]bool) map[int]fastpath.Link {
	all := map[int]fastpath.Link{}
	for p := range want {
		if p.role != xdp || !m.attached[p] {
			continue
		}
		l := fastpath.Link{From4: want[place{p.ifindex, uplink}], From6: want[place{p.ifindex, workload}]}
		link, err := m.handle.LinkByIndex(p.ifindex)
		if err != nil || len(link.Attrs().HardwareAddr) != len(l.MAC) {
			continue
		}
		copy(l.MAC[:], link.Attrs().HardwareAddr)
		if can, err := deviceFeatures(p.ifindex); err == nil {
			l.Sends, l.SendsLong = can&xdpSends != 0, can&xdpSends != 0 && can&xdpSendsLong != 0
		}
		name := m.host.links[p.ifindex].name
		if delete(m.fronts, name); !l.Sends {
			m.fronts[name] = "its driver takes no frames of XDP (ndo_xdp_xmit): what leaves by it takes the way by traffic control"
		}
		all[p.ifindex] = l
	}
	return all
}

// leaveFronts has XDP send nothing any more to where it is not wanted, before it goes there:
// some drivers take frames only while a program is there. The caller holds mu.
func (m *Manager) leaveFronts(want map[place]bool) error {
	if m.path.XDP == nil || m.path.XDP.Err != nil {
		return nil
	}
	return m.path.XDP.SetLinks(m.links(want))
}

// XDP is how it stands in front of traffic control.
type XDP struct {
	Wanted bool
	At     []string          // interfaces
	Notes  map[string]string // by interface: why it is not there, or not all of it
}

func (m *Manager) statusXDP() XDP {
	x := XDP{Wanted: len(m.config.XDP) > 0, Notes: maps.Clone(m.fronts)}
	for p := range m.attached {
		if p.role != xdp {
			continue
		}
		l := m.host.links[p.ifindex]
		x.At = append(x.At, l.name)
		if l.kind == "veth" && x.Notes[l.name] == "" {
			x.Notes[l.name] = "it is a veth, where TCP is slower with XDP"
		}
	}
	slices.Sort(x.At)
	return x
}

// Taken is what XDP made of packets since it was loaded; false: that cannot be read.
func (m *Manager) Taken() (fastpath.Taken, bool) {
	m.counting.Lock()
	defer m.counting.Unlock()
	taken, err := m.path.XDP.Taken()
	return taken, err == nil
}
