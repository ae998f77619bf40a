// Package registry decides who may have which IPv4 address and which of its
// ports, remembers it durably, and knows who had what when. It hands out
// mappings; what is done with them, and where namespaces and addresses of the
// host are found, is its caller's business: no packet, no device and no socket
// may enter here.
package registry

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
	bolt "go.etcd.io/bbolt"
)

// Assignment is what a workload was given. It is never changed once made.
type Assignment struct {
	// Serial is its number: no other assignment has it, ever, whatever becomes of
	// this one (see serial.go). 0 is one that ended before there were serials.
	Serial uint64
	// Succeeds is the serial of the assignment that the same workload had until
	// it got this one; 0: it had none.
	Succeeds uint64

	Key     api.Key
	Request api.Request
	Pool    string
	Address netip.Addr
	Ports   ports.Set // empty: the whole address
	Since   time.Time
	Until   time.Time // zero while it lasts
	size    int       // of the run, 65536 for a whole address
	held    *held     // as the registry has it; nil: it has not
	inside  uint32    // the address that the workload was given inside; 0: it has its IPv4 by the prefix
}

// Inside is the IPv4 address that the workload was given inside; invalid: it has
// its IPv4 by the prefix. It is another than Address where the uplink's has changed
// since.
func (a *Assignment) Inside() netip.Addr {
	if a.inside == 0 {
		return netip.Addr{}
	}
	return mapping.Addr4(a.inside)
}

// Mapping is the assignment as the translator's table wants it.
func (a *Assignment) Mapping() mapping.Mapping {
	return mapping.Mapping{
		IPv6:  netip.PrefixFrom(a.Request.IPv6[0], 128),
		IPv4:  netip.PrefixFrom(a.Address, 32),
		Ports: a.Ports,

		Inside: a.inside != 0,
	}
}

// Clone is an assignment of Each, to be kept.
func (a *Assignment) Clone() *Assignment { return a.held.assignment() }

// has says whether the assignment owns the port.
func (a *Assignment) has(port uint16) bool {
	return a.Ports.IsZero() || a.Ports.Contains(port)
}

// Change is one edit of the table: Old goes, New comes. Either may be nil.
type Change struct{ Old, New *Assignment }

// Options are what a registry works with.
type Options struct {
	Path    string // of the database file; its directory must exist
	History int    // how many ended assignments are remembered
	Pools   []Pool
	// Lend completes the pools with the blocks that a fleet has lent; nil: there are none.
	Lend func([]Pool, lease.State) ([]Pool, error)
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: nothing is said

	// Check is asked whether a change can be made, before anything is; nil:
	// any can. An error is handed to who wanted the change.
	Check func(Change) error
	// Sink makes a change, once it is durable and before who wanted it hears
	// of it. Changes come one at a time and in their order. nil: nobody cares.
	Sink func(context.Context, Change) error
}

// Registry is the assignments, in memory and on disk. Its methods may be called
// by any number of goroutines.
type Registry struct {
	db      *bolt.DB
	path    string
	broken  atomic.Pointer[WriteError] // why nothing can be written any more, nor read from disk
	failed  atomic.Pointer[WriteError] // why the last change could not be written
	log     *slog.Logger
	history int
	now     func() time.Time
	check   func(Change) error
	sink    func(context.Context, Change) error

	commits  queue
	copying  sync.Mutex // held while there is a copy
	draining sync.Mutex // held while drains change
	inMemory int64      // the largest copy that is not put on disk
	inUse    atomic.Pointer[inUse]
	drains   atomic.Pointer[drains]
	glance   atomic.Pointer[glance]
	blocks   atomic.Pointer[lease.State]
	relay    atomic.Pointer[lease.Relay]
	relayLog relayLog // of who sets the relay's rules

	mu     sync.RWMutex // guards what follows; held for writing until what was written is on disk
	state  state
	barred map[netip.Addr]string // what is not assigned, and why
}

