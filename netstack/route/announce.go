package route

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How the uplink's link hears that an address has become ours: an ARP
// announcement (RFC 5227 2.3; a request, section 3 says why), or an unsolicited
// neighbour advertisement (RFC 4861 7.2.6, RFC 9131). Without it a neighbour goes
// on sending to who had the address before: half a minute with Linux, hours with
// routers.
//
// All that the kernel answers for is announced when the uplink is there for the
// first time, comes up, gets another MAC address, or when the kernel tells that
// its peers must be told (a bond that fails over, a virtual machine that moved);
// else what is new, and pool addresses when they get their first workload.
const (
	// announceRounds is how often an address is announced, announceInterval apart:
	// RFC 5227 asks for two of two seconds, RFC 4861 allows three. A neighbour that
	// has just changed its entry keeps that for a second (locktime), so one is not
	// enough; the third is for what a switch port lost that had just come up.
	announceRounds   = 3
	announceInterval = 2 * time.Second
	// A tick sends at most announceBatch, so that 4096 addresses are 500 packets
	// a second for half a minute, and the first round of them takes 8 seconds.
	announceTick  = 20 * time.Millisecond
	announceBatch = 10
	// announceAgain is how long an address that was announced since it got a
	// workload is not announced once more for that reason.
	announceAgain = 10 * time.Second
)

// uplinkLink is the link that the uplink is on.
type uplinkLink struct {
	index   int
	mac     [6]byte
	up      bool       // and running, and one with ARP
	source6 netip.Addr // of neighbour advertisements; invalid: none can be sent
}

// same reports whether what neighbours know of a is true of b.
func (a uplinkLink) same(b uplinkLink) bool {
	return a.index == b.index && a.mac == b.mac && a.up == b.up
}

// announcer announces. Its methods may be called by any goroutine.
type announcer struct {
	send func(uplinkLink, netip.Addr) error
	log  *slog.Logger
	// again has the next follow announce all.
	again atomic.Bool
	sent  atomic.Uint64
	wake  chan struct{}

	mu     sync.Mutex // guards what follows
	link   uplinkLink
	ours   map[netip.Addr]*announced
	rounds [announceRounds][]turn // the first: last of all comes first
}

// announced is an address that is. Its turns with an older serial number are of no
// use.
type announced struct {
	serial   uint64
	assigned time.Time // when it was announced for that reason last
}

// turn is an announcement to be made, not before due.
type turn struct {
	addr   netip.Addr
	serial uint64
	due    time.Time
}

func newAnnouncer(send func(uplinkLink, netip.Addr) error, log *slog.Logger) *announcer {
	return &announcer{send: send, log: log, wake: make(chan struct{}, 1), ours: map[netip.Addr]*announced{}}
}

// follow tells what the link is and what is answered for on it.
func (a *announcer) follow(l uplinkLink, proxies []proxy) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.again.Swap(false) || !l.same(a.link)
	all6 := !a.link.source6.IsValid()
	a.link = l
	now := make(map[netip.Addr]*announced, len(proxies))
	var fresh []netip.Addr
	for _, p := range proxies {
		state := a.ours[p.addr]
		if state == nil {
			state = new(announced)
			fresh = append(fresh, p.addr)
		} else if all || all6 && p.addr.Is6() {
			fresh = append(fresh, p.addr)
		}
		now[p.addr] = state
	}
	a.ours = now
	if l.up {
		a.enqueue(fresh)
	} else {
		a.rounds = [announceRounds][]turn{} // all, when it is up again
	}
}

// assigned tells that somebody has got an address, which nobody had before.
func (a *announcer) assigned(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if state := a.ours[addr]; state != nil && a.link.up && time.Since(state.assigned) > announceAgain {
		state.assigned = time.Now()
		a.enqueue([]netip.Addr{addr})
	}
}

// enqueue has addresses announced before those that wait already.
func (a *announcer) enqueue(addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	slices.SortFunc(addrs, func(x, y netip.Addr) int { return y.Compare(x) })
	for _, addr := range addrs {
		a.ours[addr].serial++
		a.rounds[0] = append(a.rounds[0], turn{addr: addr, serial: a.ours[addr].serial})
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run announces until ctx is done.
func (a *announcer) run(ctx context.Context) {
	for {
		var due <-chan time.Time // nil: nothing waits
		if wait := a.batch(time.Now()); wait > 0 {
			due = time.After(wait)
		}
		select { // whatever comes, it waits for the next tick
		case <-ctx.Done():
			return
		case <-time.After(announceTick):
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-a.wake:
		}
	}
}

// batch sends what a tick may, and says when there is more to send; 0: when
// there is something new. A send that fails counts as one: the next round
// repeats it.
func (a *announcer) batch(now time.Time) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range announceBatch {
		round, t, ok := a.next(now)
		if !ok {
			return a.nextDue(now)
		}
		if round+1 < announceRounds {
			t.due = now.Add(announceInterval)
			a.rounds[round+1] = append(a.rounds[round+1], t)
		}
		err := a.send(a.link, t.addr)
		switch {
		case err == nil:
			a.sent.Add(1)
		case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETDOWN):
			a.link, a.rounds = uplinkLink{}, [announceRounds][]turn{} // follow tells when it is back
			return 0
		default:
			a.log.Debug("announce", "address", t.addr, "error", err)
		}
	}
	return announceTick
}

// next takes the turn whose time it is: new ones come before repetitions.
func (a *announcer) next(now time.Time) (round int, t turn, ok bool) {
	for round := range a.rounds {
		for queue := &a.rounds[round]; len(*queue) > 0; {
			if round == 0 {
				t = (*queue)[len(*queue)-1]
				*queue = (*queue)[:len(*queue)-1]
			} else if t = (*queue)[0]; t.due.After(now) {
				break
			} else {
				*queue = (*queue)[1:]
			}
			if state := a.ours[t.addr]; state != nil && state.serial == t.serial {
				return round, t, true
			}
		}
	}
	return 0, t, false
}

// nextDue is how long the next repetition is away; 0: there is none.
func (a *announcer) nextDue(now time.Time) time.Duration {
	var first time.Duration
	for _, queue := range a.rounds[1:] {
		if len(queue) > 0 {
			if wait := max(queue[0].due.Sub(now), time.Millisecond); first == 0 || wait < first {
				first = wait
			}
		}
	}
	return first
}
