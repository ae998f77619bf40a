//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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
	Spoofed    = Reason(programReasonSPOOFED) // IPv4 by an interface of which nobody knows whose it is: dropped
	Lost       = Reason(programReasonLOST)    // the kernel failed in the middle: dropped
	NumReasons = Reason(programReasonNUM_REASONS)
)

var reasonNames = [NumReasons]string{
	programReasonTRANSLATED:           "translated",
	programReasonDISABLED:             "disabled",
	programReasonNOT_PLAIN_LINK:       "not-plain-link",
	programReasonNOT_THIS_FAMILY:      "not-this-family",
	programReasonTRUNCATED:            "truncated",
	programReasonOPTIONS:              "options",
	programReasonBAD_HEADER_CHECKSUM:  "bad-header-checksum",
	programReasonFRAGMENT:             "fragment",
	programReasonPROTOCOL:             "protocol",
	programReasonUPPER_HEADER:         "upper-header",
	programReasonNO_CHECKSUM:          "no-checksum",
	programReasonHOP_LIMIT:            "hop-limit",
	programReasonTOO_BIG:              "too-big",
	programReasonSUPERPACKET:          "superpacket",
	programReasonOWN_ADDRESS:          "own-address",
	programReasonNEVER_TRANSLATED:     "never-translated",
	programReasonNON_GLOBAL:           "non-global",
	programReasonUNMAPPED_SOURCE:      "unmapped-source",
	programReasonUNMAPPED_DESTINATION: "unmapped-destination",
	programReasonMAPPED_PEER:          "mapped-peer",
	programReasonWRONG_INTERFACE:      "wrong-interface",
	programReasonPORT:                 "port",
	programReasonTRAILER:              "trailer",
	programReasonNO_ROUTE:             "no-route",
	programReasonHOST_ROUTE:           "host-route",
	programReasonUNCHANGED:            "unchanged",
	programReasonHAS_INSIDE:           "has-inside",
	programReasonSTEERING:             "steering",
	programReasonPOLICY:               "policy",
	programReasonSPOOFED:              "spoofed",
	programReasonLOST:                 "lost",
}

func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Counters is what the programs have counted since their maps were made: by
// reason, what came in at uplinks (4→6) and at workloads (6→4), as IPv4 of workloads
// that have it inside, and of the daemon for them. Delivered, which has one reason
// alone, is what went to such workloads without the daemon, and in no other.
type Counters struct{ Uplink, Workload, Inside, Given, Delivered [NumReasons]Count }

// numPrograms is how many rows of reasons the programs count in.
const numPrograms = 5

// Counters sums up what the CPUs have counted.
func (f *FastPath) Counters() (c Counters, err error) {
	programs := [numPrograms]*[NumReasons]Count{&c.Uplink, &c.Workload, &c.Inside, &c.Given, &c.Delivered}
	err = eachCPU(f.maps.Reasons, numPrograms*uint32(NumReasons), func(i uint32, perCPU []programCount) {
		n := &programs[i/uint32(NumReasons)][i%uint32(NumReasons)]
		for _, cpu := range perCPU {
			n.Packets += cpu.Packets
			n.Bytes += cpu.Bytes
		}
	})
	if err != nil {
		return c, fmt.Errorf("counters of the fast path: %w", err)
	}
	return c, nil
}

// eachCPU reads what the CPUs have counted in the rows of a map: all in one system call,
// or, where the kernel has no batches of such maps (before Linux 5.13), row by row.
func eachCPU(m *ebpf.Map, rows uint32, yield func(row uint32, perCPU []programCount)) error {
	if eachCPUAtOnce(m, rows, yield) {
		return nil
	}
	for row := range rows {
		var perCPU []programCount
		if err := m.Lookup(row, &perCPU); err != nil {
			return err
		}
		yield(row, perCPU)
	}
	return nil
}

func eachCPUAtOnce(m *ebpf.Map, rows uint32, yield func(row uint32, perCPU []programCount)) bool {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return false
	}
	var cursor ebpf.MapBatchCursor
	keys, values := make([]uint32, rows), make([]programCount, int(rows)*cpus)
	if n, _ := m.BatchLookup(&cursor, keys, values, nil); n != int(rows) { // an error may say that there are no more
		return false
	}
	for i, row := range keys {
		yield(row, values[i*cpus:(i+1)*cpus])
	}
	return true
}

