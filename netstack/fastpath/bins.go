//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// bins is a table of mappings, as bpf/layout.h describes it, which one goroutine at a time
// writes while programs read it. They see each entry whole: a bin where somebody stands
// changes by a number at most, and one that is left has the same in it for a while, for those
// who came before. What takes the place of another stands behind it before that goes.
type bins[K binKey, V binEntry] struct {
	*ebpf.Map
	seed    uint64
	homes   uint32
	fresh   uint32               // from here on nobody ever stood
	free    []uint32             // where nobody stands any more, who left first first
	leaving map[uint32]time.Time // since when a bin is left
}

type binKey interface {
	comparable
	hash(seed uint64) uint64
}

// binEntry begins with fields of 32 bits or more, so many bytes, each of which a program
// reads at once.
type binEntry interface {
	comparable
	numbers() uintptr
}

func (e programEntry6) numbers() uintptr { return unsafe.Offsetof(e.First) }
func (e programEntry4) numbers() uintptr { return unsafe.Offsetof(e.Flags) }

// words are a bin as it lies in the map, bin is what is in it.
type words [8]uint64

type bin[K, V any] struct {
	Live, Next uint32
	Key        K
	Entry      V
}

// Constants of bpf/layout.h.
const (
	firstBin  = 2
	maxProbes = 16
)

// lingers is for how long a bin that is left stays as it is. A program takes
// microseconds; the kernel itself, in a hash table that is allocated before, waits not at all.
const lingers = time.Second

var errNoRoom = errors.New("no room in a table of the fast path")

func (t *bins[K, V]) close() {
	if t != nil {
		t.Map.Close()
	}
}

// in is w with its parts.
func (t *bins[K, V]) in(w *words) *bin[K, V] { return (*bin[K, V])(unsafe.Pointer(w)) }

const multiplier = 0xbf58476d1ce4e5b9

func scramble(h uint64) uint64 {
	h *= multiplier
	return h ^ h>>32
}

func (k programKey6) hash(seed uint64) uint64 {
	h := scramble(seed ^ (uint64(k.Word[0])<<32 | uint64(k.Word[1])))
	h = scramble(h ^ (uint64(k.Word[2])<<32 | uint64(k.Word[3])))
	return (h ^ uint64(k.Length)) * multiplier
}

func (k programKey4) hash(seed uint64) uint64 {
	return scramble(seed^(uint64(k.V4)<<32|uint64(k.Length))) * multiplier
}

func (k programKeyPort) hash(seed uint64) uint64 {
	return scramble(seed^(uint64(k.V4)<<32|uint64(k.Base)<<16|uint64(k.Size))) * multiplier
}

func (t *bins[K, V]) home(k K) uint32 {
	return firstBin + uint32(k.hash(t.seed)>>32*uint64(t.homes)>>32)
}

// newBins makes a table of these entries, with room for a quarter more. One that is crowded
// has far fewer homes than entries, for tests.
func newBins[K binKey, V binEntry](template *ebpf.MapSpec, keys []K, values []V, crowded bool) (*bins[K, V], error) {
	room := headroom(len(keys))
	t := &bins[K, V]{homes: (room + room/2) &^ 1, leaving: map[uint32]time.Time{}}
	spare := room/4 + 64
	if crowded {
		t.homes, spare = uint32(len(keys)/3+2)&^1, room
	}
	template = template.Copy()
	template.MaxEntries = firstBin + t.homes + spare
	var err error
	if t.Map, err = ebpf.NewMap(template); err != nil {
		return nil, fmt.Errorf("table %s with room for %d: %w", template.Name, room, err)
	}
	for range 4 { // with another seed, others meet
		if err = t.fill(keys, values); !errors.Is(err, errNoRoom) {
			break
		}
	}
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("table %s with room for %d: %w", template.Name, room, err)
	}
	return t, nil
}

