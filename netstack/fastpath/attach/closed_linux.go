package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// Where a program for IPv4 inside goes and its workload stays, nobody polices what
// that one sends: it has an address and a default route, and the host, if it forwards
// IPv4, would send it on from whatever address it names. So the interface is closed to
// IPv4 by a filter of traffic control, that goes with the interface and with the next
// daemon, and is all that stays of the fast path.

const (
	closedName     = "natless_closed" // survey.FilterName begins it
	closedPriority = priority + uint16(numRoles) + 1
)

// closer drops IPv4. Its program is loaded while the process may.
type closer struct {
	handle  *netlink.Handle
	store   *store
	program *ebpf.Program
}

func newCloser(handle *netlink.Handle, s *store) (*closer, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: closedName, Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R1, asm.R1, 16, asm.Word), // protocol of struct __sk_buff
			asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_SHOT)),
			asm.JEq.Imm(asm.R1, int32(binary.NativeEndian.Uint16([]byte{0x08, 0x00})), "end"), // ETH_P_IP
			asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_UNSPEC)),
			asm.Return().WithSymbol("end"),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("program that drops IPv4: %w", err)
	}
	return &closer{handle, s, program}, nil
}

// The handle of the filter says whose the qdisc is, which goes with it or stays.
const (
	closedThere = 1
	closedMade  = 2
)

func closedFilter(ifindex int, handle uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: handle, Protocol: unix.ETH_P_ALL, Priority: closedPriority,
	}}
}

// shut has an interface take no IPv4, if it is there.
func (c *closer) shut(ifindex int) error {
	made := uint32(closedMade)
	err := c.handle.QdiscAdd(clsactQdisc(ifindex))
	if errors.Is(err, unix.EEXIST) {
		if err = nil; !c.store.madeQdisc(ifindex) {
			made = closedThere
		}
	}
	if err == nil {
		f := closedFilter(ifindex, made)
		f.Fd, f.Name, f.DirectAction = c.program.FD(), closedName, true
		err = c.handle.FilterReplace(f)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("close interface %d to IPv4: %w", ifindex, err)
	}
	return nil
}

// shutAll closes the interfaces of these places that are workloads' with IPv4 inside.
func (c *closer) shutAll(places []place) (errs error) {
	for _, p := range places {
		if p.role == sent4 {
			errs = errors.Join(errs, c.shut(p.ifindex))
		}
	}
	return errs
}

// reopen takes away what the end of an earlier daemon has closed: programs see to
// those interfaces again, or package guard does.
func (m *Manager) reopen() {
	m.looking.Lock()
	defer m.looking.Unlock()
	if err := m.kernel.reopen(m.store); err != nil {
		m.config.Log.Warn("IPv4 is still dropped where an earlier daemon ended", "error", err)
	}
}

func (k *kernel) reopen(s *store) error {
	closed := map[int]uint32{}
	err := k.eachFilter(func(ifindex int, f netlink.Filter) {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, closedName) && b.Priority == closedPriority {
			closed[ifindex] = b.Handle
		}
	})
	for ifindex, handle := range closed {
		remove := func() error { return k.handle.FilterDel(closedFilter(ifindex, handle)) }
		switch {
		case handle == closedThere:
		case !k.shared(ifindex):
			remove = func() error { return k.handle.QdiscDel(clsactQdisc(ifindex)) }
		default: // by our own filters, as a rule
			err = errors.Join(err, mark(s.qdiscMark(ifindex)))
		}
		if failed := remove(); failed != nil && !gone(failed) {
			err = errors.Join(err, fmt.Errorf("open interface %d to IPv4: %w", ifindex, failed))
		}
	}
	return err
}

// shared says that an interface's qdisc has other filters than the one that closes it.
func (k *kernel) shared(ifindex int) bool {
	l, err := k.handle.LinkByIndex(ifindex)
	if err != nil {
		return false
	}
	n := 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := dump.Whole(func() ([]netlink.Filter, error) { return k.handle.FilterList(l, parent) })
		if err != nil {
			return true
		}
		n += len(list)
	}
	return n > 1
}
