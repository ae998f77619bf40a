package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
)

// hooks are where programs stand: at traffic control, and in front of it.
type hooks struct {
	hook
	front *front
}

func (h hooks) of(p place) hook {
	if p.role == xdp {
		return h.front
	}
	return h.hook
}

func (h hooks) attach(p place, program *ebpf.Program) error { return h.of(p).attach(p, program) }

func (h hooks) alive(p place) bool { return h.of(p).alive(p) }

func (h hooks) detach(p place) error { return h.of(p).detach(p) }

func (h hooks) left() ([]place, error) {
	list, err := h.hook.left()
	more, frontErr := h.front.left()
	return append(list, more...), errors.Join(err, frontErr)
}

func (h hooks) close() {
	h.hook.close()
	h.front.close()
}

// front attaches XDP by links (Linux 5.9), which are pinned, and in native mode alone.
type front struct {
	store  *store
	kernel *kernel
	links  map[place]link.Link
}

func newFront(s *store, k *kernel) *front { return &front{s, k, map[place]link.Link{}} }

func (*front) String() string { return "xdp" }

func (f *front) pin(p place) string { return f.store.path(linkPrefix + p.String()) }

func (f *front) attach(p place, program *ebpf.Program) error {
	if f.update(p, program) {
		return nil
	}
	there, err := f.kernel.inFrontOf(p.ifindex)
	if err != nil {
		return err
	}
	if there != nil && there.owner != ours {
		return fmt.Errorf("another XDP program is there: %s", f.kernel.nameOf(there.program))
	}
	if err := f.detach(p); err != nil { // of an interface of the same index that is gone, or whose pin is hidden
		return err
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: p.ifindex, Flags: link.XDPDriverMode})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("its driver does not run XDP programs by itself (native XDP): %w", err)
	case err != nil:
		return fmt.Errorf("attach by xdp: %w", err)
	}
	if err := l.Pin(f.pin(p)); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	f.links[p] = l
	return nil
}

// update puts the program into the link that is there, if there is one.
func (f *front) update(p place, program *ebpf.Program) bool {
	l := f.links[p]
	if l == nil {
		var err error
		if l, err = link.LoadPinnedLink(f.pin(p), nil); err != nil {
			if l = f.kernel.heldInFront(p.ifindex); l == nil {
				return false
			}
			if !f.repin(p, l) {
				return false
			}
		}
	}
	if ifindexOf(l) != p.ifindex || l.Update(program) != nil {
		l.Close()
		delete(f.links, p)
		return false
	}
	f.links[p] = l
	return true
}

// repin pins a link whose pin is not to be seen here.
func (f *front) repin(p place, l link.Link) bool {
	err := os.Remove(f.pin(p))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = l.Pin(f.pin(p))
	}
	if err != nil {
		l.Close()
	}
	return err == nil
}

func (f *front) alive(p place) bool { return f.links[p] != nil && ifindexOf(f.links[p]) == p.ifindex }

func (f *front) detach(p place) error {
	l := f.links[p]
	if l == nil {
		l, _ = link.LoadPinnedLink(f.pin(p), nil)
	}
	delete(f.links, p)
	var errs []error
	for _, l := range []link.Link{l, f.kernel.heldInFront(p.ifindex)} {
		if l != nil {
			errs = append(errs, detachLink(l))
		}
	}
	if there, err := f.kernel.inFrontOf(p.ifindex); err != nil || there != nil && there.owner == ours {
		errs = append(errs, err, f.kernel.detachInFront(there))
	}
	if err := os.Remove(f.pin(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach XDP from interface %d: %w", p.ifindex, err)
	}
	return nil
}

func (f *front) left() ([]place, error) {
	list, err := pinned(f.store.dir, linkPrefix)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(p place) bool { return p.role != xdp })
	all, err := f.kernel.inFront()
	for _, s := range all {
		if s.owner == ours {
			list = union(list, []place{s.place})
		}
	}
	return list, err
}

func (f *front) close() {
	for _, l := range f.links {
		l.Close()
	}
}

// inFront lists the programs of XDP at all interfaces.
func (k *kernel) inFront() (all []stands, err error) {
	links, err := dump.Whole(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		if x := l.Attrs().Xdp; x != nil && x.Attached && x.ProgId != 0 {
			id := ebpf.ProgramID(x.ProgId)
			all = append(all, stands{program: id, owner: k.look(id).owner, place: place{l.Attrs().Index, xdp}})
		}
	}
	return all, nil
}

// inFrontOf is the program of XDP at one interface; nil: there is none.
func (k *kernel) inFrontOf(ifindex int) (*stands, error) {
	all, err := k.inFront()
	if i := slices.IndexFunc(all, func(s stands) bool { return s.place.ifindex == ifindex }); i >= 0 {
		return &all[i], err
	}
	return nil, err
}

// nameOf is what to call a program.
func (k *kernel) nameOf(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d", id) // it may not be looked at, or has gone
	}
	defer p.Close()
	if info, err := p.Info(); err == nil && info.Name != "" {
		return fmt.Sprintf("%s (program %d)", info.Name, id)
	}
	return fmt.Sprintf("program %d", id)
}

// holdInFront is hold for XDP. The links of all network namespaces are to be seen: it is
// the program that tells ours.
func (k *kernel) holdInFront() error {
	all, err := k.inFront()
	all = slices.DeleteFunc(all, func(s stands) bool { return s.owner != ours })
	if err != nil || len(all) == 0 {
		return err
	}
	fastpath.EachLink(func(it *link.Iterator) { // who may not look has the pins
		info, err := it.Link.Info()
		if err != nil || info.XDP() == nil {
			return
		}
		if slices.ContainsFunc(all, func(s stands) bool { return s.program == info.Program && s.place.ifindex == int(info.XDP().Ifindex) }) {
			k.heldFront[int(info.XDP().Ifindex)] = it.Take()
		}
	})
	return nil
}

// heldInFront gives away a link of an earlier run.
func (k *kernel) heldInFront(ifindex int) link.Link {
	l := k.heldFront[ifindex]
	delete(k.heldFront, ifindex)
	return l
}

// detachInFront takes a program of ours away whose pin is not to be seen here.
func (k *kernel) detachInFront(s *stands) error {
	if s == nil {
		return nil
	}
	if err := k.holdInFront(); err != nil {
		return err
	}
	if l := k.heldInFront(s.place.ifindex); l != nil {
		return detachLink(l)
	}
	return fmt.Errorf("%s is not to be seen without CAP_SYS_ADMIN", k.nameOf(s.program))
}
