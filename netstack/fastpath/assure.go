//go:build linux

package fastpath

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/netstack/flows"
)

// Limits of Parts.
const (
	MaxParts   = 4096 // prefixes of each family
	MaxClasses = 1023 // of them, those that are not apart
)

// Parts has destinations parted by the longest prefix here that they are in.
type Parts map[netip.Prefix]Led

// Led is how those of a part are led.
type Led uint8

const (
	Apart   Led = iota // each is asked for
	Alike              // all have the same routes, and nothing but the destination decides
	Several            // all have the same, and by which of several ways they go, the kernel's hash decides
)

// several is a flag of the number of a class (SEVERAL).
const several = 1 << 31

// assuring is what the programs are told for a while.
type assuring struct {
	sync.Mutex // held by who tells, and by who closes
	closed     bool
	parts      Parts
	known      bool   // parts is what the maps hold
	time       uint32 // how often parts were told, from a number on that nobody else had of late
}

func (a *assuring) close() {
	a.Lock()
	defer a.Unlock()
	a.closed = true
}

// Assure says for how long from now somebody sees to what Host.Alone and the parts say; 0:
// nobody does. As long, not each packet is asked about.
func (f *FastPath) Assure(during time.Duration) error {
	f.assuring.Lock()
	defer f.assuring.Unlock()
	if f.assuring.closed {
		return nil
	}
	var until uint64
	if during > 0 {
		until = uint64(flows.Now() + int64(during))
	}
	if err := f.maps.Assurance.Put(uint32(0), until); err != nil {
		return fmt.Errorf("assurance of the fast path: %w", err)
	}
	return nil
}

// Assured says that somebody does.
func (f *FastPath) Assured() bool {
	f.assuring.Lock()
	defer f.assuring.Unlock()
	var until uint64
	return !f.assuring.closed && f.maps.Assurance.Lookup(uint32(0), &until) == nil && until > uint64(flows.Now())
}

// Part tells the programs of parts; they are assured of nothing then. A packet that began
// when they were sees a part as it was or as it is, and none in its stead that is wider: the
// longest are written first, and those that are no more go last.
func (f *FastPath) Part(parts Parts) error {
	a := &f.assuring
	a.Lock()
	defer a.Unlock()
	if a.closed || a.known && maps.Equal(parts, a.parts) {
		return nil
	}
	if err := f.maps.Assurance.Put(uint32(0), uint64(0)); err != nil {
		return fmt.Errorf("assurance of the fast path: %w", err)
	}
	a.known = false
	if a.time++; a.time == 1 {
		a.time = uint32(time.Now().Unix())
	}
	number := a.time << 10 &^ several
	for _, p := range slices.SortedFunc(maps.Keys(parts), func(p, q netip.Prefix) int {
		return cmp.Or(cmp.Compare(q.Bits(), p.Bits()), p.Addr().Compare(q.Addr()))
	}) {
		value := uint32(0)
		if parts[p] != Apart {
			number++
			value = number
		}
		if parts[p] == Several {
			value |= several
		}
		if err := f.putPart(p, value); err != nil {
			return err
		}
	}
	for _, m := range f.partMaps() {
		if err := dropParts(m, parts); err != nil {
			return fmt.Errorf("parts of the fast path: %w", err)
		}
	}
	a.parts, a.known = maps.Clone(parts), true
	return nil
}

func (f *FastPath) partMaps() [2]*ebpf.Map { return [2]*ebpf.Map{f.maps.Parts4, f.maps.Parts6} }

func (f *FastPath) putPart(p netip.Prefix, value uint32) error {
	m := f.partMaps()[1]
	if p.Addr().Is4() {
		m = f.partMaps()[0]
	}
	key := append(binary.NativeEndian.AppendUint32(nil, uint32(p.Bits())), p.Masked().Addr().AsSlice()...)
	if err := m.Put(key, value); err != nil {
		return fmt.Errorf("part %v of the fast path: %w", p, err)
	}
	return nil
}

// dropParts takes those away that are no more.
func dropParts(m *ebpf.Map, parts Parts) error {
	var gone [][]byte
	key, value := make([]byte, m.KeySize()), uint32(0)
	all := m.Iterate()
	for all.Next(&key, &value) {
		if _, there := parts[partOf(key)]; !there {
			gone = append(gone, slices.Clone(key))
		}
	}
	errs := []error{all.Err()}
	for _, key := range gone {
		if err := m.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func partOf(key []byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(key[4:])
	return netip.PrefixFrom(a, int(binary.NativeEndian.Uint32(key)))
}
