//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/flows"
)

// Option is what a fast path may do besides.
type Option func(*FastPath)

// Itemising has the programs itemise what they translate, one of so many packets by
// chance, with room for some flows between two calls of DrainFlows. What is not asked for costs nothing: the kernel's
// verifier takes it out of the programs.
func Itemising(room, sample int) Option {
	return func(f *FastPath) { f.itemising = &itemising{room: uint32(room), sample: uint32(max(sample, 1))} }
}

// unitemisedRoom is of how many mappings it is known what found no room.
const unitemisedRoom = 1024

// itemising is the maps that flows are counted in: one pair that the programs see,
// and one that is empty.
type itemising struct {
	room   uint32
	sample uint32
	mu     sync.Mutex // held by who drains
	pair   [2]flowMaps
	seen   int         // of pair
	left   []*ebpf.Map // by who had the maps before, as flowPins has them; nil where there is none: nobody writes there
	last   []last      // what there was when the maps were closed
	gone   bool        // they are
	keys   []flows.Key
	sums   []flows.Sum
}

// flowMaps are the flows, and by slot what found no room among them.
type flowMaps [programNUM_FLOW_MAPS]*ebpf.Map

const programNUM_FLOW_MAPS = 2

// flowPins are what the inner maps are pinned as: without CAP_SYS_ADMIN nobody gets
// them out of the outer one.
var flowPins = [2][programNUM_FLOW_MAPS]string{{"flows_0", "unitemised_0"}, {"flows_1", "unitemised_1"}}

// begin makes the maps and has the programs see them.
func (i *itemising) begin(spec *ebpf.CollectionSpec, outer *ebpf.Map) error {
	for n := range i.pair {
		for m, room := range []uint32{i.room, unitemisedRoom} {
			inner := spec.Maps[programMapFlows].InnerMap.Copy()
			inner.Name, inner.MaxEntries = flowPins[n][m], room
			made, err := ebpf.NewMap(inner)
			if err != nil {
				return fmt.Errorf("flows of the fast path, room for %d: %w", room, err)
			}
			i.pair[n][m] = made
		}
		if err := i.pair[n].others(); err != nil {
			return err
		}
	}
	return i.show(outer, 0)
}

// others makes the entry of all whose own found no room, which must be there.
func (m *flowMaps) others() error {
	if err := m[1].Put(&flows.Key{}, &flows.Sum{}); err != nil {
		return fmt.Errorf("flows of the fast path: %w", err)
	}
	return nil
}

// show has the programs see one of the pairs. The kernel returns when no program
// sees the other one any more (see commit).
func (i *itemising) show(outer *ebpf.Map, n int) error {
	for at, m := range i.pair[n] {
		if err := outer.Put(uint32(at), m); err != nil {
			return fmt.Errorf("flows of the fast path: other maps: %w", err)
		}
	}
	i.seen = n
	return nil
}

// last is a flow, or what found no room, that nobody has drained yet.
type last struct {
	flows.Key
	flows.Sum
	lost bool
}

// close closes the maps, and keeps what is in them for who drains. Programs that stay
// go on to the other pair, for a successor.
func (i *itemising) close(outer *ebpf.Map) {
	if i == nil || i.pair[0][0] == nil {
		return
	}
	_, _ = i.drain(outer, func(k *flows.Key, s *flows.Sum) { i.last = append(i.last, last{*k, *s, false}) },
		func(slot uint32, n flows.Lost) {
			i.last = append(i.last, last{flows.Key{Slot: slot}, flows.Sum{Packets: [2]uint64{n.Packets}, Bytes: [2]uint64{n.Bytes}}, true})
		})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = true
	for n := range i.pair {
		for _, m := range i.pair[n] {
			m.Close()
		}
	}
	for _, m := range i.left {
		m.Close()
	}
}

// inheritFlows takes over what a process before has itemised and nobody has drained,
// or takes it away, where nothing is itemised any more.
func (f *FastPath) inheritFlows(dir string) error {
	if f.itemising != nil {
		f.itemising.adopt(dir)
		return f.itemising.pin(dir)
	}
	for n := range flowPins {
		for m, name := range flowPins[n] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := f.maps.Flows.Delete(uint32(m)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("flows of the fast path: %w", err)
			}
		}
	}
	return nil
}

// adopt takes what another process left, to be drained once.
func (i *itemising) adopt(dir string) {
	for n := range flowPins {
		for _, name := range flowPins[n] {
			m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
			if err != nil {
				m = nil // who had it was killed while he pinned
			}
			i.left = append(i.left, m)
		}
	}
}

