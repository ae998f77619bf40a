package attach

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// XDP takes the next hop's Ethernet address from the kernel, who believes that nobody uses
// it: what was heard of a neighbour is never looked at again. So the kernel is asked to
// manage the neighbours of these interfaces (NTF_EXT_MANAGED, Linux 5.16): it probes each
// as if packets went there, also while no daemon runs.

// neighboursEvery is how often new ones are looked for. A new one was heard of just now,
// and is believed for base_reachable_time (15 to 45 s) in any case.
const neighboursEvery = time.Second

// heard are the states of a neighbour whose address is known, and may change.
const heard = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE

// keepNeighbours has the kernel manage the neighbours that XDP may send to.
func (m *Manager) keepNeighbours() {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	var at []int
	for p := range m.attached {
		if p.role == xdp {
			at = append(at, p.ifindex)
		}
	}
	m.mu.Unlock()
	for _, i := range at {
		if err := m.manage(i); err != nil {
			m.config.Log.Warn("next hops of XDP may be believed for too long", "interface", i, "error", err)
		}
	}
}

func (m *Manager) manage(ifindex int) error {
	all, err := neighbours(m.surveying, ifindex)
	errs := []error{err}
	for _, n := range all {
		if n.State&heard == 0 || n.FlagsExt&netlink.NTF_EXT_MANAGED != 0 {
			continue
		}
		n.FlagsExt |= netlink.NTF_EXT_MANAGED
		if err := change(m.surveying, n); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %v: %w", n.IP, err))
			continue
		}
		if managed := (neighbour{ifindex, n.IP.String()}); !slices.Contains(m.managed, managed) {
			m.managed = append(m.managed, managed)
		}
	}
	return errors.Join(errs...)
}

// neighbour is one that is managed because of us.
type neighbour struct {
	ifindex int
	ip      string
}

// release leaves the neighbours to who uses them.
func (m *Manager) releaseNeighbours() {
	var at []int
	for _, n := range m.managed {
		at = append(at, n.ifindex)
	}
	slices.Sort(at)
	for _, i := range slices.Compact(at) {
		all, _ := neighbours(m.surveying, i)
		for _, n := range all {
			if n.FlagsExt&netlink.NTF_EXT_MANAGED != 0 && slices.Contains(m.managed, neighbour{i, n.IP.String()}) {
				n.FlagsExt &^= netlink.NTF_EXT_MANAGED
				_ = change(m.surveying, n) // it may have gone
			}
		}
	}
	m.managed = nil
}

func neighbours(handle *netlink.Handle, ifindex int) (all []netlink.Neigh, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := dump.Whole(func() ([]netlink.Neigh, error) { return handle.NeighList(ifindex, family) })
		if err != nil {
			return nil, fmt.Errorf("neighbours: %w", err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// change tells the kernel a neighbour's extended flags. NTF_USE leaves all else as it is.
func change(handle *netlink.Handle, n netlink.Neigh) error {
	return handle.NeighSet(&netlink.Neigh{LinkIndex: n.LinkIndex, Family: n.Family, IP: n.IP, Flags: netlink.NTF_USE, FlagsExt: n.FlagsExt})
}
