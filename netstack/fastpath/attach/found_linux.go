package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
)

// What an earlier run left is found by asking the kernel which programs stand at
// each hook. A path in a BPF file system would tell only as long as it is the
// same file system, and nothing is mounted over it.

// stands is a program at the ingress of an interface.
type stands struct {
	program ebpf.ProgramID
	link    link.ID // 0: attached without one
	owner   owner
	place   place // where owner is us
}

// owner says whose a program is.
type owner uint8

const (
	foreign owner = iota
	ours
	unseen // it may not be looked at: that takes CAP_SYS_ADMIN
)

// kernel knows the programs that it has looked at. An ID stays that of one program.
type kernel struct {
	handle *netlink.Handle
	device string

	mu    sync.Mutex // guards known
	known map[ebpf.ProgramID]known

	held      map[link.ID]link.Link // of an earlier run
	heldFront map[int]link.Link     // of XDP, by interface
}

type known struct {
	owner owner
	role  role
}

func newKernel(handle *netlink.Handle, device string) *kernel {
	return &kernel{handle: handle, device: device, known: map[ebpf.ProgramID]known{}, held: map[link.ID]link.Link{}, heldFront: map[int]link.Link{}}
}

// remember says that a program is ours, which may not be looked at by its ID.
func (k *kernel) remember(p *ebpf.Program, r role) {
	if info, err := p.Info(); err == nil {
		if id, ok := info.ID(); ok {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.known[id] = known{ours, r}
		}
	}
}

// look says whose a program is.
func (k *kernel) look(id ebpf.ProgramID) known {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w, ok := k.known[id]; ok {
		return w
	}
	var w known
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.EPERM) {
		w.owner = unseen
	}
	if err == nil {
		w = k.judge(p)
		p.Close()
	}
	if len(k.known) > 4096 { // many came and went
		maps.DeleteFunc(k.known, func(_ ebpf.ProgramID, w known) bool { return w.owner != ours })
	}
	k.known[id] = w
	return w
}

func (k *kernel) judge(p *ebpf.Program) (w known) {
	info, err := p.Info()
	if err != nil {
		return w
	}
	for r := range numRoles {
		if r.kind() == p.Type() && fastpath.IsProgram(info.Name, r.String(), k.device) && fastpath.HasMaps(info) {
			return known{ours, r}
		}
	}
	return w
}

// at lists the programs of TCX at the ingress of an interface, in their order.
func (k *kernel) at(ifindex int) (list []stands, err error) {
	r, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, link.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		return nil, nil // it is gone, or the kernel has no TCX
	}
	if err != nil {
		return nil, fmt.Errorf("programs at interface %d: %w", ifindex, err)
	}
	for _, p := range r.Programs {
		w, s := k.look(p.ID), stands{program: p.ID}
		s.link, _ = p.LinkID()
		s.owner, s.place = w.owner, place{ifindex, w.role}
		list = append(list, s)
	}
	return list, nil
}

// indexes are all interfaces.
func (k *kernel) indexes() (list []int, err error) {
	links, err := dump.Whole(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		list = append(list, l.Attrs().Index)
	}
	return list, nil
}

// ours are all programs of ours that TCX has, at all interfaces.
func (k *kernel) ours() (all []stands, err error) {
	indexes, err := k.indexes()
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		list, err := k.at(i)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if s.owner == ours {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// hold takes hold of what an earlier run left, while it may: a daemon gives up the
// right to ask for it by its ID once it is ready.
func (k *kernel) hold() error {
	all, err := k.ours()
	for _, s := range all {
		if s.link == 0 {
			continue
		}
		if l, err := link.NewFromID(s.link); err == nil {
			k.held[s.link] = l
		}
	}
	return err
}

// open is a link by its ID.
func (k *kernel) open(id link.ID) (link.Link, error) {
	if l := k.held[id]; l != nil {
		delete(k.held, id)
		return l, nil
	}
	return link.NewFromID(id)
}

func (k *kernel) close() {
	for _, l := range k.held {
		l.Close()
	}
	for _, l := range k.heldFront {
		l.Close()
	}
}

// left lists where TCX has programs of ours.
func (k *kernel) left() (places []place, err error) {
	all, err := k.ours()
	for _, s := range all {
		if !slices.Contains(places, s.place) {
			places = append(places, s.place)
		}
	}
	return places, err
}

// take is the link of the program of ours at p, and detaches all others there
// that are ours but that of keep. It is nil where there is none.
func (k *kernel) take(p place, keep link.ID) (l link.Link, err error) {
	list, err := k.at(p.ifindex)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range list {
		if s.owner != ours || s.place != p || s.link == keep || s.link == 0 {
			continue
		}
		found, err := k.open(s.link)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if keep == 0 && l == nil {
			l = found
			continue
		}
		errs = append(errs, detachLink(found))
	}
	return l, errors.Join(errs...)
}

// detachLink takes the program away, whoever else has a pin of the link.
func detachLink(l link.Link) error {
	err := l.Detach()
	if errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		err = nil // its interface is gone
	}
	return errors.Join(err, l.Close())
}

// filters lists where traffic control has filters with programs of ours.
func (k *kernel) filters() (places []place, err error) {
	err = k.eachFilter(func(i int, f netlink.Filter) {
		if r, ok := k.filter(f); ok && !slices.Contains(places, place{i, r}) {
			places = append(places, place{i, r})
		}
	})
	return places, err
}

// eachFilter is called with all filters at the ingress of all interfaces.
func (k *kernel) eachFilter(found func(ifindex int, f netlink.Filter)) error {
	qdiscs, err := dump.Whole(func() ([]netlink.Qdisc, error) { return k.handle.QdiscList(nil) })
	if err != nil {
		return fmt.Errorf("queueing disciplines: %w", err)
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent != netlink.HANDLE_INGRESS { // clsact has the same
			continue
		}
		i := q.Attrs().LinkIndex
		l, err := k.handle.LinkByIndex(i)
		if err != nil {
			continue
		}
		list, err := dump.Whole(func() ([]netlink.Filter, error) { return k.handle.FilterList(l, netlink.HANDLE_MIN_INGRESS) })
		if err != nil {
			return fmt.Errorf("filters of %s: %w", l.Attrs().Name, err)
		}
		for _, f := range list {
			found(i, f)
		}
	}
	return nil
}

// filter says that a filter is ours: it has our name and place, and its program
// is ours as far as it may be looked at.
func (k *kernel) filter(f netlink.Filter) (role, bool) {
	b, ok := f.(*netlink.BpfFilter)
	if !ok {
		return 0, false
	}
	for r := range numRoles {
		if strings.HasPrefix(b.Name, filterName(r)) && b.Attrs().Priority == priority+uint16(r) {
			return r, k.look(ebpf.ProgramID(b.Id)).owner != foreign
		}
	}
	return 0, false
}

func filterName(r role) string { return "natless_" + r.String() }
