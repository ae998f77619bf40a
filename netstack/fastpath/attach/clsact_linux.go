package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// clsact attaches by filters of traffic control, for kernels before 6.6. The
// kernel keeps them with the interface. What marks ours is a priority and a
// handle, and an empty directory beside the pinned maps for each; another one
// for each clsact qdisc that we made.
type clsact struct {
	store  *store
	handle *netlink.Handle
	kernel *kernel
}

const (
	filterPrefix = "filter-"
	qdiscPrefix  = "qdisc-"

	// priority of the uplink's filter, the workload's follows: 'n'.
	priority = 110
)

func (*clsact) String() string { return "clsact" }

func (*clsact) close() {}

func (c *clsact) attach(p place, program *ebpf.Program) error {
	if err := c.qdisc(p.ifindex); err != nil {
		return err
	}
	if err := mark(c.store.path(filterPrefix + p.String())); err != nil {
		return err
	}
	f := filter(p)
	f.Fd, f.Name, f.DirectAction = program.FD(), filterName(p.role), true
	if err := c.handle.FilterReplace(f); err != nil {
		return fmt.Errorf("attach by clsact: %w", err)
	}
	return nil
}

func (c *clsact) alive(p place) bool {
	l, err := c.handle.LinkByIndex(p.ifindex)
	if err != nil {
		return false
	}
	filters, err := dump.Whole(func() ([]netlink.Filter, error) { return c.handle.FilterList(l, netlink.HANDLE_MIN_INGRESS) })
	return err == nil && slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		return f.Type() == "bpf" && f.Attrs().Priority == priority+uint16(p.role)
	})
}

func filter(p place) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: p.ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1,
		Protocol: unix.ETH_P_ALL, Priority: priority + uint16(p.role),
	}}
}

func clsactQdisc(ifindex int) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// qdisc makes sure that the interface has a place for filters at ingress.
func (c *clsact) qdisc(ifindex int) error {
	err := c.handle.QdiscAdd(clsactQdisc(ifindex))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a clsact qdisc: %w", err)
	}
	return mark(c.store.qdiscMark(ifindex))
}

// qdiscMark says that the clsact qdisc of an interface was made by us.
func (s *store) qdiscMark(ifindex int) string { return s.path(fmt.Sprint(qdiscPrefix, ifindex)) }

func (s *store) madeQdisc(ifindex int) bool {
	_, err := os.Stat(s.qdiscMark(ifindex))
	return err == nil
}

// mark makes an empty directory: a BPF file system has no plain files.
func mark(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (c *clsact) detach(p place) error {
	err := c.handle.FilterDel(filter(p))
	if gone(err) {
		err = nil
	}
	if err == nil && c.store.madeQdisc(p.ifindex) && !c.inUse(p.ifindex) {
		if err = c.handle.QdiscDel(clsactQdisc(p.ifindex)); gone(err) {
			err = nil
		}
		if err == nil {
			err = os.Remove(c.store.qdiscMark(p.ifindex))
		}
	}
	if err != nil {
		return fmt.Errorf("detach from interface %d: %w", p.ifindex, err)
	}
	if err := os.Remove(c.store.path(filterPrefix + p.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inUse reports whether anybody has filters at the interface's clsact.
func (c *clsact) inUse(ifindex int) bool {
	l, err := c.handle.LinkByIndex(ifindex)
	if err != nil {
		return false // it is gone, and its qdisc with it
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := dump.Whole(func() ([]netlink.Filter, error) { return c.handle.FilterList(l, parent) })
		if err != nil || len(filters) > 0 {
			return true
		}
	}
	return false
}

// gone says that there was nothing to remove.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}

func (c *clsact) left() ([]place, error) {
	list, err := pinned(c.store.dir, filterPrefix)
	if err != nil {
		return nil, err
	}
	more, err := c.kernel.filters()
	return union(list, more), err
}
