//go:build linux

package dataplane

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/tun"
)

// Where a packet is handled decides what it costs. On the CPU that it came on,
// nobody is woken from afar and the packet is in the cache: best for a lone
// packet, and where all CPUs bring packets. But when one CPU brings nearly all,
// as with one bulk stream, its sender and its translation would take turns
// there while others idle: then the next CPU translates.

const (
	// lookEvery is how often the load is looked at, while there is some.
	lookEvery = 4 * time.Millisecond
	// steady is how many looks in a row must agree: a flow that goes from one
	// queue to another may arrive out of order for a moment.
	steady = 4
	// packetCost is what a packet costs beside its bytes, in bytes.
	packetCost = 16 << 10
	// bulk is the load, in bytes a second, under which a CPU has time for both.
	bulk = 400 << 20
	// lopsided and level are the shares of the busiest queue above and below
	// which the load is on one CPU, or is not, in percent.
	lopsided, level = 75, 60
)

// placement watches the load of the queues and steers.
type placement struct {
	next atomic.Int64 // when to look again, by the workers' clock

	mu    sync.Mutex
	steer func(shift int) error
	at    time.Duration
	seen  []uint64 // the loads as they were then
	shift int
	votes int // looks in a row that wanted the other shift
}

// begin is called before the device's queues are read.
func (p *placement) begin(device *tun.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steer, p.seen, p.shift, p.votes = device.Steer, make([]uint64, len(device.Queues())), 0, 0
	p.next.Store(0)
	if !device.Steers() {
		p.next.Store(math.MaxInt64)
	}
}

// look is called by every loop at the begin of a batch.
func (p *placement) look(now time.Duration, loops []*loop) {
	if int64(now) < p.next.Load() || !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	var sum, most uint64
	for i := range p.seen {
		load := loops[i].counters.load.Load()
		sum, most = sum+load-p.seen[i], max(most, load-p.seen[i])
		p.seen[i] = load
	}
	passed := now - p.at
	p.at = now
	p.next.Store(int64(now + lookEvery))
	p.vote(wanted(p.shift, sum, most, passed), passed)
}

// wanted is the shift that suits the load of a time.
func wanted(shift int, sum, most uint64, passed time.Duration) int {
	switch {
	case float64(sum) < bulk*passed.Seconds():
		return 0
	case 100*most >= lopsided*sum:
		return 1
	case 100*most < level*sum:
		return 0
	}
	return shift
}

// vote changes the shift when enough looks agree; after a pause one does, since
// there is nothing under way.
func (p *placement) vote(shift int, passed time.Duration) {
	if shift == p.shift {
		p.votes = 0
		return
	}
	if p.votes++; p.votes < steady && passed < steady*lookEvery {
		return
	}
	if p.steer(shift) != nil { // the right to do it is gone: it stays as it is
		p.next.Store(math.MaxInt64)
		return
	}
	p.shift, p.votes = shift, 0
}

// urgent is the nice value of a queue's thread: who translates for everybody
// comes before who only computes, as the kernel's own forwarding does.
const urgent = -10

// hurry has the scheduler prefer the calling thread, where that is allowed, but
// not have it interrupt whoever wakes it. Who has just sent a packet is about to
// wait for an answer; interrupted before, it would still count as running, and
// the answer would be sent for on another CPU, which has to be woken.
func hurry() {
	unix.Setpriority(unix.PRIO_PROCESS, 0, urgent)
	if a, err := unix.SchedGetAttr(0, 0); err == nil && a.Policy == unix.SCHED_NORMAL {
		a.Policy = unix.SCHED_BATCH
		unix.SchedSetAttr(0, a, 0)
	}
}

// pin keeps the calling thread on the CPUs whose packets come to a queue. It is
// a help and no more: where it is not possible, the kernel chooses.
func pin(queue, queues int, allowed *unix.CPUSet) {
	var set unix.CPUSet
	for cpu := range len(set) * 64 {
		if cpu%queues == queue && allowed.IsSet(cpu) {
			set.Set(cpu)
		}
	}
	if set.Count() > 0 {
		unix.SchedSetaffinity(0, &set)
	}
}

// processors is what shareProcessors has asked for.
var processors struct {
	mu           sync.Mutex
	used, raised int
}

// shareProcessors lets as many goroutines more run at once as there are queues,
// until the end: a queue that waits briefly keeps the others from nothing. What
// was raised is used again, for changing GOMAXPROCS stops everything a moment.
func shareProcessors(queues int) (end func()) {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used += queues
	if more := p.used - p.raised; more > 0 {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + more)
		p.raised += more
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.used -= queues
	}
}
