//go:build linux

package survey

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

const netlinkXFRM = unix.NETLINK_XFRM

// FilterPriority is where filters of ours stand: what comes before has run first.
const FilterPriority = 110

// FilterName is how the names of filters of ours begin.
const FilterName = "natless_"

// queues are queueing disciplines that decide about nothing but turns. Whatever
// stands at the egress of an interface is not bypassed but at the translator's
// device: packets do not leave by it.
var queues = []string{"noqueue", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "mq"}

// trafficControl looks for what follows the fast path at an ingress. Programs of
// TCX, which have an order of their own, are who attaches them to know.
func (s *Survey) trafficControl(o Ours, l interfaces, p *Passed) error {
	qdiscs, err := dump.Whole(func() ([]netlink.Qdisc, error) { return s.handle.QdiscList(nil) })
	if err != nil {
		return fmt.Errorf("queueing disciplines: %w", err)
	}
	device := l[o.Device]
	for _, q := range qdiscs {
		i := q.Attrs().LinkIndex
		ingress := q.Attrs().Parent == netlink.HANDLE_INGRESS
		if i == device && !ingress && !slices.Contains(queues, q.Type()) {
			p.host("queueing discipline %s at %s", q.Type(), o.Device)
		}
		if !ingress {
			continue
		}
		parents := []uint32{netlink.HANDLE_MIN_INGRESS}
		if i == device {
			parents = append(parents, netlink.HANDLE_MIN_EGRESS)
		}
		for _, parent := range parents {
			what, err := s.filter(i, parent)
			if err != nil {
				return err
			}
			if what != "" && i == device {
				p.host("%s at %s", what, o.Device)
			} else if what != "" {
				p.at(i, "%s at its ingress", what)
			}
		}
	}
	return nil
}

// filter is a filter of somebody else which a packet that ours takes does not meet.
func (s *Survey) filter(ifindex int, parent uint32) (string, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := dump.Whole(func() ([]netlink.Filter, error) { return s.handle.FilterList(link, parent) })
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return "", nil // it is gone
	}
	if err != nil {
		return "", fmt.Errorf("filters of interface %d: %w", ifindex, err)
	}
	before := -1 // priority of ours, where filters stand in one line with it
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, FilterName) {
			before = max(before, int(f.Attrs().Priority))
		}
	}
	for _, f := range all {
		b, ok := f.(*netlink.BpfFilter)
		if ok && strings.HasPrefix(b.Name, FilterName) || int(f.Attrs().Priority) < before {
			continue
		}
		return fmt.Sprintf("filter %s with preference %d", f.Type(), f.Attrs().Priority), nil
	}
	return "", nil
}

// unsupported says that the kernel does not have what was asked for.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) ||
		errors.Is(err, unix.EINVAL)
}
