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
// budget of its own, each prefix of strangers has, and above them stand higher
// ones for all workloads and for all strangers of a family; a sender's own is
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

// The four budgets.
const (
	WorkloadBudget     Budget = iota // of the workload that would hear of it
	SourceBudget                     // of the prefix that a stranger is in: IPv4 /24, IPv6 /64
	AllWorkloadsBudget               // of all workloads together
	AllSourcesBudget                 // of all strangers of a family together
	NumBudgets
)

var budgetNames = [NumBudgets]string{"workload", "source", "all-workloads", "all-sources"}

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
		workloads, sources budget.Shares
		allWorkloads       budget.Bucket
		allSources         [2]budget.Bucket // of IPv4, of IPv6
	}
}

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
	slot uint32 // 0: a stranger
	v6   bool   // of a stranger
	addr uint64 // the IPv4 address of a workload; the prefix of a stranger
}

// hearer4 is who sent the IPv4 packet from src: a workload where it came by way
// of IPv6 a moment ago, and so has a mapping.
func (w *Worker) hearer4(src uint32) hearer {
	if w.source != 0 {
		return hearer{slot: w.source, addr: uint64(src)}
	}
	return hearer{addr: uint64(src >> 8)}
}

// hearer6 is who sent the IPv6 packet from src.
func hearer6(table *mapping.Table, src mapping.Addr6) hearer {
	if e := table.Lookup6(src); e != nil {
		return hearer{slot: e.Slot(), addr: uint64(e.To4(src))}
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

// spend asks the hearer's own budget, then the one for all, and says which was
// asked last.
func (w *Worker) spend(h hearer, k ErrorKind) (last Budget, ok bool) {
	c, b := &w.s.config, &w.t.errors.kinds[k]
	each := budget.Rate{PerSecond: c.ErrorRate, Burst: c.ErrorBurst}
	total := budget.Rate{PerSecond: c.ErrorTotalRate, Burst: c.ErrorTotalBurst}
	hash, random := w.t.errors.hash(h), rand.Uint64()
	if h.slot != 0 {
		if !b.workloads.Take(hash, w.now, each, random) {
			return WorkloadBudget, false
		}
		return AllWorkloadsBudget, b.allWorkloads.Take(w.now, total, random>>32)
	}
	if !b.sources.Take(hash, w.now, each, random) {
		return SourceBudget, false
	}
	family := 0
	if h.v6 {
		family = 1
	}
	return AllSourcesBudget, b.allSources[family].Take(w.now, total, random>>32)
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