// state is what can be built from the database and the pools alone.
type state struct {
	pools       []*pool
	assignments *index                  // by key
	order       []*held                 // all, as they lie in memory, until one comes or goes; nil since
	ipv6        *index                  // by each of their IPv6 addresses
	serials     *index                  // by serial
	addresses   map[netip.Addr]*address // of the pools, and others that are still assigned
	cooling     coolingHeap
	lastCooled  map[api.Key]*cooled
	insiders    Insiders
	strays      *strays // another when what is assigned outside of the pools is
}

// Open opens the database, or makes it where there never was one, and loads what
// it holds. A second opener of the same file is refused after a second, and a
// file of which anything is damaged or missing with a *RefusedError.
func Open(o Options) (*Registry, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Check == nil {
		o.Check = func(Change) error { return nil }
	}
	if o.Sink == nil {
		o.Sink = func(context.Context, Change) error { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	db, err := openStore(o.Path)
	if err != nil {
		return nil, err
	}
	r := &Registry{db: db, path: o.Path, inMemory: copyInMemory, log: o.Log, now: o.Now, check: o.Check, sink: o.Sink}
	drained, err := readDrains(o.Path)
	var blocks lease.State
	if err == nil {
		r.drains.Store(&drained)
		blocks, err = readBlocks(o.Path)
	}
	var relay lease.Relay
	if err == nil {
		relay, err = readRelay(o.Path)
	}
	if err == nil {
		r.blocks.Store(&blocks)
		r.relay.Store(&relay)
		err = r.load(o)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return r, nil
}

// load reads what the disk has. The history may be longer than its bound, and
// the uplink have another address than when it was written.
func (r *Registry) load(o Options) error {
	pools, err := o.Pools, error(nil)
	if o.Lend != nil {
		if pools, err = o.Lend(pools, r.Blocks()); err != nil {
			return err
		}
	}
	made, err := r.newPools(pools)
	if err != nil {
		return err
	}
	err = r.view(func(tx *bolt.Tx) error {
		defer unmapped(r.db)
		if recordsOf(tx) > manyRecords { // all that is made is kept: there is nothing to collect
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
		}
		if r.state, err = loadState(tx, made, r.now()); err != nil {
			return refuse(o.Path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.history = max(o.History, 0)
	all, err := r.move(made, r.history)
	if err != nil {
		return err
	}
	for i := range all {
		all[i].settle()
	}
	r.prune()
	return nil
}

// SetSink replaces check and sink; for callers that need the registry to make
// what the sink works on. Call it before the first Put.
func (r *Registry) SetSink(check func(Change) error, sink func(context.Context, Change) error) {
	r.check, r.sink = check, sink
}

// Close closes the database. What was answered is on disk already.
func (r *Registry) Close() error {
	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	settled := r.settleRelay()
	if r.broken.Load() != nil { // bbolt may hold its own locks for ever
		return settled
	}
	return errors.Join(settled, r.db.Close())
}

// loadState builds the state from the database.
func loadState(tx *bolt.Tx, pools []*pool, now time.Time) (state, error) {
	n := recordsOf(tx)
	s := newState(pools, n)
	order := make([]*held, 0, n)
	add := func(a *Assignment) error {
		err := s.add(a)
		order = append(order, a.held)
		return err
	}
	err := loadAll(tx, add, func(c *cooled) error {
		// The clock may have been set since: nothing cools down for longer than
		// its pool says. From here on until is measured by the clock that nobody
		// sets, which now has a reading of.
		c.until = now.Add(min(max(c.until.Sub(now), 0), s.cooldown(c.Pool)))
		return s.cool(c)
	})
	s.order = order
	return s, err
}

// manyRecords is more than a host has that hardly has workloads.
const manyRecords = 20_000

// recordsOf is how many assignments there are to be read; 0 where that is not known.
func recordsOf(tx *bolt.Tx) int {
	d, err := readDigest(tx)
	if err != nil || d[0].count > 1<<24 { // it is not believed without a look
		return 0
	}
	return int(d[0].count)
}

// newState is one of nothing, with room for n assignments.
func newState(pools []*pool, n int) state {
	s := state{
		pools:       pools,
		assignments: new(index),
		ipv6:        new(index),
		serials:     new(index),
		addresses:   make(map[netip.Addr]*address),
		lastCooled:  make(map[api.Key]*cooled),
		strays:      new(strays),
	}
	for _, x := range []*index{s.assignments, s.ipv6, s.serials} {
		x.expect(n)
	}
	for _, p := range pools {
		for _, a := range p.addresses {
			s.addresses[a.addr] = a
		}
	}
	return s
}

// address gives the book-keeping of an IPv4 address. One that is in no pool
// any more gets its own, for as long as somebody has it.
func (s *state) address(a netip.Addr) *address {
	found := s.addresses[a]
	if found == nil {
		found = &address{addr: a, fit: maxPorts}
		s.addresses[a] = found
	}
	return found
}

// add notes an assignment. It fails only when two claim the same port or the same
// serial, which means that the database was not written by this package.
func (s *state) add(a *Assignment) error {
	if o := s.bySerial(a.Serial); o != nil {
		return fmt.Errorf("%s and %s have the same serial %d", a.Key, o.assignment().Key, a.Serial)
	}
	s.order = nil
	addr := s.address(a.Address)
	if !addr.free(a.Ports) {
		return fmt.Errorf("%s and another have the same ports of %s", a.Key, a.Address)
	}
	addr.take(a.Ports)
	addr.assigned += size(a.Ports)
	if a.held == nil {
		a.held = pack(a)
	}
	addr.owners = append(addr.owners, a.held)
	s.assignments.add(hashKey(a.Key), a.held)
	s.insiders.count(a, 1)
	s.stray(addr, a)
	if a.Serial != 0 { // which those of an older layout have not, while it is only read
		s.serials.add(hashSerial(a.Serial), a.held)
	}
	for _, ip := range a.Request.IPv6 {
		s.ipv6.add(hashIPv6(ip), a.held)
	}
	return nil
}

// remove forgets an assignment; its ports stay taken.
func (s *state) remove(a *Assignment) *address {
	s.order = nil
	addr := s.address(a.Address)
	addr.assigned -= size(a.Ports)
	for i, o := range addr.owners {
		if o == a.held {
			last := len(addr.owners) - 1
			addr.owners[i], addr.owners[last] = addr.owners[last], nil
			addr.owners = addr.owners[:last]
			break
		}
	}
	s.assignments.remove(hashKey(a.Key), a.held)
	s.serials.remove(hashSerial(a.Serial), a.held)
	s.insiders.count(a, -1)
	s.stray(addr, a)
	for _, ip := range a.Request.IPv6 {
		s.ipv6.remove(hashIPv6(ip), a.held)
	}
	return addr
}

// cooled is a set that was given back and is kept out of use.
type cooled struct {
	*Assignment
	until time.Time
	id    uint64 // in the database
	index int    // in the heap
}

// cool notes a set that cools down; its ports are taken.
func (s *state) cool(c *cooled) error {
	addr := s.address(c.Address)
	if !addr.free(c.Ports) {
		return fmt.Errorf("ports of %s that cool down belong to somebody", c.Address)
	}
	addr.take(c.Ports)
	s.noteCooling(addr, c)
	return nil
}

func (s *state) noteCooling(addr *address, c *cooled) {
	addr.cooling += size(c.Ports)
	heap.Push(&s.cooling, c)
	s.lastCooled[c.Key] = c
}

// warm ends the cooling of a set: its ports are free again.
func (s *state) warm(c *cooled) {
	heap.Remove(&s.cooling, c.index)
	if s.lastCooled[c.Key] == c {
		delete(s.lastCooled, c.Key)
	}
	addr := s.address(c.Address)
	addr.cooling -= size(c.Ports)
	addr.give(c.Ports)
	if addr.used() == 0 && addr.pool == nil {
		delete(s.addresses, addr.addr)
	}
}

// coolingHeap has the set that is free again first on top.
type coolingHeap []*cooled

func (h coolingHeap) Len() int           { return len(h) }
func (h coolingHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h coolingHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *coolingHeap) Push(x any) {
	c := x.(*cooled)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *coolingHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}