// pin puts the maps where a successor finds them.
func (i *itemising) pin(dir string) error {
	for n := range flowPins {
		for m, name := range flowPins[n] {
			at := filepath.Join(dir, name)
			if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := i.pair[n][m].Pin(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// Itemises says that the programs itemise flows.
func (f *FastPath) Itemises() bool { return f.itemising != nil }

// DrainFlows takes away what the programs have itemised since the last time, and what
// found no room, by slot (0: of whoever). It gives how many flows there were.
func (f *FastPath) DrainFlows(flow func(*flows.Key, *flows.Sum), lost func(slot uint32, n flows.Lost)) (int, error) {
	if f.itemising == nil {
		return 0, nil
	}
	return f.itemising.drain(f.maps.Flows, flow, lost)
}

func (i *itemising) drain(outer *ebpf.Map, flow func(*flows.Key, *flows.Sum), lost func(uint32, flows.Lost)) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.gone {
		for n := range i.last {
			if l := &i.last[n]; l.lost {
				lost(l.Slot, flows.Lost{Packets: l.Packets[0], Bytes: l.Bytes[0]})
			} else {
				flow(&l.Key, &l.Sum)
			}
		}
		i.last = nil
		return 0, nil
	}
	before := i.seen
	if err := i.show(outer, 1-before); err != nil {
		return 0, err
	}
	errs := []error{i.inherit(flow, lost)}
	n, err := i.empty(i.pair[before][0], flow)
	errs = append(errs, err)
	_, err = i.empty(i.pair[before][1], unitemised(lost))
	return n, errors.Join(append(errs, err, i.pair[before].others())...)
}

func unitemised(lost func(slot uint32, n flows.Lost)) func(*flows.Key, *flows.Sum) {
	return func(k *flows.Key, s *flows.Sum) {
		if s.Packets != [2]uint64{} {
			lost(k.Slot, flows.Lost{Packets: s.Packets[0] + s.Packets[1], Bytes: s.Bytes[0] + s.Bytes[1]})
		}
	}
}

// inherit drains what a process before has left. Its slots are another table's.
func (i *itemising) inherit(flow func(*flows.Key, *flows.Sum), lost func(uint32, flows.Lost)) (err error) {
	for n, m := range i.left {
		if m == nil {
			continue
		}
		each := func(k *flows.Key, s *flows.Sum) { k.Slot = 0; flow(k, s) }
		if n%2 == 1 {
			each = unitemised(func(_ uint32, n flows.Lost) { lost(0, n) })
		}
		_, e := i.empty(m, each)
		err = errors.Join(err, e, m.Close())
	}
	i.left = nil
	return err
}

// drainAtOnce is how many entries one system call takes.
const drainAtOnce = 8192

// empty takes all entries out of a map that nobody writes to.
func (i *itemising) empty(m *ebpf.Map, yield func(*flows.Key, *flows.Sum)) (all int, err error) {
	if i.keys == nil {
		i.keys, i.sums = make([]flows.Key, drainAtOnce), make([]flows.Sum, drainAtOnce)
	}
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, i.keys, i.sums, nil)
		for at := range n {
			yield(&i.keys[at], &i.sums[at])
		}
		all += n
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return all, nil
		case errors.Is(err, unix.ENOSPC) && len(i.keys) < 1<<20: // the fullest bucket does not fit
			i.keys, i.sums = make([]flows.Key, 2*len(i.keys)), make([]flows.Sum, 2*len(i.sums))
		case err != nil:
			return all, fmt.Errorf("flows of the fast path: %w", err)
		}
	}
}

// FlowSource is the fast path as a source of flows.
type FlowSource struct {
	Drainer interface {
		DrainFlows(flow func(*flows.Key, *flows.Sum), lost func(slot uint32, n flows.Lost)) (int, error)
	}
	Room int
	busy atomic.Bool // Presses is asked while somebody drains
}

// Drain see flows.Source.
func (s *FlowSource) Drain(flow func(*flows.Key, *flows.Sum), lost func(slot uint32, n flows.Lost)) error {
	n, err := s.Drainer.DrainFlows(flow, lost)
	s.busy.Store(n > s.Room/8)
	return err
}

// Presses see flows.Source: after a full one the next one is drained sooner.
func (s *FlowSource) Presses() bool { return s.busy.Load() }