// fill writes all of a table that no program has: each who can to his home, then the others.
func (t *bins[K, V]) fill(keys []K, values []V) error {
	size := int(t.MaxEntries()) * int(unsafe.Sizeof(words{}))
	memory, err := unix.Mmap(t.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	clear(memory)
	all := unsafe.Slice((*words)(unsafe.Pointer(&memory[0])), t.MaxEntries())
	t.seed, t.fresh = rand.Uint64(), firstBin+t.homes
	head := (*programBins)(unsafe.Pointer(&all[0]))
	head.Seed, head.Homes = t.seed, t.homes
	var guests []int
	for i, k := range keys {
		if b := t.in(&all[t.home(k)]); b.Live == 0 {
			*b = bin[K, V]{1, 0, k, values[i]}
		} else {
			guests = append(guests, i)
		}
	}
	for _, i := range guests {
		home := t.home(keys[i])
		if b := t.in(&all[home^1]); b.Live == 0 {
			*b = bin[K, V]{1, b.Next, keys[i], values[i]}
			continue
		}
		last, probes := t.in(&all[home]), 2
		for ; last.Next != 0; probes++ {
			last = t.in(&all[last.Next])
		}
		if probes == maxProbes || t.fresh == t.MaxEntries() {
			return errNoRoom
		}
		*t.in(&all[t.fresh]) = bin[K, V]{1, 0, keys[i], values[i]}
		last.Next = t.fresh
		t.fresh++
	}
	return nil
}

// probed is a bin that a key may stand in.
type probed struct {
	at uint32
	words
}

// probes reads the bins that k may stand in, in the order in which the programs do.
func (t *bins[K, V]) probes(k K) (list []probed, err error) {
	at, next := t.home(k), uint32(0)
	for i := 0; at != 0 && i < maxProbes; i++ {
		p := probed{at: at}
		if err := t.Map.Lookup(at, &p.words); err != nil {
			return nil, err
		}
		list = append(list, p)
		if i != 1 {
			next = t.in(&p.words).Next
		}
		if at = next; i == 0 {
			at = p.at ^ 1
		}
	}
	return list, nil
}

// find says which of those that were probed is of k, or −1.
func (t *bins[K, V]) find(list []probed, k K) int {
	for i := range list {
		if b := t.in(&list[i].words); b.Live != 0 && b.Key == k {
			return i
		}
	}
	return -1
}

// there probes for k and says which of the bins is its, or that none is by
// ebpf.ErrKeyNotExist.
func (t *bins[K, V]) there(k K) (list []probed, i int, err error) {
	if list, err = t.probes(k); err != nil {
		return nil, 0, err
	}
	if i = t.find(list, k); i < 0 {
		err = ebpf.ErrKeyNotExist
	}
	return list, i, err
}

// Lookup reads the entry of k, or says that there is none by ebpf.ErrKeyNotExist.
func (t *bins[K, V]) Lookup(k K, v *V) error {
	list, i, err := t.there(k)
	if err != nil {
		return err
	}
	*v = t.in(&list[i].words).Entry
	return nil
}

// Put writes the entry of k, whether there is one or not.
func (t *bins[K, V]) Put(k K, v *V) error {
	list, err := t.probes(k)
	if err != nil {
		return err
	}
	i := t.find(list, k)
	if i < 0 {
		return t.insert(list, k, v)
	}
	now := list[i].words
	t.in(&now).Entry = *v
	if t.alike(&now, &list[i].words) {
		return t.Map.Put(list[i].at, &now)
	}
	if err := t.chain(list, k, v); err != nil {
		return err
	}
	return t.Delete(k) // of both, the one that comes first
}

// alike says that one number of their entries is all that two bins of a key differ in.
func (t *bins[K, V]) alike(a, b *words) bool {
	entry := t.in(a)
	first := unsafe.Offsetof(entry.Entry) / 4
	end := first + entry.Entry.numbers()/4
	x, y := (*[16]uint32)(unsafe.Pointer(a)), (*[16]uint32)(unsafe.Pointer(b))
	n := 0
	for i := range x {
		if x[i] == y[i] {
			continue
		}
		if n++; n > 1 || uintptr(i) < first || uintptr(i) >= end {
			return false
		}
	}
	return true
}

// insert puts k where there is room for it.
func (t *bins[K, V]) insert(list []probed, k K, v *V) error {
	for _, p := range list[:2] {
		b := t.in(&p.words)
		if b.Live != 0 || !t.left(p.at) {
			continue
		}
		b.Key, b.Entry = k, *v
		if err := t.Map.Put(p.at, &p.words); err != nil {
			return err
		}
		b.Live = 1
		return t.Map.Put(p.at, &p.words)
	}
	return t.chain(list, k, v)
}

// chain puts k behind all that its home leads to.
func (t *bins[K, V]) chain(list []probed, k K, v *V) error {
	if len(list) == maxProbes {
		return errNoRoom
	}
	at, err := t.take()
	if err != nil {
		return err
	}
	var w words
	*t.in(&w) = bin[K, V]{1, 0, k, *v}
	if err := t.Map.Put(at, &w); err != nil {
		return err
	}
	last := t.before(list, len(list))
	t.in(&last.words).Next = at
	return t.Map.Put(last.at, &last.words)
}

// before is what leads to the bin at i.
func (t *bins[K, V]) before(list []probed, i int) *probed {
	if i == 2 { // the first behind the pair is the home's
		return &list[0]
	}
	return &list[i-1]
}

// take finds a bin that is nobody's home. Where all that are free have been left of late,
// it waits for the programs that may read them.
func (t *bins[K, V]) take() (at uint32, err error) {
	switch {
	case len(t.free) > 0 && t.left(t.free[0]):
	case t.fresh < t.MaxEntries():
		t.fresh++
		return t.fresh - 1, nil
	case len(t.free) == 0 || awaitPrograms() != nil:
		return 0, errNoRoom
	default:
		clear(t.leaving)
	}
	at, t.free = t.free[0], t.free[1:]
	return at, nil
}

// awaitPrograms returns when no program runs any more that began before: this barrier is the
// kernel's synchronize_rcu (kernel/sched/membarrier.c). With nohz_full there is none.
func awaitPrograms() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// left says that nobody reads any more who stood in a bin where nobody stands.
func (t *bins[K, V]) left(at uint32) bool {
	if since, ok := t.leaving[at]; ok && time.Since(since) < lingers {
		return false
	}
	delete(t.leaving, at)
	return true
}

// Delete takes the entry of k away, or says that there is none by ebpf.ErrKeyNotExist.
func (t *bins[K, V]) Delete(k K) error {
	list, i, err := t.there(k)
	if err != nil {
		return err
	}
	p := &list[i]
	t.leaving[p.at] = time.Now()
	t.in(&p.words).Live = 0
	if err := t.Map.Put(p.at, &p.words); err != nil || i < 2 {
		return err
	}
	t.free = append(t.free, p.at)
	last := t.before(list, i)
	t.in(&last.words).Next = t.in(&p.words).Next
	return t.Map.Put(last.at, &last.words)
}
