package shed

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/translator/mapping"
)

//go:generate go tool -modfile=../../tests/tools/go.mod bpf2go -cc clang-14 -strip llvm-strip-14 -cflags "-mcpu=v3 -Wall -Wextra -Werror" -target bpfel,bpfeb -type sender -type receiver -type limit -type state filter bpf/filter.c

// most is how many ways of workloads may have a limit at once.
const most = 16384

// filter is the policer in the kernel.
type filter struct {
	objects filterObjects
	free    []uint32

	states []filterState // all of them, as of this look; nil: not read

	known known
}

// newFilter makes the policer in front of the queues, with the maps of the one where packets
// come in, if there is one.
func newFilter(maps map[string]*ebpf.Map) (*filter, error) {
	f := &filter{}
	if err := loadFilterObjects(&f.objects, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("policer in front of the queues: %w", err)
	}
	for i := range uint32(most) {
		f.free = append(f.free, most-1-i)
	}
	return f, nil
}

func (f *filter) close() error { return f.objects.Close() }

// put gives the limited one a place, and its addresses and ports lead there.
func (f *filter) put(l *limited) error {
	if err := f.place(l); err != nil {
		return err
	}
	l.inKernel.Store(true)
	for err := range f.each(l, func(m *ebpf.Map, k any) error { return m.Put(k, l.index) }) {
		if err != nil {
			return err
		}
	}
	return nil
}

// place gives the limited one a place.
func (f *filter) place(l *limited) error {
	if len(f.free) == 0 {
		return errors.New("policer in front of the queues: no room")
	}
	l.index = f.free[len(f.free)-1]
	if err := errors.Join(f.objects.States.Put(l.index, &filterState{}), f.objects.States.Put(l.index+most, &filterState{}), f.write(l)); err != nil {
		return err
	}
	f.free = f.free[:len(f.free)-1]
	f.states = nil
	return nil
}

// write writes the rates.
func (f *filter) write(l *limited) error {
	r := l.rates.Load()
	var k filterLimit
	k.Packets.Each, k.Packets.Burst = uint64(r.packets.each), uint64(r.packets.burst)
	k.Bytes.Each, k.Bytes.Burst = uint64(r.bytes.each), uint64(r.bytes.burst)
	k.Connections.Each, k.Connections.Burst = uint64(r.connections.each), uint64(r.connections.burst)
	k.Share.Each, k.Share.Burst = uint64(r.share.each), uint64(r.share.burst)
	return f.objects.Limits.Put(l.index, &k)
}

// remove takes the limited one away.
func (f *filter) remove(l *limited) (errs []error) {
	if Stranger(l.slot) {
		errs = append(errs, f.objects.Strangers.Put(uint32(l.way), uint32(0)))
		f.free = append(f.free, l.index)
		l.inKernel.Store(false)
		return errs
	}
	for err := range f.each(l, func(m *ebpf.Map, k any) error { return m.Delete(k) }) {
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	f.free = append(f.free, l.index)
	l.inKernel.Store(false)
	return errs
}

// dropped is what the kernel has dropped of one: in front of the queues, and where packets
// come in.
func (f *filter) dropped(l *limited) (n dropped) {
	const few = 64 // of whom each is read alone
	if most-len(f.free) > few {
		return f.all(l)
	}
	var queue, entry filterState
	if f.objects.States.Lookup(l.index, &queue) != nil || f.objects.States.Lookup(l.index+most, &entry) != nil {
		return l.kernelDropped // as it was
	}
	return dropped{queue.Dropped, entry.Dropped, queue.DroppedBytes + entry.DroppedBytes}
}

// all is dropped, where many are read at once.
func (f *filter) all(l *limited) dropped {
	if f.states == nil {
		keys, values := make([]uint32, 2*most), make([]filterState, 2*most)
		var cursor ebpf.MapBatchCursor
		if n, err := f.objects.States.BatchLookup(&cursor, keys, values, nil); n < len(keys) && err != nil {
			return l.kernelDropped
		}
		f.states = values
	}
	queue, entry := &f.states[l.index], &f.states[l.index+most]
	return dropped{queue.Dropped, entry.Dropped, queue.DroppedBytes + entry.DroppedBytes}
}

// forget has all be read anew.
func (f *filter) forget() { f.states = nil }

// cap says whether operators' limits are to be held where packets come in.
func (f *filter) cap(on bool) error {
	var value uint32
	if on {
		value = 1
	}
	return f.objects.Capping.Put(uint32(0), value)
}

// each does something with every block of addresses and ports of a limited one.
func (f *filter) each(l *limited, do func(*ebpf.Map, any) error) func(func(error) bool) {
	return func(yield func(error) bool) {
		m := l.mapping
		if l.way == Sent {
			k := senderOf(m)
			yield(do(f.objects.Senders, &k))
			return
		}
		if m.Ports.IsZero() {
			k := receiverOf(m.IPv4)
			yield(do(f.objects.Receivers, &k))
			return
		}
		for k := range blocks(m.IPv4.Addr(), m) {
			if !yield(do(f.objects.Receivers, &k)) {
				return
			}
		}
	}
}

// blocks are the ports of a mapping as prefixes of address and port.
func blocks(a netip.Addr, m mapping.Mapping) func(func(filterReceiver) bool) {
	return func(yield func(filterReceiver) bool) {
		for r := range m.Ports.Runs() {
			for first, end := int(r.First), int(r.Last)+1; first < end; {
				size := min(bits.TrailingZeros32(uint32(first)|1<<16), bits.Len32(uint32(end-first))-1)
				if !yield(filterReceiver{Length: uint32(48 - size), Addr: a.As4(), Port: [2]uint8{uint8(first >> 8), uint8(first)}}) {
					return
				}
				first += 1 << size
			}
		}
	}
}
