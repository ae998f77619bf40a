package translator

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"

	"github.com/natless/natless/translator/budget"
	"github.com/natless/natless/translator/mapping"
)

// ICMP errors of ours come at a limited rate (RFC 4443 2.4 (f), RFC 1812
// 4.3.2.8), and nobody may use up what another needs. So each workload has a
// budget of its own, each prefix of strangers has. Above them, ten times as high,
// one mapping has one, for who has a whole subnet of addresses, and so have all
// strangers that write to one workload, for who pretends to be many. And there
// are ones for all workloads and for all strangers of a family. A sender's own is
// asked first, so that what it is refused costs the others nothing. "Too big" is
// apart from all else: a sender without it cannot go on (RFC 8201 4).

// ErrorKind is what errors of ours have budgets of their own for.
type ErrorKind uint8

// The two kinds.
const (
	OtherError  ErrorKind = iota // unreachable, time exceeded, parameter problem
	TooBigError                  // ICMPv6 2/0, ICMPv4 3/4
	NumErrorKinds
)

func (k ErrorKind) String() string {
	if k == TooBigError {
		return "too-big"
	}
	return "other"
}

// Budget is one that can refuse an error.
type Budget uint8

// The budgets: always that of workloads, then that of strangers.
const (
	WorkloadBudget     Budget = iota // of the workload that would hear of it
	SourceBudget                     // of the prefix that a stranger is in: IPv4 /24, IPv6 /64
	MappingBudget                    // of all addresses that the workload's mapping has
	DestinationBudget                // of all strangers that write IPv4 to one workload
	AllWorkloadsBudget               // of all workloads together
	AllSourcesBudget                 // of all strangers of a family together
	NumBudgets
)

var budgetNames = [NumBudgets]string{
	WorkloadBudget:     "workload",
	SourceBudget:       "source",
	MappingBudget:      "mapping",
	DestinationBudget:  "destination",
	AllWorkloadsBudget: "all-workloads",
	AllSourcesBudget:   "all-sources",
}

func (b Budget) String() string { return budgetNames[b] }

// ErrorsLimited counts errors that were not sent, by kind and by the budget that
// was used up.
type ErrorsLimited [NumErrorKinds][NumBudgets]uint64

// Add adds what another counted.
func (e *ErrorsLimited) Add(other ErrorsLimited) {
	for k := range other {
		for b, n := range other[k] {
			e[k][b] += n
		}
	}
}

// errorBudgets are those of a translator, for all its workers.
type errorBudgets struct {
	key   [16]byte // of the hash over senders: of this process, and nobody knows it
	kinds [NumErrorKinds]struct {
		each, groups [2]budget.Shares // of workloads, of strangers
		all          [3]budget.Bucket // of workloads, of strangers by IPv4, by IPv6
	}
}

// groupFactor is how many times its own budget a sender's group has.
const groupFactor = 10

// limited is ErrorsLimited while it is counted.
type limited [NumErrorKinds][NumBudgets]atomic.Uint64

func (l *limited) load() (e ErrorsLimited) {
	for k := range l {
		for b := range l[k] {
			e[k][b] = l[k][b].Load()
		}
	}
	return e
}

// hearer is who hears of an error: a workload, by its mapping's slot and its
// IPv4 address, since a mapping may be many workloads'; or else a stranger.
type hearer struct {
	slot  uint32 // 0: a stranger
	v6    bool   // of a stranger
	addr  uint64 // the IPv4 address of a workload; the prefix of a stranger
	group uint64 // what the budget above its own is for; 0: nothing
}

// hearer4 is who sent the IPv4 packet from src to dst: a workload where it came by
// way of IPv6 a moment ago, and so has a mapping.
func (w *Worker) hearer4(src, dst uint32) hearer {
	if w.source != 0 {
		return hearer{slot: w.source, addr: uint64(src), group: uint64(w.source)}
	}
	group := 1<<32 | uint64(dst)
	if w.destination != 0 {
		group = 2<<32 | uint64(w.destination)
	}
	return hearer{addr: uint64(src >> 8), group: group}
}

// hearer6 is who sent the IPv6 packet from src.
func hearer6(table *mapping.Table, src mapping.Addr6) hearer {
	if e := table.Lookup6(src); e != nil {
		return hearer{slot: e.Slot(), addr: uint64(e.To4(src)), group: uint64(e.Slot())}
	}
	if v4, ok := table.Extract(src); ok { // all of IPv4 may lie in one /64
		return hearer{addr: uint64(v4 >> 8)}
	}
	return hearer{v6: true, addr: src.Hi}
}

// mayHear takes an error to h from the budgets, and counts in which of them
// there is nothing left.
func (w *Worker) mayHear(h hearer, k ErrorKind, count *limited) bool {
	if w.trial {
		return true
	}
	last, ok := w.spend(h, k)
	if !ok {
		count[k][last].Add(1)
	}
	return ok
}

// spend asks the hearer's own budget, then those above it, and says which was
// asked last.
func (w *Worker) spend(h hearer, k ErrorKind) (last Budget, ok bool) { // rule 6.answer-rate
	c, b := &w.s.config, &w.t.errors.kinds[k]
	each := budget.Rate{PerSecond: c.ErrorRate, Burst: c.ErrorBurst}
	total := budget.Rate{PerSecond: c.ErrorTotalRate, Burst: c.ErrorTotalBurst}
	group := budget.Rate{PerSecond: min(groupFactor*each.PerSecond, total.PerSecond), Burst: min(groupFactor*each.Burst, total.Burst)}
	stranger, all, random := Budget(0), 0, rand.Uint64()
	if h.slot == 0 {
		stranger, all = 1, 1
	}
	if h.v6 {
		all = 2
	}
	if !b.each[stranger].Take(w.t.errors.hash(h), w.now, each, random) {
		return WorkloadBudget + stranger, false
	}
	if h.group != 0 && !b.groups[stranger].Take(w.t.errors.hash(hearer{addr: h.group}), w.now, group, random>>32) {
		return MappingBudget + stranger, false
	}
	return AllWorkloadsBudget + stranger, b.all[all].Take(w.now, total, random>>48)
}

func (e *errorBudgets) hash(h hearer) uint64 {
	var b [13]byte
	binary.LittleEndian.PutUint64(b[:], h.addr)
	binary.LittleEndian.PutUint32(b[8:], h.slot)
	if h.v6 {
		b[12] = 1
	}
	return siphash(&e.key, b[:])
}
