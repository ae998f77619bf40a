package server

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/budget"
	"github.com/natless/natless/translator/budget/admit"
)

// kind is what requests wait for each other: those of different kinds do not. A
// rush of containers leaves room for a look at the daemon's health, who lists all
// workloads again and again leaves room for containers, and who watches packets
// keeps up nobody else.
type kind uint8

const (
	read   kind = iota // what there is
	health             // waits for nothing
	status
	change // assignments
	slow   // a reload, a profile
	watch  // until one has seen enough
	numKinds
)

// rules are how many requests of a kind are served at a time, of one owner, how
// long others wait for their turn, and how many of one owner begin a second.
var rules = [numKinds]struct {
	name         string
	atOnce, each int
	patience     time.Duration
	rate         budget.Rate // the zero value: as many as come
}{
	read:   {"read", 32, 16, 5 * time.Second, budget.Rate{PerSecond: 1000, Burst: 2000}},
	health: {name: "health"},
	status: {"status", 16, 8, 5 * time.Second, budget.Rate{PerSecond: 200, Burst: 400}},
	change: {"change", 256, 64, 20 * time.Second, budget.Rate{}},
	slow:   {"slow", 4, 2, 0, budget.Rate{}},
	watch:  {"watch", 8, 4, 0, budget.Rate{PerSecond: 10, Burst: 50}},
}

// connections is how many may be open; beyond them the one goes that has waited
// longest, of the owner that has the most.
const connections = 1024

// unread is how many answers may be waiting, made and whole, for those who asked
// to take them. Beyond them the connection goes that has waited longest, of the
// owner that has the most.
const unread = 64

// owner has a share of his own: a process of root's, or another user.
type owner struct {
	uid uint32
	pid int32
}

func ownerOf(p peer) owner {
	if p.uid != 0 {
		return owner{uid: p.uid}
	}
	return owner{pid: p.pid}
}

// limits are what the requests under way may use.
type limits struct {
	connections *admit.Connections[owner]
	turns       [numKinds]budget.Turns[owner]
	unread      budget.Room[owner]
	rates       budget.Shares
	often       [numKinds]atomic.Uint64 // refused for their rate
	seed        maphash.Seed
	start       time.Time
}

func (l *limits) init(s *http.Server) {
	l.unread.Most = unread
	l.seed, l.start = maphash.MakeSeed(), time.Now()
	for k := range l.turns {
		l.turns[k].AtOnce, l.turns[k].Each = rules[k].atOnce, rules[k].each
	}
	l.connections = admit.Guard(s, connections, func(ctx context.Context, _ net.Conn) (owner, bool) {
		p := peerOf(ctx)
		return ownerOf(p), p.own
	})
}

// begin waits for a request's turn; end gives it back. What this process asks of
// itself waits for nobody.
func (l *limits) begin(ctx context.Context, p peer, k kind) (end func(), err error) {
	if p.own || k == health {
		return func() {}, nil
	}
	who, rule := ownerOf(p), &rules[k]
	if rule.rate.PerSecond > 0 && !l.inRate(who, k) {
		l.often[k].Add(1)
		return nil, tooMany("more than %d requests of its kind a second", rule.rate.PerSecond)
	}
	wait, cancel := context.WithTimeout(ctx, rule.patience)
	defer cancel()
	turn, err := l.turns[k].Wait(wait, who)
	if err != nil {
		return nil, tooMany("%d requests of its kind are under way, of which one user or process may have %d", rule.atOnce, rule.each)
	}
	served := l.connections.Serve(ctx)
	return func() { served(); turn() }, nil
}

// turn is a request's turn, which ends when the answer is whole: WriteHeader says
// so. Who takes it slowly keeps nobody from his. Streams and copies, which are
// made while they are read, come without it.
type turn struct {
	http.ResponseWriter
	end    func()
	unread func() (leave func())
	leave  func() // nil: the answer is not whole
}

func (t *turn) over() {
	t.end()
	if t.leave != nil {
		t.leave()
	}
}

func (t *turn) WriteHeader(status int) {
	if t.leave == nil {
		t.end()
		t.leave = t.unread()
	}
	t.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (t *turn) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// keep has an answer wait for its reader, until leave is called.
func (l *limits) keep(p peer) (leave func()) {
	if p.own {
		return func() {}
	}
	return l.unread.Enter(ownerOf(p), func() { p.conn.Close() }).Leave
}

func (l *limits) inRate(who owner, k kind) bool {
	hash := maphash.Comparable(l.seed, struct {
		owner
		kind
	}{who, k})
	return l.rates.Take(hash, int64(time.Since(l.start)), rules[k].rate, rand.Uint64())
}

func tooMany(format string, a ...any) error {
	return &api.Problem{Code: api.CodeRateLimited, Detail: fmt.Sprintf(format+": try again", a...)}
}

// Stats counts since the start.
type Stats struct {
	Evicted uint64            // connections closed for others
	Refused map[string]uint64 // requests, by their kind
}

// Stats is what was counted so far.
func (s *Server) Stats() Stats {
	refused := map[string]uint64{}
	for k := range numKinds {
		if k != health {
			refused[rules[k].name] = s.limits.turns[k].Refused() + s.limits.often[k].Load()
		}
	}
	return Stats{s.limits.connections.Evicted() + s.limits.unread.Evicted(), refused}
}