// Translated is how many packets the programs have translated, or given to workloads as
// IPv4, since their maps were made.
func (f *FastPath) Translated() (n uint64, err error) {
	var perCPU []programCount
	for program := range uint32(3) {
		if err := f.maps.Reasons.Lookup(program*uint32(NumReasons), &perCPU); err != nil {
			return 0, fmt.Errorf("counters of the fast path: %w", err)
		}
		for _, cpu := range perCPU {
			n += cpu.Packets
		}
	}
	return n, nil
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

// reading is what Traffic needs. It has a lock of its own: whoever asks for a figure
// does not wait until a million mappings are written.
type reading struct {
	settling sync.Mutex // held by who carries over, which takes long; it comes before mu

	mu      sync.RWMutex       // guards what follows
	now     inner              // whose counters the programs use
	before  inner              // whose counters are still to be carried over; a handle of its own
	carried map[uint32]Traffic // by slot: what was counted in maps that are gone
}

// Traffic sums up what was ever counted at a slot (mapping.Entry.Slot), whoever
// had it: it never falls.
func (f *FastPath) Traffic(slot uint32) (Traffic, error) {
	r := &f.reading
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.carried[slot]
	return t, errors.Join(r.before.count(slot, &t), r.now.count(slot, &t))
}

// count adds what was counted at a slot.
func (n *inner) count(slot uint32, t *Traffic) error {
	if n.counters == nil || int(slot) >= n.slots {
		return nil
	}
	if n.perMapping > fewLookups {
		if err := neighbours(n.counters, slot*uint32(n.perMapping), n.perMapping, t); err != nil {
			return fmt.Errorf("counters of slot %d in the fast path: %w", slot, err)
		}
		return nil
	}
	for i := range n.perMapping {
		var c programTraffic
		if err := n.counters.Lookup(slot*uint32(n.perMapping)+uint32(i), &c); err != nil {
			return fmt.Errorf("counters of slot %d in the fast path: %w", slot, err)
		}
		t.add(c)
	}
	return nil
}

// turn has Traffic read the counters of other maps, besides those before, which
// nobody counts in any more and which are settled.
func (r *reading) turn(now, before *inner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.before = *now, *before
}

// end has Traffic read no map any more.
func (r *reading) end() {
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before.close()
	r.now = inner{}
}

// Settle does what a Plan's Commit has left for later: it notes what maps that are
// gone have counted, and lets go of them. It takes time for each slot, and is done
// without f's lock: nothing but another Replace, or another Commit, waits for it.
func (f *FastPath) Settle() {
	for f.forgetOne() {
	}
	f.settle()
}

// settle notes what was counted; the caller may hold f's lock.
func (f *FastPath) settle() {
	r := &f.reading
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.RLock()
	before := r.before
	r.mu.RUnlock()
	if before.counters == nil {
		return
	}
	carried := r.carry(&before)
	r.mu.Lock()
	r.carried, r.before = carried, inner{}
	r.mu.Unlock()
	before.close()
}

// Forget has all slots begin at 0 that were carried over from who had the maps
// before.
func (f *FastPath) Forget() {
	f.settle()
	r := &f.reading
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.carried)
}

// visible is the counters of the generation that the programs see: ours, or that
// of who had the maps before. The map is a handle of its own.
func (f *FastPath) visible() (n inner, err error) {
	if f.inner.counters != nil {
		n = inner{perMapping: f.inner.perMapping, slots: f.inner.slots}
		n.counters, err = f.inner.counters.Clone()
		return n, err
	}
	var current uint32
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return n, fmt.Errorf("which tables are in use: %w", err)
	}
	err = f.maps.Counters.Lookup(current, &n.counters)
	if errors.Is(err, ebpf.ErrKeyNotExist) || errors.Is(err, unix.EPERM) {
		// Who had the maps before is found by an id, for which CAP_SYS_ADMIN is
		// needed. Without it, what that one counted for mappings is lost.
		return inner{}, nil
	}
	if err != nil {
		return n, fmt.Errorf("tables in use: %w", err)
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

// carry is what the maps before have counted at each slot, and those before them.
// Nothing counts there any more.
func (r *reading) carry(before *inner) map[uint32]Traffic {
	carried := maps.Clone(r.carried) // which changes while settling is held alone
	if carried == nil {
		carried = map[uint32]Traffic{}
	}
	each(before.counters, func(key uint32, n programTraffic) { // what cannot be read counts as 0
		if n == (programTraffic{}) {
			return
		}
		slot := key / uint32(before.perMapping)
		t := carried[slot]
		t.add(n)
		carried[slot] = t
	})
	return carried
}

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
