package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes what daemons of this configuration left in this network
// namespace, and those of namespaces that are gone, and says what it was. It
// needs no kernel that could run the fast path. Interfaces of workloads that have IPv4
// inside are closed to it.
func Cleanup(c Config) (removed []string, err error) {
	c = c.withDefaults()
	name, err := storeName(c.Device)
	if err != nil {
		return nil, err
	}
	s := &store{dir: filepath.Join(c.Root, "natless", name)}
	if err := s.take(c.Device); err != nil {
		return nil, fmt.Errorf("remove the fast path: %w: end the natlessd that has it first", err)
	}
	defer s.close()
	removed = s.collect()
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return removed, fmt.Errorf("netlink: %w", err)
	}
	defer handle.Close()
	k := newKernel(handle, c.Device)
	for _, h := range []hook{newFront(s, k), newTCX(s, k), &clsact{s, handle, k}} {
		if err := closeAll(h, handle, s); err != nil {
			return removed, err
		}
		places, err := removeAll(h)
		for _, p := range places {
			removed = append(removed, fmt.Sprintf("%s program %s at %s", h, p.role, nameOf(handle, p.ifindex)))
		}
		if err != nil {
			return removed, err
		}
	}
	if _, err := os.Stat(s.dir); err == nil {
		removed = append(removed, "pins in "+s.dir)
	}
	return removed, s.remove()
}

// closeAll closes the interfaces to IPv4 where a hook's programs are about to leave a
// workload that has it inside to itself.
func closeAll(h hook, handle *netlink.Handle, s *store) error {
	places, err := h.left()
	if err != nil || !slices.ContainsFunc(places, func(p place) bool { return p.role == sent4 }) {
		return err
	}
	c, err := newCloser(handle, s)
	if err != nil {
		return err
	}
	defer c.program.Close()
	return c.shutAll(places)
}

// removeAll takes everything of ours away from a hook, and says where it was.
func removeAll(h hook) (removed []place, err error) {
	places, err := h.left()
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if err := h.detach(p); err != nil {
			return removed, err
		}
		removed = append(removed, p)
	}
	return removed, nil
}

// Left says which interfaces of this network namespace have programs of ours at
// their ingress, each once for each program. Nothing is changed.
func Left(device string) (list []string, err error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	defer handle.Close()
	k := newKernel(handle, device)
	all, err := k.ours()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		list = append(list, fmt.Sprintf("tcx program %s at %s", s.place.role, nameOf(handle, s.place.ifindex)))
	}
	front, err := k.inFront()
	if err != nil {
		return nil, err
	}
	for _, s := range front {
		if s.owner == ours {
			list = append(list, "xdp program xdp at "+nameOf(handle, s.place.ifindex))
		}
	}
	places, err := k.filters()
	for _, p := range places {
		list = append(list, fmt.Sprintf("clsact program %s at %s", p.role, nameOf(handle, p.ifindex)))
	}
	return list, err
}

func nameOf(handle *netlink.Handle, ifindex int) string {
	l, err := handle.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Sprintf("interface %d, which is gone", ifindex)
	}
	return "interface " + l.Attrs().Name
}
