//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/mapping"
)

// Count is a number of packets, superpackets counting as one, and their bytes
// from the IP header on, as they came in.
type Count struct{ Packets, Bytes uint64 }

// Reason is what became of a packet: it was translated, or passed on to the
// daemon because of something, or lost.
type Reason uint8

// The reasons that are more than a name. All that are neither are of packets
// passed on, which the daemon counts when it gets them.
const (
	Translated = Reason(programReasonTRANSLATED)
	Lost       = Reason(programReasonLOST) // the kernel failed in the middle: dropped
	NumReasons = Reason(programReasonNUM_REASONS)
)

var reasonNames = [NumReasons]string{
	"translated", "disabled", "not-plain-link", "not-this-family", "truncated", "options", "bad-header-checksum",
	"fragment", "protocol", "upper-header", "no-checksum", "hop-limit", "too-big", "superpacket", "own-address",
	"never-translated", "non-global", "unmapped-source", "unmapped-destination", "mapped-peer", "wrong-interface",
	"port", "trailer", "no-route", "host-route", "unchanged", "lost",
}

func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Counters is what the programs have counted since their maps were made: by
// reason, what came in at uplinks (4→6) and at workloads (6→4).
type Counters struct{ Uplink, Workload [NumReasons]Count }

// Counters sums up what the CPUs have counted.
func (f *FastPath) Counters() (c Counters, err error) {
	for i := range 2 * uint32(NumReasons) {
		var perCPU []programCount
		if err := f.maps.Reasons.Lookup(i, &perCPU); err != nil {
			return c, fmt.Errorf("counters of the fast path: %w", err)
		}
		n := &c.Uplink[i%uint32(NumReasons)]
		if i >= uint32(NumReasons) {
			n = &c.Workload[i-uint32(NumReasons)]
		}
		for _, cpu := range perCPU {
			n.Packets += cpu.Packets
			n.Bytes += cpu.Bytes
		}
	}
	return c, nil
}

// Traffic is what was translated for one mapping.
type Traffic struct{ Sent, Received Count }

const sizeTraffic = 32 // bytes, in a map

func (t *Traffic) add(n programTraffic) {
	t.Sent.Packets += n.Sent.Packets
	t.Sent.Bytes += n.Sent.Bytes
	t.Received.Packets += n.Received.Packets
	t.Received.Bytes += n.Received.Bytes
}

// Traffic sums up the counters of a slot (mapping.Entry.Slot): since the fast
// path has had its mapping, through all replacements of tables.
func (f *FastPath) Traffic(slot uint32) (Traffic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.carried[slot]
	if f.tables == nil || int(slot) >= f.inner.slots {
		return t, nil
	}
	for i := range f.inner.perMapping {
		var n programTraffic
		if err := f.inner.counters.Lookup(slot*uint32(f.inner.perMapping)+uint32(i), &n); err != nil {
			return t, fmt.Errorf("counters of slot %d in the fast path: %w", slot, err)
		}
		t.add(n)
	}
	return t, nil
}

// Forget has all mappings begin at 0 that were carried over from who had the
// maps before.
func (f *FastPath) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.carried)
}

// zero makes the counters of a slot 0 for its next mapping.
func (f *FastPath) zero(slot uint32) error {
	delete(f.carried, slot)
	for i := range f.inner.perMapping {
		if err := f.inner.counters.Put(slot*uint32(f.inner.perMapping)+uint32(i), &programTraffic{}); err != nil {
			return fmt.Errorf("counters of slot %d in the fast path: %w", slot, err)
		}
	}
	return nil
}

// visible is the generation that the programs see: ours, or that of who had the
// maps before. Its maps are handles of their own.
func (f *FastPath) visible() (n inner, err error) {
	if f.inner.by6 != nil {
		n = inner{perMapping: f.inner.perMapping, slots: f.inner.slots}
		if n.by6, err = f.inner.by6.Clone(); err == nil {
			n.counters, err = f.inner.counters.Clone()
		}
		return n, err
	}
	var current uint32
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return n, fmt.Errorf("which tables are in use: %w", err)
	}
	for _, o := range []struct {
		outer *ebpf.Map
		inner **ebpf.Map
	}{{f.maps.By6, &n.by6}, {f.maps.Counters, &n.counters}} {
		var m *ebpf.Map
		if err := o.outer.Lookup(current, &m); errors.Is(err, ebpf.ErrKeyNotExist) || errors.Is(err, unix.EPERM) {
			// Who had the maps before is found by an id, for which CAP_SYS_ADMIN is
			// needed. Without it, what that one counted for mappings is lost.
			n.close()
			return n, nil
		} else if err != nil {
			return n, fmt.Errorf("tables in use: %w", err)
		}
		*o.inner = m
	}
	var c programConfig
	if err := f.maps.Configs.Lookup(current, &c); err != nil {
		n.close()
		return n, fmt.Errorf("configuration in use: %w", err)
	}
	n.perMapping = max(int(c.Counters), 1)
	n.slots = int(n.counters.MaxEntries()) / n.perMapping
	return n, nil
}

// carry is what the tables before have counted for the mappings of table, by
// their new slots. Nothing counts there any more.
func (f *FastPath) carry(before *inner, table *mapping.Table) map[uint32]Traffic {
	carried := map[uint32]Traffic{}
	if before.by6 == nil || before.counters == nil {
		return carried
	}
	totals := make([]Traffic, before.slots)
	for slot, t := range f.carried {
		if int(slot) < len(totals) {
			totals[slot] = t
		}
	}
	before.eachCounter(func(i int, n programTraffic) { totals[i/before.perMapping].add(n) })
	before.eachEntry(func(k programKey6, e programEntry6) {
		if int(e.Slot) >= len(totals) || totals[e.Slot] == (Traffic{}) {
			return
		}
		if now := table.Get(prefixOf(k)); now != nil {
			carried[now.Slot()] = totals[e.Slot]
		}
	})
	return carried
}

// eachCounter yields all counters; what cannot be read counts as 0.
func (n *inner) eachCounter(yield func(i int, t programTraffic)) {
	each(n.counters, func(key uint32, t programTraffic) { yield(int(key), t) })
}

func (n *inner) eachEntry(yield func(programKey6, programEntry6)) { each(n.by6, yield) }

// each reads a map with few system calls.
func each[K, V any](m *ebpf.Map, yield func(K, V)) {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, 8192), make([]V, 8192)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			yield(keys[i], values[i])
		}
		if err != nil {
			return
		}
	}
}

func prefixOf(k programKey6) netip.Prefix {
	a := mapping.Addr6{Hi: uint64(k.Word[0])<<32 | uint64(k.Word[1]), Lo: uint64(k.Word[2])<<32 | uint64(k.Word[3])}
	return netip.PrefixFrom(a.Addr(), int(k.Length))
}
