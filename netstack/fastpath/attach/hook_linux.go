package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// role is which of the programs.
type role uint8

const (
	uplink role = iota
	workload
	sent4  // at the own interface of a workload with IPv4 inside, also at the port of a bridge
	given4 // at the TAP
	xdp    // in front of uplink and workload
	numRoles
)

func (r role) String() string {
	return [...]string{uplink: "uplink", workload: "workload", sent4: "sent4", given4: "given4", xdp: "xdp"}[r]
}

// kind is what the kernel calls such a program.
func (r role) kind() ebpf.ProgramType {
	if r == xdp {
		return ebpf.XDP
	}
	return ebpf.SchedCLS
}

// inside says that a role is about IPv4 that workloads have inside, for which there is
// no other way.
func (r role) inside() bool { return r == sent4 || r == given4 }

// place is where one program is to be: at ingress of an interface.
type place struct {
	ifindex int
	role    role
}

func (p place) String() string { return fmt.Sprintf("%s-%d", p.role, p.ifindex) }

// hook attaches programs. What it attaches stays when the process ends.
type hook interface {
	// attach puts a program at a place, in the stead of an older one that an
	// earlier run left, so that no packet finds neither.
	attach(p place, program *ebpf.Program) error
	// alive reports whether what was attached still is: the interface may be another
	// one of the same index, or somebody else may have taken it away.
	alive(p place) bool
	// detach takes it away; the interface may be gone.
	detach(p place) error
	// left lists where an earlier run left programs.
	left() ([]place, error)
	String() string
	close()
}

const linkPrefix = "link-"

// tcx attaches by links (Linux 6.6), which are pinned.
type tcx struct {
	store  *store
	kernel *kernel
	links  map[place]link.Link
}

func newTCX(s *store, k *kernel) *tcx { return &tcx{s, k, map[place]link.Link{}} }

func (*tcx) String() string { return "tcx" }

func (t *tcx) pin(p place) string { return t.store.path(linkPrefix + p.String()) }

func (t *tcx) attach(p place, program *ebpf.Program) error {
	if t.update(p, program) {
		return t.only(p)
	}
	if taken, err := t.takeOver(p, program); taken || err != nil {
		return err
	}
	if err := t.detach(p); err != nil { // of an interface of the same index that is gone
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: p.ifindex, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attach by tcx: %w", err)
	}
	if err := l.Pin(t.pin(p)); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	t.links[p] = l
	return nil
}

// takeOver puts the program into a link whose pin is not to be seen here, so that
// no packet finds neither.
func (t *tcx) takeOver(p place, program *ebpf.Program) (bool, error) {
	l, err := t.kernel.take(p, 0)
	if err != nil || l == nil {
		return false, err
	}
	if l.Update(program) != nil {
		return false, detachLink(l)
	}
	if err := os.Remove(t.pin(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := l.Pin(t.pin(p)); err != nil {
		l.Close()
		return false, fmt.Errorf("pin the link: %w", err)
	}
	t.links[p] = l
	return true, t.only(p)
}

// only takes every other program of ours away from where one is.
func (t *tcx) only(p place) error {
	info, err := t.links[p].Info()
	if err != nil {
		return err
	}
	_, err = t.kernel.take(p, info.ID)
	return err
}

// update puts the program into the link that is there, if there is one.
func (t *tcx) update(p place, program *ebpf.Program) bool {
	l := t.links[p]
	if l == nil {
		var err error
		if l, err = link.LoadPinnedLink(t.pin(p), nil); err != nil {
			return false
		}
	}
	if ifindexOf(l) != p.ifindex || l.Update(program) != nil {
		l.Close()
		delete(t.links, p)
		return false
	}
	t.links[p] = l
	return true
}

func (t *tcx) alive(p place) bool { return t.links[p] != nil && ifindexOf(t.links[p]) == p.ifindex }

// ifindexOf is where a link is attached, 0 when that is gone.
func ifindexOf(l link.Link) int {
	info, err := l.Info()
	switch {
	case err != nil:
	case info.TCX() != nil:
		return int(info.TCX().Ifindex)
	case info.XDP() != nil:
		return int(info.XDP().Ifindex)
	}
	return 0
}

func (t *tcx) detach(p place) error {
	l := t.links[p]
	if l == nil {
		l, _ = link.LoadPinnedLink(t.pin(p), nil)
	}
	delete(t.links, p)
	var errs []error
	if l != nil {
		errs = append(errs, detachLink(l))
	}
	for {
		l, err := t.kernel.take(p, 0)
		if errs = append(errs, err); l == nil {
			break
		}
		errs = append(errs, detachLink(l))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach from interface %d: %w", p.ifindex, err)
	}
	if err := os.Remove(t.pin(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("detach from interface %d: %w", p.ifindex, err)
	}
	return nil
}

func (t *tcx) left() ([]place, error) {
	list, err := pinned(t.store.dir, linkPrefix)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(p place) bool { return p.role == xdp })
	more, err := t.kernel.left()
	return union(list, more), err
}

func union(a, b []place) []place {
	for _, p := range b {
		if !slices.Contains(a, p) {
			a = append(a, p)
		}
	}
	return a
}

func (t *tcx) close() {
	for _, l := range t.links {
		l.Close()
	}
}

// pinned lists the places that names in dir tell of.
func pinned(dir, prefix string) (places []place, err error) {
	names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		for r := range numRoles {
			number, ok := strings.CutPrefix(filepath.Base(n), prefix+r.String()+"-")
			if i, err := strconv.Atoi(number); ok && err == nil {
				places = append(places, place{i, r})
			}
		}
	}
	return places, nil
}

// anyAttached reports whether a link pinned in dir is attached to anything.
func anyAttached(dir string) bool {
	places, _ := pinned(dir, linkPrefix)
	for _, p := range places {
		l, err := link.LoadPinnedLink(filepath.Join(dir, linkPrefix+p.String()), nil)
		if err != nil {
			continue
		}
		attached := ifindexOf(l) != 0
		l.Close()
		if attached {
			return true
		}
	}
	return false
}

// haveTCX reports whether the kernel has it: a link to no interface is refused for
// another reason than that.
func haveTCX(program *ebpf.Program) bool {
	l, err := link.AttachTCX(link.TCXOptions{Interface: 0x7fffffff, Program: program, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
	}
	return err == nil || errors.Is(err, unix.ENODEV)
}
